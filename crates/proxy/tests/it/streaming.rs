//! Bodies pass while they are made, and no faster than they are read.

use std::io::ErrorKind;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;

use crate::support::*;

#[tokio::test]
async fn both_directions_flow_at_the_same_time() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!("POST / HTTP/1.1\nhost: {HOST}\ntransfer-encoding: chunked\n\n"))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n").await;
    client.head().await;
    for _ in 0..100 {
        client.say("4\nping\n").await;
        sandbox.hear("4\nping\n").await;
        sandbox.say("4\npong\n").await;
        client.hear("4\npong\n").await;
    }
    client.say("0\n\n").await;
    sandbox.hear("0\n\n").await;
    sandbox.say("4\nlast\n0\n\n").await;
    client.hear("4\nlast\n0\n\n").await;
}

#[tokio::test]
async fn the_answer_may_end_before_the_request() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!("POST / HTTP/1.1\nhost: {HOST}\ncontent-length: 10\n\n"))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 2\n\nok").await;
    client.head().await;
    client.hear("ok").await;
    client.say("0123456789").await;
    sandbox.hear("0123456789").await;
}

#[tokio::test]
async fn both_directions_flow_on_http_2() {
    let (world, player) = World::with_player().await;
    let mut client = world.http2().await;
    let (up, frames) = mpsc::channel::<Bytes>(1);
    let frames = futures::stream::unfold(frames, |mut frames| async {
        let frame = frames.recv().await?;
        Some((Ok(http_body::Frame::data(frame)), frames))
    });
    let request = Request::post(format!("http://{HOST}/"))
        .body(http_body_util::BodyExt::boxed(StreamBody::new(frames)))
        .unwrap();
    let answer = tokio::spawn(client.send_request(request));
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n").await;
    let mut down = soon(answer).await.unwrap().unwrap().into_body();
    for _ in 0..20 {
        up.send("ping".into()).await.unwrap();
        sandbox.hear("4\nping\n").await;
        sandbox.say("4\npong\n").await;
        assert_eq!(soon(down.frame()).await.unwrap().unwrap().into_data().unwrap(), "pong");
    }
    drop(up);
    sandbox.hear("0\n\n").await;
    sandbox.say("0\n\n").await;
    assert_eq!(soon(down.collect()).await.unwrap().to_bytes(), "");
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!("GET /events HTTP/1.1\nhost: {HOST}\naccept: text/event-stream\n\n"))
        .await;
    let (mut sandbox, _) = player.request().await;
    // The head alone, before there is anything to tell.
    sandbox
        .say("HTTP/1.1 200 OK\ncontent-type: text/event-stream\ntransfer-encoding: chunked\n\n")
        .await;
    assert!(client.head().await.contains("content-type: text/event-stream\n"));
    for _ in 0..10 {
        sandbox.say("b\ndata: 1\n\n\n").await;
        // hyper writes sizes in capitals.
        client.hear("B\ndata: 1\n\n\n").await;
    }
}

/// Most that may be on its way between two sides when one of them does not read: ours, and what the kernel keeps.
const MOST_IN_FLIGHT: usize = 24 << 20;

/// Writes to `wire` until nothing more is taken, and returns how much was.
async fn stuff(wire: &Wire) -> usize {
    let part = vec![b'x'; 64 << 10];
    let mut taken = 0;
    loop {
        match wire.0.try_write(&part) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Writable again within this time, if anybody reads at all.
                if tokio::time::timeout(std::time::Duration::from_millis(300), wire.0.writable())
                    .await
                    .is_err()
                {
                    return taken;
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(taken < MOST_IN_FLIGHT, "{taken} bytes were taken, and nobody reads");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_sandbox() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 1000000000\n\n").await;
    client.head().await;
    let taken = stuff(&sandbox).await;
    // And it goes on when the client does.
    client.read(taken / 2).await;
    soon(sandbox.0.writable()).await.unwrap();
}

#[tokio::test]
async fn an_http_2_client_that_does_not_read_stops_the_sandbox() {
    let (world, player) = World::with_player().await;
    let mut client = world.http2().await;
    let answer = tokio::spawn(client.send_request(Request::get(format!("http://{HOST}/")).body(empty()).unwrap()));
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 1000000000\n\n").await;
    let _answer = soon(answer).await.unwrap().unwrap();
    stuff(&sandbox).await;
}

#[tokio::test]
async fn a_sandbox_that_does_not_read_stops_the_client() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client
        .say(&format!("POST / HTTP/1.1\nhost: {HOST}\ncontent-length: 1000000000\n\n"))
        .await;
    let (_sandbox, _) = player.request().await;
    stuff(&client).await;
}
