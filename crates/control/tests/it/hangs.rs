//! Engines that hang or panic: a kill is never held up, every wait has a limit, and a driver gets up again.

use std::time::Duration;

use dormouse_control::{ControlConfig, ControlError, Deadlines, RouteError};
use dormouse_engine::{ExitReason, Operation};
use dormouse_store::EventKind::{Created, Killed, Paused as WasPaused, Resumed};
use dormouse_store::SandboxState::{Paused, Running};

use crate::harness::{MINUTE, TEAM, World, config, cycling, new, owner};

/// Soon for what hangs, and late for what does not.
const SOON: Duration = Duration::from_secs(1);

/// A node that gives up on its engine.
async fn impatient(deadlines: Deadlines) -> World {
    World::with(ControlConfig { deadlines, ..config() }).await
}

fn late() -> Deadlines {
    Deadlines::default()
}

#[tokio::test]
async fn kill_does_not_wait_for_a_snapshot_that_hangs() {
    let world = World::new().await;
    let id = world.running().await;
    let _gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    world.kill(&id).await.unwrap();
    assert!(matches!(pause.await.unwrap(), Err(ControlError::NotFound(_))));
    assert_eq!(world.state(&id), None);
    assert_eq!(world.log(&id).await, [Created, Killed]);
}

#[tokio::test]
async fn snapshot_that_ends_after_the_kill_leaves_nothing() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    world.kill(&id).await.unwrap();
    gate.add_permits(1);
    pause.await.unwrap().unwrap_err();
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn kill_does_not_wait_for_a_thaw_that_hangs() {
    let world = World::new().await;
    let id = world.paused().await;
    let gate = world.engine.hold(Operation::Resume);
    let connect = world.begin_connect(&id);
    world.begun(Operation::Resume, 1).await;
    world.kill(&id).await.unwrap();
    assert!(matches!(connect.await.unwrap(), Err(ControlError::NotFound(_))));
    gate.add_permits(1);
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn kill_does_not_wait_for_a_restore_that_hangs_and_its_instance_is_not_kept() {
    let world = World::deep().await;
    let id = world.paused().await;
    let gate = world.engine.hold(Operation::Start);
    let connect = world.begin_connect(&id);
    world.begun(Operation::Start, 2).await;
    world.kill(&id).await.unwrap();
    assert!(matches!(connect.await.unwrap(), Err(ControlError::NotFound(_))));
    gate.add_permits(1);
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn kill_goes_before_what_waits() {
    let world = World::new().await;
    let id = world.running().await;
    let _gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    let (connected, killed) = tokio::join!(biased; world.connect(&id), world.kill(&id));
    killed.unwrap();
    assert!(matches!(connected, Err(ControlError::NotFound(_))));
    pause.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn of_two_kills_one_finds_nothing() {
    let world = World::new().await;
    let id = world.running().await;
    let _gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    let (first, second) = tokio::join!(world.kill(&id), world.kill(&id));
    assert_eq!([&first, &second].iter().filter(|killed| killed.is_ok()).count(), 1);
    pause.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn kill_does_not_wait_for_a_destruction_that_hangs() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Destroy);
    world.kill(&id).await.unwrap();
    assert_eq!(world.state(&id), None);
    gate.add_permits(1);
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn snapshot_that_hangs_fails_and_the_sandbox_runs_on() {
    let world = impatient(Deadlines {
        snapshot: SOON,
        ..late()
    })
    .await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    let gate = world.engine.hold(Operation::Snapshot);
    assert!(matches!(world.pause(&id).await, Err(ControlError::Engine(_))));
    assert_eq!((world.state(&id), world.memory(&id)), (Some(Running), 42));
    gate.add_permits(1);
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn thaw_that_hangs_becomes_a_restore() {
    let world = impatient(Deadlines { other: SOON, ..late() }).await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    let _gate = world.engine.hold(Operation::Resume);
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.memory(&id), 42);
}

#[tokio::test]
async fn creation_that_hangs_fails_and_leaves_nothing() {
    let deadlines = [
        (Operation::Start, Deadlines { start: SOON, ..late() }),
        (Operation::Identify, Deadlines { other: SOON, ..late() }),
    ];
    for (operation, deadlines) in deadlines {
        let world = impatient(deadlines).await;
        let gate = world.engine.hold(operation);
        assert!(matches!(world.try_create(new()).await, Err(ControlError::Engine(_))));
        gate.add_permits(1);
        world.holds(0, 0, 0).await;
    }
}

#[tokio::test]
async fn sandbox_that_neither_sleeps_nor_goes_on_can_be_killed() {
    let world = World::new().await;
    let id = world.running().await;
    world.engine.fail(Operation::Snapshot, 1);
    let _gate = world.engine.hold(Operation::Resume);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Resume, 1).await;
    world.kill(&id).await.unwrap();
    assert!(matches!(pause.await.unwrap(), Err(ControlError::NotFound(_))));
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn engine_that_panics_is_an_engine_that_failed() {
    let world = World::new().await;
    let id = world.running().await;
    world.engine.panic(Operation::Snapshot, 1);
    assert!(matches!(world.pause(&id).await, Err(ControlError::Engine(_))));
    assert_eq!(world.state(&id), Some(Running));
    world.pause(&id).await.unwrap();
}

#[tokio::test]
async fn running_sandbox_outlives_the_panic_of_its_driver() {
    let world = World::deep().await;
    let id = world.paused().await;
    // The driver looks at its new instance when it has answered.
    world.engine.panic(Operation::Watch, 1);
    world.connect(&id).await.unwrap();
    let again = world.control.resume(&owner(), &id, MINUTE, None).await;
    assert!(matches!(again, Err(ControlError::AlreadyRunning(_))));
    assert!(world.visit(&id, 80).await.is_ok());
    world.pause(&id).await.unwrap();
    assert_eq!(world.log(&id).await, [Created, WasPaused, Resumed, WasPaused]);
    world.holds(0, 1, 1).await;
    world.kill(&id).await.unwrap();
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn driver_that_panics_again_and_again_gets_up_again_and_again() {
    let world = World::new().await;
    world.engine.panic(Operation::Watch, 3);
    let id = world.running().await;
    world.pause(&id).await.unwrap();
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.log(&id).await, [Created, WasPaused, Resumed]);
}

#[tokio::test]
async fn sandbox_whose_instance_died_while_its_driver_was_down_is_gone() {
    let world = World::new().await;
    world.engine.panic(Operation::Watch, 1);
    let id = world.running().await;
    // At whatever moment of the fall it dies: nothing is left.
    for instance in world.engine.instances() {
        world.engine.die(&instance, ExitReason::OutOfMemory);
    }
    world.wait_for(&id, None).await;
    assert!(matches!(world.kill(&id).await, Err(ControlError::NotFound(_))));
    assert!(matches!(world.visit(&id, 80).await, Err(RouteError::NotFound)));
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn sandbox_without_a_row_is_gone_after_the_panic_of_its_driver() {
    let world = World::deep().await;
    let id = world.paused().await;
    let gate = world.engine.hold(Operation::Start);
    world.engine.panic(Operation::Watch, 1);
    let connect = world.begin_connect(&id);
    world.begun(Operation::Start, 2).await;
    gate.add_permits(1);
    connect.await.unwrap().unwrap();
    // Until it sees that the row is gone it may still be found.
    while world.store.sandbox(&id).await.unwrap().is_some() {
        world.store.remove(&id, &[]).await.unwrap();
    }
    crate::harness::wait_until("it is gone or killed", async || {
        world.state(&id).is_none() || world.kill(&id).await.is_ok()
    })
    .await;
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn lightly_sleeping_sandbox_is_found_again_by_traffic_after_a_panic() {
    let world = World::new().await;
    world.engine.panic(Operation::Watch, 2);
    let id = world.create(cycling()).await.record.id;
    world.pause(&id).await.unwrap();
    assert_eq!(world.state(&id), Some(Paused));
    world.visit(&id, 80).await.unwrap();
    assert!(world.control.get(TEAM, &id).is_ok());
}
