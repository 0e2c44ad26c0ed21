//! Threads that do the disks' I/O, so that the device thread never waits for a disk.
//!
//! Threads and not io_uring: a jail that lets a process use io_uring lets it do all that io_uring can, past the seccomp
//! filter, and many hosts forbid io_uring for that reason; buffered I/O on most file systems ends on kernel threads
//! anyway; and a read through several layers is several reads, which want code between them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// A fixed number of threads that work on jobs in the order of their arrival. All disks of a machine share one.
pub struct IoPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for IoPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoPool")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl IoPool {
    /// Starts `threads` threads. `prepare` runs first on each of them (the jail).
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(threads: usize, prepare: impl Fn() + Clone + Send + 'static) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let mut pool = Self {
            shared: shared.clone(),
            threads: Vec::with_capacity(threads),
        };
        for number in 0..threads {
            let (shared, prepare) = (shared.clone(), prepare.clone());
            let thread = std::thread::Builder::new().name(format!("disk-io-{number}")).spawn(move || {
                prepare();
                work(&shared);
            })?;
            pool.threads.push(thread);
        }
        Ok(Arc::new(pool))
    }

    /// Has a thread run `job`.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) {
        self.shared.lock().jobs.push_back(Box::new(job));
        self.shared.changed.notify_one();
    }
}

impl Drop for IoPool {
    /// Finishes the jobs that were submitted.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // The last user may be a job itself, which cannot wait for its own thread.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(shared: &Shared) {
    loop {
        let mut waiting = shared.lock();
        let job = loop {
            if let Some(job) = waiting.jobs.pop_front() {
                break job;
            }
            if waiting.closed {
                return;
            }
            waiting = shared.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        };
        drop(waiting);
        // A defect in a job costs that job, not the thread that all disks need. The panic hook has told of it.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}
