//! The state table of contract 4.2, row by row, for sandboxes at rest.

use dormouse_control::{ControlError, ListFilter, Owner};
use dormouse_store::SandboxState::{Paused, Running};
use dormouse_store::{SandboxId, TeamId};

use crate::harness::{HOUR, MINUTE, TEAM, World, new, owner};

#[tokio::test]
async fn created_sandbox_runs_with_its_identity() {
    let world = World::new().await;
    let mut wanted = new();
    wanted.env.insert("A".to_owned(), "b".to_owned());
    let sandbox = world.create(wanted).await;
    let id = sandbox.record.id;
    let identity = world.engine.identity(&world.instance(&id)).unwrap();
    assert_eq!(world.state(&id), Some(Running));
    assert_eq!(identity.sandbox_id, id.as_str());
    assert_eq!((identity.env["A"].as_str(), identity.env["LANG"].as_str()), ("b", "C.UTF-8"));
}

#[tokio::test]
async fn unknown_template_and_unknown_tag_are_told_apart() {
    let world = World::new().await;
    let mut wanted = new();
    wanted.template = "none".to_owned();
    assert!(matches!(
        world.try_create(wanted.clone()).await,
        Err(ControlError::TemplateNotFound(_))
    ));
    wanted.template = " Base:none ".to_owned();
    assert!(matches!(world.try_create(wanted).await, Err(ControlError::TagNotFound { tag, .. }) if tag == "none"));
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn internet_denied_at_creation_is_denied_for_ever() {
    let world = World::deep().await;
    let mut wanted = new();
    wanted.allow_internet = Some(false);
    let id = world.create(wanted).await.record.id;
    assert!(!world.engine.network(&world.instance(&id)).unwrap().internet);
    world.pause(&id).await.unwrap();
    world.connect(&id).await.unwrap();
    assert!(!world.engine.network(&world.instance(&id)).unwrap().internet);
}

#[tokio::test]
async fn unknown_sandbox_is_not_found_whatever_is_asked() {
    let world = World::new().await;
    let id = SandboxId::random();
    assert!(matches!(world.control.get(TEAM, &id), Err(ControlError::NotFound(_))));
    assert!(matches!(world.connect(&id).await, Err(ControlError::NotFound(_))));
    assert!(matches!(world.pause(&id).await, Err(ControlError::NotFound(_))));
    assert!(matches!(world.kill(&id).await, Err(ControlError::NotFound(_))));
}

#[tokio::test]
async fn other_teams_sandbox_is_not_found() {
    let world = World::new().await;
    let id = world.running().await;
    let stranger = Owner {
        team: TeamId::random(),
        max_run: HOUR,
    };
    assert!(matches!(
        world.control.kill(stranger.team, &id).await,
        Err(ControlError::NotFound(_))
    ));
    assert!(matches!(
        world.control.connect(&stranger, &id, MINUTE).await,
        Err(ControlError::NotFound(_))
    ));
    assert!(world.control.list(stranger.team, &ListFilter::default()).is_empty());
    assert_eq!(world.state(&id), Some(Running));
}

#[tokio::test]
async fn pause_of_a_running_sandbox_leaves_it_paused_since_now() {
    let world = World::new().await;
    let id = world.running().await;
    let before = jiff::Timestamp::now();
    world.pause(&id).await.unwrap();
    let record = world.record(&id);
    assert_eq!(world.state(&id), Some(Paused));
    assert!(record.end_at.duration_since(before).as_secs().abs() < 10);
}

#[tokio::test]
async fn pause_of_a_paused_sandbox_is_refused() {
    let world = World::new().await;
    let id = world.paused().await;
    assert!(matches!(world.pause(&id).await, Err(ControlError::AlreadyPaused(_))));
}

#[tokio::test]
async fn connect_to_a_running_sandbox_does_not_wake_it() {
    let world = World::new().await;
    let id = world.running().await;
    let run = world.visit(&id, 80).await.unwrap().run;
    assert!(!world.connect(&id).await.unwrap().resumed);
    assert_eq!(world.visit(&id, 80).await.unwrap().run, run);
}

#[tokio::test]
async fn connect_to_a_paused_sandbox_wakes_it_for_the_timeout() {
    let world = World::new().await;
    let id = world.paused().await;
    let connected = world.connect(&id).await.unwrap();
    let record = connected.sandbox.record;
    assert!(connected.resumed);
    assert_eq!(world.state(&id), Some(Running));
    assert_eq!(record.end_at.duration_since(record.started_at).as_secs(), 60);
}

#[tokio::test]
async fn resume_is_refused_while_it_runs() {
    let world = World::new().await;
    let id = world.running().await;
    let refused = world.control.resume(&owner(), &id, MINUTE, None).await;
    assert!(matches!(refused, Err(ControlError::AlreadyRunning(_))));
}

#[tokio::test]
async fn resume_may_change_what_happens_at_the_end() {
    let world = World::new().await;
    let id = world.paused().await;
    world.control.resume(&owner(), &id, MINUTE, Some(false)).await.unwrap();
    world.control.set_timeout(TEAM, &id, std::time::Duration::ZERO).await.unwrap();
    world.wait_for(&id, None).await;
}

#[tokio::test]
async fn timeout_and_refresh_of_a_paused_sandbox_are_refused() {
    let world = World::new().await;
    let id = world.paused().await;
    assert!(matches!(
        world.control.set_timeout(TEAM, &id, MINUTE).await,
        Err(ControlError::NotRunning(_))
    ));
    assert!(matches!(
        world.control.refresh(TEAM, &id, MINUTE).await,
        Err(ControlError::NotRunning(_))
    ));
}

#[tokio::test]
async fn killed_sandbox_leaves_nothing() {
    let world = World::new().await;
    let (running, paused) = (world.running().await, world.paused().await);
    world.holds(2, 1, 2).await;
    world.kill(&running).await.unwrap();
    world.kill(&paused).await.unwrap();
    assert_eq!((world.state(&running), world.state(&paused)), (None, None));
    assert!(matches!(world.connect(&paused).await, Err(ControlError::NotFound(_))));
    world.holds(0, 0, 0).await;
}

#[tokio::test]
async fn memory_survives_light_sleep_in_the_same_instance() {
    let world = World::new().await;
    let id = world.running().await;
    let instance = world.instance(&id);
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    assert_eq!(world.engine.suspended(&instance), Some(true));
    world.connect(&id).await.unwrap();
    assert_eq!((world.instance(&id), world.memory(&id)), (instance, 42));
}

#[tokio::test]
async fn memory_and_identity_survive_deep_sleep() {
    let world = World::deep().await;
    let mut wanted = new();
    wanted.secure = true;
    let id = world.create(wanted).await.record.id;
    let identity = world.engine.identity(&world.instance(&id));
    world.set_memory(&id, 42);
    world.pause(&id).await.unwrap();
    world.holds(0, 1, 1).await;
    world.connect(&id).await.unwrap();
    assert_eq!(world.memory(&id), 42);
    assert_eq!(world.engine.identity(&world.instance(&id)), identity);
}

#[tokio::test]
async fn sandbox_cycles_for_ever_and_leaks_nothing() {
    for world in [World::new().await, World::deep().await] {
        let id = world.running().await;
        for round in 0..20 {
            world.set_memory(&id, round);
            world.pause(&id).await.unwrap();
            assert!(world.connect(&id).await.unwrap().resumed);
            assert_eq!(world.memory(&id), round);
        }
        world.holds(1, 0, 1).await;
    }
}

#[tokio::test]
async fn sleep_on_request_is_deep() {
    let world = World::new().await;
    let id = world.paused().await;
    world.control.sleep_deeply(TEAM, &id).await.unwrap();
    world.holds(0, 1, 1).await;
    assert!(world.connect(&id).await.unwrap().resumed);
}

#[tokio::test]
async fn list_shows_what_matches_newest_run_first() {
    let world = World::new().await;
    let (first, second) = (world.paused().await, world.running().await);
    let ids = |filter: &ListFilter| -> Vec<_> { world.control.list(TEAM, filter).into_iter().map(|s| s.record.id).collect() };
    let mut filter = ListFilter::default();
    assert_eq!(ids(&filter), [second.clone(), first.clone()]);
    filter.states = vec![Paused];
    assert_eq!(ids(&filter), std::slice::from_ref(&first));
    filter.metadata.insert("who".to_owned(), "else".to_owned());
    assert!(ids(&filter).is_empty());
    world.kill(&first).await.unwrap();
    assert_eq!(ids(&ListFilter::default()), [second]);
}

#[tokio::test]
async fn baked_snapshot_is_all_that_a_bake_leaves() {
    let world = World::new().await;
    let request = dormouse_engine::StartRequest {
        id: dormouse_engine::InstanceId::random(),
        root: "root".into(),
        from: dormouse_engine::StartFrom::Boot,
        resources: dormouse_engine::Resources::default(),
        network: dormouse_engine::NetworkPolicy::default(),
    };
    let again = request.clone();
    let snapshot = world.spawn(|control| async move { control.bake(request).await });
    assert!(world.snapshots.path(&snapshot.await.unwrap().unwrap()).exists());
    world.holds(0, 1, 0).await;
    world.engine.fail(dormouse_engine::Operation::Snapshot, 1);
    let failed = world.spawn(|control| async move { control.bake(again).await });
    assert!(failed.await.unwrap().is_err());
    world.holds(0, 1, 0).await;
}
