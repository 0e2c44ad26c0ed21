//! Starting, following and ending processes (contract 3.4, 3.5).

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Agent, root_or_skip};

fn shell(script: &str) -> Value {
    json!({"process": {"cmd": "/bin/bash", "args": ["-c", script]}, "stdin": false})
}

fn kill(agent: &Agent, pid: u64) -> u16 {
    let body = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    agent.call("process.Process/SendSignal", &body).status
}

#[test]
fn a_command_starts_speaks_and_ends() {
    let agent = Agent::start();
    let mut events = agent.start_process(&shell("echo out; echo err >&2; exit 3"), &[]);
    let head = events.head().to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/connect+json"), "{head}");
    assert!(!head.contains("content-encoding: gzip"), "{head}");
    let outcome = events.outcome();
    assert!(outcome.pid > 0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    let end = json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"});
    assert_eq!((outcome.end, outcome.error), (Some(end), None));
    let success = agent.run(None, "true");
    let end = success.assert_exit(0).end.as_ref().expect("ended");
    assert_eq!((end["status"].as_str(), end.get("error")), (Some("exit status 0"), None));
}

#[test]
fn python_headers_are_taken() {
    let agent = Agent::start();
    let headers = [
        ("connect-content-encoding", "identity"),
        ("connect-accept-encoding", "identity"),
        ("accept-encoding", "zstd,gzip,br"),
    ];
    agent.start_process(&shell("true"), &headers).outcome().assert_exit(0);
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "identity"),
        ("connect-timeout-ms", "60000"),
    ];
    assert_eq!(agent.request("POST", "/process.Process/List", &headers, b"{}").status, 200);
}

#[test]
fn the_start_event_does_not_wait_for_output() {
    let agent = Agent::start();
    let before = Instant::now();
    let mut events = agent.start_process(&shell("sleep 5"), &[]);
    let pid = events.pid();
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    assert_eq!(kill(&agent, pid), 200);
}

#[test]
fn a_killed_process_is_reaped_and_forgotten() {
    let agent = Agent::start();
    let mut events = agent.start_process(&shell("sleep 100; true"), &[]);
    let pid = events.pid();
    assert_eq!(kill(&agent, pid), 200);
    let end = json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"});
    let mut outcome = events.outcome();
    // `exited` is false, and may be left out.
    outcome
        .end
        .as_mut()
        .and_then(Value::as_object_mut)
        .map(|end| end.remove("exited"));
    assert_eq!(outcome.end, Some(end));
    agent
        .call(
            "process.Process/SendSignal",
            &json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}),
        )
        .assert_error(404, "not_found", &format!("process with pid {pid} not found"));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "no zombie");
    assert_eq!(agent.call("process.Process/List", &json!({})).json().get("processes"), None);
}

#[test]
fn late_followers_hear_of_the_end() {
    let agent = Agent::start();
    let outcome = agent.run(None, "exit 7");
    let again = agent
        .open("process.Process/Connect", &json!({"process": {"pid": outcome.pid}}), &[])
        .outcome();
    assert_eq!((again.pid, &again.end), (outcome.pid, &outcome.end));
    let nobody = agent
        .open("process.Process/Connect", &json!({"process": {"pid": 999_999_999}}), &[])
        .outcome();
    let error = nobody.error.expect("an error");
    assert_eq!(
        (error["code"].as_str(), error["message"].as_str()),
        (Some("not_found"), Some("process with pid 999999999 not found"))
    );
}

#[test]
fn followers_may_leave_and_come_back() {
    let agent = Agent::start();
    let mut body = shell("sleep 0.3; echo later");
    body["tag"] = json!("mine");
    let mut first = agent.start_process(&body, &[]);
    let pid = first.pid();
    drop(first);
    let list = agent.call("process.Process/List", &json!({})).json();
    assert_eq!(
        (list["processes"][0]["pid"].as_u64(), list["processes"][0]["tag"].as_str()),
        (Some(pid), Some("mine"))
    );
    assert_eq!(list["processes"][0]["config"]["cmd"], "/bin/bash");
    let by_tag = agent
        .open("process.Process/Connect", &json!({"process": {"tag": "mine"}}), &[])
        .outcome();
    assert_eq!((by_tag.pid, by_tag.line()), (pid, "later"));
}

