//! What happens to traffic when its sandbox goes away (contract 4.5).

use dormouse_control::RouteError;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::support::*;

const STREAM: &str = "HTTP/1.1 200 OK\ncontent-type: application/connect+json\ntransfer-encoding: chunked\n\n";

/// One chunk with the bytes of `envelope`.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

fn envelope(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut all = vec![flags];
    all.extend((payload.len() as u32).to_be_bytes());
    all.extend(payload);
    all
}

/// A stream that has begun: the client has read the head and `bytes`.
async fn streaming(head: &str, bytes: &[u8]) -> (World, Wire, Wire) {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!(
            "POST /process.Process/Start HTTP/1.1\nhost: {HOST}\ncontent-length: 2\n\nhi"
        ))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.hear("hi").await;
    sandbox.say(head).await;
    client.head().await;
    if !bytes.is_empty() {
        let chunk = chunk(bytes);
        sandbox.write(&chunk).await;
        assert_eq!(client.read(chunk.len()).await, chunk);
    }
    (world, client, sandbox)
}

/// What comes until the body is whole.
async fn body(client: &mut Wire) -> String {
    let mut got = String::new();
    while !got.ends_with("\r\n0\r\n\r\n") {
        got.push(char::from(client.read(1).await[0]));
    }
    got.replace("\r\n", "\n")
}

/// The end of a Connect stream, from what is left of the body.
fn end(rest: &str) -> Value {
    let (_size, body) = rest.split_once('\n').unwrap();
    let body = body.strip_suffix("\n0\n\n").expect("the body is whole");
    assert_eq!(body.as_bytes()[0], 2);
    serde_json::from_str(&body[5..]).unwrap()
}

#[tokio::test]
async fn a_connect_stream_between_messages_is_ended_properly() {
    let (world, mut client, _sandbox) = streaming(STREAM, &envelope(0, b"{}")).await;
    world.double.kill(ID);
    let message = "The sandbox was killed or reached its end of life (i1abc)";
    let expected = json!({ "error": { "code": "unavailable", "message": message } });
    assert_eq!(end(&body(&mut client).await), expected);
}

#[tokio::test]
async fn a_pause_is_told_from_a_kill() {
    let (world, mut client, _sandbox) = streaming(STREAM, &envelope(0, b"{}")).await;
    world.double.change(ID, |sandbox| sandbox.route.ended.pause());
    let expected = json!({ "error": { "code": "unavailable", "message": "The sandbox was paused (i1abc)" } });
    assert_eq!(end(&body(&mut client).await), expected);
}

#[tokio::test]
async fn before_the_first_message_it_can_be_ended_too() {
    let proto = STREAM.replace("json", "proto");
    let (world, mut client, _sandbox) = streaming(&proto, b"").await;
    world.double.kill(ID);
    assert_eq!(end(&body(&mut client).await)["error"]["code"], "unavailable");
}

#[tokio::test]
async fn in_the_middle_of_a_message_it_is_cut() {
    let whole = envelope(0, b"{\"event\":1}");
    let (world, mut client, _sandbox) = streaming(STREAM, &whole[..7]).await;
    world.double.kill(ID);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn after_its_end_nothing_is_added() {
    let (world, mut client, _sandbox) = streaming(STREAM, &envelope(2, b"{}")).await;
    world.double.kill(ID);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn other_streams_are_cut() {
    let (world, mut client, _sandbox) =
        streaming(&STREAM.replace("application/connect+json", "text/event-stream"), b"data: 1").await;
    world.double.kill(ID);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_stream_whose_connection_breaks_is_ended_properly_too() {
    let (_world, mut client, sandbox) = streaming(STREAM, &envelope(0, b"{}")).await;
    drop(sandbox);
    let expected = json!({ "error": { "code": "unavailable", "message": "The sandbox i1abc closed the connection" } });
    assert_eq!(end(&body(&mut client).await), expected);
}

#[tokio::test]
async fn an_http_2_client_sees_the_end_too() {
    let (world, player) = World::with_player().await;
    let mut client = world.http2().await;
    let asked = tokio::spawn(client.send_request(Request::get(format!("http://{HOST}/")).body(empty()).unwrap()));
    let (mut sandbox, _) = player.request().await;
    sandbox.say(STREAM).await;
    let mut body = soon(asked).await.unwrap().unwrap().into_body();
    sandbox.write(&chunk(&envelope(0, b"{}"))).await;
    assert_eq!(
        soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(),
        envelope(0, b"{}")
    );
    world.double.kill(ID);
    let end = soon(body.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(end[0], 2);
    let end: Value = serde_json::from_slice(&end[5..]).unwrap();
    assert_eq!(end["error"]["code"], "unavailable");
    assert!(soon(body.frame()).await.is_none());
}

#[tokio::test]
async fn a_request_without_an_answer_yet_is_told_that_the_sandbox_is_gone() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!("POST / HTTP/1.1\nhost: {HOST}\ncontent-length: 2\n\nhi"))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.hear("hi").await;
    world.double.kill(ID);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    assert_eq!(world.double.routes(), 1);
}

#[tokio::test]
async fn a_harmless_request_without_an_answer_follows_the_sandbox_to_its_next_run() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (sandbox, _) = player.request().await;
    let old = world.double.sandboxes.lock().unwrap()[ID].route.ended.clone();
    world.double.run(ID, [(3000, player.address)]);
    old.cancel();
    let (mut again, head) = player.request().await;
    assert!(head.starts_with("GET / "), "{head}");
    again.say("HTTP/1.1 200 OK\ncontent-length: 2\n\nok").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(world.double.routes(), 2);
    drop(sandbox);
}

#[tokio::test]
async fn a_route_that_ends_before_the_dial_is_asked_for_again() {
    let (world, player) = World::with_player().await;
    world.double.change(ID, |sandbox| sandbox.route.ended.cancel());
    let answer = world.send(get("/")).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(world.double.routes(), 3);
    assert_eq!(world.double.dials(), 0);
    drop(player);
}

#[tokio::test]
async fn waiting_for_a_port_ends_with_the_sandbox() {
    let world = World::with(|config| config.dial_waits = vec![LONG; 4]).await;
    world.double.run(ID, []);
    let mut client = world.connect().await;
    client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    while world.double.dials() == 0 {
        tokio::task::yield_now().await;
    }
    world.double.kill(ID);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    assert_eq!(world.double.routes(), 2);
}

#[tokio::test]
async fn a_sandbox_that_was_killed_is_not_found_at_once() {
    let world = World::with(|config| config.dial_waits = vec![LONG; 4]).await;
    world.double.refuse(ID, || RouteError::NotFound);
    assert_eq!(
        json(world.send(get("/health")).await).await["message"],
        "The sandbox was not found"
    );
}
