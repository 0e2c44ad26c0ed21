//! The end of a sandbox's time: at which moment, and what happens then.

use std::time::{Duration, Instant};

use dormouse_control::{ControlError, Owner};
use dormouse_store::OnTimeout;
use dormouse_store::SandboxState::{Paused, Running};

use crate::harness::{HOUR, MINUTE, TEAM, World, cycling, new, owner};

const SOON: Duration = Duration::from_millis(150);

#[tokio::test]
async fn time_up_kills() {
    let world = World::new().await;
    let mut wanted = new();
    wanted.timeout = SOON;
    let id = world.create(wanted).await.record.id;
    world.wait_for(&id, None).await;
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn time_up_pauses_with_memory() {
    let world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    world.set_memory(&id, 42);
    world.control.set_timeout(TEAM, &id, SOON).await.unwrap();
    world.wait_for(&id, Some(Paused)).await;
    world.connect(&id).await.unwrap();
    assert_eq!(world.memory(&id), 42);
}

#[tokio::test]
async fn time_is_not_up_early() {
    let world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    let before = Instant::now();
    world.control.set_timeout(TEAM, &id, SOON).await.unwrap();
    world.wait_for(&id, Some(Paused)).await;
    assert!(before.elapsed() >= SOON - Duration::from_millis(2));
}

#[tokio::test]
async fn auto_pause_outlives_a_wake() {
    let world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    for _ in 0..3 {
        world.control.set_timeout(TEAM, &id, Duration::ZERO).await.unwrap();
        world.wait_for(&id, Some(Paused)).await;
        world.connect(&id).await.unwrap();
    }
    assert_eq!(world.record(&id).on_timeout, OnTimeout::Pause);
}

#[tokio::test]
async fn extended_sandbox_outlives_its_first_end() {
    let world = World::new().await;
    let id = world.running().await;
    world.control.set_timeout(TEAM, &id, SOON).await.unwrap();
    let first = world.record(&id).end_at;
    world.control.set_timeout(TEAM, &id, MINUTE).await.unwrap();
    crate::harness::wait_until("the first end has passed", async || jiff::Timestamp::now() > first).await;
    assert_eq!(world.state(&id), Some(Running));
}

#[tokio::test]
async fn shown_end_moves_at_once() {
    let world = World::new().await;
    let id = world.running().await;
    let before = world.record(&id).end_at;
    world.control.set_timeout(TEAM, &id, 2 * MINUTE).await.unwrap();
    assert!(world.record(&id).end_at > before);
    world.control.set_timeout(TEAM, &id, MINUTE / 2).await.unwrap();
    assert!(world.record(&id).end_at < before);
}

#[tokio::test]
async fn shorter_connect_and_refresh_keep_the_end_to_the_millisecond() {
    let world = World::new().await;
    let id = world.running().await;
    let before = world.record(&id).end_at;
    let connected = world.control.connect(&owner(), &id, SOON).await.unwrap();
    world.control.refresh(TEAM, &id, SOON).await.unwrap();
    assert_eq!(connected.sandbox.record.end_at, before);
    assert_eq!(world.record(&id).end_at, before);
}

#[tokio::test]
async fn longer_connect_and_refresh_extend() {
    let world = World::new().await;
    let id = world.running().await;
    let first = world.record(&id).end_at;
    let second = world
        .control
        .connect(&owner(), &id, 2 * MINUTE)
        .await
        .unwrap()
        .sandbox
        .record
        .end_at;
    world.control.refresh(TEAM, &id, 3 * MINUTE).await.unwrap();
    assert!(first < second && second < world.record(&id).end_at);
}

#[tokio::test]
async fn longer_than_the_key_allows_is_refused() {
    let world = World::new().await;
    let id = world.running().await;
    let mut wanted = new();
    wanted.timeout = 2 * HOUR;
    assert!(matches!(
        world.try_create(wanted).await,
        Err(ControlError::TimeoutTooLong(HOUR))
    ));
    let refused = world.control.connect(&owner(), &id, 2 * HOUR).await;
    assert!(matches!(refused, Err(ControlError::TimeoutTooLong(HOUR))));
}

#[tokio::test]
async fn no_extension_reaches_beyond_the_longest_run() {
    let world = World::new().await;
    let id = world.running().await;
    let last = world.record(&id).started_at + HOUR;
    world.control.set_timeout(TEAM, &id, 2 * HOUR).await.unwrap();
    assert_eq!(world.record(&id).end_at, last);
    world.control.refresh(TEAM, &id, 2 * HOUR).await.unwrap();
    assert_eq!(world.record(&id).end_at, last);
}

#[tokio::test]
async fn pause_resets_the_longest_run() {
    let world = World::new().await;
    let short = Owner {
        team: TEAM,
        max_run: 10 * SOON,
    };
    let mut wanted = cycling();
    wanted.timeout = 10 * SOON;
    let id = {
        let short = short.clone();
        let made = world.spawn(|control| async move { control.create(&short, wanted).await });
        made.await.unwrap().unwrap().record.id
    };
    let first = world.record(&id).end_at;
    world.pause(&id).await.unwrap();
    crate::harness::wait_until("the first run would have ended", async || jiff::Timestamp::now() > first).await;
    world.control.connect(&short, &id, 10 * SOON).await.unwrap();
    assert!(world.record(&id).end_at > first);
}
