//! Builds of templates, from the request to the end (contract 5.1, 5.2).
//!
//! A job is what was asked for and how it went; the [`BuildRecord`] that a successful one leaves is what sandboxes start from.

use dormouse_engine::Resources;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::row::{self, Row};
use crate::sandboxes::resources;
use crate::templates::{insert_build, upsert_template};
use crate::{BuildId, BuildRecord, Store, StoreError, TeamId, TemplateId, TemplateRecord};

/// How far a build is (contract 2.3 `TemplateBuildStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildStatus {
    /// Requested; its steps are not known yet.
    Waiting,
    /// Under way.
    Building,
    /// Sandboxes can start from it.
    Ready,
    /// Failed.
    Error,
}

impl BuildStatus {
    /// The word that stands for it in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Error => "error",
        }
    }
}

/// A build that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildJob {
    /// Its id, also of the [`BuildRecord`] that it leaves.
    pub id: BuildId,
    /// Of which template.
    pub template: TemplateId,
    /// How far it is.
    pub status: BuildStatus,
    /// The tags that will point at it.
    pub tags: Vec<String>,
    /// Size of its sandboxes.
    pub resources: Resources,
    /// The command that runs in every sandbox from its first moment, if there is one. Known when it is ready.
    pub start_cmd: Option<String>,
    /// What decided that the start command was ready. Known when it is ready.
    pub ready_cmd: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Where it failed: `base`, the number of a step from 1, or `finalize` (contract 5.1).
    pub step: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its status last changed.
    pub updated_at: Timestamp,
    /// When it was ready or failed.
    pub finished_at: Option<Timestamp>,
}

/// A build that is asked for.
#[derive(Clone, Debug)]
pub struct NewBuild {
    /// Whose.
    pub team: TeamId,
    /// The template's name. The team's template of that name gets the build; there is a new one if there is none.
    pub alias: String,
    /// The tags that will point at it.
    pub tags: Vec<String>,
    /// Size of its sandboxes.
    pub resources: Resources,
}

/// What became of the wish to start a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartedBuild {
    /// It is under way. The others of the template, which this one takes the place of, have been given up.
    Started(Vec<BuildId>),
    /// It was started, or has failed, before.
    NotWaiting,
    /// There is none.
    Unknown,
}

impl Store {
    /// Enters a build that waits for its steps, and its template if that is new.
    pub async fn request_build(&self, new: &NewBuild, now: Timestamp) -> Result<(TemplateRecord, BuildJob), StoreError> {
        let what = "request a build";
        let new = new.clone();
        // The look-up before the write is only for the template's other names; the name itself is looked up in the transaction.
        let template = self.write(what, move |connection| {
            Box::pin(async move {
                let failed = |source| StoreError::Query { what, source };
                let known: Option<String> = sqlx::query_scalar("SELECT template FROM aliases WHERE team = ? AND alias = ?")
                    .bind(new.team.to_string())
                    .bind(&new.alias)
                    .fetch_optional(&mut *connection)
                    .await
                    .map_err(failed)?;
                let template = match known.and_then(|id| id.parse().ok()) {
                    Some(id) => id,
                    None => {
                        let template = TemplateRecord {
                            id: TemplateId::random(),
                            team: new.team,
                            aliases: vec![new.alias.clone()],
                            public: false,
                            created_at: now,
                        };
                        upsert_template(connection, &template).await.map_err(failed)?;
                        template.id
                    }
                };
                let job = BuildJob {
                    id: BuildId::random(),
                    template,
                    status: BuildStatus::Waiting,
                    tags: new.tags,
                    resources: new.resources,
                    start_cmd: None,
                    ready_cmd: None,
                    reason: None,
                    step: None,
                    created_at: now,
                    updated_at: now,
                    finished_at: None,
                };
                insert(connection, &job).await?;
                Ok((job, new.team))
            })
        });
        let (job, team) = template.await?;
        let template = self.template(team, job.template.as_str()).await?;
        let template = template.ok_or_else(|| StoreError::Query {
            what,
            source: sqlx::Error::RowNotFound,
        })?;
        Ok((template, job))
    }

