//! Over a real socket: chunked and missing bodies, as the JavaScript SDK sends them.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{KEY, World};

async fn exchange(world: &World, request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = world.router.clone();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    server.abort();
    answer
}

#[tokio::test]
async fn a_chunked_body_is_read() {
    let world = World::new().await;
    let answer = exchange(
        &world,
        &format!(
            "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-KEY: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n\
             9\r\n{{\"templat\r\nc\r\neID\":\"base\"}}\r\n0\r\n\r\n"
        ),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

#[tokio::test]
async fn a_missing_body_is_fine_where_it_is_optional() {
    let world = World::new().await;
    let id = world.running().await;
    let request = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-KEY: {KEY}\r\n\r\n");
    let answer = exchange(&world, &request(&format!("/sandboxes/{id}/pause"))).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    let answer = exchange(&world, &request("/v2/sandboxes")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_cut_off_changes_nothing() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = world.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\nContent-Length: 100\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(br#"{"templateID":"base"}"#).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(world.engine.instances(), []);
}