#[test]
fn descendants_may_go_on_writing() {
    let agent = Agent::start();
    assert_eq!(agent.run(None, "(sleep 0.3; echo late) & echo now").stdout, "now\nlate\n");
    let mut events = agent.start_process(&shell("sleep 20 & echo up; wait"), &[]);
    let pid = events.pid();
    let _up = events.message();
    let before = Instant::now();
    assert_eq!(kill(&agent, pid), 200);
    assert!(events.outcome().end.is_some());
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "a killed process does not wait for them"
    );
}

#[test]
fn time_limits_kill() {
    let agent = Agent::start();
    let mut events = agent.start_process(&shell("echo $$; exec sleep 100"), &[("connect-timeout-ms", "500")]);
    let pid = events.pid();
    let outcome = events.outcome();
    assert_eq!(outcome.error.expect("an error")["code"], "deadline_exceeded");
    assert_eq!(outcome.end, None);
    let gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(soon(gone), "the process is killed");
    // Also when nobody follows any more.
    let mut events = agent.start_process(&shell("exec sleep 100"), &[("connect-timeout-ms", "500")]);
    let pid = events.pid();
    drop(events);
    assert!(soon(|| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
}

#[test]
fn a_time_limit_of_a_follower_spares_the_process() {
    let agent = Agent::start();
    let mut events = agent.start_process(&shell("sleep 1; echo done"), &[]);
    let pid = events.pid();
    let follower = agent.open(
        "process.Process/Connect",
        &json!({"process": {"pid": pid}}),
        &[("connect-timeout-ms", "200")],
    );
    assert_eq!(follower.outcome().error.expect("an error")["code"], "deadline_exceeded");
    assert_eq!(events.outcome().line(), "done");
}

#[test]
fn silence_is_broken_on_request() {
    let agent = Agent::start();
    let mut events = agent.start_process(&shell("sleep 1.5"), &[("keepalive-ping-interval", "1")]);
    events.pid();
    assert_eq!(events.message(), json!({"event": {"keepalive": {}}}));
}

#[test]
fn chunks_are_small_and_complete() {
    let agent = Agent::start();
    let mut events = agent.start_process(&shell("head -c 1000000 /dev/zero | tr '\\0' x"), &[]);
    events.pid();
    let mut total = 0;
    while let Some((false, message)) = events.next() {
        let Some(data) = message["event"]["data"]["stdout"].as_str() else {
            continue;
        };
        assert!(data.len() <= (32 << 10) * 4 / 3 + 4, "{}", data.len());
        total += data.len() / 4 * 3 - data.bytes().rev().take_while(|byte| *byte == b'=').count();
    }
    assert_eq!(total, 1_000_000);
}

#[test]
fn a_reader_that_stops_stops_the_process() {
    let agent = Agent::start();
    let counter = agent.root.path().join("home/count");
    let script = format!(
        "for i in {{1..4000}}; do head -c 65536 /dev/zero; echo $i > {}; done",
        counter.display()
    );
    let mut events = agent.start_process(&shell(&script), &[]);
    let pid = events.pid();
    let read = || std::fs::read_to_string(&counter).unwrap_or_default();
    std::thread::sleep(Duration::from_secs(2));
    let stalled = read();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(read(), stalled, "the process waits");
    assert!(resident(agent.pid()) < 64 << 20, "{} bytes", resident(agent.pid()));
    assert_eq!(kill(&agent, pid), 200);
    drop(events);
    assert_eq!(agent.get("/health").status, 204);
}

#[test]
fn bad_requests_are_explained() {
    let agent = Agent::start();
    for (process, expected) in [
        (
            json!({"cmd": "/bin/true", "cwd": "/no/such"}),
            "cwd '/no/such' does not exist",
        ),
        (json!({"cmd": "no-such-program"}), "executable file not found"),
        (json!({"cmd": "/etc/passwd"}), "permission denied"),
        (
            json!({"cmd": "/bin/true", "cwd": "~root"}),
            "cannot expand user-specific home dir",
        ),
    ] {
        let error = agent
            .start_process(&json!({"process": process}), &[])
            .outcome()
            .error
            .expect("an error");
        assert_eq!(error["code"], "invalid_argument");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{message}");
    }
    let error = agent.run(Some("root123"), "true").error.expect("an error");
    assert_eq!(
        error,
        json!({"code": "unauthenticated", "message": "invalid username: 'root123'"})
    );
}

#[test]
fn environment_is_composed() {
    let agent = Agent::start();
    let body = json!({"sandboxId": "i1", "templateId": "t1", "hostname": "", "envVars": {"A": "sandbox", "B": "sandbox"}});
    let headers = [("content-type", "application/json")];
    assert_eq!(
        agent
            .request("POST", "/init", &headers, &serde_json::to_vec(&body).expect("JSON"))
            .status,
        204
    );
    let process = json!({"cmd": "/usr/bin/env", "envs": {"B": "request"}});
    let stdout = agent
        .start_process(&json!({"process": process, "stdin": false}), &[])
        .outcome()
        .stdout;
    let home = agent.root.path().join("home").display().to_string();
    for line in [
        "A=sandbox",
        "B=request",
        "USER=user",
        "LOGNAME=user",
        &format!("HOME={home}"),
        "E2B_SANDBOX=true",
        "E2B_SANDBOX_ID=i1",
        "E2B_TEMPLATE_ID=t1",
    ] {
        assert!(stdout.lines().any(|have| have == line), "{line} is not in {stdout}");
    }
    assert_eq!(stdout.lines().count(), 9, "nothing else but PATH: {stdout}");
}

#[test]
fn processes_are_the_users_and_inherit_nothing() {
    if !root_or_skip("becoming another user") {
        return;
    }
    let agent = Agent::start();
    let script = "id -u; id -g; id -G; ls /proc/$$/fd | tr '\\n' ' '; echo; grep -E '^Sig(Blk|Ign)' /proc/self/status; pwd";
    let outcome = agent.run(None, script);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["1000", "1000", "1000 27"]);
    assert_eq!(lines[3].trim(), "0 1 2", "a descriptor leaks");
    let mask = |name: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.expect("a mask").trim(), 16).expect("a number")
    };
    // 32 and 33 are the C library's.
    assert_eq!((mask("SigBlk:"), mask("SigIgn:") & !(3 << 31)), (0, 0), "{outcome:?}");
    assert_eq!(
        lines.last().copied(),
        Some(agent.root.path().join("home").to_str().expect("text"))
    );
    assert_eq!(agent.run(Some("root"), "id -u; pwd").stdout, "0\n/root\n");
}

