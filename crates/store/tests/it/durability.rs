//! What a restart finds.

use std::os::unix::fs::PermissionsExt as _;

use dormouse_store::{EventKind, SandboxState, SnapshotId, Store, StoreError, TeamId};
use sqlx::Connection as _;

use crate::samples;

#[tokio::test]
async fn a_reopened_database_has_what_was_saved() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dormouse.db");
    let mut sandbox = samples::sandbox();
    {
        let store = Store::open(&path).await.unwrap();
        store
            .save(&sandbox, &[samples::event(&sandbox, EventKind::Created)])
            .await
            .unwrap();
        sandbox.state = SandboxState::Paused;
        sandbox.snapshot = Some(SnapshotId::random());
        store
            .save(&sandbox, &[samples::event(&sandbox, EventKind::Paused)])
            .await
            .unwrap();
        // No close: as after a kill -9.
    }
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.sandboxes().await.unwrap(), vec![sandbox.clone()]);
    let events = store.events(TeamId::FIRST, Some(&sandbox.id), 10).await.unwrap();
    assert_eq!(
        events.iter().map(|event| event.kind).collect::<Vec<_>>(),
        [EventKind::Paused, EventKind::Created]
    );

    store
        .remove(&sandbox.id, &[samples::event(&sandbox, EventKind::Killed)])
        .await
        .unwrap();
    store.close().await;
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.sandboxes().await.unwrap(), vec![]);
    assert_eq!(store.events(TeamId::FIRST, None, 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dormouse.db");
    let store = Store::open(&path).await.unwrap();
    let sandbox = samples::sandbox();
    store.save(&sandbox, &[]).await.unwrap();
    for name in ["dormouse.db", "dormouse.db-wal", "dormouse.db-shm"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_failed_event_undoes_the_change() {
    let store = Store::in_memory().await.unwrap();
    let sandbox = samples::sandbox();
    let event = samples::event(&sandbox, EventKind::Created);
    // The second has the id of the first, which the database refuses.
    let refused = store.save(&sandbox, &[event.clone(), event]).await;
    assert!(matches!(refused, Err(StoreError::Query { .. })), "{refused:?}");
    assert_eq!(store.sandboxes().await.unwrap(), vec![]);
    assert_eq!(store.events(TeamId::FIRST, None, 10).await.unwrap(), vec![]);
}

#[tokio::test]
async fn a_damaged_row_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dormouse.db");
    let store = Store::open(&path).await.unwrap();
    let sandbox = samples::sandbox();
    for damage in [
        "UPDATE sandboxes SET metadata = '{'",
        "UPDATE sandboxes SET end_at = 'soon'",
        "UPDATE sandboxes SET vcpus = -1",
        "UPDATE sandboxes SET max_run_ns = -1",
        "UPDATE sandboxes SET on_timeout = 'explode'",
        "UPDATE sandboxes SET instance = '../x'",
    ] {
        store.save(&sandbox, &[]).await.unwrap();
        let mut raw = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        sqlx::query(damage).execute(&mut raw).await.unwrap();
        raw.close().await.unwrap();
        match store.sandboxes().await {
            Err(StoreError::Corrupt {
                what: "sandbox",
                id,
                source,
            }) => {
                assert_eq!(id, sandbox.id.as_str());
                assert!(source.to_string().starts_with("column "), "{source}");
            }
            other => panic!("{damage}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_not_a_database_is_refused_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dormouse.db");
    std::fs::write(&path, "this is not a database, but it is long enough to have a header").unwrap();
    match Store::open(&path).await {
        Err(StoreError::Open { path: named, .. }) => assert_eq!(named, path.display().to_string()),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        Store::open(&directory.path().join("no/such/directory")).await,
        Err(StoreError::Open { .. })
    ));
}

#[tokio::test]
async fn databases_in_memory_are_apart() {
    let (one, other) = (Store::in_memory().await.unwrap(), Store::in_memory().await.unwrap());
    one.save(&samples::sandbox(), &[]).await.unwrap();
    assert_eq!(one.sandboxes().await.unwrap().len(), 1);
    assert_eq!(other.sandboxes().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_all_succeed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("dormouse.db")).await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let sandbox = samples::sandbox();
                store
                    .save(&sandbox, &[samples::event(&sandbox, EventKind::Created)])
                    .await
                    .unwrap();
                store.sandboxes().await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.sandboxes().await.unwrap().len(), 50);
}

/// A dropped future once left its transaction open, and every later write was part of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_write_does_not_hold_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dormouse.db");
    let store = Store::open(&path).await.unwrap();
    for micros in 0..300 {
        let sandbox = samples::sandbox();
        let save = store.save(&sandbox, &[]);
        drop(tokio::time::timeout(std::time::Duration::from_micros(micros * 5), save).await);
    }
    let sandbox = samples::sandbox();
    store.save(&sandbox, &[]).await.unwrap();
    assert!(store.sandboxes().await.unwrap().contains(&sandbox));
    let other = Store::open(&path).await.unwrap();
    other.save(&samples::sandbox(), &[]).await.unwrap();
    assert!(other.sandboxes().await.unwrap().contains(&sandbox));
}
