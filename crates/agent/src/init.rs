//! `POST /init`: becoming somebody (contract 3.3, 4.3).
//!
//! A warm create waits for this, so it touches only what differs from the identity before, and it starts no process.
//! What the sandbox's isolation does not allow (its clock, say) is left as it is: a sandbox with the host's idea of
//! time is better than none.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use dormouse_agent_proto::InitRequest;
use http::StatusCode;
use rustix::time::{ClockId, Timespec};

use crate::agent::Agent;
use crate::config::Config;
use crate::entropy;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::trust;

/// A clock that is less wrong than this is left alone: setting it would only make time jump.
const TOLERANCE: Duration = Duration::from_millis(50);

/// Marks the lines of `/etc/hosts` that are ours to replace.
const HOSTS_MARK: &str = "# sandbox";

/// Applies the request, then answers 204.
pub(crate) async fn init(State(agent): State<Arc<Agent>>, Json(mut request): Json<InitRequest>) -> Result<StatusCode, Failure> {
    let _turn = agent.initialising.lock().await;
    if let Some(timestamp) = request.timestamp {
        correct_clock(timestamp);
    }
    // Before anything of the new identity exists that might ask for a random number.
    if let Some(entropy) = request.entropy.take() {
        entropy::stir(&entropy);
    }
    let before = agent.identity.get();
    if before.request != request {
        apply(&agent.config, &before.request, &request).map_err(|error| Failure::io("applying the identity", &error))?;
        agent.identity.set(Identity::new(request));
    }
    Ok(StatusCode::NO_CONTENT)
}

fn apply(config: &Config, before: &InitRequest, now: &InitRequest) -> io::Result<()> {
    if before.hostname != now.hostname && !now.hostname.is_empty() {
        // Where the host shares its name with us (a test, an engine without that namespace) we must not change it.
        let _ = rustix::system::sethostname(now.hostname.as_bytes());
        replace(&config.etc.join("hostname"), format!("{}\n", now.hostname).as_bytes())?;
    }
    if before.hostname != now.hostname || before.extra_hosts != now.extra_hosts {
        let path = config.etc.join("hosts");
        let current = fs::read(&path).unwrap_or_default();
        replace(&path, hosts(&String::from_utf8_lossy(&current), now).as_bytes())?;
    }
    if let Some(text) = now.resolv_conf.as_ref().filter(|_| before.resolv_conf != now.resolv_conf) {
        replace(&config.etc.join("resolv.conf"), text.as_bytes())?;
    }
    if before.ca_certificates != now.ca_certificates {
        // A failure here breaks some connections of the sandbox, not the sandbox.
        let _ = trust::install(&config.etc, now.ca_certificates.as_deref());
    }
    let marks = config.run.join("e2b");
    if before.sandbox_id.is_empty() {
        fs::create_dir_all(&marks)?;
        fs::write(marks.join(".E2B_SANDBOX"), "true")?;
    }
    if before.sandbox_id != now.sandbox_id {
        fs::write(marks.join(".E2B_SANDBOX_ID"), &now.sandbox_id)?;
    }
    if before.template_id != now.template_id {
        fs::write(marks.join(".E2B_TEMPLATE_ID"), &now.template_id)?;
    }
    Ok(())
}

/// Writes a configuration file, also through a link that leads nowhere (images link `resolv.conf` to systemd's).
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::write(path, content) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let _ = fs::remove_file(path);
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::write(path, content)
        }
        result => result,
    }
}

/// The text of `/etc/hosts` with our lines exchanged.
fn hosts(current: &str, request: &InitRequest) -> String {
    let mut lines: Vec<String> = current
        .lines()
        .filter(|line| !line.ends_with(HOSTS_MARK))
        .map(str::to_owned)
        .collect();
    if !lines.iter().any(|line| names_localhost(line)) {
        lines.insert(0, "127.0.0.1 localhost".to_owned());
        lines.insert(1, "::1 localhost ip6-localhost ip6-loopback".to_owned());
    }
    let own = (!request.hostname.is_empty()).then(|| format!("127.0.1.1 {}", request.hostname));
    lines.extend(
        own.iter()
            .chain(&request.extra_hosts)
            .map(|line| format!("{line} {HOSTS_MARK}")),
    );
    lines.push(String::new());
    lines.join("\n")
}

fn names_localhost(line: &str) -> bool {
    let words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
    words.skip(1).any(|word| word == "localhost")
}

fn correct_clock(timestamp: i64) {
    let Ok(since_epoch) = u64::try_from(timestamp).map(Duration::from_nanos) else {
        return;
    };
    let target = UNIX_EPOCH + since_epoch;
    let now = SystemTime::now();
    let error = target.duration_since(now).unwrap_or_else(|ahead| ahead.duration());
    if error <= TOLERANCE {
        return;
    }
    let time = Timespec {
        tv_sec: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: since_epoch.subsec_nanos().into(),
    };
    // gVisor refuses, and has the host's clock anyway.
    let _ = rustix::time::clock_settime(ClockId::Realtime, time);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(hostname: &str, extra: &[&str]) -> InitRequest {
        InitRequest {
            hostname: hostname.into(),
            extra_hosts: extra.iter().map(|line| (*line).to_owned()).collect(),
            ..InitRequest::default()
        }
    }

    #[test]
    fn hosts_keep_foreign_lines() {
        let first = hosts(
            "10.0.0.1 db\n127.0.0.1\tlocalhost\n",
            &request("one", &["192.0.2.1 events.e2b.local"]),
        );
        let expected = "10.0.0.1 db\n127.0.0.1\tlocalhost\n127.0.1.1 one # sandbox\n\
                        192.0.2.1 events.e2b.local # sandbox\n";
        assert_eq!(first, expected);
        let second = hosts(&first, &request("two", &[]));
        assert_eq!(second, "10.0.0.1 db\n127.0.0.1\tlocalhost\n127.0.1.1 two # sandbox\n");
    }

    #[test]
    fn empty_hosts_learn_localhost() {
        let text = hosts("", &request("one", &[]));
        assert!(text.starts_with("127.0.0.1 localhost\n::1 localhost"), "{text}");
    }

    #[test]
    fn identity_files_follow_the_request() {
        let root = tempfile::tempdir().expect("temporary directory");
        let config = Config {
            etc: root.path().join("etc"),
            run: root.path().join("run"),
            ..Config::default()
        };
        let read = |name: &str| fs::read_to_string(root.path().join(name)).expect("written");
        let none = InitRequest::default();
        let one = InitRequest {
            sandbox_id: "i1".into(),
            template_id: "t1".into(),
            ..InitRequest::default()
        };
        apply(&config, &none, &one).expect("applies");
        assert_eq!(
            (
                read("run/e2b/.E2B_SANDBOX").as_str(),
                read("run/e2b/.E2B_SANDBOX_ID").as_str()
            ),
            ("true", "i1")
        );
        let two = InitRequest {
            sandbox_id: "i2".into(),
            ..one.clone()
        };
        apply(&config, &one, &two).expect("applies");
        assert_eq!(
            (
                read("run/e2b/.E2B_SANDBOX_ID").as_str(),
                read("run/e2b/.E2B_TEMPLATE_ID").as_str()
            ),
            ("i2", "t1")
        );
    }
}
