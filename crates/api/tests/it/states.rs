//! The table of contract 4.2: every operation in every state.

use std::time::Duration;

use dormouse_engine::Operation;
use jiff::Timestamp;
use serde_json::json;

use crate::world::{Answer, World};

fn gone(id: &str) -> String {
    format!("Sandbox \"{id}\" doesn't exist or you don't have access to it")
}

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..5000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain until {what}");
}

/// The same request several times at once; the statuses, sorted.
async fn at_once(world: &World, times: usize, path: &str, body: serde_json::Value) -> Vec<u16> {
    let tasks: Vec<_> = (0..times)
        .map(|_| {
            let (world, path, body) = (world.clone(), path.to_owned(), body.clone());
            tokio::spawn(async move { world.post(&path, body).await })
        })
        .collect();
    let mut statuses = Vec::new();
    for task in tasks {
        let answer: Answer = task.await.unwrap();
        let status = answer.status;
        answer.is(status);
        statuses.push(status);
    }
    statuses.sort_unstable();
    statuses
}

#[tokio::test]
async fn while_it_runs() {
    let world = World::new().await;
    let id = world.running().await;
    let path = format!("/sandboxes/{id}");
    assert_eq!(world.state(&id).await.as_deref(), Some("running"));
    world.post(&format!("{path}/connect"), json!({"timeout": 0})).await.is(200);
    world.post(&format!("/v2{path}/connect"), json!({})).await.is(200);
    world.ask("POST", &format!("/v2{path}/connect"), None).await.is(200);
    world
        .post(&format!("{path}/resume"), json!({}))
        .await
        .is(409)
        .says(&format!("Sandbox {id} is already running"));
    world.post(&format!("{path}/timeout"), json!({"timeout": 60})).await.is(204);
    world
        .post(&format!("{path}/refreshes"), json!({"duration": 60}))
        .await
        .is(204);
    world.ask("POST", &format!("{path}/refreshes"), None).await.is(204);
    world.post(&format!("{path}/pause"), json!({})).await.is(204);
    assert_eq!(world.state(&id).await.as_deref(), Some("paused"));
}

#[tokio::test]
async fn while_it_sleeps() {
    let world = World::new().await;
    let before = Timestamp::now();
    let id = world.paused().await;
    let path = format!("/sandboxes/{id}");
    let detail = world.get(&path).await.is(200);
    assert_eq!(detail.text("state"), "paused");
    let end = detail.time("endAt");
    assert!(
        end >= before && end <= Timestamp::now(),
        "`endAt` is when it was paused: {end}"
    );
    world
        .post(&format!("{path}/pause"), json!({"memory": true}))
        .await
        .is(409)
        .says(&format!("Error pausing sandbox - sandbox '{id}' is already paused"));
    world
        .post(&format!("{path}/timeout"), json!({"timeout": 60}))
        .await
        .is(404)
        .says(&gone(&id));
    world
        .post(&format!("{path}/refreshes"), json!({"duration": 60}))
        .await
        .is(404)
        .says(&gone(&id));
    assert_eq!(world.state(&id).await.as_deref(), Some("paused"));

    let woken = world.post(&format!("{path}/connect"), json!({"timeout": 100})).await.is(201);
    assert_eq!(woken.text("sandboxID"), id);
    assert_eq!(world.state(&id).await.as_deref(), Some("running"));
    world.post(&format!("{path}/pause"), json!({})).await.is(204);
    world.ask("POST", &format!("/v2{path}/connect"), None).await.is(201);
    world.post(&format!("{path}/pause"), json!({})).await.is(204);
    world.post(&format!("{path}/resume"), json!({"timeout": 30})).await.is(201);
    world.post(&format!("{path}/pause"), json!({})).await.is(204);
    world.ask("DELETE", &path, None).await.is(204);
    world.get(&path).await.is(404).says(&gone(&id));
}

