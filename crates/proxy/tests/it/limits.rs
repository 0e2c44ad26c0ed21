//! How much at a time.

use futures::future::join_all;
use http::Response;
use rustix::process::{Resource, Rlimit};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Barrier;

use crate::support::*;

#[tokio::test]
async fn a_thousand_at_a_time_to_one_sandbox() {
    const MANY: usize = 1000;
    // Four descriptors each, as both ends are here.
    let most = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most.maximum,
            ..most
        },
    )
    .unwrap();
    let world = World::new().await;
    // Nobody is answered before everybody has asked.
    let barrier = Arc::new(Barrier::new(MANY));
    let all = server(move |_| {
        let barrier = Arc::clone(&barrier);
        async move {
            barrier.wait().await;
            Response::new("ok".to_owned())
        }
    })
    .await;
    world.double.run(ID, [(3000, all)]);
    let answers = join_all((0..MANY).map(|_| async { text(world.send(get("/")).await).await })).await;
    assert!(answers.iter().all(|answer| answer == "ok"));
    assert_eq!(world.double.routes(), MANY);
}

#[tokio::test]
async fn more_than_the_limit_are_refused_until_some_are_done() {
    let world = World::with(|config| config.connections_per_sandbox = 2).await;
    let player = Player::new().await;
    world.double.run(ID, [(3000, player.address)]);
    world.double.run("i2", [(3000, player.address)]);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = world.connect().await;
        client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
        clients.push((player.request().await.0, client));
    }
    let refused = world.send(get("/")).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let message = "The sandbox has too many concurrent incoming connections (limit: 2)";
    assert_eq!(
        json(refused).await,
        json!({ "sandboxId": ID, "message": message, "code": 429, "connectionLimit": 2 })
    );

    let mut other = world.connect().await;
    other.say("GET / HTTP/1.1\nhost: 3000-i2.box.example\n\n").await;
    let _other = player.request().await;

    let (mut sandbox, mut client) = clients.remove(0);
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 0\n\n").await;
    client.head().await;
    // The place is free when the client has the whole answer; the next request on its connection comes after that.
    client
        .say(&format!("POST / HTTP/1.1\nhost: {HOST}\ncontent-length: 0\n\n"))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 0\n\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn tunnels_count() {
    let world = World::with(|config| config.connections_per_sandbox = 1).await;
    let player = Player::new().await;
    world.double.run(ID, [(3000, player.address)]);
    let mut client = world.connect().await;
    client
        .say(&format!("GET / HTTP/1.1\nhost: {HOST}\nconnection: upgrade\nupgrade: x\n\n"))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox
        .say("HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: x\n\nhello")
        .await;
    client.head().await;
    client.hear("hello").await;
    assert_eq!(world.send(get("/")).await.status(), 429);
}

#[tokio::test]
async fn heads_must_not_be_endless() {
    let world = World::new().await;
    let mut client = world.connect().await;
    client.say("GET / HTTP/1.1\nhost: localhost\nx-long: ").await;
    let flood = vec![b'x'; 64 << 10];
    // It may hang up before it has read all of it.
    for _ in 0..4 {
        use tokio::io::AsyncWriteExt as _;
        let _ = soon(client.0.write_all(&flood)).await;
    }
    let answer = client.rest().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn garbage_is_refused() {
    let world = World::new().await;
    for garbage in [
        "\0\0\0\n\n",
        "GET\n\n",
        "GET / HTTP/9.9\n\n",
        "GET / HTTP/1.1\nhost localhost\n\n",
        "GET / HTTP/1.1\nhost: localhost\ncontent-length: x\n\n",
    ] {
        let answer = world.ask(garbage).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?} {answer}");
    }
    assert_eq!(world.double.routes(), 0);
}

#[tokio::test]
async fn a_request_that_breaks_off_reaches_the_sandbox_broken() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!(
            "POST / HTTP/1.1\nhost: {HOST}\ntransfer-encoding: chunked\n\n5\nhel"
        ))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.hear("3\nhel\n").await;
    drop(client);
    assert_eq!(sandbox.rest().await, "", "the connection ends without the last chunk");
}
