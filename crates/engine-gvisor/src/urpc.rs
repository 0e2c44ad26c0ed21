//! The control socket of a sandbox.
//!
//! The sandbox's kernel (the sentry) serves a small RPC protocol on a Unix stream socket: a request is one JSON object
//! `{"method": …, "arg": …}` without any framing, an answer is one JSON object `{"success": …, "err": …, "result": …}`. Files travel with
//! the first byte. The `runsc` program speaks it too, but starting it costs some 30 ms each time; a pause over the socket takes 0.2 ms.
//!
//! All calls block; the caller brings a thread. None blocks for ever: a sentry that is stuck or stopped gets some patience, and, while
//! it writes a checkpoint, that much since it wrote last. A call that was given up may still be carried out when the sentry goes on, so its
//! answer is [waited for](Control::settle) before the next call: whether the tasks are stopped is always known, and no resume is sent too
//! often.

use std::io::{self, IoSlice, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{GvisorError, Result};

/// The longest answer that makes sense; errors carry whole stack traces.
const LONGEST_ANSWER: usize = 4 << 20;

/// How often a checkpoint's progress is looked at.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Request<'a> {
    method: &'static str,
    arg: &'a Value,
}

#[derive(Debug, Deserialize)]
struct Answer {
    success: bool,
    err: String,
}

/// A sandbox's control socket, and what is known of the sandbox's tasks.
#[derive(Debug)]
pub(crate) struct Control {
    dir: PathBuf,
    name: String,
    state: Mutex<State>,
    patience: Duration,
}

#[derive(Debug)]
struct State {
    /// Whether all tasks are stopped: there was one more pause than resumes.
    stopped: bool,
    /// A call that was given up.
    overdue: Option<Overdue>,
}

#[derive(Debug)]
struct Overdue {
    call: Call,
    stream: UnixStream,
    /// What came of the answer.
    bytes: Vec<u8>,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Pause,
    Resume,
    Checkpoint,
}

impl Call {
    fn method(self) -> &'static str {
        match self {
            Self::Pause => "containerManager.Pause",
            Self::Resume => "containerManager.Resume",
            Self::Checkpoint => "containerManager.Checkpoint",
        }
    }
}

/// The files of a checkpoint, in the order in which the sentry wants them.
#[derive(Debug)]
pub(crate) struct CheckpointFiles<'a> {
    pub(crate) state: BorrowedFd<'a>,
    pub(crate) pages_meta: BorrowedFd<'a>,
    pub(crate) pages: BorrowedFd<'a>,
}

impl CheckpointFiles<'_> {
    /// How much was written so far, bytes.
    fn written(&self) -> u64 {
        [self.state, self.pages_meta, self.pages]
            .iter()
            .filter_map(|file| rustix::fs::fstat(file).ok())
            .map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
            .sum()
    }
}

impl Control {
    /// The control socket with this name in this directory, of a sandbox whose tasks are stopped or not. `patience` is how long the sentry
    /// may be silent.
    pub(crate) fn new((dir, name): (PathBuf, String), stopped: bool, patience: Duration) -> Self {
        Self {
            dir,
            name,
            state: Mutex::new(State { stopped, overdue: None }),
            patience,
        }
    }

    /// Stops all tasks of the sandbox and waits until they are stopped. Nothing happens if they are.
    pub(crate) fn pause(&self) -> Result<()> {
        let mut state = self.state();
        self.settle(&mut state)?;
        if state.stopped {
            return Ok(());
        }
        self.call(&mut state, Call::Pause, &Value::Null, None)
    }

    /// Undoes a [`pause`](Self::pause). Nothing happens if the tasks run: a resume too many makes **the sentry panic**.
    pub(crate) fn resume(&self) -> Result<()> {
        let mut state = self.state();
        self.settle(&mut state)?;
        if !state.stopped {
            return Ok(());
        }
        self.call(&mut state, Call::Resume, &Value::Null, None)
    }

    /// Notes that the tasks are stopped, which somebody found out in another way.
    pub(crate) fn note_stopped(&self) {
        self.state().stopped = true;
    }

