//! sudo, as the sandbox's user calls it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::{Agent, Outcome, root_or_skip};

/// An agent and a directory with its sudo. None without root.
fn with_sudo() -> Option<Agent> {
    if !root_or_skip("sudo") {
        return None;
    }
    let agent = Agent::start();
    // A copy: the user of the sandbox cannot reach the build's directory.
    let sudo = agent.root.path().join("sudo");
    std::fs::copy(env!("CARGO_BIN_EXE_dormouse-agent"), &sudo).expect("copied");
    Some(agent)
}

fn prelude(agent: &Agent) -> String {
    let root = agent.root.path().display();
    format!("export PATH={root}:$PATH DORMOUSE_AGENT_ETC={root}/etc DORMOUSE_AGENT_RUN={root}/run; ")
}

fn run(agent: &Agent, script: &str) -> Outcome {
    agent.run(None, &(prelude(agent) + script))
}

#[track_caller]
fn check(agent: &Agent, script: &str, stdout: &str) {
    let outcome = run(agent, script);
    assert_eq!(outcome.assert_exit(0).stdout, stdout, "{script}: {outcome:?}");
}

#[test]
fn becomes_root_and_others() {
    let Some(agent) = with_sudo() else { return };
    check(&agent, "sudo id -u", "0\n");
    check(&agent, "sudo -n -- id -G", "0\n");
    check(&agent, "sudo -u user id -G", "1000 27\n");
    check(&agent, "sudo -u '#4242' id -u", "4242\n");
    check(
        &agent,
        "sudo sh -c 'grep CapEff /proc/self/status' | cut -f2 | grep -c '^0*$' || true",
        "0\n",
    );
    check(&agent, "cd /tmp && sudo pwd", "/tmp\n");
    check(&agent, "sudo -i pwd", "/root\n");
    check(&agent, "sudo -s echo '$HOME' 'a  b'", "/root a  b\n");
    check(&agent, "sudo -v && sudo -l | tail -1", "    (ALL : ALL) NOPASSWD: ALL\n");
    check(
        &agent,
        "sudo -k; sudo --user=root sudo -u user id -u 2>&1 | head -1",
        "sudo: sudo: command not found\n",
    );
}

#[test]
fn environment_is_reset_or_kept() {
    let Some(agent) = with_sudo() else { return };
    check(
        &agent,
        "SECRET=1 sudo sh -c 'echo $SECRET $HOME $USER $SUDO_USER $SUDO_UID'",
        "/root root user 1000\n",
    );
    check(&agent, "SECRET=1 sudo -E sh -c 'echo $SECRET'", "1\n");
    check(&agent, "sudo X=2 sh -c 'echo $X'", "2\n");
}

#[test]
fn ends_as_its_command_does() {
    let Some(agent) = with_sudo() else { return };
    run(&agent, "sudo sh -c 'exit 7'").assert_exit(7);
    let killed = run(&agent, "exec sudo sh -c 'kill -9 $$'");
    assert_eq!(killed.end.expect("ended")["status"], "signal: killed");
    let terminated = run(&agent, "exec sudo sh -c 'kill -TERM $$'");
    assert_eq!(terminated.end.expect("ended")["status"], "signal: terminated");
    let missing = run(&agent, "sudo no-such-command");
    assert_eq!(missing.assert_exit(1).stderr, "sudo: no-such-command: command not found\n");
    let nobody = run(&agent, "sudo -u nobody-here id");
    assert_eq!(nobody.assert_exit(1).stderr, "sudo: unknown user nobody-here\n");
}

#[test]
fn pipes_pass_through() {
    let Some(agent) = with_sudo() else { return };
    check(&agent, "echo in | sudo cat", "in\n");
    check(&agent, "sudo sh -c 'echo out; echo err >&2' 2>/dev/null", "out\n");
    check(&agent, "head -c 3000000 /dev/zero | sudo cat | wc -c", "3000000\n");
    check(&agent, "echo text | sudo tee f > /dev/null; sudo rm f; ls", "");
}

