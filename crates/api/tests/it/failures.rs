//! What a client hears when the host fails.

use dormouse_engine::Operation;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_failed_creation_is_500_and_leaves_nothing() {
    let world = World::new().await;
    world.engine.fail(Operation::Start, 1);
    let failed = world.post("/v2/sandboxes", json!({"templateID": "base"})).await.is(500);
    assert_eq!(failed.header("should-retry"), Some("false"));
    assert!(
        !failed.text("message").contains("simulator"),
        "the reason is for the log: {}",
        failed.body
    );
    assert_eq!(world.get("/v2/sandboxes").await.body, json!([]));
    assert_eq!(world.engine.instances(), []);
    world.running().await;
}

#[tokio::test]
async fn a_pause_without_room_is_503_with_the_reason_and_it_runs_on() {
    let world = World::new().await;
    let id = world.running().await;
    world.engine.fill(Operation::Snapshot, 1);
    let refused = world.post(&format!("/sandboxes/{id}/pause"), json!({})).await.is(503);
    assert_eq!(refused.header("should-retry"), Some("false"));
    refused.mentions("no room").mentions("told to be full");
    assert_eq!(world.state(&id).await.as_deref(), Some("running"));
    world.post(&format!("/sandboxes/{id}/pause"), json!({})).await.is(204);
}

#[tokio::test]
async fn a_failed_wake_is_500_and_it_sleeps_on() {
    let world = World::new().await;
    let id = world.paused().await;
    for operation in [Operation::Resume, Operation::Start, Operation::Identify] {
        world.engine.fail(operation, 9);
    }
    world.post(&format!("/v2/sandboxes/{id}/connect"), json!({})).await.is(500);
    assert_eq!(world.state(&id).await.as_deref(), Some("paused"));
    for operation in [Operation::Resume, Operation::Start, Operation::Identify] {
        world.engine.fail(operation, 0);
    }
    world.post(&format!("/v2/sandboxes/{id}/connect"), json!({})).await.is(201);
}

#[tokio::test]
async fn a_sandbox_that_dies_is_gone() {
    let world = World::new().await;
    let id = world.running().await;
    let instance = world.engine.instances().remove(0);
    world.engine.die(&instance, dormouse_engine::ExitReason::OutOfMemory);
    for _ in 0..2000 {
        if world.state(&id).await.is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("it is still there");
}
