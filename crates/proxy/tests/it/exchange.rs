//! One request and its answer: what is passed on, and how it looks on the other side.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};

use crate::support::*;

#[tokio::test]
async fn requests_arrive_as_they_were_sent() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!("PURGE /a%2Fb/../c?x=%20&y HTTP/1.1\nHost: {HOST}\nX-Odd-Case: One\nX-Forwarded-For: 1.2.3.4\nCookie: a=1; b=2\nE2b-Sandbox-Id: other\nE2b-Traffic-Access-Token: secret\n\n"))
        .await;
    let (mut sandbox, head) = player.request().await;
    let expected = format!(
        "PURGE /a%2Fb/../c?x=%20&y HTTP/1.1\nHost: {HOST}\nX-Odd-Case: One\nX-Forwarded-For: 1.2.3.4\nCookie: a=1; b=2\nE2b-Sandbox-Id: other\n\n"
    );
    let sorted = |head: &str| {
        let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&head), sorted(&expected));
    sandbox
        .say(
            "HTTP/1.1 299 Odd But Fine\nX-Mixed-Case: yes\nSet-Cookie: a=1\nSet-Cookie: b=2\ndate: then\ncontent-length: 2\n\nok",
        )
        .await;
    let answer = wire.head().await;
    assert!(answer.starts_with("HTTP/1.1 299 Odd But Fine\n"), "{answer}");
    assert!(
        answer.contains("\nX-Mixed-Case: yes\n")
            && answer.contains("\nSet-Cookie: a=1\n")
            && answer.contains("\nSet-Cookie: b=2\n"),
        "{answer}"
    );
    wire.hear("ok").await;
}

#[tokio::test]
async fn the_host_may_be_masked_except_for_the_agent() {
    let (world, player) = World::with_player().await;
    world.double.change(ID, |sandbox| {
        sandbox.route.mask_host = Some("custom-host.example.com:${PORT}".into());
    });
    let mut wire = world.connect().await;
    wire.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (_sandbox, head) = player.request().await;
    assert!(head.contains("host: custom-host.example.com:3000\n"), "{head}");
    assert!(head.contains(&format!("x-forwarded-host: {HOST}\n")), "{head}");
    let mut wire = world.connect().await;
    wire.say("GET / HTTP/1.1\nhost: 49983-i1abc.box.example\n\n").await;
    let (_sandbox, head) = player.request().await;
    assert!(
        head.contains("host: 49983-i1abc.box.example\n") && !head.contains("x-forwarded"),
        "{head}"
    );
}

#[tokio::test]
async fn headers_of_one_connection_stay_there() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!(
        "GET / HTTP/1.1\nhost: {HOST}\nconnection: close, x-mine\nx-mine: 1\nte: trailers\nkeep-alive: 5\n\n"
    ))
    .await;
    let (mut sandbox, head) = player.request().await;
    assert_eq!(head, format!("GET / HTTP/1.1\nhost: {HOST}\nte: trailers\n\n"));
    sandbox
        .say("HTTP/1.1 200 OK\nconnection: x-its\nx-its: 1\nkeep-alive: timeout=5\ndate: then\ncontent-length: 0\n\n")
        .await;
    let answer = wire.head().await;
    assert!(!answer.contains("x-its") && !answer.contains("keep-alive"), "{answer}");
}

/// What the client gets for `answer`: the head's lines in order of the alphabet, without the date, and the body.
async fn relayed(method: &str, answer: &str) -> (Vec<String>, String) {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!("{method} / HTTP/1.1\nhost: {HOST}\nconnection: close\n\n"))
        .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say(answer).await;
    drop(sandbox);
    let got = wire.rest().await;
    let (head, body) = got.split_once("\n\n").unwrap();
    let mut lines: Vec<String> = head
        .lines()
        .filter(|line| !line.starts_with("date:"))
        .map(str::to_owned)
        .collect();
    lines.sort();
    (lines, body.to_owned())
}

async fn check(method: &str, answer: &str, lines: &[&str], body: &str) {
    let (got, got_body) = relayed(method, answer).await;
    assert_eq!(got, lines, "{answer}");
    assert_eq!(got_body, body, "{answer}");
}