#[test]
fn signals_reach_the_command() {
    let Some(agent) = with_sudo() else { return };
    let script = "sudo bash -c 'trap \"echo trapped; exit 5\" TERM; echo up; while :; do sleep 0.1; done' & \
        sleep 1; kill -TERM $!; wait $!; echo $?";
    check(&agent, script, "up\ntrapped\n5\n");
}

#[test]
fn a_command_does_not_outlive_a_killed_client() {
    let Some(agent) = with_sudo() else { return };
    let outcome = run(
        &agent,
        "sudo sh -c 'echo $$; exec sleep 100' > pid & sleep 1; kill -9 $!; cat pid",
    );
    let pid = outcome.line().to_owned();
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "{pid} stays: {outcome:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    check(&agent, "sudo -b sh -c 'sleep 0.5; touch done'; sleep 1.5; ls", "done\npid\n");
}

#[test]
fn strangers_are_refused() {
    let Some(agent) = with_sudo() else { return };
    let passwd = agent.root.path().join("etc/passwd");
    let mut text = std::fs::read_to_string(&passwd).expect("readable");
    text.push_str("other:x:2000:2000::/:/bin/sh\n");
    std::fs::write(passwd, text).expect("written");
    let outcome = agent.run(Some("other"), &(prelude(&agent) + "sudo id"));
    assert_eq!(outcome.assert_exit(1).stderr, "sudo: other is not in the sudoers file.\n");
}

#[test]
fn a_terminal_stays_usable() {
    let Some(agent) = with_sudo() else { return };
    let body = json!({
        "process": {"cmd": "/bin/bash", "args": ["--norc", "-i"], "envs": {"PS1": "ready> ", "TERM": "xterm"}},
        "pty": {"size": {"cols": 80, "rows": 24}},
    });
    let mut events = agent.start_process(&body, &[]);
    let pid = events.pid();
    let seen = RefCell::new(String::new());
    // The last line before a prompt and the prompt may arrive apart: what is typed between them can reach the wrong shell.
    let mut step = |line: &str, wanted: &[&str]| {
        let body = json!({"process": {"pid": pid}, "input": {"pty": STANDARD.encode(line)}});
        assert_eq!(agent.call("process.Process/SendInput", &body).status, 200);
        let mut start = seen.borrow().len();
        for wanted in wanted {
            loop {
                let found = seen.borrow()[start..].find(wanted);
                if let Some(at) = found {
                    start += at + wanted.len();
                    break;
                }
                let Some((false, message)) = events.next() else {
                    panic!("no {wanted:?} after {line:?}: {}", seen.borrow());
                };
                let data = message["event"]["data"]["pty"].as_str().unwrap_or_default();
                seen.borrow_mut()
                    .push_str(&String::from_utf8_lossy(&STANDARD.decode(data).expect("base64")));
            }
        }
    };
    let sleeps = r#"bash -c 'echo asleep-$((5+5)); exec sleep 100'"#;
    step(&format!("{}echo $((1+0))-set\n", prelude(&agent)), &["1-set\r\n", "ready> "]);
    step("sudo bash --norc\n", &["ready> "]);
    step(
        "id -u; stty size; tty > /dev/null && echo has-$((1+1))-terminals\n",
        &["has-2-terminals\r\n", "ready> "],
    );
    step(&format!("{sleeps} || echo interrupted\n"), &["asleep-10"]);
    step("\x03", &["ready> "]);
    step("echo $((2+2))-alive\n", &["4-alive\r\n", "ready> "]);
    step("exit\n", &["exit", "exit\r\n", "ready> "]);
    step(
        "stty -a | grep -o ' icanon'; echo $((3+3))-back\n",
        &["6-back\r\n", "ready> "],
    );
    let seen_so_far = seen.borrow().clone();
    assert!(seen_so_far.contains("24 80"), "{seen_so_far}");
    assert!(seen_so_far.contains(" icanon"), "the terminal is as before: {seen_so_far}");
    step(&format!("sudo {sleeps}\n"), &["asleep-10"]);
    step("\x03", &["ready> "]);
    step("echo code-$?\n", &["code-130"]);
}
