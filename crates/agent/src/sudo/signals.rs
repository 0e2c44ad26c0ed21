//! The signals that the client of sudo passes on.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::process::ignored_signals;

/// Signals that concern the command or its terminal.
const HEARD: [i32; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGWINCH,
    libc::SIGCONT,
];

/// Reports signals as they come.
pub(crate) fn listen() -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let ignored = ignored_signals();
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in HEARD {
        // What `nohup` and the like have turned off stays off.
        if ignored.contains(&number) {
            continue;
        }
        let mut arrivals = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move { while arrivals.recv().await.is_some() && sender.send(number).is_ok() {} });
    }
    Ok(receiver)
}
