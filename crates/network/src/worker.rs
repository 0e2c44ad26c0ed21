//! Work that must not run on the runtime's own threads.
//!
//! `unshare` and `setns` change the namespace of the calling *thread*. A thread of the runtime, or of its blocking
//! pool, would carry the foreign namespace into whatever it runs next, so such work gets a thread that ends with it.

use std::thread;

use tokio::sync::oneshot;

use crate::error::{NetworkError, Result};

/// Runs `work` on a thread of its own.
pub(crate) async fn on_thread<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let (answer, wait) = oneshot::channel();
    thread::Builder::new()
        .name("dm-netns".to_owned())
        // The receiver is gone when the caller lost interest; the work is done all the same.
        .spawn(move || drop(answer.send(work())))
        .map_err(|e| NetworkError::system("start a thread", e))?;
    wait.await
        .map_err(|_| NetworkError::system("finish network work: its thread panicked", std::io::ErrorKind::Other))?
}
