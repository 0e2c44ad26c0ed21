//! The daemon dies in the middle of things, and a new one starts: the table in the recover module.

use dormouse_control::ControlConfig;
use dormouse_engine::sim::SimEngine;
use dormouse_engine::{Engine as _, ExitReason, Operation};
use dormouse_store::EventKind;
use dormouse_store::SandboxState::{Paused, Running};

use crate::harness::{TEAM, World, config, cycling, new, owner};

#[tokio::test]
async fn running_sandbox_runs_on_untouched() {
    let mut world = World::new().await;
    let id = world.running().await;
    let (instance, end) = (world.instance(&id), world.record(&id).end_at);
    world.set_memory(&id, 42);
    world.crash().await;
    assert_eq!((world.state(&id), world.memory(&id)), (Some(Running), 42));
    assert_eq!((world.instance(&id), world.record(&id).end_at), (instance, end));
    assert!(world.visit(&id, 80).await.is_ok());
}

#[tokio::test]
async fn orderly_stop_is_no_different() {
    let mut world = World::new().await;
    let (running, paused) = (world.running().await, world.paused().await);
    let stop = world.spawn(|control| async move { control.stop().await });
    stop.await.unwrap();
    world.crash().await;
    assert_eq!((world.state(&running), world.state(&paused)), (Some(Running), Some(Paused)));
}

#[tokio::test]
async fn lost_network_policy_and_identity_are_given_again() {
    let mut world = World::new().await;
    let mut wanted = new();
    wanted.allow_internet = Some(false);
    let id = world.create(wanted).await.record.id;
    world.die();
    let host = SimEngine::over(world.engine.host());
    host.set_network(&world.instance(&id), &dormouse_engine::NetworkPolicy { internet: true })
        .await
        .unwrap();
    world.start().await;
    assert!(!world.engine.network(&world.instance(&id)).unwrap().internet);
    assert_eq!(world.engine.calls(Operation::Identify), 1);
}

#[tokio::test]
async fn pause_under_way_is_undone() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    let _gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    world.crash().await;
    assert!(pause.await.is_err());
    assert_eq!((world.state(&id), world.memory(&id)), (Some(Running), 42));
    assert_eq!(world.engine.suspended(&world.instance(&id)), Some(false));
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn pause_that_was_written_is_done() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    let _gate = world.engine.hold(Operation::Stats);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Stats, 1).await;
    // The answer does not wait for the account of light sleep.
    pause.await.unwrap().unwrap();
    world.crash().await;
    assert_eq!(world.state(&id), Some(Paused));
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.memory(&id), 42);
}

#[tokio::test]
async fn light_sleeper_sleeps_lightly_on() {
    let mut world = World::new().await;
    let id = world.paused().await;
    let instance = world.instance(&id);
    world.crash().await;
    assert_eq!(world.instance(&id), instance);
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.instance(&id), instance);
}

#[tokio::test]
async fn light_sleeper_whose_instance_died_meanwhile_wakes_from_its_snapshot() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    world.die();
    world.engine.die(&world.instance(&id), ExitReason::OutOfMemory);
    world.start().await;
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.memory(&id), 42);
}

#[tokio::test]
async fn restore_under_way_is_undone() {
    for operation in [Operation::Start, Operation::Identify] {
        let mut world = World::deep().await;
        let id = world.paused().await;
        let begun = world.engine.calls(operation) + 1;
        let _gate = world.engine.hold(operation);
        let wake = world.begin_connect(&id);
        world.begun(operation, begun).await;
        world.crash().await;
        assert!(wake.await.is_err());
        assert_eq!(world.state(&id), Some(Paused));
        world.holds(0, 1, 1).await;
        assert!(world.connect(&id).await.unwrap().resumed);
    }
}

#[tokio::test]
async fn thaw_under_way_is_finished_and_its_snapshot_given_up() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    let _gate = world.engine.hold(Operation::Resume);
    let wake = world.begin_connect(&id);
    world.begun(Operation::Resume, 1).await;
    crate::harness::wait_until("the row says running", async || {
        world.store.sandboxes().await.unwrap()[0].state == Running
    })
    .await;
    world.crash().await;
    assert!(wake.await.is_err());
    assert_eq!((world.state(&id), world.memory(&id)), (Some(Running), 42));
    assert_eq!(world.engine.suspended(&world.instance(&id)), Some(false));
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn thaw_under_way_whose_instance_died_is_undone() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    let instance = world.instance(&id);
    let _gate = world.engine.hold(Operation::Resume);
    let _wake = world.begin_connect(&id);
    crate::harness::wait_until("the row says running", async || {
        world.store.sandboxes().await.unwrap()[0].state == Running
    })
    .await;
    world.die();
    world.engine.die(&instance, ExitReason::OutOfMemory);
    world.start().await;
    assert_eq!(world.state(&id), Some(Paused));
    assert_eq!(world.log(&id).await.last(), Some(&EventKind::Paused));
    assert!(world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.memory(&id), 42);
}

