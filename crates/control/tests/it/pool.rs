//! The warm pool.

use dormouse_control::ControlConfig;
use dormouse_engine::{ExitReason, Operation};

use crate::harness::{World, config, new, wait_until};

async fn pool_of(pool_size: usize) -> World {
    let world = World::with(ControlConfig { pool_size, ..config() }).await;
    stock(&world, &world.base).await;
    world
}

/// Brings a build into use and waits for the pool.
async fn stock(world: &World, build: &dormouse_store::BuildRecord) {
    let build = build.clone();
    let full = world.spawn(|control| async move {
        control.stock(&build);
        control.pool_full().await;
    });
    full.await.unwrap();
}

#[tokio::test]
async fn pool_is_filled_with_suspended_instances_that_nobody_owns() {
    let world = pool_of(2).await;
    world.holds(2, 0, 0).await;
    for instance in world.engine.instances() {
        assert_eq!(world.engine.suspended(&instance), Some(true));
        assert_eq!(world.engine.identity(&instance), None);
    }
}

#[tokio::test]
async fn create_takes_from_the_pool_and_it_is_refilled() {
    let world = pool_of(1).await;
    let pooled = world.engine.instances();
    let id = world.running().await;
    assert_eq!([world.instance(&id)], pooled[..]);
    assert_eq!(world.engine.suspended(&pooled[0]), Some(false));
    assert_eq!(world.memory(&id), 7);
    world.holds(2, 0, 1).await;
}

#[tokio::test]
async fn pooled_sandbox_has_its_own_network_policy() {
    let world = pool_of(1).await;
    let mut wanted = new();
    wanted.allow_internet = Some(false);
    let id = world.create(wanted).await.record.id;
    assert!(!world.engine.network(&world.instance(&id)).unwrap().internet);
}

#[tokio::test]
async fn empty_pool_does_not_hold_a_create_up() {
    let world = pool_of(1).await;
    let gate = world.engine.hold(Operation::Suspend);
    world.running().await;
    world.begun(Operation::Suspend, 2).await;
    world.running().await;
    gate.add_permits(10);
    world.holds(3, 0, 2).await;
}

#[tokio::test]
async fn dead_instance_is_replaced() {
    let world = pool_of(1).await;
    let dead = world.engine.instances().remove(0);
    world.engine.die(&dead, ExitReason::OutOfMemory);
    wait_until("it is replaced", async || {
        world.engine.instances().iter().any(|id| *id != dead)
    })
    .await;
    world.holds(1, 0, 0).await;
}

#[tokio::test]
async fn pooled_instance_that_does_not_wake_is_replaced_for_the_create() {
    let world = pool_of(1).await;
    let pooled = world.engine.instances();
    world.engine.fail(Operation::Resume, 1);
    let id = world.running().await;
    assert_ne!([world.instance(&id)], pooled[..]);
    world.holds(2, 0, 1).await;
}

#[tokio::test]
async fn new_build_of_a_template_replaces_the_old_one() {
    let world = pool_of(2).await;
    let old = world.engine.instances();
    let build = world.rebuild().await;
    stock(&world, &build).await;
    wait_until("the old ones are gone", async || {
        let now = world.engine.instances();
        now.len() == 2 && !now.iter().any(|id| old.contains(id))
    })
    .await;
    assert_eq!(world.create(new()).await.record.build, build.id);
}

#[tokio::test]
async fn instance_made_for_a_build_that_went_out_of_use_is_destroyed() {
    let world = pool_of(1).await;
    let gate = world.engine.hold(Operation::Suspend);
    world.running().await;
    world.begun(Operation::Suspend, 2).await;
    let build = world.rebuild().await;
    let restocked = world.spawn(|control| {
        let build = build.clone();
        async move { control.stock(&build) }
    });
    restocked.await.unwrap();
    gate.add_permits(10);
    let full = world.spawn(|control| async move { control.pool_full().await });
    full.await.unwrap();
    world.holds(2, 1, 1).await;
}

#[tokio::test]
async fn pool_is_bounded_however_many_builds_are_used() {
    let world = pool_of(1).await;
    for _ in 0..12 {
        let build = dormouse_store::BuildRecord {
            id: dormouse_store::BuildId::random(),
            template: dormouse_store::TemplateId::random(),
            ..world.base.clone()
        };
        stock(&world, &build).await;
    }
    world.holds(8, 0, 0).await;
}

#[tokio::test]
async fn build_that_cannot_be_restored_does_not_starve_the_others() {
    let world = pool_of(1).await;
    let broken = dormouse_store::BuildRecord {
        id: dormouse_store::BuildId::random(),
        template: dormouse_store::TemplateId::random(),
        snapshot: dormouse_store::SnapshotId::random(),
        ..world.base.clone()
    };
    let stocked = world.spawn(|control| async move { control.stock(&broken) });
    stocked.await.unwrap();
    world.begun(Operation::Start, 2).await;
    world.running().await;
    world.holds(2, 0, 1).await;
}

#[tokio::test]
async fn stop_destroys_the_pool_and_nothing_else() {
    let world = pool_of(2).await;
    let id = world.running().await;
    let instance = world.instance(&id);
    let stop = world.spawn(|control| async move { control.stop().await });
    stop.await.unwrap();
    assert_eq!(world.engine.instances(), [instance]);
}

#[tokio::test]
async fn pool_of_a_crashed_daemon_is_removed() {
    let mut world = pool_of(2).await;
    world.crash().await;
    world.holds(0, 0, 0).await;
}
