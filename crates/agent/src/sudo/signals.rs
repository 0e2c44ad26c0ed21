//! The signals that the client of sudo passes on.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that others send to sudo and mean for its command. SIGTSTP is not among them: it stops sudo itself, which
/// is what a shell waits for.
const FORWARDED: [i32; 7] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Reports the forwarded signals, and SIGWINCH and SIGCONT, as they come.
pub(crate) fn listen() -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let ignored = ignored_signals();
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in FORWARDED.into_iter().chain([libc::SIGWINCH, libc::SIGCONT]) {
        // What `nohup` and the like have turned off stays off.
        if ignored & (1 << (number - 1)) != 0 {
            continue;
        }
        let mut arrivals = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move { while arrivals.recv().await.is_some() && sender.send(number).is_ok() {} });
    }
    Ok(receiver)
}

/// A bit for every ignored signal, as the kernel tells. There is no safe call that asks.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
