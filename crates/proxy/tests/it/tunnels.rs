//! Connections that change protocol.

use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::*;

/// A tunnel that has been opened: the world, the client's end and the sandbox's.
async fn open() -> (World, Wire, Wire) {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!(
            "GET /chat HTTP/1.1\nhost: {HOST}\nconnection: keep-alive, Upgrade\nupgrade: odd/1\nx-key: k\n\n"
        ))
        .await;
    let (mut sandbox, head) = player.request().await;
    assert!(
        head.contains("connection: upgrade\n") && head.contains("upgrade: odd/1\n") && head.contains("x-key: k\n"),
        "{head}"
    );
    sandbox
        .say("HTTP/1.1 101 Switching Protocols\nconnection: Upgrade\nupgrade: odd/1\nx-accept: a\n\nfirst")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\n"), "{head}");
    assert!(
        head.contains("connection: upgrade\n") && head.contains("upgrade: odd/1\n") && head.contains("x-accept: a\n"),
        "{head}"
    );
    client.hear("first").await;
    (world, client, sandbox)
}

#[tokio::test]
async fn bytes_pass_both_ways() {
    let (_world, mut client, mut sandbox) = open().await;
    for _ in 0..10 {
        client.say("up").await;
        sandbox.hear("up").await;
        sandbox.say("down").await;
        client.hear("down").await;
    }
}

#[tokio::test]
async fn one_side_may_be_done_before_the_other() {
    let (_world, mut client, mut sandbox) = open().await;
    client.say("last words").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(sandbox.rest().await, "last words");
    sandbox.say("answer").await;
    drop(sandbox);
    assert_eq!(client.rest().await, "answer");
}

#[tokio::test]
async fn the_end_of_the_sandbox_closes_them() {
    let (world, mut client, mut sandbox) = open().await;
    world.double.kill(ID);
    assert_eq!(client.rest().await, "");
    assert_eq!(sandbox.rest().await, "");
}

#[tokio::test]
async fn a_shutdown_closes_them_after_the_grace() {
    let world = World::with(|config| config.shutdown_grace = std::time::Duration::from_millis(20)).await;
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
    world.shutdown.cancel();
    soon(world.serving).await.unwrap().unwrap();
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_refusal_is_an_ordinary_answer_and_the_connection_goes_on() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!(
            "GET / HTTP/1.1\nhost: {HOST}\nconnection: upgrade\nupgrade: websocket\n\n"
        ))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox
        .say("HTTP/1.1 426 Upgrade Required\nupgrade: other/2\ncontent-length: 2\n\nno")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 426 "));
    client.hear("no").await;
    client.say("GET /after HTTP/1.1\nhost: localhost\n\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn websockets_work() {
    let world = World::new().await;
    let echo = server(|mut request: Request<_>| async move {
        let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() || message.is_binary() {
                    socket.send(message).await.unwrap();
                }
            }
        });
        let answer = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        answer
            .header("sec-websocket-accept", accept)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap()
    })
    .await;
    world.double.run(ID, [(3000, echo)]);
    let wire = world.connect().await;
    let (mut socket, _) = soon(tokio_tungstenite::client_async(format!("ws://{HOST}/"), wire.0))
        .await
        .unwrap();
    for size in [0, 1, 1000, 1 << 20] {
        let message = Message::binary(vec![7; size]);
        soon(socket.send(message.clone())).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), message);
    }
    soon(socket.close(None)).await.unwrap();
    while let Some(message) = soon(socket.next()).await {
        assert!(message.unwrap().is_close());
    }
}
