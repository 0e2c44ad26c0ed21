//! Many askers at once, and commands that arrive while a sandbox is on its way.

use dormouse_control::{ControlConfig, ControlError, ListFilter};
use dormouse_engine::Operation;
use dormouse_store::SandboxState::{Paused, Running};
use futures::future::join_all;

use crate::harness::{MINUTE, TEAM, World, config, cycling, new, owner, wait_until};

#[tokio::test]
async fn of_five_pauses_exactly_one_succeeds() {
    let world = World::new().await;
    let id = world.running().await;
    let answers = join_all((0..5).map(|_| world.pause(&id))).await;
    let refused = |answer: &&Result<(), ControlError>| matches!(answer, Err(ControlError::AlreadyPaused(_)));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(answers.iter().filter(refused).count(), 4);
    assert_eq!(world.engine.calls(Operation::Snapshot), 1);
}

#[tokio::test]
async fn of_five_resumes_exactly_one_succeeds() {
    let world = World::new().await;
    let id = world.paused().await;
    let owner = owner();
    let answers = join_all((0..5).map(|_| world.control.resume(&owner, &id, MINUTE, None))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(world.state(&id), Some(Running));
}

#[tokio::test]
async fn of_five_connects_exactly_one_wakes() {
    let world = World::deep().await;
    let id = world.paused().await;
    let answers = join_all((0..5).map(|_| world.connect(&id))).await;
    assert_eq!(
        answers.into_iter().filter(|answer| answer.as_ref().unwrap().resumed).count(),
        1
    );
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn pausing_sandbox_is_shown_paused_and_routes_nothing() {
    let world = World::new().await;
    let id = world.running().await;
    let route = world.visit(&id, 80).await.unwrap();
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.wait_for(&id, Some(Paused)).await;
    assert!(route.ended.is_cancelled());
    assert!(world.visit(&id, 80).await.is_err());
    gate.add_permits(1);
    pause.await.unwrap().unwrap();
}

#[tokio::test]
async fn connect_during_a_pause_waits_for_it_and_wakes() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    let connect = world.begin_connect(&id);
    gate.add_permits(1);
    pause.await.unwrap().unwrap();
    assert!(connect.await.unwrap().unwrap().resumed);
    assert_eq!(world.state(&id), Some(Running));
}

#[tokio::test]
async fn what_the_state_table_refuses_during_a_pause_is_refused_at_once() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let first = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    // All of it is answered while the snapshot is held.
    for _ in 0..4 {
        assert!(matches!(world.pause(&id).await, Err(ControlError::AlreadyPaused(_))));
    }
    let timeout = world.control.set_timeout(TEAM, &id, MINUTE).await;
    assert!(matches!(timeout, Err(ControlError::Busy { .. })));
    let refresh = world.control.refresh(TEAM, &id, MINUTE).await;
    assert!(matches!(refresh, Err(ControlError::Busy { .. })));
    assert_eq!(world.control.get(TEAM, &id).unwrap().state(), Paused);
    assert!(!first.is_finished());
    gate.add_permits(1);
    first.await.unwrap().unwrap();
    assert!(matches!(world.pause(&id).await, Err(ControlError::AlreadyPaused(_))));
    let timeout = world.control.set_timeout(TEAM, &id, MINUTE).await;
    assert!(matches!(timeout, Err(ControlError::NotRunning(_))));
    let refresh = world.control.refresh(TEAM, &id, MINUTE).await;
    assert!(matches!(refresh, Err(ControlError::NotRunning(_))));
}

#[tokio::test]
async fn resumes_during_a_pause_wait_for_it_and_one_succeeds() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    let owner = owner();
    let resumes = join_all((0..5).map(|_| world.control.resume(&owner, &id, MINUTE, None)));
    let (answers, ()) = tokio::join!(biased; resumes, async { gate.add_permits(1) });
    pause.await.unwrap().unwrap();
    let refused = |answer: &&Result<_, ControlError>| matches!(answer, Err(ControlError::AlreadyRunning(_)));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(answers.iter().filter(refused).count(), 4);
}

#[tokio::test]
async fn what_arrives_during_a_wake_waits_for_it() {
    let world = World::deep().await;
    let id = world.paused().await;
    let gate = world.engine.hold(Operation::Start);
    let wake = world.begin_connect(&id);
    world.begun(Operation::Start, 2).await;
    assert_eq!(world.state(&id), Some(Paused));
    let second = world.begin_connect(&id);
    let (timeout, ()) = tokio::join!(biased; world.control.set_timeout(TEAM, &id, 2 * MINUTE), async { gate.add_permits(1) });
    timeout.unwrap();
    assert!(wake.await.unwrap().unwrap().resumed);
    assert!(!second.await.unwrap().unwrap().resumed);
    world.pause(&id).await.unwrap();
}