#[tokio::test]
async fn answers_without_bodies_stay_so() {
    check(
        "GET",
        "HTTP/1.1 204 No Content\nx: y\n\n",
        &["HTTP/1.1 204 No Content", "connection: close", "x: y"],
        "",
    )
    .await;
    // hyper leaves the length out, which a 304 need not have.
    let not_modified = "HTTP/1.1 304 Not Modified\netag: \"1\"\ncontent-length: 5\n\n";
    check(
        "GET",
        not_modified,
        &["HTTP/1.1 304 Not Modified", "connection: close", "etag: \"1\""],
        "",
    )
    .await;
    let head = "HTTP/1.1 200 OK\ncontent-length: 1234567\n\n";
    check(
        "HEAD",
        head,
        &["HTTP/1.1 200 OK", "connection: close", "content-length: 1234567"],
        "",
    )
    .await;
    let nothing = "HTTP/1.1 200 OK\ncontent-length: 0\n\n";
    check(
        "GET",
        nothing,
        &["HTTP/1.1 200 OK", "connection: close", "content-length: 0"],
        "",
    )
    .await;
}

const CHUNKED: [&str; 3] = ["HTTP/1.1 200 OK", "connection: close", "transfer-encoding: chunked"];

#[tokio::test]
async fn bodies_without_a_length_get_chunks() {
    check("GET", "HTTP/1.0 200 OK\n\nhello", &CHUNKED, "5\nhello\n0\n\n").await;
}

#[tokio::test]
async fn a_body_that_is_cut_is_not_made_to_look_whole() {
    check(
        "GET",
        "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n5\nhello\n",
        &CHUNKED,
        "5\nhello\n",
    )
    .await;
    let short = "HTTP/1.1 200 OK\ncontent-length: 10\n\nhello";
    check(
        "GET",
        short,
        &["HTTP/1.1 200 OK", "connection: close", "content-length: 10"],
        "hello",
    )
    .await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!(
        "POST / HTTP/1.1\nhost: {HOST}\nte: trailers\ntrailer: x-up\ntransfer-encoding: chunked\n\n2\nhi\n0\nx-up: 1\n\n"
    ))
    .await;
    let (mut sandbox, head) = player.request().await;
    assert!(head.contains("trailer: x-up\n") && head.contains("te: trailers\n"), "{head}");
    sandbox.hear("2\nhi\n0\nx-up: 1\n\n").await;
    sandbox
        .say("HTTP/1.1 200 OK\ntrailer: x-down\ntransfer-encoding: chunked\n\n2\nho\n0\nx-down: 2\n\n")
        .await;
    let head = wire.head().await;
    assert!(head.contains("trailer: x-down\n"), "{head}");
    wire.hear("2\nho\n0\nx-down: 2\n\n").await;
}

#[tokio::test]
async fn bodies_pass_whatever_the_method() {
    let (world, player) = World::with_player().await;
    for method in ["GET", "DELETE", "POST", "QUERY"] {
        let mut wire = world.connect().await;
        wire.say(&format!(
            "{method} / HTTP/1.1\nhost: {HOST}\ntransfer-encoding: chunked\n\n2\nhi\n0\n\n"
        ))
        .await;
        let (mut sandbox, head) = player.request().await;
        assert!(head.contains("transfer-encoding: chunked\n"), "{head}");
        sandbox.hear("2\nhi\n0\n\n").await;
        let mut wire = world.connect().await;
        wire.say(&format!("{method} / HTTP/1.1\nhost: {HOST}\ncontent-length: 2\n\nhi"))
            .await;
        let (mut sandbox, head) = player.request().await;
        assert!(head.contains("content-length: 2\n"), "{head}");
        sandbox.hear("hi").await;
    }
}

#[tokio::test]
async fn empty_bodies_keep_their_length() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!("POST / HTTP/1.1\nhost: {HOST}\ncontent-length: 0\n\n"))
        .await;
    let (_sandbox, head) = player.request().await;
    assert_eq!(head, format!("POST / HTTP/1.1\nhost: {HOST}\ncontent-length: 0\n\n"));
}

