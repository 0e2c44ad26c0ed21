//! The template `base`: its tree, and the snapshot that its sandboxes start from.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dormouse_engine::{InstanceId, NetworkPolicy, StartFrom, StartRequest};
use dormouse_store::{BuildId, BuildRecord, TeamId, TemplateId, TemplateRecord};
use dormouse_templates::base::{self, AgentSource, BaseOptions, RootTree};
use dormouse_templates::ca::{self, Certificate};
use dormouse_templates::console::Console;

use crate::agent::AGENT;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::host::Host;

/// The tag that a template's name alone means.
const TAG: &str = "default";

/// The tree of the template, made when it is missing: minutes the first time, a moment after that.
pub(crate) async fn ensure_tree(config: &Config, data: &DataDir) -> anyhow::Result<RootTree> {
    let options = BaseOptions {
        directory: data.templates(),
        agent: AgentSource::Bytes(AGENT.to_vec()),
        agent_as_sudo: true,
        extra_cas: extra_cas(&config.extra_ca)?,
    };
    let made = tokio::task::spawn_blocking(move || base::ensure(&options, &Console::new("base template")));
    Ok(made.await.context("Making the base template broke off")??)
}

/// The certificates that `--extra-ca` names.
fn extra_cas(names: &[String]) -> anyhow::Result<Vec<Certificate>> {
    let mut certificates = Vec::new();
    for name in names {
        let found = if name == "auto" {
            ca::host_extra_cas()
        } else {
            ca::read_file(Path::new(name))
        };
        certificates.extend(found?);
    }
    Ok(certificates)
}

/// The build of the template for this tree, engine and size; made when there is none: boots the tree and writes the snapshot.
pub(crate) async fn ensure_build(config: &Config, host: &Host, tree: &RootTree) -> anyhow::Result<BuildRecord> {
    let root = relative(&tree.path, &config.data_dir);
    let known = host.store.template(TeamId::FIRST, base::NAME).await?;
    if let Some(template) = &known
        && let Some(build) = host.store.tagged_build(template, TAG).await?
    {
        let fits = build.root == root && build.engine == host.engine.kind() && build.resources == config.base;
        if fits && host.snapshots.path(&build.snapshot).is_dir() {
            return Ok(build);
        }
    }
    tracing::info!("booting the base template once, for the snapshot that sandboxes start from");
    let snapshot = host
        .control
        .bake(StartRequest {
            id: InstanceId::random(),
            root: tree.path.clone(),
            from: StartFrom::Boot,
            resources: config.base,
            network: NetworkPolicy::default(),
        })
        .await
        .context("The base template could not be booted")?;
    let now = jiff::Timestamp::now();
    let template = known.unwrap_or_else(|| TemplateRecord {
        id: TemplateId::random(),
        team: TeamId::FIRST,
        aliases: vec![base::NAME.to_owned()],
        public: true,
        created_at: now,
    });
    let build = BuildRecord {
        id: BuildId::random(),
        template: template.id.clone(),
        engine: host.engine.kind(),
        root,
        snapshot,
        resources: config.base,
        env: tree.env.clone(),
        default_user: tree.default_user.clone(),
        default_workdir: Some(tree.workdir.clone()),
        created_at: now,
    };
    host.store.save_build(&template, &build, TAG).await?;
    Ok(build)
}

/// Builds name their trees relative to the data directory, so that it can be moved.
fn relative(path: &Path, data_dir: &Path) -> PathBuf {
    path.strip_prefix(data_dir).unwrap_or(path).to_owned()
}
