//! Builds of templates, as far as they can be had on the simulator.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::world::{Answer, OTHER_KEY, World};

async fn other(world: &World, method: &str, path: &str, body: Value) -> Answer {
    let request = Request::builder().method(method).uri(path).header("x-api-key", OTHER_KEY);
    world.send(request.body(Body::from(body.to_string())).unwrap()).await
}

/// Asks for a build and starts it; waits for its end.
async fn build(world: &World, name: &str, start: Value) -> (String, Value) {
    let asked = world.post("/v3/templates", json!({ "name": name })).await.is(202);
    let (template, build) = (asked.text("templateID"), asked.text("buildID"));
    world
        .post(&format!("/v2/templates/{template}/builds/{build}"), start)
        .await
        .is(202);
    let status = format!("/templates/{template}/builds/{build}/status");
    let wait = async {
        loop {
            let answer = world.get(&status).await.is(200);
            if answer.body["status"] != "building" {
                return answer.body;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), wait).await.expect("an end");
    (template, ended)
}

fn base() -> Value {
    json!({ "fromTemplate": "base", "steps": [{ "type": "ENV", "args": ["A", "1"], "forceUpload": null }] })
}

async fn world() -> World {
    let world = World::new().await;
    std::fs::create_dir_all(world.dir.path().join("templates/base/root")).unwrap();
    world
}

#[tokio::test]
async fn a_request_answers_with_what_clients_need() {
    let world = world().await;
    let body = json!({ "name": "Web:v1", "tags": ["stable", "v1"], "cpuCount": 4, "memoryMB": 512 });
    let asked = world.post("/v3/templates", body).await.is(202);
    assert_eq!(asked.body["names"], json!(["default/web"]));
    assert_eq!(asked.body["aliases"], json!(["web"]));
    assert_eq!(asked.body["tags"], json!(["v1", "stable"]));
    assert_eq!(asked.body["public"], false);
    let again = world.post("/v3/templates", json!({ "alias": "web" })).await.is(202);
    assert_eq!(again.text("templateID"), asked.text("templateID"));
    assert_ne!(again.text("buildID"), asked.text("buildID"));
    assert_eq!(again.body["tags"], json!(["default"]));
    // The same name is another template of another team.
    let theirs = other(&world, "POST", "/v3/templates", json!({ "name": "web" })).await.is(202);
    assert_ne!(theirs.text("templateID"), asked.text("templateID"));
    for (body, part) in [
        (json!({}), "Name is required"),
        (json!({ "name": "a b" }), "Invalid name"),
        (json!({ "name": "other/web" }), "Invalid name"),
        (json!({ "name": "web", "tags": ["a b"] }), "Invalid tag"),
        (json!({ "name": "web", "cpuCount": 0 }), "validation error"),
        (
            json!({ "name": "web", "cpuCount": 3 }),
            "CPU count must be 1 or an even number",
        ),
        (json!({ "name": "web", "cpuCount": 64 }), "CPU count must be at most 32"),
        (json!({ "name": "web", "memoryMB": 32 }), "validation error"),
        (json!({ "name": "web", "memoryMB": 129 }), "Memory must be divisible by 2"),
        (json!({ "name": "web", "teamID": "x" }), "team ID"),
    ] {
        world.post("/v3/templates", body).await.is(400).mentions(part);
    }
}

#[tokio::test]
async fn a_build_is_followed_to_its_end() {
    let world = world().await;
    let (template, ended) = build(&world, "web", base()).await;
    assert_eq!(ended["status"], "ready", "{ended}");
    let entries = ended["logEntries"].as_array().unwrap();
    assert_eq!(entries.len(), ended["logs"].as_array().unwrap().len());
    assert!(entries[0]["message"].as_str().unwrap().starts_with("Building template "));
    let build_id = ended["buildID"].as_str().unwrap();
    let path = format!("/templates/{template}/builds/{build_id}");
    let rest = world
        .get(&format!("{path}/status?logsOffset={}", entries.len()))
        .await
        .is(200);
    assert_eq!(rest.body["logEntries"], json!([]));
    let one = world.get(&format!("{path}/status?logsOffset=1&limit=1")).await.is(200);
    assert_eq!(one.body["logEntries"], json!([entries[1]]));
    let errors = world.get(&format!("{path}/status?level=error")).await.is(200);
    assert_eq!(errors.body["logEntries"], json!([]));
    let newest = world.get(&format!("{path}/logs?limit=1")).await.is(200);
    assert_eq!(newest.body["logs"], json!([entries.last()]));
    let oldest = world.get(&format!("{path}/logs?limit=1&direction=forward")).await.is(200);
    assert_eq!(oldest.body["logs"], json!([entries[0]]));
    world.get(&format!("{path}/status?level=loud")).await.is(400);
    world.get(&format!("/templates/{template}/builds/x/status")).await.is(400);
    other(&world, "GET", &format!("{path}/status"), Value::Null).await.is(404);
    let sandbox = world.post("/v2/sandboxes", json!({ "templateID": "web" })).await.is(201);
    assert_eq!(sandbox.text("templateID"), template);
    let whole = world.get(&format!("/templates/{template}")).await.is(200);
    assert_eq!(whole.body["builds"][0]["buildID"], build_id);
    assert_eq!(whole.body["spawnCount"], 1);
}

#[tokio::test]
async fn a_failure_has_its_reason() {
    let world = world().await;
    let steps = json!({ "fromTemplate": "base", "steps": [{ "type": "NONSENSE" }] });
    let (_, ended) = build(&world, "web", steps).await;
    assert_eq!(ended["status"], "error");
    assert_eq!(ended["reason"]["message"], "unknown instruction: 'NONSENSE'");
    assert_eq!(ended["reason"]["step"], "1");
    let listed = world.get("/templates").await.is(200);
    let web = listed
        .body
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["aliases"] == json!(["web"]))
        .unwrap();
    assert_eq!(web["buildStatus"], "error");
    world.post("/v2/sandboxes", json!({ "templateID": "web" })).await.is(404);
}