#[tokio::test]
async fn pause_that_finds_a_wake_under_way_puts_it_to_sleep_again() {
    let world = World::deep().await;
    let id = world.paused().await;
    let gate = world.engine.hold(Operation::Start);
    let wake = world.begin_connect(&id);
    world.begun(Operation::Start, 2).await;
    let (paused, ()) = tokio::join!(biased; world.pause(&id), async { gate.add_permits(1) });
    paused.unwrap();
    assert!(wake.await.unwrap().unwrap().resumed);
    assert_eq!(world.state(&id), Some(Paused));
}

#[tokio::test]
async fn asker_who_goes_away_does_not_stop_what_was_asked() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    pause.abort();
    gate.add_permits(1);
    wait_until("it sleeps", async || world.pause(&id).await.is_err()).await;
    assert!(world.connect(&id).await.unwrap().resumed);
}

#[tokio::test]
async fn creator_who_goes_away_does_not_leave_an_instance_without_a_sandbox() {
    let world = World::new().await;
    let gate = world.engine.hold(Operation::Identify);
    let create = world.spawn(|control| async move { control.create(&owner(), new()).await });
    world.begun(Operation::Identify, 1).await;
    create.abort();
    gate.add_permits(1);
    wait_until("it is listed", async || {
        world.control.list(TEAM, &ListFilter::default()).len() == 1
    })
    .await;
    world.holds(1, 0, 1).await;
}

#[tokio::test]
async fn more_askers_than_the_queue_holds_are_all_answered() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    let asked = join_all((0..200).map(|_| world.connect(&id)));
    let (answers, ()) = tokio::join!(biased; asked, async { gate.add_permits(1) });
    pause.await.unwrap().unwrap();
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
}

#[tokio::test]
async fn stop_finishes_what_is_under_way_and_refuses_the_rest() {
    let world = World::new().await;
    let id = world.running().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    let stop = world.spawn(|control| async move { control.stop().await });
    let (connected, ()) = tokio::join!(biased; world.connect(&id), async { gate.add_permits(1) });
    pause.await.unwrap().unwrap();
    stop.await.unwrap();
    assert!(matches!(connected, Err(ControlError::ShuttingDown)));
    assert!(matches!(world.try_create(new()).await, Err(ControlError::ShuttingDown)));
    assert_eq!(world.store.sandboxes().await.unwrap()[0].state, Paused);
}

async fn room_for_one() -> World {
    World::with(ControlConfig {
        max_running: 1,
        ..config()
    })
    .await
}

#[tokio::test]
async fn one_too_many_is_refused_until_another_sleeps_or_is_gone() {
    let world = room_for_one().await;
    let first = world.create(cycling()).await.record.id;
    assert!(matches!(world.try_create(new()).await, Err(ControlError::TooMany(1))));
    world.pause(&first).await.unwrap();
    let second = world.running().await;
    assert!(matches!(world.connect(&first).await, Err(ControlError::TooMany(1))));
    assert!(matches!(
        world.visit(&first, 80).await,
        Err(dormouse_control::RouteError::TooMany(_))
    ));
    world.kill(&second).await.unwrap();
    world.connect(&first).await.unwrap();
}

#[tokio::test]
async fn failures_give_their_room_back() {
    let world = room_for_one().await;
    world.engine.fail(Operation::Start, 1);
    assert!(matches!(world.try_create(new()).await, Err(ControlError::Engine(_))));
    world.engine.fail(Operation::Identify, 1);
    assert!(matches!(world.try_create(new()).await, Err(ControlError::Engine(_))));
    let id = world.create(cycling()).await.record.id;
    world.pause(&id).await.unwrap();
    world.control.sleep_deeply(TEAM, &id).await.unwrap();
    world.engine.fail(Operation::Start, 1);
    assert!(matches!(world.connect(&id).await, Err(ControlError::Engine(_))));
    world.connect(&id).await.unwrap();
}

#[tokio::test]
async fn death_gives_its_room_back() {
    let world = room_for_one().await;
    let id = world.running().await;
    world
        .engine
        .die(&world.instance(&id), dormouse_engine::ExitReason::OutOfMemory);
    world.wait_for(&id, None).await;
    world.running().await;
}
