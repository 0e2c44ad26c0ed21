//! Lists: filters, order, pages (contract 4.8).

use serde_json::json;

use crate::world::{Answer, World};

fn ids(answer: &Answer) -> Vec<String> {
    let all = answer.body.as_array().expect("a list");
    all.iter().map(|one| one["sandboxID"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn states_select_and_running_ones_are_counted() {
    let world = World::new().await;
    let running = world.running().await;
    let paused = world.paused().await;
    let ask = async |query: &str| {
        let answer = world.get(&format!("/v2/sandboxes{query}")).await.is(200);
        let mut found = ids(&answer);
        found.sort();
        (found, answer.header("x-total-running").map(str::to_owned))
    };
    let mut both = vec![running.clone(), paused.clone()];
    both.sort();
    let one = Some("1".to_owned());
    assert_eq!(ask("").await, (both.clone(), one.clone()));
    assert_eq!(ask("?state=running,paused").await, (both.clone(), one.clone()));
    assert_eq!(ask("?state=running%2Cpaused").await, (both.clone(), one.clone()));
    assert_eq!(ask("?state=running&state=paused").await, (both, one.clone()));
    assert_eq!(ask("?state=running").await, (vec![running.clone()], one));
    assert_eq!(ask("?state=paused").await, (vec![paused], None));
    world.get("/v2/sandboxes?state=dead").await.is(400);
    let v1 = world.get("/sandboxes").await.is(200);
    assert_eq!(ids(&v1), [running]);
    let one = &v1.body[0];
    for field in [
        "templateID",
        "sandboxID",
        "clientID",
        "startedAt",
        "endAt",
        "cpuCount",
        "memoryMB",
        "diskSizeMB",
        "state",
        "envdVersion",
    ] {
        assert!(!one[field].is_null(), "{field}");
    }
}

#[tokio::test]
async fn pages_go_on_until_the_last_which_has_no_token() {
    let world = World::new().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(world.running().await);
    }
    for (order, expected) in [("asc", made.clone()), ("desc", made.iter().rev().cloned().collect())] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = world
                .get(&format!("/v2/sandboxes?limit=1&order={order}&nextToken={token}"))
                .await
                .is(200);
            assert_eq!(page.header("x-total-running"), Some("3"));
            let found = ids(&page);
            assert_eq!(found.len(), 1);
            seen.extend(found);
            match page.header("x-next-token") {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen, expected, "{order}");
    }
    let all = world.get("/v2/sandboxes?limit=3").await;
    assert_eq!((ids(&all).len(), all.header("x-next-token")), (3, None));
    world
        .get("/v2/sandboxes?nextToken=x")
        .await
        .is(400)
        .says("Invalid next token");
    world.get("/v2/sandboxes?limit=0").await.is(400);
    world.get("/v2/sandboxes?limit=1000").await.is(200);
}

#[tokio::test]
async fn metadata_template_and_start_select() {
    let world = World::new().await;
    let with = |metadata| world.post("/v2/sandboxes", json!({"templateID": "base", "metadata": metadata}));
    let a = with(json!({"a b": "c&d", "x": "1"})).await.is(201).text("sandboxID");
    let b = with(json!({"a b": "c&d", "x": "2"})).await.is(201).text("sandboxID");
    let find = async |query: &str| ids(&world.get(&format!("/v2/sandboxes?{query}")).await.is(200));
    assert_eq!(find("metadata=a%252520b%3Dc%252526d").await, [b.clone(), a.clone()]);
    assert_eq!(find("metadata=a%252520b%3Dc%252526d%26x%3D1").await, std::slice::from_ref(&a));
    assert_eq!(find("metadata=x%3D3").await, Vec::<String>::new());
    for name in ["base", "second-name", world.template.id.as_str()] {
        assert_eq!(find(&format!("template={name}")).await.len(), 2, "{name}");
    }
    let none = world.get("/v2/sandboxes?template=nope").await.is(200);
    assert_eq!((&none.body, none.header("x-total-running")), (&json!([]), Some("0")));
    world.get("/v2/sandboxes?template=base:v1").await.is(400);
    let started = world.get(&format!("/sandboxes/{b}")).await.text("startedAt");
    let later = world
        .store
        .sandboxes()
        .await
        .unwrap()
        .iter()
        .map(|record| record.started_at)
        .max()
        .unwrap();
    assert_eq!(
        find(&format!("startedAfter={later}")).await,
        [b],
        "inclusive, and {started} is it"
    );
    assert_eq!(find("startedAfter=2999-01-01T00:00:00Z").await, Vec::<String>::new());
    world.get("/v2/sandboxes?startedAfter=soon").await.is(400);
}

#[tokio::test]
async fn a_killed_sandbox_is_not_listed() {
    let world = World::new().await;
    let id = world.running().await;
    world.ask("DELETE", &format!("/sandboxes/{id}"), None).await.is(204);
    let list = world.get("/v2/sandboxes").await;
    assert_eq!((&list.body, list.header("x-total-running")), (&json!([]), Some("0")));
}
