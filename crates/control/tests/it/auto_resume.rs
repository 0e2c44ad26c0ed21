//! Waking by traffic (contract 4.4).

use std::time::Duration;

use dormouse_control::{NewSandbox, Owner, RouteError, Visitor};
use dormouse_engine::Operation;
use dormouse_store::SandboxState::{Paused, Running};
use dormouse_store::{NetworkConfig, SandboxId};
use futures::future::join_all;

use crate::harness::{HOUR, MINUTE, TEAM, World, cycling, new, wait_until};

const AGENT: u16 = 49983;

/// Seconds that a wake by traffic gives a sandbox made with this timeout.
async fn woken_for(given_timeout: Option<Duration>, max_run: Duration) -> i64 {
    let world = World::new().await;
    let wanted = NewSandbox {
        given_timeout,
        ..cycling()
    };
    let owner = Owner { team: TEAM, max_run };
    let made = world.spawn(|control| async move { control.create(&owner, wanted).await });
    let id = made.await.unwrap().unwrap().record.id;
    world.control.set_timeout(TEAM, &id, 10 * MINUTE).await.unwrap();
    world.pause(&id).await.unwrap();
    world.visit(&id, 80).await.unwrap();
    let record = world.record(&id);
    record.end_at.duration_since(record.started_at).as_secs()
}

#[tokio::test]
async fn wake_gives_the_timeout_of_the_creation() {
    assert_eq!(woken_for(Some(Duration::from_secs(420)), HOUR).await, 420);
}

#[tokio::test]
async fn wake_gives_five_minutes_when_no_timeout_was_given() {
    assert_eq!(woken_for(None, HOUR).await, 300);
}

#[tokio::test]
async fn wake_gives_at_least_five_minutes() {
    assert_eq!(woken_for(Some(2 * MINUTE), HOUR).await, 300);
}

#[tokio::test]
async fn wake_gives_at_most_the_longest_run() {
    assert_eq!(woken_for(None, 2 * MINUTE).await, 120);
}

#[tokio::test]
async fn sandbox_that_traffic_may_not_wake_sleeps_on() {
    let world = World::new().await;
    let id = world.running().await;
    world.pause(&id).await.unwrap();
    assert!(matches!(world.visit(&id, 80).await, Err(RouteError::NotFound)));
    assert!(matches!(
        world.visit(&SandboxId::random(), 80).await,
        Err(RouteError::NotFound)
    ));
    assert_eq!(world.state(&id), Some(Paused));
}

#[tokio::test]
async fn fifty_visitors_wake_it_once_and_all_arrive() {
    let world = World::deep().await;
    let id = world.paused().await;
    let started = world.engine.calls(Operation::Start);
    let routes = join_all((0..50).map(|_| world.visit(&id, 80))).await;
    let instance = world.instance(&id);
    assert!(routes.into_iter().all(|route| route.unwrap().instance == instance));
    assert_eq!(world.engine.calls(Operation::Start), started + 1);
}

#[tokio::test]
async fn sandbox_sleeps_and_is_woken_for_ever() {
    let world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    let mut run = world.visit(&id, 80).await.unwrap().run;
    for memory in 0..10 {
        world.set_memory(&id, memory);
        world.control.set_timeout(TEAM, &id, Duration::ZERO).await.unwrap();
        world.wait_for(&id, Some(Paused)).await;
        let route = world.visit(&id, AGENT).await.unwrap();
        assert!(route.run > run);
        assert_eq!(world.memory(&id), memory);
        run = route.run;
    }
}

#[tokio::test]
async fn visitor_during_a_pause_waits_and_wakes() {
    let world = World::new().await;
    let id = world.create(cycling()).await.record.id;
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = world.begin_pause(&id);
    world.begun(Operation::Snapshot, 1).await;
    let (route, ()) = tokio::join!(biased; world.visit(&id, 80), async { gate.add_permits(1) });
    pause.await.unwrap().unwrap();
    assert!(!route.unwrap().ended.is_cancelled());
    assert_eq!(world.state(&id), Some(Running));
}

/// A secure sandbox with private ports.
fn locked() -> NewSandbox {
    let network = NetworkConfig {
        allow_public_traffic: Some(false),
        ..NetworkConfig::default()
    };
    NewSandbox {
        secure: true,
        network: Some(network),
        ..cycling()
    }
}

#[tokio::test]
async fn running_private_port_asks_for_its_token() {
    let world = World::new().await;
    let record = world.create(locked()).await.record;
    let token = record.traffic_token.as_deref();
    let visit = |port, traffic_token| {
        world.control.route(
            &record.id,
            Visitor {
                port,
                traffic_token,
                access_token: None,
            },
        )
    };
    assert!(matches!(visit(80, None).await, Err(RouteError::TokenMissing)));
    assert!(matches!(visit(80, Some("x")).await, Err(RouteError::TokenInvalid)));
    assert!(visit(80, token).await.is_ok());
    assert!(visit(AGENT, None).await.is_ok());
}

#[tokio::test]
async fn visitor_without_the_port_s_own_token_does_not_wake_it() {
    let world = World::new().await;
    let record = world.create(locked()).await.record;
    let (traffic, access) = (record.traffic_token.as_deref(), record.access_token.as_deref());
    let visit = |port, traffic_token, access_token| {
        world.control.route(
            &record.id,
            Visitor {
                port,
                traffic_token,
                access_token,
            },
        )
    };
    world.pause(&record.id).await.unwrap();
    for (port, traffic, access) in [
        (80, None, access),
        (80, Some("x"), access),
        (AGENT, traffic, None),
        (AGENT, traffic, Some("x")),
    ] {
        assert!(matches!(visit(port, traffic, access).await, Err(RouteError::ResumeRefused)));
        assert_eq!(world.state(&record.id), Some(Paused));
    }
    visit(80, traffic, None).await.unwrap();
    world.pause(&record.id).await.unwrap();
    visit(AGENT, None, access).await.unwrap();
}

#[tokio::test]
async fn mask_of_the_host_is_not_for_the_agent() {
    let world = World::new().await;
    let network = NetworkConfig {
        mask_request_host: Some("h".to_owned()),
        ..NetworkConfig::default()
    };
    let id = world
        .create(NewSandbox {
            network: Some(network),
            ..new()
        })
        .await
        .record
        .id;
    assert_eq!(world.visit(&id, 80).await.unwrap().mask_host.as_deref(), Some("h"));
    assert_eq!(world.visit(&id, AGENT).await.unwrap().mask_host, None);
}

#[tokio::test]
async fn failed_wake_is_told_and_the_next_visitor_tries_again() {
    let world = World::deep().await;
    let id = world.paused().await;
    world.engine.fail(Operation::Start, 1);
    assert!(matches!(world.visit(&id, 80).await, Err(RouteError::Failed { .. })));
    assert_eq!(world.state(&id), Some(Paused));
    wait_until("it wakes", async || world.visit(&id, 80).await.is_ok()).await;
}
