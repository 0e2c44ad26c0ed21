//! Every answer that an idempotency key can get.

use dormouse_store::{Idempotency, Store, TeamId};

#[tokio::test]
async fn an_answer_is_replayed_to_the_same_request_only() {
    let store = Store::in_memory().await.unwrap();
    let team = TeamId::FIRST;
    assert_eq!(store.begin_idempotent(team, "k", b"one").await.unwrap(), Idempotency::New);
    assert_eq!(
        store.begin_idempotent(team, "k", b"one").await.unwrap(),
        Idempotency::InProgress
    );
    assert_eq!(
        store.begin_idempotent(team, "k", b"two").await.unwrap(),
        Idempotency::Mismatch
    );
    assert_eq!(
        store.begin_idempotent(TeamId::random(), "k", b"one").await.unwrap(),
        Idempotency::New
    );
    store.finish_idempotent(team, "k", 201, b"{}").await.unwrap();
    let replay = Idempotency::Replay {
        status: 201,
        body: b"{}".to_vec(),
    };
    assert_eq!(store.begin_idempotent(team, "k", b"one").await.unwrap(), replay);
    assert_eq!(
        store.begin_idempotent(team, "k", b"two").await.unwrap(),
        Idempotency::Mismatch
    );
    // An answer is never taken back.
    store.forget_idempotent(team, "k").await.unwrap();
    assert_eq!(store.begin_idempotent(team, "k", b"one").await.unwrap(), replay);
}

#[tokio::test]
async fn a_key_that_was_given_back_is_new() {
    let store = Store::in_memory().await.unwrap();
    let team = TeamId::FIRST;
    assert_eq!(store.begin_idempotent(team, "k", b"one").await.unwrap(), Idempotency::New);
    store.forget_idempotent(team, "k").await.unwrap();
    assert_eq!(store.begin_idempotent(team, "k", b"two").await.unwrap(), Idempotency::New);
}

#[tokio::test]
async fn after_a_crash_the_outcome_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dormouse.db");
    let team = TeamId::FIRST;
    let before = Store::open(&path).await.unwrap();
    assert_eq!(before.begin_idempotent(team, "k", b"one").await.unwrap(), Idempotency::New);
    // Another opening of the file, as a command next to the daemon makes, changes nothing for the daemon.
    let after = Store::open(&path).await.unwrap();
    assert_eq!(
        before.begin_idempotent(team, "k", b"one").await.unwrap(),
        Idempotency::InProgress
    );
    assert_eq!(
        after.begin_idempotent(team, "k", b"one").await.unwrap(),
        Idempotency::OutcomeUnknown
    );
    assert_eq!(
        after.begin_idempotent(team, "k", b"two").await.unwrap(),
        Idempotency::Mismatch
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("dormouse.db")).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.begin_idempotent(TeamId::FIRST, "k", b"one").await.unwrap() })
        })
        .collect();
    let mut new = 0;
    for task in tasks {
        match task.await.unwrap() {
            Idempotency::New => new += 1,
            other => assert_eq!(other, Idempotency::InProgress),
        }
    }
    assert_eq!(new, 1);
}
