//! The host's way to loopback ports, and its client (contract 3.7).

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use dormouse_agent_client::{Caller, Command, Error, init, metrics, open_tunnel, wait_healthy};
use dormouse_agent_proto::InitRequest;
use dormouse_agent_proto::oneof::{Output, ProcessEventKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::Agent;

/// Answers one connection with what it is sent, in upper case.
fn shout(address: &str) -> u16 {
    let listener = TcpListener::bind(address).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let _ = stream.write_all(&buffer[..length].to_ascii_uppercase());
        }
    });
    port
}

async fn through(agent: &Agent, port: u16) -> Result<String, Error> {
    let stream = TcpStream::connect(agent.address).await.expect("the agent listens");
    let mut tunnel = open_tunnel(stream, port).await?;
    tunnel.write_all(b"hello").await.expect("sent");
    tunnel.shutdown().await.expect("half closed");
    let mut text = String::new();
    tunnel.read_to_string(&mut text).await.expect("answered");
    Ok(text)
}

#[tokio::test]
async fn loopback_ports_are_reached() {
    let agent = Agent::start();
    assert_eq!(through(&agent, shout("127.0.0.1:0")).await.expect("open"), "HELLO");
    match TcpListener::bind("[::1]:0") {
        Ok(_) => assert_eq!(through(&agent, shout("[::1]:0")).await.expect("open"), "HELLO"),
        Err(error) => println!("skipped: no IPv6 here ({error})"),
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("free")
        .port();
    let error = through(&agent, closed).await.expect_err("nobody listens");
    assert!(matches!(error, Error::PortClosed { port } if port == closed), "{error}");
}

#[tokio::test]
async fn tunnels_are_for_the_control_peer() {
    let agent = Agent::with_control_peer("192.0.2.1");
    let error = through(&agent, 1).await.expect_err("refused");
    assert!(matches!(error, Error::Refused { status, .. } if status == 404), "{error}");
}

#[tokio::test]
async fn the_client_speaks_the_agents_language() {
    let agent = Agent::start();
    let connect = || TcpStream::connect(agent.address);
    wait_healthy(connect, std::time::Duration::from_secs(5))
        .await
        .expect("healthy");
    let request = InitRequest {
        sandbox_id: "i1".into(),
        access_token: Some("tok".into()),
        ..InitRequest::default()
    };
    for _ in 0..2 {
        init(connect().await.expect("open"), &request).await.expect("accepted");
    }
    let numbers = metrics(connect().await.expect("open"), Some("tok")).await.expect("answered");
    assert!(
        numbers.cpu_count > 0 && numbers.mem_total > numbers.mem_used && numbers.disk_total > 0,
        "{numbers:?}"
    );
    let refused = metrics(connect().await.expect("open"), None).await.expect_err("no token");
    assert!(matches!(refused, Error::Refused { status, .. } if status == 401), "{refused}");

    let caller = Caller {
        access_token: Some("tok"),
        ..Caller::default()
    };
    let command = Command::shell("echo $WORD; exit 2").env("WORD", "hi").cwd("/");
    let mut events = command.start(connect().await.expect("open"), caller).await.expect("started");
    let (mut output, mut code) = (Vec::new(), None);
    while let Some(event) = events.next().await.expect("well formed") {
        match event.event {
            Some(ProcessEventKind::Data(data)) => match data.output {
                Some(Output::Stdout(bytes)) => output.extend(bytes),
                other => panic!("{other:?}"),
            },
            Some(ProcessEventKind::End(end)) => code = Some(end.exit_code),
            _ => {}
        }
    }
    assert_eq!((output.as_slice(), code), (&b"hi\n"[..], Some(2)));

    let nobody = Caller {
        user: Some("root123"),
        ..caller
    };
    let mut events = command.start(connect().await.expect("open"), nobody).await.expect("answered");
    let error = events.next().await.expect_err("no such user");
    assert_eq!(
        error.to_string(),
        "the sandbox's agent reports unauthenticated: invalid username: 'root123'"
    );
}
