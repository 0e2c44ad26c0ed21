//! Who a request is for (the rules themselves are tested beside the code).

use http::Request;
use http::{Response, StatusCode};

use crate::support::*;

/// The status, and the body, for a request with these header lines.
async fn check(world: &World, headers: &[&str], status: u16, body: &str) {
    let lines = headers.join("\n");
    let answer = world.ask(&format!("GET /x HTTP/1.1\n{lines}\nconnection: close\n\n")).await;
    let (head, got) = answer.split_once("\n\n").unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?} {answer}");
    assert_eq!(got, body, "{headers:?}");
}

#[tokio::test]
async fn hosts_and_headers_choose_the_way() {
    let world = World::new().await;
    let echo = server(|request| async move { Response::new(format!("sandbox {}", request.uri().path())) }).await;
    world.double.run(ID, [(3000, echo), (49983, echo)]);
    let (id, port) = ("E2b-Sandbox-Id: i1abc", "E2b-Sandbox-Port: 49983");

    for host in [
        "host: localhost",
        "host: 127.0.0.1:3000",
        "host: [::1]",
        "host: api.box.example",
        "host: dormouse:3000",
    ] {
        check(&world, &[host], 200, "api GET /x").await;
    }
    for host in [
        "host: localhost",
        "host: 127.0.0.1:3000",
        "host: [::1]",
        "host: sandbox.box.example",
        "host: dormouse:3000",
    ] {
        check(&world, &[host, id, port], 200, "sandbox /x").await;
        check(&world, &[host, id], 400, "missing header").await;
        check(&world, &[host, port], 400, "missing header").await;
    }
    check(&world, &["host: sandbox.box.example"], 400, "missing header").await;
    for host in [
        "host: 3000-i1abc.box.example",
        "host: 49983-i1abc-6532622b.custom.example:8443",
        "host: 3000-I1ABC.localhost",
    ] {
        check(&world, &[host], 200, "sandbox /x").await;
    }
    check(&world, &["host: api.box.example", id, port], 200, "api GET /x").await;
    check(&world, &["host: nothing.box.example"], 400, "Invalid host").await;
    check(&world, &["x: y"], 400, "Invalid host").await;
    check(
        &world,
        &["host: localhost", "host: 3000-i1abc.box.example"],
        400,
        "Invalid host",
    )
    .await;
    check(&world, &["host: 99999-i1abc.box.example"], 400, "Invalid sandbox port").await;
    check(&world, &["host: 3000-i1_abc.box.example"], 400, "Invalid sandbox ID").await;
    check(
        &world,
        &["host: localhost", "e2b-sandbox-id: I-1", port],
        400,
        "Invalid sandbox ID",
    )
    .await;
    check(
        &world,
        &["host: localhost", id, "e2b-sandbox-port: 0"],
        400,
        "Invalid sandbox port",
    )
    .await;
}

#[tokio::test]
async fn refusals_by_host_are_plain_text() {
    let world = World::new().await;
    let answer = world
        .send(Request::get("/").header("host", "nothing.box.example").body(empty()).unwrap())
        .await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn the_api_knows_the_client_and_sandboxes_are_not_asked() {
    let world = World::new().await;
    let answer = world
        .send(Request::get("/peer").header("host", "localhost").body(empty()).unwrap())
        .await;
    assert_eq!(text(answer).await, "127.0.0.1");
    assert_eq!(world.double.routes(), 0);
}

#[tokio::test]
async fn the_route_is_asked_for_with_the_tokens_on_every_request() {
    let world = World::new().await;
    let echo = server(|_| async { Response::new(String::new()) }).await;
    world.double.run(ID, [(3000, echo)]);
    let mut wire = world.connect().await;
    for _ in 0..2 {
        wire.say(&format!(
            "GET / HTTP/1.1\nhost: {HOST}\ne2b-traffic-access-token: t\nx-access-token: a\n\n"
        ))
        .await;
        wire.head().await;
    }
    let asked = world.double.asked.lock().unwrap();
    let expected = Asked {
        id: ID.into(),
        port: 3000,
        traffic_token: Some("t".into()),
        access_token: Some("a".into()),
    };
    assert_eq!(*asked, [expected.clone(), expected]);
}

#[tokio::test]
async fn an_absolute_target_overrules_the_host_header() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!("GET http://{HOST}/x?y=1 HTTP/1.1\nhost: localhost\n\n"))
        .await;
    let (_, head) = player.request().await;
    assert_eq!(head, format!("GET /x?y=1 HTTP/1.1\nhost: {HOST}\n\n"));
}

#[tokio::test]
async fn http_1_0_without_a_host_is_for_the_api() {
    let world = World::new().await;
    let answer = world.ask("GET /health HTTP/1.0\n\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK") && answer.ends_with("api GET /health"),
        "{answer}"
    );
}

#[tokio::test]
async fn connect_is_refused() {
    let world = World::new().await;
    let mut client = world.connect().await;
    client.say("CONNECT 3000-i1abc.box.example:443 HTTP/1.1\nhost: x\n\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 405 "));
    assert_eq!(world.double.routes(), 0);
}

#[tokio::test]
async fn questions_of_browsers_about_the_agent_are_answered_here() {
    let world = World::new().await;
    let question = "OPTIONS /process.Process/Start HTTP/1.1\nhost: 49983-i1abc.box.example\norigin: https://x.example\n\
                    access-control-request-method: POST\naccess-control-request-headers: authorization,x-access-token\nconnection: close\n\n";
    let answer = world.ask(question).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 204 "), "{answer}");
    assert!(answer.contains("\naccess-control-allow-origin: *\n"), "{answer}");
    assert!(
        answer.contains("\naccess-control-allow-methods: head, get, post, put, patch, delete\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\naccess-control-allow-headers: authorization,x-access-token\n"),
        "{answer}"
    );
    assert!(answer.contains("\naccess-control-max-age: 7200\n"), "{answer}");
    assert_eq!(world.double.routes(), 0);
}

#[tokio::test]
async fn questions_about_other_ports_are_the_sandboxes() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!(
        "OPTIONS / HTTP/1.1\nhost: {HOST}\naccess-control-request-method: POST\n\n"
    ))
    .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 403 Forbidden\ncontent-length: 0\n\n").await;
    let head = wire.head().await.to_lowercase();
    assert!(
        head.starts_with("http/1.1 403 ") && !head.contains("access-control"),
        "{head}"
    );
}
