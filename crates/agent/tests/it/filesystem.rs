//! The tree of files over RPC (contract 3.6).

use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Agent, root_or_skip};

fn call(agent: &Agent, method: &str, body: &Value) -> crate::support::Answer {
    agent.call(&format!("filesystem.Filesystem/{method}"), body)
}

#[test]
fn entries_are_described() {
    let agent = Agent::start();
    std::fs::write(agent.home("a"), "four").expect("written");
    symlink("a", agent.home("link")).expect("linked");
    let entry = call(&agent, "Stat", &json!({"path": "a"})).json()["entry"].clone();
    let home = agent.root.path().join("home");
    assert_eq!(entry["path"], home.join("a").to_str().expect("text"));
    assert_eq!(
        (&entry["name"], &entry["size"], &entry["mode"]),
        (&json!("a"), &json!("4"), &json!(0o644))
    );
    assert_eq!(
        (&entry["type"], &entry["permissions"]),
        (&json!("FILE_TYPE_FILE"), &json!("-rw-r--r--"))
    );
    assert!(
        entry["modifiedTime"].as_str().is_some_and(|time| time.ends_with('Z')),
        "{entry}"
    );
    assert_eq!((entry.get("metadata"), entry.get("symlinkTarget")), (None, None));
    let link = call(&agent, "Stat", &json!({"path": "~/link"})).json()["entry"].clone();
    let target = home.canonicalize().expect("there").join("a");
    assert_eq!((&link["name"], &link["symlinkTarget"]), (&json!("link"), &json!(target)));
    assert_eq!((&link["isSymlink"], &link["type"]), (&json!(true), &json!("FILE_TYPE_FILE")));
    call(&agent, "Stat", &json!({"path": "none"})).assert_error(404, "not_found", "none");
    call(&agent, "Stat", &json!({"path": "~other/x"})).assert_error(400, "invalid_argument", "home");
}

#[test]
fn snake_case_and_unknown_fields_are_taken() {
    let agent = Agent::start();
    let body = json!({"path": "", "recursive": false, "include_entry": true, "newer": {"field": 1}});
    assert_eq!(call(&agent, "CreateWatcher", &body).status, 200);
}

/// They were our fault (500) instead of the path's.
#[test]
fn paths_that_are_too_long_are_the_callers_fault() {
    let agent = Agent::start();
    let path = "x".repeat(5000);
    for method in ["Stat", "ListDir", "MakeDir", "Remove", "CreateWatcher"] {
        call(&agent, method, &json!({"path": path})).assert_error(400, "invalid_argument", "");
    }
    call(&agent, "Move", &json!({"source": path, "destination": "a"})).assert_error(400, "invalid_argument", "");
}

#[test]
fn directories_are_made_once() {
    let agent = Agent::start();
    let made = call(&agent, "MakeDir", &json!({"path": "a/b/c"}));
    let entry = made.json()["entry"].clone();
    assert_eq!(
        (&entry["type"], &entry["permissions"]),
        (&json!("FILE_TYPE_DIRECTORY"), &json!("drwxr-xr-x"))
    );
    if root_or_skip("giving files away") {
        assert_eq!((&entry["owner"], &entry["group"]), (&json!("user"), &json!("user")));
        let parent = call(&agent, "Stat", &json!({"path": "a"})).json();
        assert_eq!(parent["entry"]["owner"], "user");
    }
    call(&agent, "MakeDir", &json!({"path": "a/b/c"})).assert_error(409, "already_exists", "exists");
    std::fs::write(agent.home("file"), "").expect("written");
    call(&agent, "MakeDir", &json!({"path": "file"})).assert_error(400, "invalid_argument", "not a directory");
}

#[test]
fn moving_makes_parents_and_overwrites() {
    let agent = Agent::start();
    std::fs::write(agent.home("a"), "new").expect("written");
    std::fs::create_dir_all(agent.home("x/y")).expect("made");
    std::fs::write(agent.home("x/y/b"), "old").expect("written");
    let moved = call(&agent, "Move", &json!({"source": "a", "destination": "x/y/b"}));
    assert_eq!(moved.json()["entry"]["name"], "b");
    assert_eq!(std::fs::read_to_string(agent.home("x/y/b")).expect("there"), "new");
    assert_eq!(
        call(&agent, "Move", &json!({"source": "x/y/b", "destination": "p/q/c"})).status,
        200
    );
    assert!(agent.home("p/q/c").exists());
    call(&agent, "Move", &json!({"source": "none", "destination": "c"})).assert_error(404, "not_found", "none");
}

