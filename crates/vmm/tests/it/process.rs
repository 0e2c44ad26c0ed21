//! The whole process, from a configuration to its end, steered over its control socket.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::guest;

/// A smallest bzImage: the code of a guest at the 64-bit entry (boot.rst).
fn kernel(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0u8; 0x600];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x211] = 1;
    image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    image[0x236] = 1;
    image[0x258..0x260].copy_from_slice(&0x10_0000u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image.extend_from_slice(code);
    image
}

/// A monitor, and a connection to its control socket.
struct Monitor {
    child: Child,
    control: BufReader<UnixStream>,
}

impl Monitor {
    fn start(directory: &Path, name: &str, start: &Value, jail: Option<&Value>) -> Self {
        let control = directory.join(format!("{name}.control"));
        let disk = directory.join(format!("{name}.disk"));
        File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        let config = json!({
            "disks": [{ "name": "data", "base": disk }],
            "version": 1, "control": control, "vcpus": 1, "start": start, "jail": jail,
            "console": { "path": directory.join(format!("{name}.console")) },
        });
        let path = directory.join(format!("{name}.json"));
        fs::write(&path, config.to_string()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_dormouse-vmm")).arg(&path).spawn().unwrap();
        let started = Instant::now();
        let stream = loop {
            match UnixStream::connect(&control) {
                Ok(stream) => break stream,
                Err(error) => assert!(started.elapsed() < guest::LIMIT, "no control socket: {error}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(guest::LIMIT)).unwrap();
        let mut monitor = Self {
            child,
            control: BufReader::new(stream),
        };
        assert_eq!(monitor.line()["protocol"], 1);
        monitor
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, request: &Value, files: &[&File]) -> Value {
        let line = format!("{request}\n");
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(files.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(
            self.control.get_ref(),
            &[IoSlice::new(line.as_bytes())],
            &mut ancillary,
            SendFlags::empty(),
        )
        .unwrap();
        self.line()
    }

    fn ok(&mut self, request: &Value) -> Value {
        let answer = self.ask(request, &[]);
        assert!(answer.get("ok").is_some(), "{request}: {answer}");
        answer["ok"].clone()
    }

    fn snapshot(&mut self, kind: &str, files: &Value) -> Value {
        let file = |name: &str| File::create_new(files[name].as_str().unwrap()).unwrap();
        self.ask(
            &json!({ "id": 9, "op": "snapshot", "kind": kind }),
            &[&file("state"), &file("memory")],
        )
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn boot(directory: &Path, code: &[u8]) -> Value {
    let (image, archive) = (directory.join("kernel"), directory.join("initramfs"));
    fs::write(&image, kernel(code)).unwrap();
    fs::write(&archive, b"").unwrap();
    json!({ "boot": { "kernel": image, "initramfs": archive, "commandLine": "", "memoryMib": 16 } })
}

fn layer(directory: &Path, name: &str) -> Value {
    json!({ "state": directory.join(format!("{name}.state")), "memory": directory.join(format!("{name}.memory")) })
}

/// Waits until the console of `name` has more than `length` bytes.
fn console_beyond(directory: &Path, name: &str, length: u64) -> u64 {
    let path: PathBuf = directory.join(format!("{name}.console"));
    let started = Instant::now();
    loop {
        let now = fs::metadata(&path).unwrap().len();
        if now > length {
            return now;
        }
        assert!(started.elapsed() < guest::LIMIT, "the console of {name} stays at {now} bytes");
        std::thread::yield_now();
    }
}

/// The life of a machine: boot, pause, snapshot, fork, diff, restore, end. Jailed or not.
fn life(jail: Option<&Value>) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut parent = Monitor::start(directory, "parent", &boot(directory, guest::COUNTER), jail);
    console_beyond(directory, "parent", 10);
    assert_eq!(parent.ok(&json!({ "id": 1, "op": "status" }))["paused"], false);
    let answer = parent.snapshot("diff", &layer(directory, "none"));
    assert_eq!(answer["error"]["code"], "conflict", "{answer}");
    let base = layer(directory, "base");
    let saved = parent.snapshot("full", &base)["ok"].clone();
    assert!(saved["pages"].as_u64().is_some_and(|pages| pages > 3), "{saved}");
    let length = console_beyond(directory, "parent", 0);
    console_beyond(directory, "parent", length);

    let restore = json!({ "restore": { "layers": [base] } });
    let mut child = Monitor::start(directory, "child", &restore, jail);
    let status = child.ok(&json!({ "id": 2, "op": "status" }));
    assert_eq!((&status["paused"], &status["origin"]), (&json!(true), &saved["layer"]));
    child.ok(&json!({ "id": 3, "op": "resume" }));
    console_beyond(directory, "child", 10);
    let diff = layer(directory, "diff");
    let answer = child.snapshot("diff", &diff);
    assert!(answer["ok"]["pages"].as_u64() <= saved["pages"].as_u64(), "{answer}");
    assert!(answer["ok"]["pausedUs"].is_u64(), "{answer}");
    assert_eq!(
        child.ok(&json!({ "id": 4, "op": "metrics" }))["devices"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    child.ok(&json!({ "id": 5, "op": "balloon", "target": 4096 }));
    child.ok(&json!({ "id": 6, "op": "quit" }));
    assert!(child.child.wait().unwrap().success());

    let restore = json!({ "restore": { "layers": [base, diff] } });
    let mut grandchild = Monitor::start(directory, "grandchild", &restore, jail);
    grandchild.ok(&json!({ "id": 7, "op": "resume" }));
    console_beyond(directory, "grandchild", 10);
    assert_eq!(
        grandchild.ask(&json!({ "id": 8, "op": "fly" }), &[])["error"]["code"],
        "badRequest"
    );
}

#[test]
fn a_machine_lives_over_its_control_socket() {
    if guest::host().is_some() {
        life(None);
    }
}

/// A jail in `directory`, with a user that nobody else has.
fn jail(directory: &Path) -> Value {
    let root = directory.join("root");
    fs::create_dir(&root).unwrap();
    json!({ "uid": 64321, "gid": 64321, "root": root })
}

#[test]
fn a_jailed_machine_does_all_that_a_free_one_does() {
    if guest::host().is_none() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs KVM and root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    life(Some(&jail(directory.path())));
}

/// The status of a thread that has a system call filter. A thread sets it before it does anything else.
fn filtered(status: &Path) -> String {
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(status).unwrap();
        if text.contains("Seccomp:\t2") {
            return text;
        }
        assert!(started.elapsed() < guest::LIMIT, "{text}");
        std::thread::yield_now();
    }
}

#[test]
fn a_jailed_process_has_nothing_left() {
    if guest::host().is_none() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs KVM and root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let start = boot(directory.path(), guest::COUNTER);
    let monitor = Monitor::start(directory.path(), "jailed", &start, Some(&jail(directory.path())));
    console_beyond(directory.path(), "jailed", 0);
    let proc = PathBuf::from(format!("/proc/{}", monitor.child.id()));
    // Every thread: the main one, disks, devices, vCPU.
    let mut threads = 0;
    for task in fs::read_dir(proc.join("task")).unwrap() {
        let task = task.unwrap().path();
        // KVM's own helper threads belong to the process, too; they run no code of it.
        let Ok(name) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        if name.starts_with("kvm") {
            continue;
        }
        threads += 1;
        let status = filtered(&task.join("status"));
        let value = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&value(set), 16).unwrap(), 0, "{set} of {task:?}");
        }
        assert_eq!(
            (value("Seccomp:").as_str(), value("NoNewPrivs:").as_str()),
            ("2", "1"),
            "{task:?}"
        );
        assert_eq!(value("Uid:"), "64321\t64321\t64321\t64321");
        assert_eq!(value("Groups:"), "");
    }
    assert!(threads >= 5, "{threads} threads");
    for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |path: &Path| fs::read_link(path.join("ns").join(namespace)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{namespace}");
    }
    assert_eq!(
        fs::read_dir(proc.join("root")).unwrap().count(),
        0,
        "the root directory is empty"
    );
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    assert!(
        limits
            .lines()
            .any(|line| line.starts_with("Max core file size") && line.contains(" 0 ")),
        "{limits}"
    );
}
