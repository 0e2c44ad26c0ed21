//! Connections to ports.

use dormouse_agent_proto::AGENT_PORT;
use dormouse_ssh::SshConfig;
use dormouse_store::TeamId;
use russh::{ChannelOpenFailure, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::World;

#[tokio::test]
async fn a_port_of_a_sleeping_sandbox_is_reached() {
    let world = World::new(SshConfig::default()).await;
    let sandbox = world.sandbox(TeamId::FIRST).await;
    world.control.pause(TeamId::FIRST, &sandbox).await.unwrap();
    let key = world.key(1, &[TeamId::FIRST]).await;
    let client = world.login(sandbox.as_str(), key).await.unwrap();
    let channel = client
        .channel_open_direct_tcpip("localhost", 8000, "127.0.0.1", 1)
        .await
        .unwrap();
    let mut stream = channel.into_stream();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(sandbox.as_str()), "{answer}");
}

#[tokio::test]
async fn the_agents_port_and_other_hosts_are_refused() {
    let world = World::new(SshConfig::default()).await;
    let sandbox = world.sandbox(TeamId::FIRST).await;
    let key = world.key(1, &[TeamId::FIRST]).await;
    let client = world.login(sandbox.as_str(), key).await.unwrap();
    let targets = [
        ("localhost", u32::from(AGENT_PORT)),
        (sandbox.as_str(), u32::from(AGENT_PORT)),
        ("169.254.77.1", 80),
    ];
    for (host, port) in targets {
        let refused = client.channel_open_direct_tcpip(host, port, "127.0.0.1", 1).await;
        let prohibited = matches!(
            refused,
            Err(Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited))
        );
        assert!(prohibited, "{host}:{port}");
    }
}

#[tokio::test]
async fn a_forwarded_connection_ends_with_its_run() {
    let world = World::new(SshConfig::default()).await;
    let sandbox = world.sandbox(TeamId::FIRST).await;
    let key = world.key(1, &[TeamId::FIRST]).await;
    let client = world.login(sandbox.as_str(), key).await.unwrap();
    let channel = client
        .channel_open_direct_tcpip("localhost", 8000, "127.0.0.1", 1)
        .await
        .unwrap();
    let mut stream = channel.into_stream();
    world.control.kill(TeamId::FIRST, &sandbox).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}
