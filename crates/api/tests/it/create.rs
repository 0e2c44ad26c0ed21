//! Creation (contract 4.1).

use dormouse_api::ApiConfig;
use serde_json::{Value, json};

use crate::world::World;

/// Seconds from start to end.
async fn time_to_live(world: &World, id: &str) -> i64 {
    let detail = world.get(&format!("/sandboxes/{id}")).await.is(200);
    let span = detail.time("endAt").as_millisecond() - detail.time("startedAt").as_millisecond();
    (span + 500) / 1000
}

#[tokio::test]
async fn the_answer_has_what_every_sdk_needs() {
    let world = World::new().await;
    for path in ["/sandboxes", "/v2/sandboxes"] {
        let answer = world
            .post(path, json!({"templateID": "base", "metadata": {}, "envVars": {}}))
            .await
            .is(201);
        let id = answer.text("sandboxID");
        assert!(id.len() == 21 && id.starts_with('i'), "{id}");
        assert!(answer.text("envdAccessToken").len() >= 32);
        let mut body = answer.body;
        body["sandboxID"] = Value::Null;
        body["envdAccessToken"] = Value::Null;
        let expected = json!({
            "templateID": world.template.id, "sandboxID": null, "alias": "base", "clientID": "6532622b",
            "envdVersion": "0.6.13", "envdAccessToken": null, "trafficAccessToken": null, "domain": null,
        });
        assert_eq!(body, expected);
    }
}

#[tokio::test]
async fn the_details_are_what_was_asked_for() {
    let api = ApiConfig {
        domain: Some("box.example.com".to_owned()),
        ..ApiConfig::default()
    };
    let world = World::with(10, api).await;
    let network = json!({"denyOut": ["0.0.0.0/0"], "allowPublicTraffic": false, "maskRequestHost": "localhost:${PORT}"});
    let created = world
        .post(
            "/v2/sandboxes",
            json!({
                "templateID": "base", "timeout": 60, "autoPause": true, "autoResume": {"enabled": true},
                "metadata": {"a b": "c&d"}, "network": network, "allow_internet_access": false,
            }),
        )
        .await
        .is(201);
    assert_eq!(created.text("domain"), "box.example.com");
    assert!(!created.text("trafficAccessToken").is_empty());
    let id = created.text("sandboxID");
    let detail = world.get(&format!("/sandboxes/{id}")).await.is(200);
    assert!(detail.text("startedAt").ends_with('Z'));
    assert_eq!(detail.time("endAt").as_second() - detail.time("startedAt").as_second(), 60);
    let mut body = detail.body;
    body["startedAt"] = Value::Null;
    body["endAt"] = Value::Null;
    let expected = json!({
        "templateID": world.template.id, "alias": "base", "sandboxID": id, "clientID": "6532622b",
        "startedAt": null, "endAt": null, "cpuCount": 2, "memoryMB": 1024, "diskSizeMB": 10240,
        "metadata": {"a b": "c&d"}, "state": "running", "envdVersion": "0.6.13",
        "envdAccessToken": created.text("envdAccessToken"), "allowInternetAccess": false,
        "domain": "box.example.com", "network": network, "lifecycle": {"autoResume": true, "onTimeout": "pause"},
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn each_version_has_its_default_timeout() {
    let world = World::new().await;
    for (path, seconds) in [("/sandboxes", 15), ("/v2/sandboxes", 300)] {
        let id = world
            .post(path, json!({"templateID": "base"}))
            .await
            .is(201)
            .text("sandboxID");
        assert_eq!(time_to_live(&world, &id).await, seconds);
        let id = world
            .post(path, json!({"templateID": "base", "timeout": 77}))
            .await
            .is(201)
            .text("sandboxID");
        assert_eq!(time_to_live(&world, &id).await, 77);
    }
}

#[tokio::test]
async fn denying_all_traffic_is_no_internet() {
    let world = World::new().await;
    for (body, internet) in [
        (json!({"templateID": "base"}), true),
        (json!({"templateID": "base", "allow_internet_access": true}), true),
        (json!({"templateID": "base", "allow_internet_access": false}), false),
        (json!({"templateID": "base", "network": {"denyOut": ["0.0.0.0/0"]}}), false),
        (json!({"templateID": "base", "network": {"denyOut": ["9.9.9.9/0"]}}), false),
    ] {
        let before = world.engine.instances();
        world.post("/v2/sandboxes", body.clone()).await.is(201);
        let instance = world.engine.instances().into_iter().find(|id| !before.contains(id)).unwrap();
        assert_eq!(world.engine.network(&instance).unwrap().internet, internet, "{body}");
    }
}

#[tokio::test]
async fn refusals_have_the_texts_of_the_contract() {
    let world = World::new().await;
    for path in ["/sandboxes", "/v2/sandboxes"] {
        let post = |body| world.post(path, body);
        for timeout in [0, -5] {
            post(json!({"templateID": "base", "timeout": timeout}))
                .await
                .is(400)
                .says("Timeout must be greater than 0");
        }
        post(json!({"templateID": "base", "timeout": 86_401}))
            .await
            .is(400)
            .says("Timeout cannot be greater than 24 hours");
        post(json!({"templateID": "nope"}))
            .await
            .is(404)
            .says("template 'nope' not found");
        post(json!({"templateID": "base:nope"}))
            .await
            .is(404)
            .says("tag 'nope' does not exist for template 'base'");
        post(json!({"templateID": "base", "network": {"denyOut": ["x"]}}))
            .await
            .is(400)
            .says("invalid denied CIDR x");
        post(json!({"templateID": "base", "network": {"maskRequestHost": "a b"}}))
            .await
            .is(400);
        post(json!({"templateID": "base", "network": {"denyOut": ["1.1.1.1"]}}))
            .await
            .is(501);
    }
    let body = json!({"templateID": "base", "secure": false, "network": {"allowPublicTraffic": false}});
    world.post("/sandboxes", body).await.is(400);
    assert_eq!(world.get("/v2/sandboxes").await.body, json!([]));
    assert_eq!(world.engine.instances(), []);
}

#[tokio::test]
async fn templates_have_several_names() {
    let world = World::new().await;
    for name in ["base", " BASE ", "second-name", "base:default", world.template.id.as_str()] {
        world.post("/v2/sandboxes", json!({"templateID": name})).await.is(201);
    }
}

#[tokio::test]
async fn one_too_many_is_429() {
    let world = World::with(1, ApiConfig::default()).await;
    let id = world.running().await;
    let refused = world.post("/v2/sandboxes", json!({"templateID": "base"})).await.is(429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    world.ask("DELETE", &format!("/sandboxes/{id}"), None).await.is(204);
    world.running().await;
}
