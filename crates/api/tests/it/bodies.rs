//! Bodies, ids, methods and paths that are not what they should be: a clear refusal, and nothing changes.

use axum::body::Body;
use dormouse_api::ApiConfig;
use http::Request;
use serde_json::json;

use crate::world::{KEY, World};

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("x-api-key", KEY).body(body.into()).unwrap()
}

#[tokio::test]
async fn bad_bodies_change_nothing() {
    let world = World::new().await;
    for (body, message) in [
        ("", "Error when parsing request: the body is empty"),
        ("{", "Error when parsing request: EOF while parsing an object"),
        ("null", "Error when parsing request: invalid type: null"),
        ("[]", "Error when parsing request: the body is an array, not an object"),
        (r#"{"templateID":"base""#, "Error when parsing request: EOF"),
        (
            r#"{"templateID":"base","timeout":99999999999999}"#,
            "Error when parsing request: timeout: ",
        ),
        (
            r#"{"templateID":"base","envVars":{"A":1}}"#,
            "Error when parsing request: envVars.A: ",
        ),
        (
            r#"{"templateID":"base","network":{"denyOut":"x"}}"#,
            "Error when parsing request: network.denyOut: ",
        ),
        ("{\"templateID\":\"\u{0}\"}", "Error when parsing request: templateID: "),
        (
            r#"{"templateID":"a","templateID":"b"}"#,
            "Error when parsing request: duplicate field",
        ),
    ] {
        for path in ["/sandboxes", "/v2/sandboxes"] {
            let answer = world.send(post(path, body)).await.is(400);
            assert!(answer.text("message").starts_with(message), "{body}: {}", answer.body);
        }
    }
    let not_utf8: &[u8] = b"{\"templateID\":\"\xff\"}";
    world.send(post("/sandboxes", not_utf8)).await.is(400);
    let deep = format!("{{\"x\":{}", "[".repeat(100_000));
    world.send(post("/sandboxes", deep)).await.is(400);
    assert_eq!(world.get("/v2/sandboxes").await.body, json!([]));
    assert_eq!(world.engine.instances(), []);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_413() {
    let api = ApiConfig {
        max_body: 100,
        ..ApiConfig::default()
    };
    let world = World::with(10, api).await;
    let body = format!("{{\"templateID\":\"base\",\"x\":\"{}\"}}", "y".repeat(200));
    world
        .send(post("/v2/sandboxes", body))
        .await
        .is(413)
        .mentions("longer than 100 bytes");
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let world = World::new().await;
    world
        .post("/v2/sandboxes", json!({"templateID": "base", "novelty": {"a": [1]}}))
        .await
        .is(201);
}

#[tokio::test]
async fn strange_ids_are_refused() {
    let world = World::new().await;
    for id in [
        "..",
        "a.b",
        "A",
        "a-b-c",
        "a%2Fb",
        "%2e%2e",
        "a%00",
        "%ff",
        "a%20b",
        "-",
        "%F0%9F%90%AD",
    ] {
        for (method, suffix) in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("GET", "/logs")] {
            let path = format!("/sandboxes/{id}{suffix}");
            world.ask(method, &path, None).await.is(400).says("Invalid sandbox ID");
        }
    }
}

#[tokio::test]
async fn the_client_id_may_follow_the_id() {
    let world = World::new().await;
    let id = world.running().await;
    let answer = world.get(&format!("/sandboxes/{id}-6532622b")).await.is(200);
    assert_eq!(answer.text("sandboxID"), id);
}

#[tokio::test]
async fn wrong_methods_and_unknown_routes_are_json() {
    let world = World::new().await;
    world.ask("PUT", "/sandboxes", None).await.is(405).says("Method not allowed");
    world.ask("POST", "/health", None).await.is(405);
    world.get("/").await.is(404).says("No such route");
    world.get("/sandboxes/").await.is(404);
    world.get("/sandboxes/a/b/c").await.is(404);
    world.get("/v9/sandboxes").await.is(404);
}

#[tokio::test]
async fn what_is_not_there_yet_says_so() {
    let world = World::new().await;
    let id = world.running().await;
    for (method, path) in [
        ("POST", format!("/sandboxes/{id}/fork")),
        ("POST", format!("/sandboxes/{id}/snapshots")),
        ("PUT", format!("/sandboxes/{id}/network")),
        ("GET", format!("/sandboxes/{id}/metrics")),
        ("POST", "/volumes".to_owned()),
    ] {
        let answer = world.ask(method, &path, Some(json!({}))).await.is(501);
        assert_eq!(answer.header("should-retry"), Some("false"));
        assert_eq!(answer.body["error_code"], "not_implemented");
    }
    world
        .post(&format!("/sandboxes/{id}/pause"), json!({"memory": false}))
        .await
        .is(501);
    world
        .post(&format!("/sandboxes/{id}/pause"), json!({"requireHealthyGuest": true}))
        .await
        .is(501);
    assert_eq!(world.state(&id).await.as_deref(), Some("running"));
    let refused = world
        .post(&format!("/v2/sandboxes/{id}/connect"), json!({"memory": false}))
        .await
        .is(400);
    assert_eq!(refused.body["error_code"], "sandbox_memory_override_disabled");
}