/// A user who was made later could run nothing without naming a directory.
#[test]
fn a_closed_default_directory_gives_way_to_the_home() {
    if !root_or_skip("a directory that is closed to the user") {
        return;
    }
    let agent = Agent::start();
    let closed = agent.root.path().join("closed");
    std::fs::create_dir(&closed).expect("made");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("closed");
    let identity = json!({"sandboxId": "i1", "templateId": "t1", "hostname": "h", "defaultWorkdir": closed});
    let headers = [("content-type", "application/json")];
    let answer = agent.request("POST", "/init", &headers, identity.to_string().as_bytes());
    assert_eq!(answer.status, 204);
    assert_eq!(agent.run(Some("root"), "pwd").line(), closed.to_str().expect("text"));
    assert_eq!(
        agent.run(None, "pwd").line().trim_end_matches('/'),
        agent.home("").to_str().expect("text").trim_end_matches('/')
    );
}

#[test]
fn orphans_are_reaped() {
    let agent = Agent::start();
    let outcome = agent.run(None, "(setsid sleep 0.2 > /dev/null 2>&1 & echo $!)");
    let pid = outcome.line().to_owned();
    assert!(
        soon(|| !std::path::Path::new(&format!("/proc/{pid}")).exists()),
        "{pid} stays"
    );
}

#[test]
fn many_commands_at_once() {
    let agent = Agent::start();
    std::thread::scope(|scope| {
        for number in 0..40 {
            let agent = &agent;
            scope.spawn(move || assert_eq!(agent.run(None, &format!("echo {number}")).stdout, format!("{number}\n")));
        }
    });
}

fn soon(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.split_whitespace()
        .next()
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .expect("a number")
        << 10
}
