//! One sandbox for a creation sent twice (contract 2.4).

use axum::body::Body;
use dormouse_engine::Operation;
use dormouse_store::{Idempotency, Store, TeamId};
use http::Request;
use sha2::{Digest as _, Sha256};

use crate::world::{Answer, KEY, World};

const BODY: &str = r#"{"templateID":"base"}"#;

async fn create(world: &World, key: &str, body: &'static str) -> Answer {
    let request = Request::post("/v2/sandboxes")
        .header("x-api-key", KEY)
        .header("idempotency-key", key);
    world.send(request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_repeated_creation_gets_the_same_answer() {
    let world = World::new().await;
    let first = create(&world, "key-1", BODY).await.is(201);
    let again = create(&world, "key-1", BODY).await.is(201);
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("content-type"), Some("application/json"));
    let other = create(&world, "key-2", BODY).await.is(201);
    assert_ne!(first.text("sandboxID"), other.text("sandboxID"));
    assert_eq!(world.engine.instances().len(), 2);
}

#[tokio::test]
async fn another_request_with_the_key_is_409() {
    let world = World::new().await;
    create(&world, "k", BODY).await.is(201);
    let refused = create(&world, "k", r#"{"templateID":"base","timeout":7}"#).await.is(409);
    assert_eq!(refused.body["error_code"], "idempotency_request_mismatch");
    assert_eq!(world.engine.instances().len(), 1);
}

#[tokio::test]
async fn while_it_is_being_made_it_is_409() {
    let world = World::new().await;
    let gate = world.engine.hold(Operation::Start);
    let first = {
        let world = world.clone();
        tokio::spawn(async move { create(&world, "k", BODY).await })
    };
    while world.engine.calls(Operation::Start) == 0 {
        tokio::task::yield_now().await;
    }
    let refused = create(&world, "k", BODY).await.is(409);
    assert_eq!(refused.body["error_code"], "idempotency_in_progress");
    gate.add_permits(10);
    let made = first.await.unwrap().is(201);
    assert_eq!(create(&world, "k", BODY).await.is(201).body, made.body);
}

#[tokio::test]
async fn a_client_that_hangs_up_finds_its_sandbox_again() {
    let world = World::new().await;
    let gate = world.engine.hold(Operation::Start);
    let first = {
        let world = world.clone();
        tokio::spawn(async move { create(&world, "k", BODY).await })
    };
    while world.engine.calls(Operation::Start) == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    gate.add_permits(10);
    for _ in 0..2000 {
        let answer = create(&world, "k", BODY).await;
        if answer.status == 201 {
            assert_eq!(world.engine.instances().len(), 1);
            return;
        }
        assert_eq!(answer.is(409).body["error_code"], "idempotency_in_progress");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("it was never made");
}

#[tokio::test]
async fn a_failed_creation_may_be_tried_again() {
    let world = World::new().await;
    world.engine.fail(Operation::Start, 1);
    create(&world, "k", BODY).await.is(500);
    create(&world, "k", BODY).await.is(201);
    create(&world, "bad", r#"{"templateID":"nope"}"#).await.is(404);
    create(&world, "bad", BODY).await.is(201);
}

#[tokio::test]
async fn after_a_crash_it_is_422() {
    let world = World::new().await;
    // A daemon that is gone took the key and never said how it ended.
    let crashed = Store::open(&world.dir.path().join("dormouse.db")).await.unwrap();
    let hash = Sha256::digest(BODY);
    assert_eq!(
        crashed.begin_idempotent(TeamId::FIRST, "k", &hash).await.unwrap(),
        Idempotency::New
    );
    let refused = create(&world, "k", BODY).await.is(422);
    assert_eq!(refused.body["error_code"], "idempotency_outcome_unknown");
}

#[tokio::test]
async fn strange_keys_are_400() {
    let world = World::new().await;
    for key in ["", "A", "a b", &"a".repeat(256)] {
        create(&world, key, BODY).await.is(400).mentions("Idempotency-Key");
    }
    // The older route does not know the header.
    let request = Request::post("/sandboxes")
        .header("x-api-key", KEY)
        .header("idempotency-key", "A");
    world.send(request.body(Body::from(BODY)).unwrap()).await.is(201);
}
