//! Clients that do it right, and clients that do not.

use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Fixture, GREETING};

/// Sends bytes, and returns all that comes back until the server closes.
async fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

async fn works(fixture: &Fixture) {
    let mut stream = fixture.connect("api.box.test", &[]).await.unwrap();
    let mut greeting = Vec::new();
    stream.read_to_end(&mut greeting).await.unwrap();
    assert_eq!(greeting, GREETING);
}

#[tokio::test]
async fn clients_that_trust_the_authority_get_through_by_every_name() {
    let fixture = Fixture::new().await;
    for name in [
        "api.box.test",
        "3000-i1.box.test",
        "box.test",
        "3000-i1.localhost",
        "localhost",
        "127.0.0.1",
    ] {
        assert!(fixture.connect(name, &[]).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn the_version_of_http_is_agreed_on() {
    let fixture = Fixture::new().await;
    for (offered, expected) in [(["h2", "http/1.1"], Some("h2")), (["http/1.1", "http/1.0"], Some("http/1.1"))] {
        let stream = fixture.connect("api.box.test", &offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), expected.map(str::as_bytes));
    }
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_told_so() {
    let fixture = Fixture::new().await;
    for name in ["elsewhere.test", "a.b.box.test"] {
        let error = fixture.connect(name, &[]).await.unwrap_err().to_string();
        assert!(
            error.contains("UnrecognizedName") || error.contains("UnrecognisedName"),
            "{error}"
        );
    }
    works(&fixture).await;
}

#[tokio::test]
async fn nobody_gets_a_proof_that_is_not_under_way() {
    let fixture = Fixture::new().await;
    assert!(fixture.connect("api.box.test", &["acme-tls/1"]).await.is_err());
    let answer = say(
        fixture.plain,
        b"GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 404 "));
}

#[tokio::test]
async fn plain_http_is_answered_in_plain_http() {
    let fixture = Fixture::new().await;
    let port = fixture.address.port();
    let ask = b"GET /a?b HTTP/1.1\r\nHost: x.box.test:1\r\n\r\n";
    let on_https = String::from_utf8(say(fixture.address, ask).await).unwrap();
    assert!(
        on_https.starts_with("HTTP/1.1 308 ") && on_https.contains("https://x.box.test:1/a?b"),
        "{on_https}"
    );
    let on_plain = String::from_utf8(say(fixture.plain, ask).await).unwrap();
    assert!(
        on_plain.contains(&format!("location: https://x.box.test:{port}/a?b")),
        "{on_plain}"
    );
    let post = say(fixture.address, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(post.starts_with(b"HTTP/1.1 400 "));
    // HTTP/2 with prior knowledge.
    let prior = say(fixture.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!prior.starts_with(b"\x15"), "{prior:?}");
    works(&fixture).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_others_up() {
    let fixture = Fixture::new().await;
    let silent = TcpStream::connect(fixture.address).await.unwrap();
    works(&fixture).await;
    drop(silent);
    works(&fixture).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_server_goes_on_after_nonsense(first in prop::option::of(Just(22u8)), garbage in prop::collection::vec(any::<u8>(), 0..600)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let bytes: Vec<u8> = first.into_iter().chain(garbage).collect();
            say(fixture.address, &bytes).await;
            say(fixture.plain, &bytes).await;
            works(&fixture).await;
        });
    }
}
