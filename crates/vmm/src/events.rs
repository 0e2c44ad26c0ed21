//! The device thread: one epoll loop that tells devices when their files are ready.
//!
//! A device names the files that it waits for once, when it is added. A device with files that come and go (vsock)
//! keeps an epoll file of its own and names that one.
//!
//! Files are watched level triggered unless a [`Watch`] says otherwise: a device that leaves a file readable because
//! the guest has no buffers must ask for [`EventSet::EDGE_TRIGGERED`] and remember what it left.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use vmm_sys_util::epoll::EventSet;

/// A file that a device wants to hear about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// The file, which stays open for as long as the device is in the loop.
    pub fd: RawFd,
    /// What the device knows the file by.
    pub token: u32,
    /// What to wait for.
    pub events: EventSet,
}

impl Watch {
    /// Waits until `fd` can be read, level triggered.
    pub fn readable(fd: RawFd, token: u32) -> Self {
        Self {
            fd,
            token,
            events: EventSet::IN,
        }
    }
}

/// A device that acts when a file is ready. Called on the device thread only, with the device's lock held.
pub trait EventHandler: Send {
    /// The files to watch. Asked once.
    fn watches(&self) -> Vec<Watch>;

    /// The file called `token` is ready for `events`.
    fn ready(&mut self, token: u32, events: EventSet);
}

/// A device as the loop holds it: the bus holds the same one.
pub type SharedHandler = Arc<Mutex<dyn EventHandler>>;

enum Command {
    /// Stop calling devices, tell the sender, and wait on the receiver until the pause is over.
    Pause(SyncSender<()>, Receiver<()>),
    Stop,
}

/// The running device thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct EventLoop {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// While it exists no device is called by the device thread. Dropping it lets the thread go on.
#[derive(Debug)]
#[must_use = "the pause ends when this is dropped"]
pub struct DevicesPaused(#[expect(dead_code, reason = "the thread waits for it to be dropped")] SyncSender<()>);

/// The loop's own file; no device can have this index.
const WAKE: u32 = u32::MAX;

impl EventLoop {
    /// Watches the files of `handlers` on a new thread. `prepare` runs first on that thread (the jail).
    ///
    /// # Errors
    /// When epoll or the thread cannot be made, or a device names a file that cannot be watched.
    pub fn start(handlers: Vec<SharedHandler>, prepare: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        epoll.ctl(
            ControlOperation::Add,
            wake.as_raw_fd(),
            EpollEvent::new(EventSet::IN, data(WAKE, 0)),
        )?;
        for (index, handler) in (0u32..).zip(&handlers) {
            for watch in lock(handler).watches() {
                epoll.ctl(
                    ControlOperation::Add,
                    watch.fd,
                    EpollEvent::new(watch.events, data(index, watch.token)),
                )?;
            }
        }
        let (commands, received) = sync_channel(1);
        let thread = {
            let wake = wake.clone();
            std::thread::Builder::new().name("devices".to_owned()).spawn(move || {
                prepare();
                run(&epoll, &handlers, &wake, &received);
            })?
        };
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
        })
    }

    /// Waits until no device is being called and keeps it so for as long as the result lives.
    pub fn pause(&self) -> DevicesPaused {
        let (paused, is_paused) = sync_channel(0);
        let (resume, resumed) = sync_channel(0);
        self.send(Command::Pause(paused, resumed));
        // An error means that the thread is gone, and with it every call.
        let _ = is_paused.recv();
        DevicesPaused(resume)
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // The counter of an event file cannot overflow here.
            let _ = self.wake.write(1);
        }
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn data(index: u32, token: u32) -> u64 {
    u64::from(index) << 32 | u64::from(token)
}

fn lock<T: ?Sized>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(epoll: &Epoll, handlers: &[SharedHandler], wake: &EventFd, commands: &Receiver<Command>) {
    let mut events = vec![EpollEvent::default(); 32];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => panic!("epoll of the device thread: {error}"),
        };
        for event in &events[..count] {
            let (index, token) = ((event.data() >> 32) as u32, event.data() as u32);
            if index == WAKE {
                let _ = wake.read();
                match commands.try_recv() {
                    Ok(Command::Pause(paused, resumed)) => {
                        let _ = paused.send(());
                        // Ends with an error, when the sender is dropped.
                        let _ = resumed.recv();
                    }
                    Ok(Command::Stop) => return,
                    Err(_) => {}
                }
            } else if let Some(handler) = handlers.get(index as usize) {
                lock(handler).ready(token, event.event_set());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Counter {
        event: EventFd,
        seen: mpsc::Sender<(u32, u64)>,
    }

    impl EventHandler for Counter {
        fn watches(&self) -> Vec<Watch> {
            vec![Watch::readable(self.event.as_raw_fd(), 7)]
        }

        fn ready(&mut self, token: u32, _: EventSet) {
            self.seen.send((token, self.event.read().unwrap())).unwrap();
        }
    }

    fn started() -> (EventLoop, EventFd, mpsc::Receiver<(u32, u64)>) {
        let event = EventFd::new(0).unwrap();
        let (seen, received) = mpsc::channel();
        let handler = Counter {
            event: event.try_clone().unwrap(),
            seen,
        };
        (
            EventLoop::start(vec![Arc::new(Mutex::new(handler))], || {}).unwrap(),
            event,
            received,
        )
    }

    #[test]
    fn a_ready_file_reaches_its_device_with_its_token() {
        let (_events, event, received) = started();
        event.write(3).unwrap();
        assert_eq!(received.recv().unwrap(), (7, 3));
    }

    #[test]
    fn nothing_is_called_during_a_pause_and_nothing_is_lost() {
        let (events, event, received) = started();
        let paused = events.pause();
        event.write(1).unwrap();
        event.write(1).unwrap();
        assert!(received.try_recv().is_err());
        drop(paused);
        assert_eq!(received.recv().unwrap(), (7, 2));
    }

    #[test]
    fn dropping_the_loop_ends_the_thread_and_releases_devices() {
        let (events, _event, received) = started();
        drop(events);
        assert!(received.recv().is_err());
    }
}
