//! The listener and its clients.

use std::time::Duration;

use http::Request;

use crate::support::*;

/// A deadline that is to pass.
const SHORT: Duration = Duration::from_millis(20);

/// A deadline that is to pass only after something else has happened first.
const MEDIUM: Duration = Duration::from_millis(250);

#[tokio::test]
async fn connections_carry_many_requests_for_anybody() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client.say("GET /1 HTTP/1.1\nhost: localhost\n\n").await;
    client.head().await;
    client.hear("api GET /1").await;
    client.say(&format!("GET /2 HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\nconnection: close\n\nsandbox").await;
    drop(sandbox);
    client.head().await;
    client.hear("7\nsandbox\n0\n\n").await;
    client.say("GET /3 HTTP/1.1\nhost: localhost\n\n").await;
    client.head().await;
    client.hear("api GET /3").await;
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_head_is_dropped() {
    let world = World::with(|config| config.header_timeout = SHORT).await;
    for begin in ["", "GET", "PRI * HTTP/2.0", "GET / HTTP/1.1\nhost: localhost\n"] {
        assert_eq!(world.ask(begin).await, "", "{begin}");
    }
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_second_head_is_dropped() {
    let world = World::with(|config| config.header_timeout = MEDIUM).await;
    let mut client = world.connect().await;
    client.say("GET / HTTP/1.1\nhost: localhost\n\n").await;
    client.head().await;
    client.hear("api GET /").await;
    client.say("GET / HTTP").await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_client_that_asks_nothing_for_long_is_dropped() {
    let world = World::with(|config| {
        config.header_timeout = MEDIUM;
        config.client_idle = MEDIUM;
    })
    .await;
    let answer = world.ask("GET / HTTP/1.1\nhost: localhost\n\n").await;
    assert!(answer.ends_with("api GET /"), "{answer}");
}

#[tokio::test]
async fn a_request_under_way_has_no_deadline() {
    let world = World::with(|config| {
        config.header_timeout = MEDIUM;
        config.client_idle = SHORT;
    })
    .await;
    let player = Player::new().await;
    world.double.run(ID, [(3000, player.address)]);
    let mut client = world.connect().await;
    client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, _) = player.request().await;
    // Every deadline passes meanwhile: a client that came later is dropped.
    assert_eq!(world.ask("").await, "");
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 2\n\nok").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\n"));
    client.hear("ok").await;
}

#[tokio::test]
async fn clients_above_the_limit_wait_for_a_place() {
    let world = World::with(|config| config.max_connections = 1).await;
    let mut first = world.connect().await;
    first.say("GET /1 HTTP/1.1\nhost: localhost\n\n").await;
    first.head().await;
    let mut second = world.connect().await;
    second.say("GET /2 HTTP/1.1\nhost: localhost\n\n").await;
    first.hear("api GET /1").await;
    first.say("GET /3 HTTP/1.1\nhost: localhost\n\n").await;
    first.head().await;
    first.hear("api GET /3").await;
    drop(first);
    second.head().await;
    second.hear("api GET /2").await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_and_closes_the_idle() {
    let (world, player) = World::with_player().await;
    let mut idle = world.connect().await;
    idle.say("GET / HTTP/1.1\nhost: localhost\n\n").await;
    idle.head().await;
    idle.hear("api GET /").await;
    let mut silent = world.connect().await;
    let mut busy = world.connect().await;
    busy.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, _) = player.request().await;
    world.shutdown.cancel();
    assert_eq!(idle.rest().await, "");
    assert_eq!(silent.rest().await, "");
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 2\n\nok").await;
    assert!(busy.rest().await.ends_with("\n\nok"));
    soon(world.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let world = World::with(|config| config.shutdown_grace = SHORT).await;
    let player = Player::new().await;
    world.double.run(ID, [(3000, player.address)]);
    let mut client = world.connect().await;
    client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n").await;
    client.head().await;
    world.shutdown.cancel();
    soon(world.serving).await.unwrap().unwrap();
    assert_eq!(client.rest().await, "");
    // The sandbox is only hung up on.
    assert_eq!(sandbox.rest().await, "");
    assert!(world.double.sandboxes.lock().unwrap().contains_key(ID));
}

#[tokio::test]
async fn a_shutdown_lets_http_2_requests_end() {
    let (world, player) = World::with_player().await;
    let mut client = world.http2().await;
    let asked = tokio::spawn(client.send_request(Request::get(format!("http://{HOST}/")).body(empty()).unwrap()));
    let (mut sandbox, _) = player.request().await;
    world.shutdown.cancel();
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 2\n\nok").await;
    assert_eq!(text(soon(asked).await.unwrap().unwrap()).await, "ok");
    drop(client);
    soon(world.serving).await.unwrap().unwrap();
}
