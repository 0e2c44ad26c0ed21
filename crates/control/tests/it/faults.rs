//! Engines and disks that fail: what was there before is unharmed, and nothing is left over.

use dormouse_control::ControlError;
use dormouse_engine::{EngineKind, ExitReason, Operation};
use dormouse_store::SandboxState::{Paused, Running};

use crate::harness::{TEAM, World, cycling, new};

const ALWAYS: u32 = u32::MAX;

#[tokio::test]
async fn creation_that_cannot_start_leaves_nothing() {
    let world = World::new().await;
    world.engine.fail(Operation::Start, 1);
    assert!(matches!(world.try_create(new()).await, Err(ControlError::Engine(_))));
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn creation_that_cannot_identify_leaves_nothing() {
    let world = World::new().await;
    world.engine.fail(Operation::Identify, 1);
    assert!(matches!(world.try_create(new()).await, Err(ControlError::Engine(_))));
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn creation_that_cannot_set_its_network_leaves_nothing() {
    let world = World::new().await;
    world.engine.fail(Operation::SetNetwork, 1);
    let mut wanted = new();
    wanted.allow_internet = Some(false);
    assert!(world.try_create(wanted).await.is_err());
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn failed_snapshot_leaves_it_running_with_its_memory() {
    let world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.engine.fail(Operation::Snapshot, 1);
    assert!(matches!(world.pause(&id).await, Err(ControlError::Engine(_))));
    assert_eq!((world.state(&id), world.memory(&id)), (Some(Running), 42));
    assert_eq!(world.engine.suspended(&world.instance(&id)), Some(false));
    world.holds(1, 0, 1).await;
    world.pause(&id).await.unwrap();
}

#[tokio::test]
async fn pause_on_a_full_disk_says_so_and_leaves_it_running() {
    let world = World::new().await;
    let id = world.running().await;
    world.engine.fill(Operation::Snapshot, 1);
    assert!(matches!(world.pause(&id).await, Err(ControlError::NoRoom(_))));
    assert_eq!(world.state(&id), Some(Running));
    assert!(world.visit(&id, 80).await.is_ok());
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn sandbox_whose_failed_pause_is_undone_late_lives() {
    let world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.engine.fail(Operation::Snapshot, 1);
    world.engine.fail(Operation::Resume, 2);
    assert!(world.pause(&id).await.is_err());
    assert_eq!((world.state(&id), world.memory(&id)), (Some(Running), 42));
}

#[tokio::test]
async fn time_up_without_room_lets_it_run_on() {
    let world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    world.engine.fill(Operation::Snapshot, ALWAYS);
    world.control.set_timeout(TEAM, &id, std::time::Duration::ZERO).await.unwrap();
    world.begun(Operation::Snapshot, 1).await;
    world.wait_for(&id, Some(Running)).await;
    world.engine.fill(Operation::Snapshot, 0);
    world.pause(&id).await.unwrap();
    assert_eq!(world.state(&id), Some(Paused));
}

#[tokio::test]
async fn failed_thaw_falls_back_to_the_snapshot() {
    let world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    let frozen = world.instance(&id);
    world.engine.fail(Operation::Resume, 1);
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.memory(&id), 42);
    assert_ne!(world.instance(&id), frozen);
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn failed_thaw_and_failed_restore_leave_it_asleep() {
    let world = World::new().await;
    let id = world.paused().await;
    world.engine.fail(Operation::Resume, 1);
    world.engine.fail(Operation::Start, 1);
    assert!(world.connect(&id).await.is_err());
    assert_eq!(world.state(&id), Some(Paused));
    world.holds(0, 1, 1).await;
    assert!(world.connect(&id).await.unwrap().resumed);
}

#[tokio::test]
async fn restored_instance_that_takes_no_identity_is_not_the_sandbox() {
    let world = World::deep().await;
    let id = world.paused().await;
    world.engine.fail(Operation::Identify, 1);
    assert!(world.connect(&id).await.is_err());
    world.holds(0, 1, 1).await;
    assert!(world.connect(&id).await.unwrap().resumed);
}

#[tokio::test]
async fn instance_of_unknown_size_is_not_kept() {
    let world = World::new().await;
    let other = world.paused().await;
    // Refused, and only after it has been measured.
    world
        .control
        .set_timeout(TEAM, &other, std::time::Duration::ZERO)
        .await
        .unwrap_err();
    world.engine.fail(Operation::Stats, 1);
    let id = world.paused().await;
    world.holds(1, 2, 2).await;
    assert_eq!(world.record(&id).instance, None);
    assert!(world.record(&other).instance.is_some());
}

#[tokio::test]
async fn instance_that_resists_its_end_is_destroyed_in_the_end() {
    let world = World::new().await;
    let id = world.running().await;
    world.engine.fail(Operation::Destroy, 1);
    world.kill(&id).await.unwrap();
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn running_sandbox_whose_instance_dies_is_gone() {
    let world = World::new().await;
    let id = world.running().await;
    let route = world.visit(&id, 80).await.unwrap();
    world.engine.die(&world.instance(&id), ExitReason::Died("killed".to_owned()));
    world.wait_for(&id, None).await;
    assert!(route.ended.is_cancelled());
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn light_sleeper_whose_instance_dies_wakes_from_its_snapshot() {
    let world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    world.engine.die(&world.instance(&id), ExitReason::OutOfMemory);
    crate::harness::wait_until("it sleeps deeply", async || world.record(&id).instance.is_none()).await;
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.memory(&id), 42);
}

#[tokio::test]
async fn instance_that_dies_during_its_pause_takes_the_sandbox_along() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    world.engine.die(&world.instance(&id), ExitReason::OutOfMemory);
    gate.add_permits(1);
    assert!(pause.await.unwrap().is_err());
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn unwritable_database_harms_nothing() {
    let world = World::new().await;
    let (running, light) = (world.running().await, world.paused().await);
    world.set_memory(&running, 42);
    world.store.close().await;
    assert!(matches!(world.try_create(new()).await, Err(ControlError::Store(_))));
    assert!(matches!(world.pause(&running).await, Err(ControlError::Store(_))));
    assert!(matches!(world.kill(&running).await, Err(ControlError::Store(_))));
    assert!(matches!(world.connect(&light).await, Err(ControlError::Store(_))));
    assert_eq!((world.state(&running), world.memory(&running)), (Some(Running), 42));
    assert_eq!(world.state(&light), Some(Paused));
}

#[tokio::test]
async fn pause_of_an_instance_that_has_just_died_finds_nothing() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    world.engine.die(&world.instance(&id), ExitReason::OutOfMemory);
    gate.add_permits(1);
    assert!(matches!(pause.await.unwrap(), Err(ControlError::NotFound(_))));
    assert_eq!(world.state(&id), None);
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn build_of_another_engine_is_refused() {
    let world = World::new().await;
    let build = world.build_of(EngineKind::Gvisor).await;
    let refused = world.try_create(new()).await.unwrap_err();
    assert!(matches!(refused, ControlError::WrongEngine { .. }), "{refused}");
    assert_eq!(world.engine.calls(Operation::Start), 0);
    world.control.stock(&build);
    world.control.pool_full().await;
    assert_eq!(world.engine.calls(Operation::Start), 0);
}

#[tokio::test]
async fn snapshot_of_another_engine_is_kept_and_refused() {
    let mut world = World::deep().await;
    let sleeping = world.paused().await;
    let running = world.running().await;
    let snapshot = world.record(&sleeping).snapshot.unwrap();
    let other = world.build_of(EngineKind::Gvisor).await;
    world.die();
    world.move_to(&other).await;
    world.start().await;
    assert!(matches!(
        world.connect(&sleeping).await,
        Err(ControlError::WrongEngine { .. })
    ));
    assert_eq!(world.state(&sleeping), Some(Paused));
    assert!(world.snapshots.path(&snapshot).exists());
    // It is not ours to show, and not ours to forget.
    assert_eq!(world.state(&running), None);
    let rows = world.store.sandboxes().await.unwrap();
    assert!(rows.iter().any(|row| row.id == running));
    world.die();
    world.move_to(&world.base).await;
    world.start().await;
    world.connect(&sleeping).await.unwrap();
}
