//! `dormouse template …`: a small client of the server's template builds.

mod archive;
mod build;
mod dockerfile;
mod ignore;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Server;
use crate::config::{Config, Settings};
use crate::output::print_table;

#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    pub(crate) action: TemplateAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateAction {
    /// Build a template from a Dockerfile
    Build(BuildArgs),
    /// List templates, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete templates with all their builds
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// List the tags of a template
    Tags {
        /// Name or id
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let every team start sandboxes from a template
    Publish {
        /// Name or id
        name: String,
    },
    /// Keep a template for its own team
    Unpublish {
        /// Name or id
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// A Dockerfile, or a directory with one
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Name of the template, with or without a tag [default: that of the directory]
    #[arg(long, short)]
    pub(crate) name: Option<String>,
    /// Further tags
    #[arg(long = "tag", short, value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Directory that COPY takes files from [default: that of the Dockerfile]
    #[arg(long, value_name = "DIR")]
    pub(crate) context: Option<PathBuf>,
    /// Command that runs in every sandbox from its first moment [default: ENTRYPOINT and CMD]
    #[arg(long, value_name = "COMMAND")]
    pub(crate) cmd: Option<String>,
    /// Command that succeeds once the start command is ready [default: `sleep 20`]
    #[arg(long, value_name = "COMMAND")]
    pub(crate) ready_cmd: Option<String>,
    /// Values for ARG, `NAME=value`
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub(crate) build_args: Vec<String>,
    /// CPUs of a sandbox
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// Memory of a sandbox, MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u32>,
    /// Free disk space of a sandbox, MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) disk_mib: Option<u32>,
    /// Carry out every step again
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a list shows of a template (contract 2.3 `Template`).
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    aliases: Vec<String>,
    public: bool,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    build_status: String,
    build_count: u32,
    updated_at: String,
}

/// What is known of a tag (contract 2.3 `TemplateTag`).
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tag {
    tag: String,
    #[serde(rename = "buildID")]
    build_id: String,
    created_at: String,
}

pub(crate) async fn template(arguments: TemplateArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.settings)?;
    let server = Server::of(&config)?;
    match arguments.action {
        TemplateAction::Build(arguments) => return build::build(&server, arguments).await,
        TemplateAction::List { json } => list(&server, json).await?,
        TemplateAction::Delete { names } => {
            for name in names {
                server.ask(Method::DELETE, &path(&name, ""), None).await?;
                println!("{name} deleted");
            }
        }
        TemplateAction::Tags { name, json } => tags(&server, &name, json).await?,
        TemplateAction::Publish { name } => publish(&server, &name, true).await?,
        TemplateAction::Unpublish { name } => publish(&server, &name, false).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A path of the API with a template in it: a name may have a slash, which is no separator.
fn path(name: &str, rest: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    format!("/templates/{}{rest}", encoded.replace('+', "%20"))
}

async fn list(server: &Server, json: bool) -> anyhow::Result<()> {
    let templates: Vec<Listed> = server.ask_json(Method::GET, "/templates", None).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&templates)?);
        return Ok(());
    }
    let row = |template: Listed| {
        vec![
            template.template_id,
            template.aliases.join(", "),
            if template.public { "public" } else { "private" }.to_owned(),
            template.build_status,
            template.build_count.to_string(),
            template.cpu_count.to_string(),
            template.memory_mb.to_string(),
            template.updated_at,
        ]
    };
    print_table(
        &["TEMPLATE", "NAMES", "ACCESS", "STATUS", "BUILDS", "CPUS", "MEMORY", "UPDATED"],
        &templates.into_iter().map(row).collect::<Vec<_>>(),
    );
    Ok(())
}

async fn tags(server: &Server, name: &str, json: bool) -> anyhow::Result<()> {
    let tags: Vec<Tag> = server.ask_json(Method::GET, &path(name, "/tags"), None).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&tags)?);
        return Ok(());
    }
    let row = |tag: Tag| vec![tag.tag, tag.build_id, tag.created_at];
    print_table(&["TAG", "BUILD", "SINCE"], &tags.into_iter().map(row).collect::<Vec<_>>());
    Ok(())
}

async fn publish(server: &Server, name: &str, public: bool) -> anyhow::Result<()> {
    let body = json!({ "public": public });
    let path = format!("/v2{}", path(name, ""));
    server.ask(Method::PATCH, &path, Some(body)).await?;
    println!("{name} is {} now", if public { "public" } else { "private" });
    Ok(())
}
