//! The OCI configuration of an instance.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{GvisorError, Result};
use crate::layout::{Dir, Record, Root};

/// All capabilities that mean something inside. They count against the sandbox's own kernel only: the host process has none.
const CAPABILITIES: [&str; 24] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
];
/// The scheduler's period for the CPU quota, microseconds.
const PERIOD: u32 = 100_000;
/// The sandbox's kernel needs host threads of its own besides those of the guest.
const OWN_THREADS: u32 = 512;

/// Writes the bundle of an instance whose slot is behind the file `netns`.
pub(crate) fn write(dir: &Dir, record: &Record, netns: &Path, init: &[String]) -> Result<()> {
    let spec = spec(dir, record, netns, init);
    let path = dir.spec();
    let bytes = serde_json::to_vec_pretty(&spec).map_err(|source| GvisorError::Damaged {
        path: path.clone(),
        source,
    })?;
    fs::write(&path, bytes).map_err(GvisorError::file("write", &path))
}

fn spec(dir: &Dir, record: &Record, netns: &Path, init: &[String]) -> Value {
    let (root, annotations) = match &record.root {
        Root::Tree(tree) => (tree.clone(), json!({})),
        Root::Layers { .. } => (dir.empty_root(), json!({})),
        Root::Image(image) => (
            dir.empty_root(),
            json!({
                "dev.gvisor.spec.rootfs.source": image,
                "dev.gvisor.spec.rootfs.type": "erofs",
                "dev.gvisor.spec.rootfs.overlay": format!("dir={}", dir.upper().display()),
            }),
        ),
    };
    let resources = &record.resources;
    // Half of the memory, as Linux has it: a program that fills one gets an error. Without, all of the sandbox would end for lack of memory.
    let in_memory = json!(["mode=1777", format!("size={}", u64::from(resources.memory_mib) << 19)]);
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }),
        json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": in_memory }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs" }),
    ];
    // A step of a template's build finds in /tmp what a step before it has put there, and a package that is built there may be bigger
    // than the memory.
    if !matches!(record.root, Root::Layers { .. }) {
        mounts.push(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": in_memory }));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": init,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "inheritable": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 65_536, "hard": 1_048_576 }],
        },
        "root": { "path": root, "readonly": false },
        "hostname": "sandbox",
        "mounts": mounts,
        "annotations": annotations,
        "linux": {
            "cgroupsPath": format!("/{}", record.cgroup),
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "network", "path": netns },
            ],
            "resources": {
                // The guest is told this number as its memory; the shim gives the cgroup more once the sandbox runs.
                "memory": { "limit": u64::from(resources.memory_mib) << 20 },
                "cpu": { "period": PERIOD, "quota": i64::from(resources.vcpus) * i64::from(PERIOD) },
                "pids": { "limit": i64::from(resources.pids) + i64::from(OWN_THREADS) },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use dormouse_engine::{InstanceId, Resources};

    use super::*;

    fn check(root: Root) -> Value {
        let record = Record {
            id: InstanceId::random(),
            slot: "dm123456-0001-00000000".into(),
            root,
            resources: Resources {
                vcpus: 2,
                memory_mib: 512,
                disk_mib: 1,
                pids: 100,
            },
            cgroup: "dormouse/x".into(),
            runsc: "/usr/bin/runsc".into(),
            snapshot: None,
        };
        spec(
            &Dir::new("/state/x"),
            &record,
            Path::new("/run/netns/n"),
            &["/agent".to_owned()],
        )
    }

    #[test]
    fn an_image_becomes_an_annotation_over_an_empty_root() {
        let spec = check(Root::Image("/t/root.erofs".into()));
        assert_eq!(spec["root"]["path"], "/state/x/bundle/rootfs");
        assert_eq!(spec["annotations"]["dev.gvisor.spec.rootfs.source"], "/t/root.erofs");
        assert_eq!(spec["annotations"]["dev.gvisor.spec.rootfs.overlay"], "dir=/state/x/upper");
    }

    #[test]
    fn layers_are_mounted_where_the_root_is_and_keep_their_tmp() {
        let spec = check(Root::Layers {
            lower: vec!["/a".into(), "/b".into()],
            upper: "/u".into(),
            work: "/w".into(),
        });
        assert_eq!(spec["root"]["path"], "/state/x/bundle/rootfs");
        let mounts = spec["mounts"].as_array().expect("an array");
        assert!(mounts.iter().all(|mount| mount["destination"] != "/tmp"));
        let tree = check(Root::Tree("/t/root".into()));
        let mounts = tree["mounts"].as_array().expect("an array");
        assert!(mounts.iter().any(|mount| mount["destination"] == "/tmp"));
    }

    #[test]
    fn a_tree_is_the_root() {
        let spec = check(Root::Tree("/t/root".into()));
        assert_eq!(spec["root"]["path"], "/t/root");
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 512 << 20);
        assert_eq!(spec["linux"]["namespaces"][4]["path"], "/run/netns/n");
    }
}
