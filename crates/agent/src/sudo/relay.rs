//! The terminal between the caller of sudo and the command.
//!
//! The command cannot join the caller's session, so it gets a terminal of its own, and the client carries bytes
//! between the two, with the caller's terminal in raw mode: Ctrl-C and Ctrl-Z are then characters, which the
//! command's terminal turns into signals for the command's foreground job. The real sudo does the same (`use_pty`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios};
use tokio::sync::watch;

use crate::process::launch::{open_terminal, resize};
use crate::process::window;
use crate::readiness::{Watched, watched};

const CHUNK: usize = 16 << 10;

/// Both terminals. The caller's is put back as it was when this is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    caller: Watched,
    command: Watched,
    original: Termios,
    reads: bool,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    /// The caller's terminal is in raw mode, and what is typed goes to the command.
    raw: bool,
    /// The command has ended.
    ended: bool,
}

impl Relay {
    /// Makes a terminal like the caller's, which is behind descriptor `index`. Returns it with the command's end.
    ///
    /// `reads` says whether the command's input comes from the terminal.
    pub(crate) fn new(caller: BorrowedFd<'_>, index: usize, reads: bool) -> io::Result<(Self, OwnedFd)> {
        let original = rustix::termios::tcgetattr(caller)?;
        let size = rustix::termios::tcgetwinsize(caller)?;
        let (master, slave) = open_terminal(size.ws_col, size.ws_row)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let relay = Self {
            caller: watched(reopen(caller, index)?)?,
            command: watched(master)?,
            original,
            reads,
            phase: watch::Sender::default(),
        };
        relay.enter();
        let mut modes = relay.original.clone();
        if !relay.phase.borrow().raw {
            // Both terminals would turn newlines into line ends.
            modes.output_modes.remove(OutputModes::OPOST);
        }
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes)?;
        Ok((relay, slave))
    }

    /// Makes the caller's terminal transparent, if the caller is in its foreground. In the background it must not.
    pub(crate) fn enter(&self) {
        let terminal = self.caller.get_ref();
        let foreground = rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp());
        if self.reads && foreground && !self.phase.borrow().raw {
            let mut raw = self.original.clone();
            raw.make_raw();
            let done = rustix::termios::tcsetattr(terminal, OptionalActions::Drain, &raw).is_ok();
            self.phase.send_modify(|phase| phase.raw = done);
        }
    }

    /// Puts the caller's terminal back as it was.
    pub(crate) fn leave(&self) {
        if self.phase.borrow().raw {
            // A terminal that is gone needs no restoring.
            let _ = rustix::termios::tcsetattr(self.caller.get_ref(), OptionalActions::Drain, &self.original);
            self.phase.send_modify(|phase| phase.raw = false);
        }
    }

    /// Whether what is typed goes to the command, the keys for signals included.
    pub(crate) fn is_raw(&self) -> bool {
        self.phase.borrow().raw
    }

    /// Gives the command's terminal the size of the caller's. True when the kernel has told the command.
    pub(crate) fn follow_size(&self) -> bool {
        if let Ok(size) = rustix::termios::tcgetwinsize(self.caller.get_ref()) {
            // The command may be gone already.
            let _ = resize(self.command.get_ref(), size.ws_col, size.ws_row);
        }
        window::kernel_tells(self.command.get_ref())
    }

    /// Says that the command has ended: [`Relay::run`] returns once it has carried what the command left behind.
    pub(crate) fn end(&self) {
        self.phase.send_modify(|phase| phase.ended = true);
    }

    /// Carries bytes in both directions. Not to be dropped in between, or bytes on their way are lost.
    pub(crate) async fn run(&self) {
        let typed = async {
            // When the caller's terminal is gone, output may still go elsewhere.
            let _ = self.carry_typed().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = typed => {}
            // Nobody can be told that the one who reads is gone.
            _ = self.carry_output() => {}
        }
    }

    async fn carry_typed(&self) -> io::Result<()> {
        let mut phase = self.phase.subscribe();
        let mut buffer = vec![0; CHUNK];
        loop {
            // The sender is ours, so waiting cannot fail.
            let _ = phase.wait_for(|phase| phase.raw).await;
            let mut ready = tokio::select! {
                ready = self.caller.readable() => ready?,
                _ = phase.wait_for(|phase| !phase.raw) => continue,
            };
            match rustix::io::read(self.caller.get_ref(), &mut *buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => write_all(&self.command, buffer.get(..length).unwrap_or_default()).await?,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn carry_output(&self) -> io::Result<()> {
        let mut phase = self.phase.subscribe();
        let mut buffer = vec![0; CHUNK];
        loop {
            let (ready, last) = tokio::select! {
                biased;
                ready = self.command.readable() => (Some(ready?), false),
                _ = phase.wait_for(|phase| phase.ended) => (None, true),
            };
            match rustix::io::read(self.command.get_ref(), &mut *buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => write_all(&self.caller, buffer.get(..length).unwrap_or_default()).await?,
                Err(Errno::AGAIN) if last => return Ok(()),
                Err(Errno::AGAIN) => ready.into_iter().for_each(|mut ready| ready.clear_ready()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Opens the caller's terminal anew: not blocking is a property of what was opened, and the caller's shell shares
/// the descriptor that we were given.
fn reopen(terminal: BorrowedFd<'_>, index: usize) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(format!("/proc/self/fd/{index}"), flags, Mode::empty()) {
        Ok(own) => Ok(own),
        // Somebody else's terminal, as after `su`. Reading follows readiness, so blocking is bearable.
        Err(_) => Ok(rustix::io::fcntl_dupfd_cloexec(terminal, 3)?),
    }
}

async fn write_all(to: &Watched, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = to.writable().await?;
        match rustix::io::write(to.get_ref(), bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The command's three descriptors, and which of them is its terminal.
///
/// Descriptors that are the caller's terminal become the command's; others, such as pipes, are passed as they are.
pub(crate) fn connect() -> io::Result<(Option<Relay>, [OwnedFd; 3], Option<usize>)> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let own = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let terminals = own.map(rustix::termios::isatty);
    let first = terminals.iter().position(|terminal| *terminal);
    let relay = match first {
        None => None,
        Some(index) => Some(Relay::new(own[index], index, terminals[0])?),
    };
    let (relay, slave) = relay.unzip();
    let mut given = Vec::with_capacity(3);
    for (descriptor, is_terminal) in own.into_iter().zip(terminals) {
        let source = slave.as_ref().filter(|_| is_terminal).map_or(descriptor, AsFd::as_fd);
        given.push(match rustix::io::fcntl_dupfd_cloexec(source, 3) {
            Ok(duplicate) => duplicate,
            // A descriptor that the caller has closed.
            Err(_) => File::open("/dev/null")?.into(),
        });
    }
    let given = given.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok((relay, given, first))
}
