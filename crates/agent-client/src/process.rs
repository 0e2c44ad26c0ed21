//! What is done to a process that runs: input, the size of its terminal, signals (contract 3.5).

use std::convert::Infallible;

use buffa::Message;
use bytes::Bytes;
use dormouse_agent_proto::oneof::{Input as WireInput, Selector, StreamInputKind};
use dormouse_agent_proto::rpc::process::{
    CloseStdinRequest, ProcessInput, ProcessSelector, SendSignalRequest, Signal, StreamInputRequest, UpdateRequest,
    stream_input_request,
};
use http::{HeaderValue, Method, Request, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::command::{envelope, pty_of};
use crate::control::request_to;
use crate::exchange::{ask, refusal, send};
use crate::{Caller, Error, Stream};

/// Messages on their way to the connection; more wait in [`Input::write`].
const QUEUED: usize = 4;

/// Where a process's input goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To its standard input.
    Stdin,
    /// To its terminal.
    Pty,
}

/// A way into a process for as much as one likes. It carries what the process reads and no more: a process that does not read stops
/// the writer.
#[derive(Debug)]
pub struct Input {
    kind: Kind,
    sender: Option<mpsc::Sender<Result<Frame<Bytes>, Infallible>>>,
    answer: JoinHandle<Result<(), Error>>,
}

/// Opens the input of the process `pid`.
///
/// # Errors
/// [`Error::Nonsense`] for a caller that cannot be written into headers. That there is no such process, or that it takes no input of
/// this kind, is reported by the input's methods.
pub fn stream_input<S: Stream>(stream: S, caller: Caller<'_>, pid: u32, kind: Kind) -> Result<Input, Error> {
    let (sender, receiver) = mpsc::channel(QUEUED);
    let start = stream_input_request::StartEvent {
        process: selector(pid).into(),
        ..stream_input_request::StartEvent::default()
    };
    let first = message(StreamInputKind::Start(Box::new(start)))?;
    // The channel is empty and has room.
    let _ = sender.try_send(Ok(Frame::data(first)));
    let mut request = Request::new(StreamBody::new(ReceiverStream::new(receiver)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/process.Process/StreamInput");
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/connect+proto"));
    headers.insert("connect-protocol-version", HeaderValue::from_static("1"));
    caller.sign(headers)?;
    let answer = tokio::spawn(async move {
        let answer = send(stream, request).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        crate::command::end_of_call(answer).await
    });
    Ok(Input {
        kind,
        sender: Some(sender),
        answer,
    })
}

impl Input {
    /// Sends `bytes`; waits while the process does not read.
    ///
    /// # Errors
    /// [`Error::Call`] when the process is gone, or has closed its side.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let input = ProcessInput {
            input: Some(match self.kind {
                Kind::Stdin => WireInput::Stdin(bytes.into()),
                Kind::Pty => WireInput::Pty(bytes.into()),
            }),
            ..ProcessInput::default()
        };
        let data = stream_input_request::DataEvent {
            input: input.into(),
            ..stream_input_request::DataEvent::default()
        };
        let message = message(StreamInputKind::Data(Box::new(data)))?;
        let sent = match &self.sender {
            Some(sender) => sender.send(Ok(Frame::data(message))).await.is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        self.finish().await?;
        Err(Error::Nonsense("it ended an input that had not ended"))
    }

    /// Waits until everything has been written to the process. Does not close its input: see [`close_stdin`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn finish(&mut self) -> Result<(), Error> {
        self.sender = None;
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Nonsense("the input was finished already")),
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // An input that is given up must not wait for a process that never reads.
        self.answer.abort();
    }
}

fn message(event: StreamInputKind) -> Result<Bytes, Error> {
    let request = StreamInputRequest {
        event: Some(event),
        ..StreamInputRequest::default()
    };
    envelope(&request.encode_to_vec())
}

fn selector(pid: u32) -> ProcessSelector {
    ProcessSelector {
        selector: Some(Selector::Pid(pid)),
        ..ProcessSelector::default()
    }
}

/// Lets the process see the end of its input.
///
/// # Errors
/// [`Error::Refused`] when it is gone or has a terminal.
pub async fn close_stdin<S: Stream>(stream: S, caller: Caller<'_>, pid: u32) -> Result<(), Error> {
    let request = CloseStdinRequest {
        process: selector(pid).into(),
        ..CloseStdinRequest::default()
    };
    unary(stream, caller, "/process.Process/CloseStdin", request.encode_to_vec()).await
}

/// Changes the size of the process's terminal, in characters.
///
/// # Errors
/// [`Error::Refused`] when it is gone or has none.
pub async fn resize<S: Stream>(stream: S, caller: Caller<'_>, pid: u32, cols: u32, rows: u32) -> Result<(), Error> {
    let request = UpdateRequest {
        process: selector(pid).into(),
        pty: pty_of(cols, rows).into(),
        ..UpdateRequest::default()
    };
    unary(stream, caller, "/process.Process/Update", request.encode_to_vec()).await
}

/// Sends SIGTERM or SIGKILL to the process.
///
/// # Errors
/// [`Error::Refused`] when it is gone.
pub async fn send_signal<S: Stream>(stream: S, caller: Caller<'_>, pid: u32, signal: Signal) -> Result<(), Error> {
    let request = SendSignalRequest {
        process: selector(pid).into(),
        signal: signal.into(),
        ..SendSignalRequest::default()
    };
    unary(stream, caller, "/process.Process/SendSignal", request.encode_to_vec()).await
}

async fn unary<S: Stream>(stream: S, caller: Caller<'_>, path: &str, message: Vec<u8>) -> Result<(), Error> {
    let mut request = request_to(Method::POST, path, message.into());
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/proto"));
    headers.insert("connect-protocol-version", HeaderValue::from_static("1"));
    caller.sign(headers)?;
    ask(stream, request).await.map(drop)
}