#[test]
fn removing_is_thorough_and_forgiving() {
    let agent = Agent::start();
    std::fs::create_dir_all(agent.home("a/b")).expect("made");
    std::fs::write(agent.home("a/b/c"), "").expect("written");
    for _ in 0..2 {
        assert_eq!(call(&agent, "Remove", &json!({"path": "a"})).status, 200);
    }
    assert!(!agent.home("a").exists());
}

#[test]
fn listings_are_ordered_and_limited() {
    let agent = Agent::start();
    std::fs::create_dir_all(agent.home("d/e/f")).expect("made");
    std::fs::write(agent.home("d.txt"), "").expect("written");
    let paths = |depth: u32| {
        let list = call(&agent, "ListDir", &json!({"path": "", "depth": depth})).json();
        let entries = list["entries"].as_array().expect("entries").clone();
        let names = entries.iter().map(|entry| entry["path"].as_str().expect("a path").to_owned());
        let home = format!("{}/", agent.root.path().join("home").display());
        names.map(|path| path.replace(&home, "")).collect::<Vec<_>>()
    };
    assert_eq!(paths(0), ["d", "d.txt"]);
    assert_eq!(paths(2), ["d", "d/e", "d.txt"]);
    assert_eq!(paths(9), ["d", "d/e", "d/e/f", "d.txt"]);
    call(&agent, "ListDir", &json!({"path": "none"})).assert_error(404, "not_found", "none");
    call(&agent, "ListDir", &json!({"path": "d.txt"})).assert_error(400, "invalid_argument", "not a directory");
}

#[test]
fn a_watch_streams_what_happens() {
    let agent = Agent::start();
    std::fs::create_dir(agent.home("w")).expect("made");
    let body = json!({"path": "w", "recursive": true, "includeEntry": true});
    let mut events = agent.open("filesystem.Filesystem/WatchDir", &body, &[("keepalive-ping-interval", "1")]);
    assert_eq!(events.message(), json!({"start": {}}));
    assert_eq!(events.message(), json!({"keepalive": {}}));
    std::fs::create_dir(agent.home("w/sub")).expect("made");
    let event = events.message()["filesystem"].clone();
    assert_eq!((&event["name"], &event["type"]), (&json!("sub"), &json!("EVENT_TYPE_CREATE")));
    assert_eq!(event["entry"]["type"], "FILE_TYPE_DIRECTORY");
    std::fs::write(agent.home("w/sub/a"), "text").expect("written");
    let mut kinds = Vec::new();
    while kinds.last() != Some(&json!("EVENT_TYPE_WRITE")) {
        let event = events.message()["filesystem"].clone();
        assert_eq!(event["name"], "sub/a");
        kinds.push(event["type"].clone());
    }
    assert_eq!(kinds[0], "EVENT_TYPE_CREATE");
    std::fs::remove_file(agent.home("w/sub/a")).expect("removed");
    let event = events.message()["filesystem"].clone();
    assert_eq!((&event["type"], event.get("entry")), (&json!("EVENT_TYPE_REMOVE"), None));
}

#[test]
fn watching_needs_a_directory() {
    let agent = Agent::start();
    std::fs::write(agent.home("file"), "").expect("written");
    call(&agent, "CreateWatcher", &json!({"path": "file"})).assert_error(400, "invalid_argument", "not a directory");
    call(&agent, "CreateWatcher", &json!({"path": "none"})).assert_error(404, "not_found", "not found");
    let error = agent
        .open("filesystem.Filesystem/WatchDir", &json!({"path": "file"}), &[])
        .outcome()
        .error;
    assert_eq!(error.expect("an error")["code"], "invalid_argument");
}

#[test]
fn a_watcher_is_asked() {
    let agent = Agent::start();
    let id = call(&agent, "CreateWatcher", &json!({"path": ""})).json()["watcherId"].clone();
    assert!(id.as_str().is_some_and(|id| id.starts_with('w')), "{id}");
    std::fs::write(agent.home("a"), "text").expect("written");
    std::thread::sleep(Duration::from_millis(200));
    let take = || call(&agent, "GetWatcherEvents", &json!({"watcherId": id})).json();
    let first = take();
    assert_eq!(first["events"][0], json!({"name": "a", "type": "EVENT_TYPE_CREATE"}));
    assert_eq!(first["events"][1], json!({"name": "a", "type": "EVENT_TYPE_WRITE"}));
    assert_eq!(take(), json!({}), "each event is told once");
    assert_eq!(call(&agent, "RemoveWatcher", &json!({"watcherId": id})).status, 200);
    for method in ["RemoveWatcher", "GetWatcherEvents"] {
        call(&agent, method, &json!({"watcherId": id})).assert_error(404, "not_found", "watcher");
    }
}
