//! Doing things in another network namespace. A socket stays in the namespace where it was made, so servers and
//! clients "in the sandbox" are sockets made there and used from the test.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Longer than anything on one machine takes; shorter than patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a packet that is dropped in silence is waited for.
const SILENCE: Duration = Duration::from_millis(300);

/// Runs `work` on a thread in the namespace behind `netns`.
pub(crate) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let netns = File::open(netns).expect("a namespace handle");
            setns(netns, CloneFlags::CLONE_NEWNET).expect("into the namespace");
            work()
        });
        worker.join().expect("the work does not panic")
    })
}

/// A server socket in a namespace.
pub(crate) fn listen(netns: &Path, address: &str) -> (tokio::net::TcpListener, SocketAddr) {
    let listener = inside(netns, || TcpListener::bind(address)).expect("an address of the namespace");
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
    let address = listener.local_addr().expect("a bound socket");
    (listener, address)
}

/// Connects from a namespace.
pub(crate) fn connect(netns: &Path, to: SocketAddr) -> io::Result<TcpStream> {
    inside(netns, || TcpStream::connect_timeout(&to, PATIENCE))
}

/// Whether a connection from a namespace does not come about, be it refused aloud or in silence.
pub(crate) fn refused(netns: &Path, to: SocketAddr) -> bool {
    inside(netns, || TcpStream::connect_timeout(&to, SILENCE)).is_err()
}
