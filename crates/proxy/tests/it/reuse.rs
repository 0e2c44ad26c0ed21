//! Connections into sandboxes that carry several requests.

use dormouse_engine::InstanceId;
use tokio::io::AsyncReadExt as _;

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\ncontent-length: 2\n\nok";

/// Sends a request from a client of its own and returns the answer's head and body.
async fn ask(world: &World, request: &str) -> String {
    world
        .ask(&request.replacen('\n', &format!("\nhost: {HOST}\nconnection: close\n"), 1))
        .await
}

/// A world whose pool has one connection to the player's port.
async fn kept() -> (World, Player, Wire) {
    let (world, player) = World::with_player().await;
    let (answer, mut sandbox) = tokio::join!(ask(&world, "GET /1 HTTP/1.1\n\n"), async {
        let (mut sandbox, _) = player.request().await;
        sandbox.say(OK).await;
        sandbox
    });
    assert!(answer.ends_with("\n\nok"));
    // The client has the whole answer, but the connection may not be back in the pool yet: it is when it carries the next request.
    loop {
        let before = world.double.dials();
        let (answer, next) = tokio::join!(ask(&world, "GET /warm HTTP/1.1\n\n"), next_request(&player, sandbox));
        assert!(answer.ends_with("\n\nok"));
        sandbox = next;
        if world.double.dials() == before {
            return (world, player, sandbox);
        }
    }
}

/// Answers the next request, on the kept connection or on a new one, and returns the one that it came on.
async fn next_request(player: &Player, mut old: Wire) -> Wire {
    let mut first = [0];
    let mut new = tokio::select! {
        biased;
        read = old.0.read(&mut first) => {
            assert_eq!(read.unwrap(), 1);
            old
        }
        new = player.accept() => new,
    };
    new.head().await;
    new.say(OK).await;
    new
}

#[tokio::test]
async fn harmless_requests_share_a_connection() {
    let (world, _player, mut sandbox) = kept().await;
    let dials = world.double.dials();
    let (answer, ()) = tokio::join!(ask(&world, "HEAD /2 HTTP/1.1\n\n"), async {
        assert!(sandbox.head().await.starts_with("HEAD /2 "));
        sandbox.say("HTTP/1.1 200 OK\ncontent-length: 2\n\n").await;
    });
    assert!(answer.starts_with("HTTP/1.1 200 OK\n"));
    assert_eq!(world.double.dials(), dials);
}

#[tokio::test]
async fn others_get_one_of_their_own() {
    let (world, player, _sandbox) = kept().await;
    for request in [
        "POST /2 HTTP/1.1\ncontent-length: 0\n\n",
        "PUT /2 HTTP/1.1\ncontent-length: 2\n\nhi",
        "GET /2 HTTP/1.1\ncontent-length: 2\n\nhi",
    ] {
        let (answer, _) = tokio::join!(ask(&world, request), async {
            let (mut sandbox, head) = player.request().await;
            assert!(head.contains(" /2 "), "{head}");
            sandbox.say(OK).await;
            sandbox
        });
        assert!(answer.ends_with("\n\nok"), "{answer}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_turns_out_closed_is_replaced() {
    let (world, player, sandbox) = kept().await;
    let (answer, ()) = tokio::join!(ask(&world, "GET /2 HTTP/1.1\n\n"), async {
        let mut sandbox = sandbox;
        // As late as can be: the request has been written.
        assert!(sandbox.head().await.starts_with("GET /2 "));
        drop(sandbox);
        let (mut sandbox, head) = player.request().await;
        assert!(head.starts_with("GET /2 "));
        sandbox.say(OK).await;
    });
    assert!(answer.ends_with("\n\nok"), "{answer}");
}

#[tokio::test]
async fn once_is_enough() {
    let (world, player, sandbox) = kept().await;
    let (answer, ()) = tokio::join!(ask(&world, "GET /2 HTTP/1.1\n\n"), async {
        let mut sandbox = sandbox;
        sandbox.head().await;
        drop(sandbox);
        drop(player.request().await);
    });
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn another_run_gets_other_connections() {
    let (world, player, _sandbox) = kept().await;
    world.double.change(ID, |sandbox| sandbox.route.run += 1);
    let (answer, ()) = tokio::join!(ask(&world, "GET /2 HTTP/1.1\n\n"), async {
        let (mut sandbox, _) = player.request().await;
        sandbox.say(OK).await;
    });
    assert!(answer.ends_with("\n\nok"));
}

#[tokio::test]
async fn another_instance_gets_other_connections() {
    let (world, player, _sandbox) = kept().await;
    world
        .double
        .change(ID, |sandbox| sandbox.route.instance = InstanceId::random());
    let (answer, ()) = tokio::join!(ask(&world, "GET /2 HTTP/1.1\n\n"), async {
        let (mut sandbox, _) = player.request().await;
        sandbox.say(OK).await;
    });
    assert!(answer.ends_with("\n\nok"));
}

#[tokio::test]
async fn kept_connections_are_closed_when_the_sandbox_goes() {
    let (world, _player, mut sandbox) = kept().await;
    world.double.kill(ID);
    assert_eq!(sandbox.rest().await, "");
}

#[tokio::test]
async fn kept_connections_are_closed_after_a_while() {
    let world = World::with(|config| config.upstream_idle = std::time::Duration::from_millis(20)).await;
    let player = Player::new().await;
    world.double.run(ID, [(3000, player.address)]);
    let (_, mut sandbox) = tokio::join!(ask(&world, "GET /1 HTTP/1.1\n\n"), async {
        let (mut sandbox, _) = player.request().await;
        sandbox.say(OK).await;
        sandbox
    });
    assert_eq!(sandbox.rest().await, "");
}

#[tokio::test]
async fn calls_of_the_agent_share_connections_whatever_they_are() {
    let (world, player) = World::with_player().await;
    let call = "POST /process.Process/List HTTP/1.1\nhost: 49983-i1abc.box.example\ncontent-length: 2\n\n{}";
    let mut client = world.connect().await;
    client.say(call).await;
    let (mut sandbox, _) = player.request().await;
    loop {
        sandbox.hear("{}").await;
        sandbox.say(OK).await;
        client.head().await;
        client.hear("ok").await;
        let dials = world.double.dials();
        client.say(call).await;
        let mut first = [0];
        tokio::select! {
            biased;
            read = sandbox.0.read(&mut first) => assert_eq!(read.unwrap(), 1),
            new = player.accept() => sandbox = new,
        }
        sandbox.head().await;
        if world.double.dials() == dials {
            break;
        }
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_closes_its_connection() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, _) = player.request().await;
    sandbox.say("HTTP/1.1 200 OK\ncontent-length: 100\n\nbegin").await;
    client.head().await;
    client.hear("begin").await;
    drop(client);
    assert_eq!(sandbox.rest().await, "");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_closes_its_connection() {
    let (world, player) = World::with_player().await;
    let mut client = world.connect().await;
    client.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (mut sandbox, _) = player.request().await;
    drop(client);
    assert_eq!(sandbox.rest().await, "");
}
