//! How references find templates, tags and builds.

use dormouse_store::{DEFAULT_TAG, Store, TeamId};

use crate::samples;

#[tokio::test]
async fn a_reference_finds_id_then_own_alias_then_public_alias() {
    let store = Store::in_memory().await.unwrap();
    let (mine, theirs) = (TeamId::random(), TeamId::random());
    let own = samples::template(mine, &["first", "shared"]);
    let mut public = samples::template(theirs, &["shared", "open"]);
    public.public = true;
    let private = samples::template(theirs, &["secret"]);
    for template in [&own, &public, &private] {
        store
            .save_build(template, &samples::build(template, 0), DEFAULT_TAG)
            .await
            .unwrap();
    }
    let find = |team, name: &str| {
        let (store, name) = (store.clone(), name.to_owned());
        async move { store.template(team, &name).await.unwrap() }
    };
    assert_eq!(find(mine, own.id.as_str()).await, Some(own.clone()));
    assert_eq!(find(mine, "shared").await, Some(own.clone()));
    assert_eq!(find(mine, "open").await, Some(public.clone()));
    assert_eq!(find(mine, public.id.as_str()).await, Some(public.clone()));
    assert_eq!(find(theirs, "shared").await, Some(public.clone()));
    assert_eq!(find(theirs, "first").await, None);
    assert_eq!(find(mine, "secret").await, None);
    assert_eq!(find(mine, private.id.as_str()).await, None);
    assert!(store.template_exists("secret").await.unwrap());
    assert!(!store.template_exists("nothing").await.unwrap());
}

#[tokio::test]
async fn a_tag_points_at_the_last_build_saved_with_it() {
    let store = Store::in_memory().await.unwrap();
    let template = samples::template(TeamId::FIRST, &["base"]);
    let (old, new) = (samples::build(&template, 2), samples::build(&template, 1));
    store.save_build(&template, &old, DEFAULT_TAG).await.unwrap();
    store.save_build(&template, &new, "v2").await.unwrap();
    assert_eq!(store.tagged_build(&template, DEFAULT_TAG).await.unwrap(), Some(old.clone()));
    assert_eq!(store.tagged_build(&template, "v2").await.unwrap(), Some(new.clone()));
    assert_eq!(store.tagged_build(&template, "v3").await.unwrap(), None);
    let newest = samples::build(&template, 0);
    store.save_build(&template, &newest, DEFAULT_TAG).await.unwrap();
    assert_eq!(
        store.tagged_build(&template, DEFAULT_TAG).await.unwrap(),
        Some(newest.clone())
    );
    assert_eq!(store.build(old.id).await.unwrap(), Some(old.clone()));
    assert_eq!(store.builds().await.unwrap(), [old, new, newest.clone()]);
    let listed = store.templates(TeamId::FIRST).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].template, listed[0].newest.id, listed[0].builds),
        (&template, newest.id, 3)
    );
}

#[tokio::test]
async fn a_name_moves_to_the_template_that_claims_it() {
    let store = Store::in_memory().await.unwrap();
    let old = samples::template(TeamId::FIRST, &["base", "old"]);
    let new = samples::template(TeamId::FIRST, &["base"]);
    store.save_build(&old, &samples::build(&old, 1), DEFAULT_TAG).await.unwrap();
    store.save_build(&new, &samples::build(&new, 0), DEFAULT_TAG).await.unwrap();
    assert_eq!(store.template(TeamId::FIRST, "base").await.unwrap(), Some(new));
    let kept = store.template(TeamId::FIRST, "old").await.unwrap().unwrap();
    assert_eq!((kept.id, kept.aliases), (old.id, vec!["old".to_owned()]));
}