#[tokio::test]
async fn with_two_lengths_only_chunks_count() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!("POST / HTTP/1.1\nhost: {HOST}\ncontent-length: 3\ntransfer-encoding: chunked\n\n2\nhi\n0\n\nGET /smuggled HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, head) = player.request().await;
    assert!(
        head.contains("transfer-encoding: chunked\n") && !head.contains("content-length"),
        "{head}"
    );
    sandbox.hear("2\nhi\n0\n\n").await;
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on_by_the_sandbox() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!(
        "POST / HTTP/1.1\nhost: {HOST}\nexpect: 100-continue\ncontent-length: 2\n\n"
    ))
    .await;
    let (mut sandbox, head) = player.request().await;
    assert!(head.contains("expect: 100-continue\n"), "{head}");
    sandbox.say("HTTP/1.1 100 Continue\n\n").await;
    wire.hear("HTTP/1.1 100 Continue\n\n").await;
    wire.say("hi").await;
    sandbox.hear("hi").await;
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 2\n\nok").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 200 OK\n"));
    wire.hear("ok").await;
}

#[tokio::test]
async fn a_client_that_waits_may_be_refused_without_its_body() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!(
        "POST / HTTP/1.1\nhost: {HOST}\nexpect: 100-continue\ncontent-length: 2\n\n"
    ))
    .await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 413 Too Much\ncontent-length: 2\n\nno").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 413 Too Much\n"));
    wire.hear("no").await;
    assert_eq!(sandbox.rest().await, "", "the connection is given up, without a body");
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on_when_the_sandbox_says_nothing() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!(
        "POST / HTTP/1.1\nhost: {HOST}\nexpect: 100-continue\ncontent-length: 2\n\n"
    ))
    .await;
    let (mut sandbox, _) = player.request().await;
    wire.hear("HTTP/1.1 100 Continue\n\n").await;
    wire.say("hi").await;
    sandbox.hear("hi").await;
}

#[tokio::test]
async fn other_interim_answers_are_skipped() {
    let answer = "HTTP/1.1 103 Early Hints\nlink: x\n\nHTTP/1.1 200 OK\ncontent-length: 2\n\nok";
    check(
        "GET",
        answer,
        &["HTTP/1.1 200 OK", "connection: close", "content-length: 2"],
        "ok",
    )
    .await;
}

#[tokio::test]
async fn http_2_clients_reach_http_1_services() {
    let world = World::new().await;
    let echo = server(|request| async move {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let cookie = request.headers().get_all("cookie").iter().count();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::new(Bytes::from(format!("{host} {cookie} {}", body.len()))))
    })
    .await;
    world.double.run(ID, [(3000, echo)]);
    let client = world.http2().await;
    let requests = (0..50).map(|size| {
        let mut client = client.clone();
        async move {
            let request = Request::post(format!("http://{HOST}/x"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(full(vec![0; size]))
                .unwrap();
            let answer = soon(client.send_request(request)).await.unwrap();
            assert_eq!(text(answer).await, format!("{HOST} 1 {size}"));
        }
    });
    futures::future::join_all(requests).await;
    let mut client = client;
    let api = soon(client.send_request(Request::get("http://localhost/x").body(empty()).unwrap()))
        .await
        .unwrap();
    assert_eq!(text(api).await, "api GET /x");
}

#[tokio::test]
async fn sixty_four_mebibytes_go_up_in_chunks() {
    let world = World::new().await;
    let count = server(|request| async move {
        let mut body = request.into_body();
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            count += frame.unwrap().into_data().unwrap().len();
        }
        Response::new(count.to_string())
    })
    .await;
    world.double.run(ID, [(3000, count)]);
    let chunks = futures::stream::iter(
        (0..1024).map(|_| Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(vec![7; 64 << 10])))),
    );
    let body = http_body_util::StreamBody::new(chunks).boxed();
    let answer = world
        .send(Request::put("/files").header("host", HOST).body(body).unwrap())
        .await;
    assert_eq!(text(answer).await, (64 << 20).to_string());
}
