//! Keys.

use std::time::Duration;

use dormouse_store::{KeyRecord, Store, TeamId};
use jiff::Timestamp;

fn key(hash: &str, team: TeamId) -> KeyRecord {
    KeyRecord {
        hash: hash.to_owned(),
        name: "first".to_owned(),
        team,
        max_run: Duration::from_secs(3600),
        created_at: Timestamp::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn keys_are_saved_listed_changed_and_deleted() {
    let store = Store::in_memory().await.unwrap();
    let other = TeamId::random();
    assert_eq!(store.key("a").await.unwrap(), None);
    let mut a = key("a", TeamId::FIRST);
    let b = key("b", other);
    store.save_key(&a).await.unwrap();
    store.save_key(&b).await.unwrap();
    a.max_run = Duration::from_secs(60);
    store.save_key(&a).await.unwrap();
    assert_eq!(store.key("a").await.unwrap(), Some(a.clone()));
    assert_eq!(store.keys(None).await.unwrap(), [a.clone(), b.clone()]);
    assert_eq!(store.keys(Some(other)).await.unwrap(), [b]);
    assert!(store.delete_key("a").await.unwrap());
    assert!(!store.delete_key("a").await.unwrap());
    assert_eq!(store.key("a").await.unwrap(), None);
}
