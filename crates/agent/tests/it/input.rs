//! Feeding processes, and terminals (contract 3.5).

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Agent, Events, envelope};

fn cat() -> Value {
    json!({"process": {"cmd": "/bin/cat"}})
}

fn send(agent: &Agent, pid: u64, kind: &str, bytes: &[u8]) -> crate::support::Answer {
    let body = json!({"process": {"pid": pid}, "input": {kind: STANDARD.encode(bytes)}});
    agent.call("process.Process/SendInput", &body)
}

#[test]
fn input_arrives_as_it_is() {
    let agent = Agent::start();
    let body = json!({"process": {"cmd": "/bin/sh", "args": ["-c", "cat; sleep 1"]}});
    let mut events = agent.start_process(&body, &[]);
    let pid = events.pid();
    assert_eq!(send(&agent, pid, "stdin", "h\0é\n".as_bytes()).status, 200);
    for _ in 0..2 {
        assert_eq!(
            agent
                .call("process.Process/CloseStdin", &json!({"process": {"pid": pid}}))
                .status,
            200
        );
    }
    send(&agent, pid, "pty", b"x").assert_error(500, "internal", "tty not assigned to process");
    let outcome = events.outcome();
    assert_eq!(outcome.assert_exit(0).stdout, "h\0é\n");
    send(&agent, pid, "stdin", b"x").assert_error(404, "not_found", "not found");
}

/// The first close may end the process, and the second one then came too late.
#[test]
fn closing_twice_is_no_error_even_when_the_first_time_was_the_end() {
    let agent = Agent::start();
    let mut events = agent.start_process(&cat(), &[]);
    let pid = events.pid();
    let close = || agent.call("process.Process/CloseStdin", &json!({"process": {"pid": pid}}));
    assert_eq!(close().status, 200);
    events.outcome().assert_exit(0);
    assert_eq!(close().status, 200);
    let unknown = agent.call("process.Process/CloseStdin", &json!({"process": {"pid": 999_999_999}}));
    unknown.assert_error(404, "not_found", "not found");
}

#[test]
fn input_can_be_refused_from_the_start() {
    let agent = Agent::start();
    let mut events = agent.start_process(&json!({"process": {"cmd": "/bin/sleep", "args": ["1"]}, "stdin": false}), &[]);
    let pid = events.pid();
    send(&agent, pid, "stdin", b"x").assert_error(500, "internal", "stdin not enabled or closed");
    agent
        .call(
            "process.Process/Update",
            &json!({"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}}),
        )
        .assert_error(500, "internal", "tty not assigned");
}

#[test]
fn input_can_be_streamed() {
    let agent = Agent::start();
    let mut events = agent.start_process(&cat(), &[]);
    let pid = events.pid();
    let headers = [("content-type", "application/connect+json"), ("transfer-encoding", "chunked")];
    let mut stream = agent.send("POST", "/process.Process/StreamInput", &headers, b"");
    let mut say = |message: &Value| {
        let envelope = envelope(message);
        let chunk = [format!("{:x}\r\n", envelope.len()).as_bytes(), &envelope, b"\r\n"].concat();
        stream.write_all(&chunk).expect("sent");
    };
    say(&json!({"start": {"process": {"pid": pid}}}));
    for word in ["one ", "two ", "three"] {
        say(&json!({"data": {"input": {"stdin": STANDARD.encode(word)}}}));
        say(&json!({"keepalive": {}}));
    }
    stream.write_all(b"0\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(!text.contains("error"), "{text}");
    assert_eq!(
        agent
            .call("process.Process/CloseStdin", &json!({"process": {"pid": pid}}))
            .status,
        200
    );
    assert_eq!(events.outcome().stdout, "one two three");
}

/// Reads terminal output until it contains `wanted`.
fn read_until(events: &mut Events, wanted: &str) -> String {
    let mut seen = String::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !seen.contains(wanted) {
        assert!(Instant::now() < deadline, "no {wanted:?} in {seen:?}");
        let message = events.message();
        if let Some(data) = message["event"]["data"]["pty"].as_str() {
            seen.push_str(&String::from_utf8_lossy(&STANDARD.decode(data).expect("base64")));
        }
    }
    seen
}

#[test]
fn terminals_are_terminals() {
    let agent = Agent::start();
    let body = json!({
        "process": {"cmd": "/bin/bash", "args": ["--norc", "-i"], "envs": {"PS1": "", "TERM": "xterm-256color"}},
        "pty": {"size": {"cols": 80, "rows": 24}},
    });
    let mut events = agent.start_process(&body, &[]);
    let pid = events.pid();
    let say = |text: &str| assert_eq!(send(&agent, pid, "pty", text.as_bytes()).status, 200);
    say("stty size; tty\n");
    let seen = read_until(&mut events, "/dev/pts/");
    assert!(seen.contains("24 80"), "{seen}");
    let size = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 133, "rows": 40}}});
    assert_eq!(agent.call("process.Process/Update", &size).status, 200);
    say("stty size\n");
    read_until(&mut events, "40 133");
    say("sleep 100\n");
    std::thread::sleep(Duration::from_millis(300));
    say("\x03");
    say("echo interrupted $?\n");
    read_until(&mut events, "interrupted 130");
    send(&agent, pid, "stdin", b"x").assert_error(500, "internal", "tty assigned to process");
    agent
        .call("process.Process/CloseStdin", &json!({"process": {"pid": pid}}))
        .assert_error(500, "unknown", "PTY");
    // A follower that comes later sees what comes later.
    drop(events);
    let mut again = agent.open("process.Process/Connect", &json!({"process": {"pid": pid}}), &[]);
    assert_eq!(again.pid(), pid);
    say("echo again; exit 4\n");
    read_until(&mut again, "again");
    again.outcome().assert_exit(4);
}
