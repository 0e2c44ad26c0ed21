//! The RPC service `process.Process` (contract 3.5).

use std::sync::Arc;

use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use dormouse_agent_proto::oneof::{Input as WireInput, StreamInputKind};
use dormouse_agent_proto::rpc::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest, ListResponse, Process, ProcessInput,
    SendInputRequest, SendInputResponse, SendSignalRequest, SendSignalResponse, Signal, StartRequest, StartResponse,
    StreamInputRequest, StreamInputResponse, UpdateRequest, UpdateResponse,
};
use futures::StreamExt as _;

use super::follow::events;
use super::input::InputError;
use super::launch::LaunchError;
use super::running::Running;
use super::start;
use super::table::NoSuchProcess;
use crate::agent::Agent;
use crate::rpc::{keepalive_of, user_of};

/// Serves `process.Process`.
#[derive(Clone, Debug)]
pub(crate) struct ProcessService {
    agent: Arc<Agent>,
}

impl ProcessService {
    /// A service over the agent's processes.
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }
}

impl Process for ProcessService {
    async fn list(&self, _ctx: RequestContext, _request: ServiceRequest<'_, ListRequest>) -> ServiceResult<ListResponse> {
        Response::ok(ListResponse {
            processes: self.agent.processes.list(),
            ..ListResponse::default()
        })
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let request = request.to_owned_message();
        let identity = self.agent.identity.get();
        let (user, accounts) = user_of(&self.agent, &identity, ctx.headers())?;
        let deadline = ctx.deadline();
        let agent = Arc::clone(&self.agent);
        // In a task of its own: a client that leaves in the middle must not leave half a process behind.
        let start = tokio::spawn(start::start(agent, request, user, accounts, identity, deadline));
        let (pid, queue) = start
            .await
            .map_err(|_| ConnectError::internal("starting the process was interrupted"))??;
        let events = events(pid, queue, keepalive_of(ctx.headers()), deadline);
        Response::stream_ok(events.map(|event| {
            event.map(|event| StartResponse {
                event: event.into(),
                ..StartResponse::default()
            })
        }))
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let request = request.to_owned_message();
        let selector = request.process.into_option().and_then(|process| process.selector);
        let (pid, queue) = self.agent.processes.follow(selector.as_ref())?;
        let events = events(pid, queue, keepalive_of(ctx.headers()), ctx.deadline());
        Response::stream_ok(events.map(|event| {
            event.map(|event| ConnectResponse {
                event: event.into(),
                ..ConnectResponse::default()
            })
        }))
    }

    async fn update(&self, _ctx: RequestContext, request: ServiceRequest<'_, UpdateRequest>) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let selector = request.process.into_option().and_then(|process| process.selector);
        let process = self.agent.processes.get(selector.as_ref())?;
        if let Some(pty) = request.pty.as_option() {
            let (cols, rows) = start::size_of(pty);
            process.resize(cols, rows)?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut process: Option<Arc<Running>> = None;
        while let Some(message) = requests.next().await {
            match (message?.to_owned_message().event, &process) {
                (Some(StreamInputKind::Start(start)), None) => {
                    let selector = start.process.into_option().and_then(|process| process.selector);
                    process = Some(self.agent.processes.get(selector.as_ref())?);
                }
                (Some(StreamInputKind::Start(_)), Some(_)) => {
                    return Err(ConnectError::invalid_argument("the stream has already started"));
                }
                (Some(StreamInputKind::Data(data)), Some(process)) => {
                    deliver(process, data.input.into_option()).await?;
                }
                (Some(StreamInputKind::Data(_)), None) => {
                    return Err(ConnectError::invalid_argument("the stream must begin with a start event"));
                }
                (Some(StreamInputKind::Keepalive(_)) | None, _) => {}
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let selector = request.process.into_option().and_then(|process| process.selector);
        let process = self.agent.processes.get(selector.as_ref())?;
        deliver(&process, request.input.into_option()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let selector = request.process.into_option().and_then(|process| process.selector);
        let process = self.agent.processes.get(selector.as_ref())?;
        let signal = match request.signal.to_i32() {
            number if number == Signal::SIGNAL_SIGKILL as i32 => rustix::process::Signal::KILL,
            number if number == Signal::SIGNAL_SIGTERM as i32 => rustix::process::Signal::TERM,
            number => return Err(ConnectError::unimplemented(format!("invalid signal: {number}"))),
        };
        if process.signal(signal) {
            Response::ok(SendSignalResponse::default())
        } else {
            Err(NoSuchProcess::Pid(process.pid()).into())
        }
    }

    async fn close_stdin(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let request = request.to_owned_message();
        let selector = request.process.into_option().and_then(|process| process.selector);
        match self.agent.processes.get(selector.as_ref()) {
            Ok(process) => process.input.close().await?,
            // Closing twice is no error, and the first time may have been what ended it.
            Err(_) if self.agent.processes.has_ended(selector.as_ref()) => {}
            Err(missing) => return Err(missing.into()),
        }
        Response::ok(CloseStdinResponse::default())
    }
}

async fn deliver(process: &Running, input: Option<ProcessInput>) -> Result<(), ConnectError> {
    match input.and_then(|input| input.input) {
        Some(WireInput::Stdin(bytes)) => Ok(process.input.write_stdin(&bytes).await?),
        Some(WireInput::Pty(bytes)) => Ok(process.input.write_terminal(&bytes).await?),
        None => Err(ConnectError::unimplemented("the input is neither for stdin nor for a pty")),
    }
}

impl From<NoSuchProcess> for ConnectError {
    fn from(error: NoSuchProcess) -> Self {
        let message = error.to_string();
        match error {
            NoSuchProcess::Pid(_) | NoSuchProcess::Tag(_) => Self::not_found(message),
            NoSuchProcess::Unselected => Self::invalid_argument(message),
        }
    }
}

impl From<LaunchError> for ConnectError {
    fn from(error: LaunchError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<InputError> for ConnectError {
    fn from(error: InputError) -> Self {
        let message = error.to_string();
        match error {
            InputError::CannotClose => Self::unknown(message),
            _ => Self::internal(message),
        }
    }
}
