//! Commands inside the sandbox, for those who build templates and measure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buffa::Message;
use bytes::{Buf, Bytes, BytesMut};
use dormouse_agent_proto::rpc::process::{PTY, ProcessConfig, ProcessEvent, StartRequest, StartResponse, pty};
use dormouse_agent_proto::{AGENT_PORT, route};
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::control::request_to;
use crate::exchange::{refusal, send};
use crate::{Error, Stream};

const START: &str = "/process.Process/Start";
/// Flag byte of the envelope that ends a stream (contract 3.4).
const END_OF_STREAM: u8 = 2;
const ENVELOPE_HEAD: usize = 5;
/// The agent's chunks are at most 32 KiB; this leaves room for long arguments and still bounds memory.
const LARGEST_MESSAGE: usize = 4 << 20;

/// Who asks, and as which user.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// The sandbox's access token, if it has one.
    pub access_token: Option<&'a str>,
    /// User inside the sandbox; None: the sandbox's default user.
    pub user: Option<&'a str>,
    /// When the stream leads to a Dormouse server instead of an agent: the sandbox that is meant (contract 1.2).
    pub sandbox: Option<&'a str>,
}

impl Caller<'_> {
    /// Says in a request's headers who asks.
    pub(crate) fn sign(&self, headers: &mut HeaderMap) -> Result<(), Error> {
        let invalid = |_| Error::Nonsense("the caller's name or token is no header value");
        if let Some(user) = self.user {
            let value = format!("Basic {}", STANDARD.encode(format!("{user}:")));
            headers.insert(header::AUTHORIZATION, value.parse().map_err(invalid)?);
        }
        if let Some(token) = self.access_token {
            headers.insert(route::ACCESS_TOKEN_HEADER, token.parse().map_err(invalid)?);
        }
        if let Some(sandbox) = self.sandbox {
            headers.insert("e2b-sandbox-id", sandbox.parse().map_err(invalid)?);
            headers.insert("e2b-sandbox-port", AGENT_PORT.into());
        }
        Ok(())
    }
}

/// A message of a Connect stream: a flag byte, the length in four bytes, the message (contract 3.4).
pub(crate) fn envelope(message: &[u8]) -> Result<Bytes, Error> {
    let length = u32::try_from(message.len()).map_err(|_| Error::Nonsense("the message is far too long"))?;
    let mut body = BytesMut::with_capacity(message.len() + ENVELOPE_HEAD);
    body.extend_from_slice(&[0]);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(message);
    Ok(body.freeze())
}

/// A command line with its surroundings.
#[derive(Clone, Debug, Default)]
pub struct Command {
    request: StartRequest,
}

impl Command {
    /// Runs `program` with `args`, without input.
    pub fn new(program: impl Into<String>, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let process = ProcessConfig {
            cmd: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            ..ProcessConfig::default()
        };
        Self {
            request: StartRequest {
                process: process.into(),
                stdin: Some(false),
                ..StartRequest::default()
            },
        }
    }

    /// Runs `script` as E2B's clients run commands: by a login shell (contract 3.5).
    pub fn shell(script: impl Into<String>) -> Self {
        Self::new("/bin/bash", ["-l".to_owned(), "-c".to_owned(), script.into()])
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request
            .process
            .get_or_insert_default()
            .envs
            .insert(name.into(), value.into());
        self
    }

    /// Starts it in `directory` instead of the default one.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.request.process.get_or_insert_default().cwd = Some(directory.into());
        self
    }

    /// Names it, for `Connect` and `List`.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.request.tag = Some(tag.into());
        self
    }

    /// Gives it an input: `stream_input` of this crate writes to it, `close_stdin` ends it.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.request.stdin = Some(true);
        self
    }

    /// Gives it a terminal of this size, in characters.
    #[must_use]
    pub fn pty(mut self, cols: u32, rows: u32) -> Self {
        self.request.pty = pty_of(cols, rows).into();
        self
    }

    /// Starts it. Dropping the events does not end the command.
    ///
    /// # Errors
    /// [`Error::Refused`] for a wrong token; a command that cannot be started is reported by [`EventStream::next`].
    pub async fn start<S: Stream>(&self, stream: S, caller: Caller<'_>) -> Result<EventStream, Error> {
        let mut request = request_to(Method::POST, START, envelope(&self.request.encode_to_vec())?);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/connect+proto"));
        headers.insert("connect-protocol-version", HeaderValue::from_static("1"));
        caller.sign(headers)?;
        let answer = send(stream, request).await?;
        if answer.status().is_success() {
            Ok(EventStream {
                answer,
                buffer: BytesMut::new(),
                ended: false,
            })
        } else {
            Err(refusal(answer).await)
        }
    }
}

/// A terminal of this size.
pub(crate) fn pty_of(cols: u32, rows: u32) -> PTY {
    let size = pty::Size {
        cols,
        rows,
        ..pty::Size::default()
    };
    PTY {
        size: size.into(),
        ..PTY::default()
    }
}

/// What a started command does.
#[derive(Debug)]
pub struct EventStream {
    answer: Response<Incoming>,
    buffer: BytesMut,
    ended: bool,
}

impl EventStream {
    /// The next event: first `start`, last `end`, then None.
    ///
    /// # Errors
    /// [`Error::Call`] when the command could not be started, for instance for lack of the user or the directory.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, Error> {
        while !self.ended {
            let Some((flags, message)) = self.envelope().await? else {
                return Err(Error::Nonsense("the stream of events stops in the middle"));
            };
            if flags & END_OF_STREAM != 0 {
                self.ended = true;
                return end_of_stream(&message).map(|()| None);
            }
            let response = StartResponse::decode_from_slice(&message).map_err(|_| Error::Nonsense("this is no process event"))?;
            if let Some(event) = response.event.into_option() {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    async fn envelope(&mut self) -> Result<Option<(u8, Bytes)>, Error> {
        loop {
            if let Some(&[flags, a, b, c, d]) = self.buffer.get(..ENVELOPE_HEAD) {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > LARGEST_MESSAGE {
                    return Err(Error::Nonsense("it is far too long"));
                }
                if self.buffer.len() >= ENVELOPE_HEAD + length {
                    self.buffer.advance(ENVELOPE_HEAD);
                    return Ok(Some((flags, self.buffer.split_to(length).freeze())));
                }
            }
            match self.answer.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::Transport(error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Reads the answer to a stream of requests to its end.
pub(crate) async fn end_of_call(answer: Response<Incoming>) -> Result<(), Error> {
    let mut stream = EventStream {
        answer,
        buffer: BytesMut::new(),
        ended: false,
    };
    while let Some((flags, message)) = stream.envelope().await? {
        if flags & END_OF_STREAM != 0 {
            return end_of_stream(&message);
        }
    }
    Err(Error::Nonsense("the answer stops in the middle"))
}

fn end_of_stream(message: &[u8]) -> Result<(), Error> {
    let end: serde_json::Value =
        serde_json::from_slice(message).map_err(|_| Error::Nonsense("the stream of events has no proper end"))?;
    match end.get("error") {
        None => Ok(()),
        Some(error) => {
            let text = |key: &str| {
                error
                    .get(key)
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            Err(Error::Call {
                code: text("code"),
                message: text("message"),
            })
        }
    }
}
