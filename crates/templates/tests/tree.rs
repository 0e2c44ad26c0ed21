//! The cheap parts of a build on a real file system: what is there after a build is found, and what a crash leaves.
//! A full Debian tree takes minutes and is tried by `cargo xtask test` when it sets the server up.

#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use dormouse_templates::base::{self, AgentSource, BaseOptions};
use dormouse_templates::progress::{Silent, Stage, Update};

/// A Debian tree small enough for a test: what a build adds to it needs no program inside without sudo and extra CAs.
fn pretend_debian(templates: &Path) -> PathBuf {
    let probe = BaseOptions {
        directory: templates.to_owned(),
        agent: AgentSource::Bytes(b"agent".to_vec()),
        agent_as_sudo: false,
        extra_cas: Vec::new(),
    };
    let root = base::debian_root(&probe.directory);
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("usr/bin/tool"), "tool").unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "Package: tool\n").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    root
}

fn options(templates: &Path, agent: &str) -> BaseOptions {
    BaseOptions {
        directory: templates.to_owned(),
        agent: AgentSource::Bytes(agent.as_bytes().to_vec()),
        agent_as_sudo: false,
        extra_cas: Vec::new(),
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    let root = output.stdout == b"0\n";
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn new_agent_makes_a_new_build_that_shares_debian_and_leaves_the_old_one_alone() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let debian = pretend_debian(home.path());

    let one = base::ensure(&options(home.path(), "agent 1"), &Silent).unwrap();
    let two = base::ensure(&options(home.path(), "agent 2"), &Silent).unwrap();

    let agent = |tree: &base::RootTree| fs::read_to_string(tree.path.join("usr/lib/dormouse/agent")).unwrap();
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_ne!(one.build_id, two.build_id);
    assert_eq!((agent(&one), agent(&two)), ("agent 1".into(), "agent 2".into()));
    assert_eq!(inode(one.path.join("usr/bin/tool")), inode(debian.join("usr/bin/tool")));
    assert_eq!(inode(two.path.join("usr/bin/tool")), inode(debian.join("usr/bin/tool")));
    assert!(!debian.join("usr/lib/dormouse").exists());
    assert_eq!(base::list(home.path()).unwrap().len(), 2);
}

#[test]
fn second_call_finds_the_build_and_says_so() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    pretend_debian(home.path());
    let options = options(home.path(), "agent");
    let first = base::ensure(&options, &Silent).unwrap();
    let said = Mutex::new(Vec::new());

    let second = base::ensure(&options, &|update: Update<'_>| said.lock().unwrap().push(update.stage)).unwrap();

    assert_eq!(first, second);
    assert_eq!(*said.lock().unwrap(), [Stage::Prepare, Stage::Done]);
}

#[test]
fn half_made_build_of_a_crash_is_replaced() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    pretend_debian(home.path());
    let options = options(home.path(), "agent");
    let first = base::ensure(&options, &Silent).unwrap();
    let build = first.path.parent().unwrap().to_owned();
    let half = build.with_extension("partial");
    fs::rename(&build, &half).unwrap();

    let again = base::ensure(&options, &Silent).unwrap();

    assert_eq!(again, first);
    assert!(!half.exists());
}
