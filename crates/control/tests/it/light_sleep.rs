//! What light sleep may cost.

use std::time::Duration;

use dormouse_control::ControlConfig;
use dormouse_store::SandboxId;

use crate::harness::{TEAM, World, config, wait_until};

/// What an instance of the simulator costs.
const ONE: u64 = 64 << 20;

async fn budget(light_sleep_memory: u64) -> World {
    World::with(ControlConfig {
        light_sleep_memory,
        ..config()
    })
    .await
}

async fn goes_deep(world: &World, id: &SandboxId) {
    wait_until("it sleeps deeply", async || world.record(id).instance.is_none()).await;
}

#[tokio::test]
async fn longest_sleeper_makes_room() {
    let world = budget(2 * ONE).await;
    let ids = [world.paused().await, world.paused().await, world.paused().await];
    goes_deep(&world, &ids[0]).await;
    world.holds(2, 3, 3).await;
    for id in &ids {
        assert!(world.connect(id).await.unwrap().resumed);
    }
}

#[tokio::test]
async fn woken_killed_and_deep_sleepers_cost_nothing() {
    let world = budget(ONE).await;
    let (woken, killed, deep) = (world.paused().await, world.running().await, world.running().await);
    world.connect(&woken).await.unwrap();
    world.pause(&killed).await.unwrap();
    world.kill(&killed).await.unwrap();
    world.pause(&deep).await.unwrap();
    world.control.sleep_deeply(TEAM, &deep).await.unwrap();
    world.pause(&woken).await.unwrap();
    world.holds(1, 2, 2).await;
    assert!(world.record(&woken).instance.is_some());
}

#[tokio::test]
async fn budget_of_nothing_turns_it_off() {
    let world = budget(0).await;
    let id = world.paused().await;
    wait_until("it sleeps deeply", async || world.record(&id).instance.is_none()).await;
    world.holds(0, 1, 1).await;
}

#[tokio::test]
async fn light_sleep_becomes_deep_by_age() {
    let light_sleep_age = Duration::from_millis(100);
    let world = World::with(ControlConfig {
        light_sleep_age,
        ..config()
    })
    .await;
    let id = world.paused().await;
    goes_deep(&world, &id).await;
    world.holds(0, 1, 1).await;
    assert!(world.connect(&id).await.unwrap().resumed);
}

#[tokio::test]
async fn light_sleepers_are_counted_again_after_a_restart() {
    let mut world = budget(2 * ONE).await;
    let old = [world.paused().await, world.paused().await];
    world.crash().await;
    let new = world.paused().await;
    wait_until("one of the old ones made room", async || {
        old.iter().filter(|id| world.record(id).instance.is_some()).count() == 1
    })
    .await;
    assert!(world.record(&new).instance.is_some());
}