    /// Writes the sandbox into files. It goes on afterwards, or stays paused if it was; a failure leaves it as it was.
    pub(crate) fn checkpoint(&self, files: &CheckpointFiles<'_>) -> Result<()> {
        let arg = json!({
            "metadata": { "compression": "none" },
            "MemoryFileSaveOpts": { "ExcludeCommittedZeroPages": false },
            "have_pages_file": true,
            "Resume": true,
        });
        let mut state = self.state();
        self.settle(&mut state)?;
        self.call(&mut state, Call::Checkpoint, &arg, Some(files))
    }

    /// Whether there is a call that was given up, and a handle that becomes readable when its answer comes or the sentry ends.
    pub(crate) fn overdue(&self) -> Option<UnixStream> {
        self.state().overdue.as_ref()?.stream.try_clone().ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the answer to a call that was given up.
    fn settle(&self, state: &mut State) -> Result<()> {
        match state.overdue.take() {
            // What it says of itself concerns nobody any more.
            Some(overdue) => match self.wait(state, overdue, None) {
                Err(error @ (GvisorError::NoAnswer { .. } | GvisorError::Control { .. })) => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn call(&self, state: &mut State, call: Call, arg: &Value, files: Option<&CheckpointFiles<'_>>) -> Result<()> {
        let method = call.method();
        let stream = self
            .send(&Request { method, arg }, files)
            .map_err(|source| self.failed(call, source))?;
        let bytes = Vec::new();
        self.wait(state, Overdue { call, stream, bytes }, files)
    }

    /// Waits for an answer as long as patience lasts, and notes what it means for the tasks.
    fn wait(&self, state: &mut State, mut overdue: Overdue, files: Option<&CheckpointFiles<'_>>) -> Result<()> {
        let call = overdue.call;
        let method = call.method();
        let answer = match read_answer(&mut overdue.stream, &mut overdue.bytes, self.patience, files) {
            Ok(answer) => answer,
            Err(source) if is_timeout(&source) => {
                state.overdue = Some(overdue);
                return Err(self.failed(call, source));
            }
            Err(source) => return Err(self.failed(call, source)),
        };
        if !answer.success {
            return Err(GvisorError::Refused {
                method,
                message: first_line(&answer.err),
            });
        }
        match call {
            Call::Pause => state.stopped = true,
            Call::Resume => state.stopped = false,
            Call::Checkpoint => {}
        }
        Ok(())
    }

    fn failed(&self, call: Call, source: io::Error) -> GvisorError {
        let method = call.method();
        if is_timeout(&source) {
            let patience = self.patience;
            GvisorError::NoAnswer { method, patience }
        } else {
            GvisorError::Control { method, source }
        }
    }

    fn send(&self, request: &Request<'_>, files: Option<&CheckpointFiles<'_>>) -> io::Result<UnixStream> {
        let mut stream = self.connect()?;
        let bytes = serde_json::to_vec(request)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = files.map(|files| [files.state, files.pages_meta, files.pages]);
        if let Some(fds) = &fds
            && !control.push(SendAncillaryMessage::ScmRights(fds))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // A request is smaller than what a socket takes without a reader.
        stream.set_write_timeout(Some(self.patience))?;
        let sent = sendmsg(&stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        io::Write::write_all(&mut stream, &bytes[sent..])?;
        Ok(stream)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        // Through the directory's descriptor: the path may be longer than a socket address can be.
        let dir = std::fs::File::open(&self.dir)?;
        UnixStream::connect(format!("/proc/self/fd/{}/{}", dir.as_fd().as_raw_fd(), self.name))
    }
}

/// Reads until there is one whole JSON object: the protocol has no other end of a message. `bytes` is what came, before and now.
///
/// Gives up when nothing came, and nothing was written into `files`, for as long as `patience`.
fn read_answer(
    stream: &mut UnixStream,
    bytes: &mut Vec<u8>,
    patience: Duration,
    files: Option<&CheckpointFiles<'_>>,
) -> io::Result<Answer> {
    let mut chunk = [0; 8192];
    let mut deadline = Instant::now() + patience;
    let mut written = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(if files.is_some() { left.min(LOOK) } else { left }))?;
        let length = match stream.read(&mut chunk) {
            Ok(length) => length,
            Err(e) if is_timeout(&e) => {
                let now = files.map_or(0, CheckpointFiles::written);
                if now > written {
                    written = now;
                    deadline = Instant::now() + patience;
                }
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..length]);
        if bytes.len() > LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not end"));
        }
        match serde_json::from_slice(bytes) {
            Ok(answer) => return Ok(answer),
            Err(e) if e.is_eof() => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What the sentry or runsc want to say; all further lines are stack traces.
pub(crate) fn first_line(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("(it said nothing)");
    line.trim().trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use super::*;

    const DONE: &[u8] = br#"{"success":true,"err":"","result":null}"#;

    /// A sentry that says which method was called, and answers each when it is told what.
    struct Sentry {
        control: Control,
        called: mpsc::Receiver<String>,
        answer: mpsc::Sender<Vec<u8>>,
        _dir: tempfile::TempDir,
    }

    fn sentry(stopped: bool) -> Sentry {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bound");
        let (calls, called) = mpsc::channel();
        let (answer, answers) = mpsc::channel::<Vec<u8>>();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a caller");
                let mut request = [0; 4096];
                let length = stream.read(&mut request).expect("a request");
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let _ = calls.send(text);
                let Ok(answer) = answers.recv() else { return };
                let _ = stream.write_all(&answer);
            }
        });
        let control = Control::new((dir.path().to_path_buf(), "s".to_owned()), stopped, Duration::from_millis(50));
        Sentry {
            control,
            called,
            answer,
            _dir: dir,
        }
    }

    impl Sentry {
        fn was_called(&self, method: &str) {
            let request = self.called.recv().expect("a call");
            assert!(request.contains(method), "{request}");
        }
    }

    #[test]
    fn a_silent_sentry_is_given_up() {
        let sentry = sentry(false);
        let error = sentry.control.pause().expect_err("no answer");
        assert!(matches!(error, GvisorError::NoAnswer { .. }), "{error}");
        let error = sentry.control.resume().expect_err("still no answer to the first call");
        assert!(
            matches!(error, GvisorError::NoAnswer { method, .. } if method.ends_with("Pause")),
            "{error}"
        );
    }

    #[test]
    fn a_late_pause_is_undone_by_exactly_one_resume() {
        let sentry = sentry(false);
        sentry.control.pause().expect_err("no answer");
        sentry.was_called("Pause");
        let late = sentry.control.overdue().expect("a call is overdue");
        sentry.answer.send(DONE.to_vec()).expect("it waits");
        // It is there when the bytes can be seen; they are read by the next call.
        rustix::event::poll(&mut [rustix::event::PollFd::new(&late, rustix::event::PollFlags::IN)], None).expect("polled");
        sentry.answer.send(DONE.to_vec()).expect("it waits");
        sentry.control.resume().expect("the pause had come through");
        sentry.was_called("Resume");
        assert!(sentry.control.overdue().is_none());
        sentry.control.resume().expect("nothing to do");
        assert!(sentry.called.try_recv().is_err(), "the sentry would panic");
    }

    #[test]
    fn a_refused_call_changes_nothing() {
        let sentry = sentry(false);
        let refusal = br#"{"success":false,"err":"no\nstack","result":null}"#;
        sentry.answer.send(refusal.to_vec()).expect("it waits");
        let error = sentry.control.pause().expect_err("refused");
        assert!(
            matches!(&error, GvisorError::Refused { message, .. } if message == "no"),
            "{error}"
        );
        sentry.was_called("Pause");
        sentry.control.resume().expect("nothing to do");
        assert!(sentry.called.try_recv().is_err());
    }

    #[test]
    fn an_answer_in_pieces_is_one_answer() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(&DONE[10..]).expect("room");
        let mut bytes = DONE[..10].to_vec();
        let answer = read_answer(&mut ours, &mut bytes, Duration::from_secs(10), None).expect("whole");
        assert!(answer.success);
        theirs.write_all(b"nonsense").expect("room");
        read_answer(&mut ours, &mut Vec::new(), Duration::from_secs(10), None).expect_err("no JSON");
        drop(theirs);
        let error = read_answer(&mut ours, &mut Vec::new(), Duration::from_secs(10), None)
            .err()
            .map(|e| e.kind());
        assert_eq!(error, Some(io::ErrorKind::UnexpectedEof));
    }
}
