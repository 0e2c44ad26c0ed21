//! A stand-in for the internet: one more namespace behind the test host, with a public-looking address.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::{inside, run};

/// The address of the stand-in (a documentation range, RFC 5737).
pub(crate) const PUBLIC: &str = "198.51.100.2";
/// The largest packet on the way there.
const MTU: u32 = 1380;

/// The stand-in; the host's default route leads to it.
pub(crate) struct Internet {
    netns: File,
}

impl Internet {
    /// In the namespace of the calling thread.
    pub(crate) fn attach() -> Self {
        let netns = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("its handle")
        });
        let internet = Self {
            netns: netns.join().expect("a namespace"),
        };
        let path = internet.netns();
        run(
            "ip",
            &format!(
                "link add out mtu {MTU} type veth peer name in mtu {MTU} netns {}",
                path.display()
            ),
        );
        run("ip", "addr add 198.51.100.1/24 dev out");
        run("ip", "link set out up");
        inside(&path, || {
            run("ip", "link set lo up");
            run("ip", &format!("addr add {PUBLIC}/24 dev in"));
            run("ip", "link set in up");
        });
        run("ip", &format!("route add default via {PUBLIC}"));
        internet
    }

    /// Its namespace, for [`inside`] and its like.
    pub(crate) fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd()))
    }

    /// Gives it one more address.
    pub(crate) fn add_address(&self, address: &str) {
        inside(&self.netns(), || run("ip", &format!("addr add {address} dev lo")));
    }
}