#[tokio::test]
async fn once_it_is_killed() {
    let world = World::new().await;
    let id = world.running().await;
    let path = format!("/sandboxes/{id}");
    world.ask("DELETE", &path, None).await.is(204);
    world.get(&path).await.is(404).says(&gone(&id));
    world.ask("DELETE", &path, None).await.is(404).says(&gone(&id));
    world
        .post(&format!("{path}/connect"), json!({"timeout": 1}))
        .await
        .is(404)
        .says(&gone(&id));
    world
        .post(&format!("/v2{path}/connect"), json!({}))
        .await
        .is(404)
        .says(&gone(&id));
    for (what, body) in [
        ("resume", json!({})),
        ("pause", json!({})),
        ("timeout", json!({"timeout": 1})),
        ("refreshes", json!({})),
    ] {
        world.post(&format!("{path}/{what}"), body).await.is(404).says(&gone(&id));
    }
    assert_eq!(world.get("/v2/sandboxes").await.body, json!([]));
    wait_until("nothing is left", async || world.engine.instances().is_empty()).await;
}

#[tokio::test]
async fn while_it_is_pausing() {
    let world = World::new().await;
    let id = world.running().await;
    let path = format!("/sandboxes/{id}");
    let gate = world.engine.hold(Operation::Snapshot);
    let pause = {
        let (world, path) = (world.clone(), format!("{path}/pause"));
        tokio::spawn(async move { world.post(&path, json!({})).await })
    };
    wait_until("the pause has begun", async || world.engine.calls(Operation::Snapshot) > 0).await;
    assert_eq!(world.state(&id).await.as_deref(), Some("paused"));
    // All of these wait for the pause, in the order in which they came.
    let mut waiting = Vec::new();
    for (what, body, statuses) in [
        ("pause", json!({}), [409, 409]),
        ("timeout", json!({"timeout": 9}), [404, 409]),
        ("refreshes", json!({}), [404, 409]),
        ("connect", json!({"timeout": 50}), [201, 201]),
    ] {
        let (world, path) = (world.clone(), format!("{path}/{what}"));
        waiting.push((what, statuses, tokio::spawn(async move { world.post(&path, body).await })));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, _, connect) = waiting.last().unwrap();
    assert!(!connect.is_finished(), "a connect waits for the pause");
    gate.add_permits(10);
    pause.await.unwrap().is(204);
    for (what, statuses, answer) in waiting {
        let status = answer.await.unwrap().status;
        assert!(statuses.contains(&status), "{what}: {status}");
    }
    assert_eq!(world.state(&id).await.as_deref(), Some("running"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_pauses_at_once_one_pauses() {
    let world = World::new().await;
    for _ in 0..20 {
        let id = world.running().await;
        let statuses = at_once(&world, 5, &format!("/sandboxes/{id}/pause"), json!({})).await;
        assert_eq!(statuses, [204, 409, 409, 409, 409]);
        assert_eq!(world.state(&id).await.as_deref(), Some("paused"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_resumes_at_once_one_wakes_it() {
    let world = World::new().await;
    for _ in 0..20 {
        let id = world.paused().await;
        let statuses = at_once(&world, 5, &format!("/sandboxes/{id}/resume"), json!({"timeout": 60})).await;
        assert_eq!(statuses[0], 201);
        assert!(statuses.iter().all(|&status| status == 201 || status == 409), "{statuses:?}");
        assert_eq!(world.state(&id).await.as_deref(), Some("running"));
    }
    assert_eq!(world.engine.instances().len(), 20, "one instance each");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_connects_at_once_all_arrive() {
    let world = World::new().await;
    for _ in 0..20 {
        let id = world.paused().await;
        let statuses = at_once(&world, 5, &format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 60})).await;
        assert!(statuses.iter().all(|&status| status == 200 || status == 201), "{statuses:?}");
        assert!(statuses.contains(&201), "{statuses:?}");
    }
    assert_eq!(world.engine.instances().len(), 20, "one instance each");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_kills_at_once_the_sandbox_dies_once() {
    let world = World::new().await;
    let id = world.running().await;
    let tasks: Vec<_> = (0..5)
        .map(|_| {
            let (world, path) = (world.clone(), format!("/sandboxes/{id}"));
            tokio::spawn(async move { world.ask("DELETE", &path, None).await.status })
        })
        .collect();
    let mut killed = 0;
    for task in tasks {
        match task.await.unwrap() {
            204 => killed += 1,
            status => assert_eq!(status, 404),
        }
    }
    assert!(killed >= 1);
    let events = world.store.events(dormouse_store::TeamId::FIRST, None, 10).await.unwrap();
    let deaths = events
        .iter()
        .filter(|event| event.kind == dormouse_store::EventKind::Killed)
        .count();
    assert_eq!(deaths, 1);
}

#[tokio::test]
async fn a_connect_extends_and_never_shortens() {
    let world = World::new().await;
    let id = world.running().await;
    let path = format!("/sandboxes/{id}");
    let end = world.get(&path).await.text("endAt");
    world
        .post(&format!("/v2{path}/connect"), json!({"timeout": 10}))
        .await
        .is(200);
    assert_eq!(world.get(&path).await.text("endAt"), end, "to the last digit");
    world
        .post(&format!("/v2{path}/connect"), json!({"timeout": 1000}))
        .await
        .is(200);
    let later = world.get(&path).await.time("endAt");
    assert!((later - Timestamp::now()).total(jiff::Unit::Second).unwrap() > 990.0);
    world.post(&format!("{path}/refreshes"), json!({"duration": 1})).await.is(204);
    assert_eq!(world.get(&path).await.time("endAt"), later);
}

#[tokio::test]
async fn a_timeout_sets_the_end_and_zero_is_now() {
    let world = World::new().await;
    let id = world.running().await;
    let path = format!("/sandboxes/{id}");
    world.post(&format!("{path}/timeout"), json!({"timeout": 10})).await.is(204);
    let left = (world.get(&path).await.time("endAt") - Timestamp::now())
        .total(jiff::Unit::Second)
        .unwrap();
    assert!((9.0..=10.0).contains(&left), "{left}");
    world
        .post(&format!("{path}/timeout"), json!({}))
        .await
        .is(400)
        .mentions("missing field `timeout`");
    world
        .post(&format!("{path}/timeout"), json!({"timeout": 1e12}))
        .await
        .is(400)
        .mentions("timeout: invalid");
    world
        .post(&format!("{path}/refreshes"), json!({"duration": 3601}))
        .await
        .is(400)
        .mentions("duration");
    world
        .post(&format!("{path}/refreshes"), json!({"duration": -1}))
        .await
        .is(400)
        .mentions("duration");
    world
        .post(&format!("{path}/connect"), json!({"timeout": -1}))
        .await
        .is(400)
        .mentions("timeout");
    world
        .post(&format!("/v2{path}/connect"), json!({"timeout": 0}))
        .await
        .is(400)
        .says("Timeout must be greater than 0");
    world
        .post(&format!("{path}/connect"), json!({}))
        .await
        .is(400)
        .mentions("missing field `timeout`");
    // Negative counts as zero, which is now.
    world.post(&format!("{path}/timeout"), json!({"timeout": -3})).await.is(204);
    wait_until("it is killed", async || world.state(&id).await.is_none()).await;

    let paused = json!({"templateID": "base", "autoPause": true});
    let id = world.post("/v2/sandboxes", paused).await.is(201).text("sandboxID");
    world
        .post(&format!("/sandboxes/{id}/timeout"), json!({"timeout": 0}))
        .await
        .is(204);
    wait_until("it is paused", async || world.state(&id).await.as_deref() == Some("paused")).await;
}

#[tokio::test]
async fn a_timeout_is_clamped_to_the_longest_run() {
    let world = World::new().await;
    let id = world.running().await;
    let path = format!("/sandboxes/{id}");
    world
        .post(&format!("{path}/timeout"), json!({"timeout": i32::MAX}))
        .await
        .is(204);
    let detail = world.get(&path).await;
    let run = detail.time("endAt").as_millisecond() - detail.time("startedAt").as_millisecond();
    assert_eq!(run, 24 * 60 * 60 * 1000);
}
