//! What a build stands on (contract 5.3): another template's build, or an image.

use dormouse_templates::base::NAME as BASE_TEMPLATE;

use crate::cache::Link;
use crate::context::Context;
use crate::error::Failure;
use crate::job::{Job, Stack};
use crate::logs::Level;
use crate::names::{self, Found};
use crate::steps::From;

/// The step's name in messages (contract 5.1).
pub(crate) const STEP: &str = "base";

/// Images that are the template `base` under another name.
const BASE_IMAGES: &[&str] = &[
    "e2bdev/base",
    "docker.io/e2bdev/base",
    "e2bdev/base:latest",
    "docker.io/e2bdev/base:latest",
];

/// A base, ready to be built upon.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) stack: Stack,
    pub(crate) context: Context,
    pub(crate) start_cmd: Option<String>,
    pub(crate) ready_cmd: Option<String>,
    pub(crate) link: Link,
}

/// Finds or makes the base.
pub(crate) async fn prepare(job: &Job) -> Result<Base, Failure> {
    match &job.spec.from {
        From::Template(reference) => template(job, reference, reference).await,
        From::Image(image) if BASE_IMAGES.contains(&image.trim()) => template(job, BASE_TEMPLATE, image).await,
        From::Image(image) => Err(Failure::new(format!(
            "the image '{image}' cannot be used: this server builds from its own templates only"
        ))),
    }
}

/// Another template's build: its tree, its context, its commands.
async fn template(job: &Job, reference: &str, shown: &str) -> Result<Base, Failure> {
    let store = &job.shared.store;
    let parsed = names::parse(reference).map_err(|error| Failure::new(error.to_string()))?;
    let failed = |error: crate::BuilderError| Failure::of("the base template cannot be read", &error);
    let build = match names::find(store, job.team, &parsed).await.map_err(failed)? {
        Found::Build(_, build) => build,
        Found::NoTemplate => return Err(Failure::new(format!("template '{reference}' not found"))),
        Found::NoTag(_) => {
            return Err(Failure::new(format!(
                "tag '{}' does not exist for template '{}'",
                parsed.tag_or_default(),
                parsed.name
            )));
        }
    };
    let asked = store
        .build_job(&build.template, build.id)
        .await
        .map_err(|error| failed(error.into()))?;
    let link = Link::base(&format!("template {}", build.id));
    job.log.say(
        Level::Info,
        Some(STEP),
        format!("CACHED [base] FROM {shown} [{}]", link.as_str()),
    );
    let (start_cmd, ready_cmd) = asked.map(|asked| (asked.start_cmd, asked.ready_cmd)).unwrap_or_default();
    Ok(Base {
        stack: Stack {
            root: job.shared.config.data_dir.join(&build.root),
            layers: Vec::new(),
        },
        context: Context {
            user: build.default_user,
            workdir: build.default_workdir,
            env: build.env,
        },
        start_cmd,
        ready_cmd,
        link,
    })
}