    /// A build by id, of that template.
    pub async fn build_job(&self, template: &TemplateId, id: BuildId) -> Result<Option<BuildJob>, StoreError> {
        sqlx::query("SELECT * FROM build_jobs WHERE id = ? AND template = ?")
            .bind(id.to_string())
            .bind(template.as_str())
            .fetch_optional(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "look up a build",
                source,
            })?
            .as_ref()
            .map(decode)
            .transpose()
    }

    /// All builds of a template that were asked for, newest first.
    pub async fn build_jobs(&self, template: &TemplateId) -> Result<Vec<BuildJob>, StoreError> {
        sqlx::query("SELECT * FROM build_jobs WHERE template = ? ORDER BY created_at DESC, id DESC")
            .bind(template.as_str())
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "list builds",
                source,
            })?
            .iter()
            .map(decode)
            .collect()
    }

    /// Turns a waiting build into one that is under way, and gives up the template's other builds that are.
    pub async fn start_build(&self, template: &TemplateId, id: BuildId, now: Timestamp) -> Result<StartedBuild, StoreError> {
        let what = "start a build";
        let template = template.clone();
        self.write(what, move |connection| {
            Box::pin(async move {
                let failed = |source| StoreError::Query { what, source };
                let status: Option<String> = sqlx::query_scalar("SELECT status FROM build_jobs WHERE id = ? AND template = ?")
                    .bind(id.to_string())
                    .bind(template.as_str())
                    .fetch_optional(&mut *connection)
                    .await
                    .map_err(failed)?;
                match status.as_deref() {
                    None => return Ok(StartedBuild::Unknown),
                    Some("waiting") => {}
                    Some(_) => return Ok(StartedBuild::NotWaiting),
                }
                let others: Vec<String> = sqlx::query_scalar(
                    "UPDATE build_jobs SET status = 'error', reason = 'Cancelled: a newer build of the template was started',
                     updated_at = ?1, finished_at = ?1 WHERE template = ?2 AND status = 'building' RETURNING id",
                )
                .bind(row::time(now))
                .bind(template.as_str())
                .fetch_all(&mut *connection)
                .await
                .map_err(failed)?;
                sqlx::query("UPDATE build_jobs SET status = 'building', updated_at = ? WHERE id = ?")
                    .bind(row::time(now))
                    .bind(id.to_string())
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                Ok(StartedBuild::Started(
                    others.iter().filter_map(|id| id.parse().ok()).collect(),
                ))
            })
        })
        .await
    }

    /// Enters that a build failed. One that is finished already stays as it is.
    pub async fn fail_build(&self, id: BuildId, reason: &str, step: Option<&str>, now: Timestamp) -> Result<(), StoreError> {
        let what = "enter the failure of a build";
        let (reason, step) = (reason.to_owned(), step.map(str::to_owned));
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE build_jobs SET status = 'error', reason = ?1, step = ?2, updated_at = ?3, finished_at = ?3
                     WHERE id = ?4 AND status IN ('waiting', 'building')",
                )
                .bind(reason)
                .bind(step)
                .bind(row::time(now))
                .bind(id.to_string())
                .execute(connection)
                .await
                .map(drop)
                .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }

    /// Enters that a build is ready: sandboxes can start from it, and its tags point at it. Says whether that is so: not when it was
    /// cancelled or its template deleted meanwhile.
    pub async fn finish_build(
        &self,
        build: &BuildRecord,
        start_cmd: Option<&str>,
        ready_cmd: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let what = "enter a finished build";
        let (build, start_cmd, ready_cmd) = (build.clone(), start_cmd.map(str::to_owned), ready_cmd.map(str::to_owned));
        self.write(what, move |connection| {
            Box::pin(async move {
                let failed = |source| StoreError::Query { what, source };
                let tags: Option<String> = sqlx::query_scalar(
                    "UPDATE build_jobs SET status = 'ready', start_cmd = ?1, ready_cmd = ?2, updated_at = ?3, finished_at = ?3
                     WHERE id = ?4 AND status = 'building' RETURNING tags",
                )
                .bind(start_cmd)
                .bind(ready_cmd)
                .bind(row::time(now))
                .bind(build.id.to_string())
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed)?;
                let Some(tags) = tags else { return Ok(false) };
                insert_build(connection, &build).await?;
                let tags: Vec<String> = serde_json::from_str(&tags).map_err(|error| StoreError::Corrupt {
                    what: "build",
                    id: build.id.to_string(),
                    source: error.into(),
                })?;
                for tag in &tags {
                    point_tag(connection, &build.template, tag, build.id, now)
                        .await
                        .map_err(failed)?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// After a restart: builds that were under way have failed, and those that have waited since before `stale` too. Returns them.
    pub async fn abandon_builds(&self, reason: &str, stale: Timestamp, now: Timestamp) -> Result<Vec<BuildId>, StoreError> {
        let what = "abandon builds";
        let reason = reason.to_owned();
        self.write(what, move |connection| {
            Box::pin(async move {
                let ids: Vec<String> = sqlx::query_scalar(
                    "UPDATE build_jobs SET status = 'error', reason = ?1, updated_at = ?2, finished_at = ?2
                     WHERE status = 'building' OR (status = 'waiting' AND created_at < ?3) RETURNING id",
                )
                .bind(reason)
                .bind(row::time(now))
                .bind(row::time(stale))
                .fetch_all(connection)
                .await
                .map_err(|source| StoreError::Query { what, source })?;
                Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
            })
        })
        .await
    }
}

/// Points a tag of a template at one of its builds.
pub(crate) async fn point_tag(
    connection: &mut SqliteConnection,
    template: &TemplateId,
    tag: &str,
    build: BuildId,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT OR REPLACE INTO tags (template, tag, build, created_at) VALUES (?,?,?,?)")
        .bind(template.as_str())
        .bind(tag)
        .bind(build.to_string())
        .bind(row::time(now))
        .execute(connection)
        .await
        .map(drop)
}

async fn insert(connection: &mut SqliteConnection, job: &BuildJob) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO build_jobs (id, template, status, tags, vcpus, memory_mib, disk_mib, pids, created_at, updated_at)
         VALUES (?,?,?,?,?,?,?,?,?,?)",
    )
    .bind(job.id.to_string())
    .bind(job.template.as_str())
    .bind(job.status.as_str())
    .bind(row::json("build", &job.id, &job.tags)?)
    .bind(job.resources.vcpus)
    .bind(job.resources.memory_mib)
    .bind(job.resources.disk_mib)
    .bind(job.resources.pids)
    .bind(row::time(job.created_at))
    .bind(row::time(job.updated_at))
    .execute(connection)
    .await
    .map(drop)
    .map_err(|source| StoreError::Query {
        what: "request a build",
        source,
    })
}

pub(crate) fn decode(row: &SqliteRow) -> Result<BuildJob, StoreError> {
    let row = Row::new(row, "build", "id");
    Ok(BuildJob {
        id: row.word("id")?,
        template: row.word("template")?,
        status: row.word("status")?,
        tags: row.json("tags")?,
        resources: resources(&row)?,
        start_cmd: row.get("start_cmd")?,
        ready_cmd: row.get("ready_cmd")?,
        reason: row.get("reason")?,
        step: row.get("step")?,
        created_at: row.word("created_at")?,
        updated_at: row.word("updated_at")?,
        finished_at: row.optional_word("finished_at")?,
    })
}
