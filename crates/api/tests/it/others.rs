//! Templates and logs.

use serde_json::{Value, json};

use crate::world::World;

#[tokio::test]
async fn templates_are_listed_and_found_by_name() {
    let world = World::new().await;
    for path in [
        "/templates",
        "/v2/templates",
        "/templates?teamID=00000000-0000-0000-0000-000000000000",
    ] {
        let list = world.get(path).await.is(200);
        let one = &list.body[0];
        assert_eq!(one["templateID"], world.template.id.as_str());
        assert_eq!(one["aliases"], json!(["base", "second-name"]));
        assert_eq!(
            (&one["buildCount"], &one["buildStatus"], &one["createdBy"]),
            (&json!(1), &json!("ready"), &Value::Null)
        );
        for field in [
            "createdBy",
            "lastSpawnedAt",
            "names",
            "updatedAt",
            "spawnCount",
            "public",
            "envdVersion",
            "buildID",
        ] {
            assert!(one.get(field).is_some(), "{field}");
        }
    }
    world.get("/templates?teamID=x").await.is(400);
    let found = world.get("/templates/aliases/second-name").await.is(200);
    assert_eq!(found.body, json!({"templateID": world.template.id, "public": true}));
    world.get("/templates/aliases/nope").await.is(404);
    world.get("/templates/aliases/a%2Fb").await.is(404);
}

#[tokio::test]
async fn logs_tell_of_its_life_in_json_lines() {
    let world = World::new().await;
    let id = world.paused().await;
    let logs = world.get(&format!("/sandboxes/{id}/logs")).await.is(200);
    let lines: Vec<Value> = logs.body["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| serde_json::from_str(line["line"].as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(
        lines[0],
        json!({"level": "info", "logger": "dormouse", "message": "Sandbox created"})
    );
    assert_eq!(lines.last().unwrap()["message"], "Sandbox paused");
    assert_eq!(logs.body["logEntries"].as_array().unwrap().len(), lines.len());
    let later = jiff::Timestamp::now().as_millisecond() + 60_000;
    let none = world.get(&format!("/sandboxes/{id}/logs?start={later}")).await.is(200);
    assert_eq!(none.body, json!({"logs": [], "logEntries": []}));
    world.get(&format!("/sandboxes/{id}/logs?start=x")).await.is(400);
}
