//! Who may ask.

use axum::body::Body;
use http::Request;

use crate::world::{KEY, OTHER_KEY, World};

fn request(path: &str, header: Option<(&str, &str)>) -> Request<Body> {
    let mut request = Request::get(path);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn health_needs_no_key_and_everything_else_does() {
    let world = World::new().await;
    world.send(request("/health", None)).await.is(204);
    for path in [
        "/sandboxes",
        "/v2/sandboxes",
        "/sandboxes/x",
        "/templates",
        "/teams",
        "/snapshots",
    ] {
        world.send(request(path, None)).await.is(401).mentions("Missing API key");
        world
            .send(request(path, Some(("x-api-key", "e2b_bad"))))
            .await
            .is(401)
            .says("Invalid API key");
    }
}

#[tokio::test]
async fn a_bearer_key_works_too() {
    let world = World::new().await;
    let bearer = format!("Bearer {KEY}");
    let teams = world.send(request("/teams", Some(("authorization", &bearer)))).await.is(200);
    assert_eq!(teams.body[0]["apiKey"], KEY);
    assert_eq!(teams.body[0]["isDefault"], true);
    assert_eq!(teams.body[0]["teamID"], "00000000-0000-0000-0000-000000000000");
}

#[tokio::test]
async fn another_teams_sandbox_does_not_exist() {
    let world = World::new().await;
    let id = world.running().await;
    let gone = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    let path = format!("/sandboxes/{id}");
    let as_other = |method: &str, path: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(path).header("x-api-key", OTHER_KEY);
        world.send(request.body(Body::from(body)).unwrap())
    };
    as_other("GET", &path, "").await.is(404).says(&gone);
    as_other("DELETE", &path, "").await.is(404).says(&gone);
    as_other("GET", &format!("{path}/logs"), "").await.is(404).says(&gone);
    for (what, body) in [
        ("pause", ""),
        ("timeout", r#"{"timeout":1}"#),
        ("connect", r#"{"timeout":1}"#),
        ("resume", ""),
        ("refreshes", ""),
    ] {
        as_other("POST", &format!("{path}/{what}"), body).await.is(404).says(&gone);
    }
    assert_eq!(as_other("GET", "/v2/sandboxes", "").await.is(200).body, serde_json::json!([]));
    assert_eq!(world.state(&id).await.as_deref(), Some("running"));
}