#[tokio::test]
async fn starts_that_make_no_sense_are_refused() {
    let world = world().await;
    let asked = world.post("/v3/templates", json!({ "name": "web" })).await.is(202);
    let path = format!("/v2/templates/{}/builds/{}", asked.text("templateID"), asked.text("buildID"));
    for body in [
        json!({}),
        json!({ "fromImage": "", "fromTemplate": "" }),
        json!({ "fromImage": "a", "fromTemplate": "b" }),
        json!({ "fromTemplate": "base", "steps": [{}] }),
    ] {
        world.post(&path, body).await.is(400);
    }
    let nobodys = format!("/v2/templates/{}/builds/{}", asked.text("templateID"), uuid(7));
    world.post(&nobodys, base()).await.is(404);
    other(&world, "POST", &path, base()).await.is(404);
    world.post(&path, base()).await.is(202);
    world.post(&path, base()).await.is(400).says("build is not in waiting state");
}

fn uuid(n: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{n:02}")
}

#[tokio::test]
async fn archives_arrive_by_their_link_alone() {
    let world = world().await;
    let asked = world.post("/v3/templates", json!({ "name": "web" })).await.is(202);
    let (template, hash) = (asked.text("templateID"), "a".repeat(64));
    let path = format!("/templates/{template}/files/{hash}");
    let link = async || {
        let request = Request::builder()
            .uri(&path)
            .header("x-api-key", crate::world::KEY)
            .header("host", "here:1");
        world.send(request.body(Body::empty()).unwrap()).await.is(201)
    };
    let first = link().await;
    assert_eq!(first.body["present"], false);
    let url = first.text("url");
    let local = url
        .strip_prefix("http://here:1")
        .expect("where the client came from")
        .to_owned();
    let put = async |uri: &str, body: &'static str| world.send(Request::put(uri).body(Body::from(body)).unwrap()).await;
    for (from, to) in [
        ("a".repeat(64), "b".repeat(64)),
        ("signature=".to_owned(), "signature=0".to_owned()),
    ] {
        put(&local.replace(&from, &to), "x").await.is(403);
    }
    put(&path, "x").await.is(403);
    put(&local, "archive").await.is(200);
    assert_eq!(link().await.body["present"], true);
    world.get(&format!("/templates/{template}/files/nonsense")).await.is(400);
    other(&world, "GET", &path, Value::Null).await.is(404);
}

#[tokio::test]
async fn tags_point_at_builds() {
    let world = world().await;
    let (template, ended) = build(&world, "web:v1", base()).await;
    let assign = |target: &str, tags: Value| json!({ "target": target, "tags": tags });
    let assigned = world
        .post("/templates/tags", assign("web:v1", json!(["a", "b"])))
        .await
        .is(201);
    assert_eq!(assigned.body["buildID"], ended["buildID"]);
    for (body, status) in [
        (assign("web:v1", json!([])), 400),
        (assign("web:v1", json!([":x"])), 400),
        (assign("web:v1", json!(["web:x"])), 400),
        (assign("web", json!(["x"])), 404),
        (assign("nothing", json!(["x"])), 404),
    ] {
        world.post("/templates/tags", body).await.is(status);
    }
    other(&world, "POST", "/templates/tags", assign(&template, json!(["x"])))
        .await
        .is(403);
    other(&world, "GET", &format!("/templates/{template}/tags"), Value::Null)
        .await
        .is(403);
    let remove = |name: &str, tags: Value| Some(json!({ "name": name, "tags": tags }));
    for (body, status) in [
        (remove("web", json!(["default"])), 400),
        (remove("web:v1", json!(["a"])), 400),
        (remove("web", json!(["a", "missing"])), 404),
        (remove("web", json!(["a"])), 204),
    ] {
        world.ask("DELETE", "/templates/tags", body).await.is(status);
    }
    let tags = world.get("/templates/web/tags").await.is(200);
    let names: Vec<&str> = tags
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["tag"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["b", "v1"]);
}

#[tokio::test]
async fn a_template_is_published_and_deleted_by_its_owner() {
    let world = world().await;
    let (template, _) = build(&world, "web", base()).await;
    let path = format!("/v2/templates/{template}");
    other(&world, "PATCH", &path, json!({ "public": true })).await.is(403);
    let aliases = "/templates/aliases/web";
    other(&world, "GET", aliases, Value::Null).await.is(403);
    let published = world.ask("PATCH", &path, Some(json!({ "public": true }))).await.is(200);
    assert_eq!(published.body, json!({ "names": ["default/web"] }));
    other(&world, "GET", aliases, Value::Null).await.is(200);
    other(&world, "POST", "/v2/sandboxes", json!({ "templateID": "web" }))
        .await
        .is(201);
    other(&world, "DELETE", "/templates/web", Value::Null).await.is(404);
    let refused = world.ask("DELETE", "/templates/web", None).await.is(400);
    refused.says("cannot delete template 'web' because there are running sandboxes using it");
    let listed = other(&world, "GET", "/v2/sandboxes", Value::Null).await.is(200);
    let sandbox = listed.body[0]["sandboxID"].as_str().unwrap().to_owned();
    other(&world, "DELETE", &format!("/sandboxes/{sandbox}"), Value::Null)
        .await
        .is(204);
    world.ask("DELETE", "/templates/web", None).await.is(204);
    world.ask("DELETE", "/templates/web", None).await.is(404);
    world.get(aliases).await.is(404);
}