#[tokio::test]
async fn create_under_way_leaves_no_instance_without_a_row() {
    let mut world = World::new().await;
    let _gate = world.engine.hold(Operation::Start);
    let create = world.spawn(|control| async move { control.create(&owner(), new()).await });
    world.begun(Operation::Start, 1).await;
    world.crash().await;
    assert!(create.await.is_err());
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn create_whose_row_was_written_becomes_a_whole_sandbox() {
    let mut world = World::new().await;
    let _gate = world.engine.hold(Operation::Identify);
    let _create = world.spawn(|control| async move { control.create(&owner(), new()).await });
    crate::harness::wait_until("the row is there", async || {
        !world.store.sandboxes().await.unwrap().is_empty()
    })
    .await;
    world.crash().await;
    let id = world.store.sandboxes().await.unwrap().remove(0).id;
    assert!(world.engine.identity(&world.instance(&id)).is_some());
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn kill_that_was_written_is_finished() {
    let mut world = World::new().await;
    let (running, paused) = (world.running().await, world.paused().await);
    let _gate = world.engine.hold(Operation::Destroy);
    world.kill(&running).await.unwrap();
    world.kill(&paused).await.unwrap();
    world.crash().await;
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn running_sandbox_whose_instance_died_is_gone_with_an_event() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.die();
    world.engine.die(&world.instance(&id), ExitReason::Died("reboot".to_owned()));
    world.start().await;
    assert_eq!(world.state(&id), None);
    assert_eq!(world.log(&id).await, [EventKind::Created, EventKind::Killed]);
    world.holds(0, 0, 0).await;
}

/// Their snapshots are written while the start sweeps what nobody names.
#[tokio::test]
async fn sandboxes_whose_time_ran_out_meanwhile_fall_asleep_and_can_be_woken() {
    let mut world = World::new().await;
    let mut ids = Vec::new();
    for memory in 0..20 {
        let id = world.create(cycling()).await.record.id;
        world.set_memory(&id, memory);
        ids.push(id);
    }
    world.die();
    for mut record in world.store.sandboxes().await.unwrap() {
        record.end_at = record.started_at;
        world.store.save(&record, &[]).await.unwrap();
    }
    world.start().await;
    for (memory, id) in (0..).zip(&ids) {
        world.wait_for(id, Some(Paused)).await;
        world.control.sleep_deeply(TEAM, id).await.unwrap();
        assert!(world.connect(id).await.unwrap().resumed);
        assert_eq!(world.memory(id), memory);
    }
}

#[tokio::test]
async fn orphan_that_resists_does_not_keep_the_daemon_from_starting() {
    let mut world = World::new().await;
    let id = world.running().await;
    world.die();
    world.store.remove(&id, &[]).await.unwrap();
    let engine = SimEngine::over(world.engine.host());
    engine.fail(Operation::Destroy, 1);
    world.start_on(engine).await;
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn start_that_fails_changes_no_sandbox() {
    let mut world = World::new().await;
    let (running, paused) = (world.running().await, world.paused().await);
    world.die();
    let engine = SimEngine::over(world.engine.host());
    engine.fail(Operation::Adopt, 1);
    assert!(world.try_start_on(engine).await.is_err());
    world.start().await;
    assert_eq!((world.state(&running), world.state(&paused)), (Some(Running), Some(Paused)));
}

#[tokio::test]
async fn sandboxes_over_a_lowered_limit_run_on() {
    let mut world = World::new().await;
    let ids = [world.running().await, world.running().await];
    world.reconfigure(ControlConfig {
        max_running: 1,
        ..config()
    });
    world.crash().await;
    assert_eq!((world.state(&ids[0]), world.state(&ids[1])), (Some(Running), Some(Running)));
    assert!(world.try_create(new()).await.is_err());
}

#[tokio::test]
async fn sandbox_cycles_through_crashes() {
    let mut world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    for memory in 0..5 {
        world.set_memory(&id, memory);
        world.pause(&id).await.unwrap();
        world.crash().await;
        world.visit(&id, 80).await.unwrap();
        world.crash().await;
        assert_eq!(world.memory(&id), memory);
    }
    world.holds(1, 0, 1).await;
}
