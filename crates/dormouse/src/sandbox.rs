//! `dormouse sandbox …`: a small client of the server, for hands and scripts.

use std::process::ExitCode;

use anyhow::Context as _;
use dormouse_agent_client::{Caller, Command};
use dormouse_agent_proto::rpc::process::process_event::{self, data_event};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::cli::{SandboxAction, SandboxArgs};
use crate::client::Server;
use crate::config::Config;
use crate::output::print_table;

/// What `list` shows of a sandbox (contract 2.3 `ListedSandbox`).
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(rename = "sandboxID")]
    id: String,
    #[serde(rename = "templateID")]
    template: String,
    alias: Option<String>,
    state: String,
    started_at: String,
    end_at: String,
}

/// What connect answers, as far as it is needed here (contract 2.3 `Sandbox`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connected {
    #[serde(rename = "sandboxID")]
    id: String,
    envd_access_token: Option<String>,
}

/// A connect that only wants the sandbox awake does not change its end: the contract never shortens it.
const CONNECT_SECONDS: u32 = 15;

pub(crate) async fn sandbox(arguments: SandboxArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.settings)?;
    let server = Server::of(&config)?;
    match arguments.action {
        SandboxAction::List { json } => list(&server, json).await?,
        SandboxAction::Create {
            template,
            timeout,
            auto_pause,
            json,
        } => create(&server, &template, timeout, auto_pause, json).await?,
        SandboxAction::Exec { id, user, cwd, command } => return exec(&server, &id, user, cwd, command).await,
        SandboxAction::Kill { ids } => {
            for id in ids {
                server.ask(Method::DELETE, &format!("/sandboxes/{id}"), None).await?;
                println!("{id} killed");
            }
        }
        SandboxAction::Pause { id } => {
            server
                .ask(Method::POST, &format!("/sandboxes/{id}/pause"), Some(json!({})))
                .await?;
            println!("{id} paused");
        }
        SandboxAction::Resume { id, timeout } => {
            server
                .ask(
                    Method::POST,
                    &format!("/v2/sandboxes/{id}/connect"),
                    Some(json!({ "timeout": timeout })),
                )
                .await?;
            println!("{id} running");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(server: &Server, json: bool) -> anyhow::Result<()> {
    let sandboxes: Vec<Listed> = server.ask_json(Method::GET, "/v2/sandboxes?limit=100", None).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&sandboxes)?);
        return Ok(());
    }
    let row = |sandbox: Listed| {
        let template = sandbox.alias.unwrap_or(sandbox.template);
        vec![sandbox.id, template, sandbox.state, sandbox.started_at, sandbox.end_at]
    };
    print_table(
        &["SANDBOX", "TEMPLATE", "STATE", "STARTED", "ENDS"],
        &sandboxes.into_iter().map(row).collect::<Vec<_>>(),
    );
    Ok(())
}

async fn create(server: &Server, template: &str, timeout: u32, auto_pause: bool, json: bool) -> anyhow::Result<()> {
    let mut body = json!({ "templateID": template, "timeout": timeout });
    if auto_pause {
        body["autoPause"] = true.into();
        body["autoResume"] = json!({ "enabled": true });
    }
    let made: Value = server.ask_json(Method::POST, "/v2/sandboxes", Some(body)).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&made)?);
    } else {
        println!(
            "{}",
            made.get("sandboxID")
                .and_then(Value::as_str)
                .context("The server's answer names no sandbox")?
        );
    }
    Ok(())
}

async fn exec(
    server: &Server,
    id: &str,
    user: Option<String>,
    cwd: Option<String>,
    command: Vec<String>,
) -> anyhow::Result<ExitCode> {
    let timeout = json!({ "timeout": CONNECT_SECONDS });
    let sandbox: Connected = server
        .ask_json(Method::POST, &format!("/v2/sandboxes/{id}/connect"), Some(timeout))
        .await?;
    let mut words = command.into_iter();
    let program = words.next().context("No command was given")?;
    let mut command = Command::new(program, words);
    if let Some(cwd) = cwd {
        command = command.cwd(cwd);
    }
    let caller = Caller {
        access_token: sandbox.envd_access_token.as_deref(),
        user: user.as_deref(),
        sandbox: Some(&sandbox.id),
    };
    let mut events = command.start(server.connect().await?, caller).await?;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(event) = events.next().await? {
        match event.event {
            Some(process_event::Event::Data(data)) => match data.output {
                Some(data_event::Output::Stdout(bytes)) => stdout.write_all(&bytes).await?,
                Some(data_event::Output::Stderr(bytes) | data_event::Output::Pty(bytes)) => stderr.write_all(&bytes).await?,
                None => {}
            },
            Some(process_event::Event::End(end)) => {
                stdout.flush().await?;
                stderr.flush().await?;
                // As a shell does it: a command ended by a signal has no code of its own.
                return Ok(u8::try_from(end.exit_code).map_or(ExitCode::FAILURE, ExitCode::from));
            }
            _ => {}
        }
    }
    anyhow::bail!("The command's end was not reported")
}
