//! Order, filters and pages of events.

use dormouse_store::{EventKind, EventQuery, Store, TeamId};
use jiff::Timestamp;

use crate::samples;

#[tokio::test]
async fn two_events_of_one_transaction_keep_their_order() {
    let store = Store::in_memory().await.unwrap();
    let sandbox = samples::sandbox();
    let (created, updated) = (
        samples::event(&sandbox, EventKind::Created),
        samples::event(&sandbox, EventKind::Updated),
    );
    store.save(&sandbox, &[created.clone(), updated.clone()]).await.unwrap();
    assert_eq!(
        store.events(sandbox.team, Some(&sandbox.id), 10).await.unwrap(),
        [updated.clone(), created.clone()]
    );
    assert_eq!(
        store.events(sandbox.team, None, 1).await.unwrap(),
        std::slice::from_ref(&updated)
    );
    assert_eq!(store.events(TeamId::random(), None, 10).await.unwrap(), []);
    let oldest = EventQuery {
        limit: 10,
        oldest_first: true,
        ..EventQuery::default()
    };
    assert_eq!(store.query_events(sandbox.team, &oldest).await.unwrap(), [created, updated]);
}

#[tokio::test]
async fn kinds_and_offset_select() {
    let store = Store::in_memory().await.unwrap();
    let sandbox = samples::sandbox();
    let kinds = [
        EventKind::Created,
        EventKind::Paused,
        EventKind::Resumed,
        EventKind::Paused,
        EventKind::Killed,
    ];
    let events = kinds.map(|kind| samples::event(&sandbox, kind));
    store.save(&sandbox, &events).await.unwrap();
    let query = |kinds: &[EventKind], offset| EventQuery {
        kinds: kinds.to_vec(),
        offset,
        limit: 2,
        oldest_first: true,
        ..EventQuery::default()
    };
    let found = store
        .query_events(sandbox.team, &query(&[EventKind::Paused, EventKind::Killed], 1))
        .await
        .unwrap();
    assert_eq!(found, events[3..]);
    let found = store.query_events(sandbox.team, &query(&[], 4)).await.unwrap();
    assert_eq!(found, events[4..]);
}

#[tokio::test]
async fn old_events_are_pruned() {
    let store = Store::in_memory().await.unwrap();
    let sandbox = samples::sandbox();
    let mut events = [EventKind::Created, EventKind::Killed].map(|kind| samples::event(&sandbox, kind));
    events[0].at = "2026-01-01T00:00:00.5Z".parse().unwrap();
    events[1].at = "2026-01-01T00:00:01Z".parse().unwrap();
    store.remove(&sandbox.id, &events).await.unwrap();
    let before: Timestamp = "2026-01-01T00:00:01Z".parse().unwrap();
    assert_eq!(store.prune_events(before).await.unwrap(), 1);
    assert_eq!(store.events(sandbox.team, None, 10).await.unwrap(), events[1..]);
}
