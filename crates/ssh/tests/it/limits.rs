//! What those may take who have not shown a key.

use std::time::Duration;

use dormouse_ssh::SshConfig;
use dormouse_store::TeamId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::World;

/// Everything until the server closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

#[tokio::test]
async fn who_says_nothing_is_cut_off() {
    let world = World::new(SshConfig {
        login_grace: Duration::from_millis(200),
        ..SshConfig::default()
    })
    .await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    assert!(read_to_end(&mut silent).await.starts_with(b"SSH-2.0-Dormouse\r\n"));
    // One that begins the protocol and then stops.
    let mut stopping = TcpStream::connect(world.address).await.unwrap();
    stopping.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    assert!(read_to_end(&mut stopping).await.starts_with(b"SSH-2.0-Dormouse\r\n"));
    // One that has agreed on keys and never logs in.
    let client = world.connect().await.unwrap();
    client.await.unwrap_or(());
}

#[tokio::test]
async fn garbage_is_cut_off_and_others_are_served() {
    let world = World::new(SshConfig::default()).await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 100_000],
        b"SSH-2.0-test\r\n\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        read_to_end(&mut stream).await;
    }
    let key = world.key(1, &[TeamId::FIRST]).await;
    assert!(world.login("inosuchsandbox", key).await.is_some());
}

#[tokio::test]
async fn there_are_only_so_many_without_a_login() {
    let world = World::new(SshConfig {
        most_startups_of_one: 2,
        ..SshConfig::default()
    })
    .await;
    let key = world.key(1, &[TeamId::FIRST]).await;
    // Those who are logged in do not count.
    let _in = [
        world.login("inosuchsandbox", key.clone()).await.unwrap(),
        world.login("inosuchsandbox", key).await.unwrap(),
    ];
    let mut greeting = [0; 18];
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.read_exact(&mut greeting).await.unwrap();
        waiting.push(stream);
    }
    let mut third = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(read_to_end(&mut third).await, b"");
}

#[tokio::test]
async fn a_connection_has_only_so_many_channels() {
    let world = World::new(SshConfig {
        most_channels: 2,
        ..SshConfig::default()
    })
    .await;
    let key = world.key(1, &[TeamId::FIRST]).await;
    let client = world.login("inosuchsandbox", key).await.unwrap();
    let first = client.channel_open_session().await.unwrap();
    let _second = client.channel_open_session().await.unwrap();
    assert!(client.channel_open_session().await.is_err());
    first.close().await.unwrap();
    // The close is handled before the open that follows it.
    assert!(client.channel_open_session().await.is_ok());
}
