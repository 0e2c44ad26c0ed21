//! The log of events: written with the change that each tells of, in the order of the changes.

use std::time::Duration;

use dormouse_engine::{ExitReason, Operation};
use dormouse_store::EventKind::{Created, Killed, Paused, Resumed, Updated};
use dormouse_store::SandboxId;
use serde_json::Value;

use crate::harness::{MINUTE, TEAM, World, cycling, new, owner};

async fn last(world: &World, id: &SandboxId) -> Value {
    world.store.events(TEAM, Some(id), 1).await.unwrap().remove(0).data
}

#[tokio::test]
async fn life_is_told_in_order() {
    let world = World::new().await;
    let id = world.running().await;
    world.control.set_timeout(TEAM, &id, 2 * MINUTE).await.unwrap();
    world.control.connect(&owner(), &id, 3 * MINUTE).await.unwrap();
    world.connect(&id).await.unwrap();
    world.pause(&id).await.unwrap();
    world.connect(&id).await.unwrap();
    world.kill(&id).await.unwrap();
    assert_eq!(world.log(&id).await, [Created, Updated, Updated, Paused, Resumed, Killed]);
}

#[tokio::test]
async fn waking_by_traffic_and_sleeping_by_time_are_told() {
    let world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    world.control.set_timeout(TEAM, &id, Duration::ZERO).await.unwrap();
    world.wait_for(&id, Some(dormouse_store::SandboxState::Paused)).await;
    world.visit(&id, 80).await.unwrap();
    assert_eq!(world.log(&id).await, [Created, Updated, Paused, Resumed]);
}

#[tokio::test]
async fn refused_and_failed_commands_are_not_told() {
    let world = World::deep().await;
    let id = world.paused().await;
    world.pause(&id).await.unwrap_err();
    world.engine.fail(Operation::Start, 1);
    world.connect(&id).await.unwrap_err();
    world.connect(&id).await.unwrap();
    world.engine.fail(Operation::Snapshot, 1);
    world.pause(&id).await.unwrap_err();
    assert_eq!(world.log(&id).await, [Created, Paused, Resumed]);
}

#[tokio::test]
async fn every_resumed_is_followed_by_its_end() {
    let world = World::new().await;
    let id = world.paused().await;
    world.engine.fail(Operation::Resume, 1);
    world.connect(&id).await.unwrap();
    assert_eq!(world.log(&id).await, [Created, Paused, Resumed, Paused, Resumed]);
}

#[tokio::test]
async fn killed_says_why() {
    let world = World::new().await;
    let (request, timeout, memory, died) = (
        world.running().await,
        world.running().await,
        world.running().await,
        world.running().await,
    );
    world.kill(&request).await.unwrap();
    world.control.set_timeout(TEAM, &timeout, Duration::ZERO).await.unwrap();
    world.engine.die(&world.instance(&memory), ExitReason::OutOfMemory);
    world.engine.die(&world.instance(&died), ExitReason::Died("x".to_owned()));
    for (id, reason) in [
        (&request, "request"),
        (&timeout, "timeout"),
        (&memory, "out of memory"),
        (&died, "instance died"),
    ] {
        world.wait_for(id, None).await;
        assert_eq!(last(&world, id).await["kill_reason"], reason);
    }
}

#[tokio::test]
async fn paused_and_killed_tell_of_the_run_and_created_of_the_labels() {
    let world = World::new().await;
    let id = world.running().await;
    crate::harness::wait_until("it is told", async || !world.log(&id).await.is_empty()).await;
    assert_eq!(last(&world, &id).await["sandbox_metadata"]["who"], "test");
    world.pause(&id).await.unwrap();
    let paused = last(&world, &id).await;
    assert_eq!(paused["execution"]["memory_mb"], 1024);
    assert_eq!(paused["execution"]["vcpu_count"], 2);
    world.kill(&id).await.unwrap();
    let killed = last(&world, &id).await;
    assert_eq!(killed["execution"]["started_at"], paused["execution"]["started_at"]);
}

#[tokio::test]
async fn sleep_is_not_counted_as_execution() {
    let world = World::new().await;
    let id = world.running().await;
    world.pause(&id).await.unwrap();
    let record = world.record(&id);
    let ran = record.end_at.duration_since(record.started_at).as_millis();
    let a_while = jiff::Timestamp::now() + Duration::from_millis(50);
    crate::harness::wait_until("it has slept for a while", async || jiff::Timestamp::now() > a_while).await;
    world.kill(&id).await.unwrap();
    assert_eq!(
        last(&world, &id).await["execution"]["execution_time"],
        i64::try_from(ran).unwrap()
    );
}

#[tokio::test]
async fn updated_tells_the_new_end() {
    let world = World::new().await;
    let id = world.running().await;
    world.control.set_timeout(TEAM, &id, 2 * MINUTE).await.unwrap();
    assert_eq!(last(&world, &id).await["set_timeout"], world.record(&id).end_at.to_string());
}

#[tokio::test]
async fn creation_that_failed_is_not_told() {
    let world = World::new().await;
    world.engine.fail(Operation::Identify, 1);
    world.try_create(new()).await.unwrap_err();
    world.holds(0, 0, 0).await;
    assert_eq!(world.store.events(TEAM, None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn pooled_instance_that_fails_is_not_told() {
    let world = World::with(dormouse_control::ControlConfig {
        pool_size: 1,
        ..crate::harness::config()
    })
    .await;
    world.control.stock(&world.base);
    world.control.pool_full().await;
    world.engine.fail(Operation::Identify, 1);
    let id = world.running().await;
    world.kill(&id).await.unwrap();
    assert_eq!(world.log(&id).await, [Created, Killed]);
    assert_eq!(world.store.events(TEAM, None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn creation_that_a_crash_kept_out_of_the_log_is_told_by_the_next_start() {
    let mut world = World::new().await;
    let id = world.running().await;
    let row = world.record(&id);
    world.die();
    world.store.prune_events(jiff::Timestamp::MAX).await.unwrap();
    world.store.save(&row, &[]).await.unwrap();
    world.start().await;
    world.kill(&id).await.unwrap();
    assert_eq!(world.log(&id).await, [Created, Killed]);
}

#[tokio::test]
async fn creation_that_a_crash_kept_out_of_the_log_is_told_even_if_nothing_is_left_of_it() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.die();
    world.store.prune_events(jiff::Timestamp::MAX).await.unwrap();
    world.engine.die(&world.engine.instances()[0], ExitReason::OutOfMemory);
    world.start().await;
    world.holds(0, 0, 0).await;
    assert_eq!(world.log(&id).await, [Created, Killed]);
}
