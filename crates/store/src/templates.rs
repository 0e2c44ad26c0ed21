//! Templates with their names, builds and tags.

use dormouse_engine::Resources;
use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::build_jobs::{BuildJob, BuildStatus, point_tag};
use crate::row::{self, Row};
use crate::sandboxes::resources;
use crate::{BuildId, BuildRecord, Store, StoreError, TeamId, TemplateId, TemplateRecord};

/// The tag of a reference that names none (contract 4.1).
pub const DEFAULT_TAG: &str = "default";

/// A template as a list shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateSummary {
    /// The template.
    pub template: TemplateRecord,
    /// Its newest build.
    pub newest: NewestBuild,
    /// How many builds it has, those included that wait, are under way, or failed.
    pub builds: u32,
    /// Sandboxes made of it, as far as events tell.
    pub spawned: u64,
    /// When the last of them was made.
    pub last_spawned: Option<Timestamp>,
}

/// The build of a template that was asked for last.
#[derive(Clone, Debug, PartialEq)]
pub struct NewestBuild {
    /// Its id.
    pub id: BuildId,
    /// How far it is.
    pub status: BuildStatus,
    /// Size of its sandboxes.
    pub resources: Resources,
    /// When its status last changed.
    pub updated_at: Timestamp,
}

impl Store {
    /// Writes a template with one more build, and points the tag at the build.
    ///
    /// The template's names become those given. A name that another template of the team has moves to this one.
    pub async fn save_build(&self, template: &TemplateRecord, build: &BuildRecord, tag: &str) -> Result<(), StoreError> {
        let what = "save a template's build";
        let (template, build, tag) = (template.clone(), build.clone(), tag.to_owned());
        self.write(what, move |connection| {
            Box::pin(async move {
                let failed = |source| StoreError::Query { what, source };
                upsert_template(connection, &template).await.map_err(failed)?;
                insert_build(connection, &build).await?;
                point_tag(connection, &template.id, &tag, build.id, build.created_at)
                    .await
                    .map_err(failed)
            })
        })
        .await
    }

    /// The template that a reference names for a team: by id, by alias of its own, by public alias (contract 4.1).
    pub async fn template(&self, team: TeamId, id_or_alias: &str) -> Result<Option<TemplateRecord>, StoreError> {
        let found = sqlx::query(
            "SELECT id, team, public, created_at, 1 AS rank FROM templates WHERE id = ?1 AND (team = ?2 OR public)
             UNION ALL
             SELECT t.id, t.team, t.public, t.created_at, CASE WHEN a.team = ?2 THEN 2 ELSE 3 END
             FROM aliases a JOIN templates t ON t.id = a.template
             WHERE a.alias = ?1 AND (a.team = ?2 OR t.public)
             ORDER BY rank, created_at, id LIMIT 1",
        )
        .bind(id_or_alias)
        .bind(team.to_string())
        .fetch_optional(self.reader())
        .await
        .map_err(|source| StoreError::Query {
            what: "look up a template",
            source,
        })?;
        match found {
            None => Ok(None),
            Some(found) => self.with_aliases(&found).await.map(Some),
        }
    }

    /// Whether any template has this id or alias, a private one of another team included: tells 403 from 404 (contract 5.4).
    pub async fn template_exists(&self, id_or_alias: &str) -> Result<bool, StoreError> {
        sqlx::query("SELECT 1 FROM templates WHERE id = ?1 UNION ALL SELECT 1 FROM aliases WHERE alias = ?1 LIMIT 1")
            .bind(id_or_alias)
            .fetch_optional(self.reader())
            .await
            .map(|found| found.is_some())
            .map_err(|source| StoreError::Query {
                what: "look up a template",
                source,
            })
    }

    /// The templates that a team owns and those that are public, newest first.
    pub async fn templates(&self, team: TeamId) -> Result<Vec<TemplateSummary>, StoreError> {
        let what = "list the templates";
        let failed = |source| StoreError::Query { what, source };
        let found = sqlx::query("SELECT * FROM templates WHERE team = ? OR public ORDER BY created_at DESC, id DESC")
            .bind(team.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(failed)?;
        let mut summaries = Vec::with_capacity(found.len());
        for row in &found {
            let template = self.with_aliases(row).await?;
            summaries.extend(self.template_summary(&template).await?);
        }
        Ok(summaries)
    }

    /// A template as a list shows it; none when nobody has asked for a build of it.
    pub async fn template_summary(&self, template: &TemplateRecord) -> Result<Option<TemplateSummary>, StoreError> {
        let builds = self.template_builds(&template.id).await?;
        let Some(newest) = builds.first() else { return Ok(None) };
        let (spawned, last_spawned) = self.spawned(&template.id).await?;
        Ok(Some(TemplateSummary {
            template: template.clone(),
            newest: NewestBuild {
                id: newest.id,
                status: newest.status,
                resources: newest.resources,
                updated_at: newest.updated_at,
            },
            builds: u32::try_from(builds.len()).unwrap_or(u32::MAX),
            spawned,
            last_spawned,
        }))
    }

    /// Every build of a template, newest first: those that were asked for, and those of the server's own.
    pub async fn template_builds(&self, template: &TemplateId) -> Result<Vec<BuildJob>, StoreError> {
        let mut builds = self.build_jobs(template).await?;
        for build in self.builds_of(template).await? {
            if !builds.iter().any(|known| known.id == build.id) {
                builds.push(BuildJob {
                    id: build.id,
                    template: build.template,
                    status: BuildStatus::Ready,
                    tags: Vec::new(),
                    resources: build.resources,
                    start_cmd: None,
                    ready_cmd: None,
                    reason: None,
                    step: None,
                    created_at: build.created_at,
                    updated_at: build.created_at,
                    finished_at: Some(build.created_at),
                });
            }
        }
        builds.sort_by_key(|build| std::cmp::Reverse((build.created_at, build.id)));
        Ok(builds)
    }

    /// The builds of a template that sandboxes can start from, newest first.
    pub async fn builds_of(&self, template: &TemplateId) -> Result<Vec<BuildRecord>, StoreError> {
        sqlx::query("SELECT * FROM builds WHERE template = ? ORDER BY created_at DESC, id DESC")
            .bind(template.as_str())
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "list builds",
                source,
            })?
            .iter()
            .map(decode_build)
            .collect()
    }

    /// The build that a template's tag points at.
    pub async fn tagged_build(&self, template: &TemplateRecord, tag: &str) -> Result<Option<BuildRecord>, StoreError> {
        sqlx::query("SELECT b.* FROM tags t JOIN builds b ON b.id = t.build WHERE t.template = ? AND t.tag = ?")
            .bind(template.id.as_str())
            .bind(tag)
            .fetch_optional(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "look up a tag",
                source,
            })?
            .as_ref()
            .map(decode_build)
            .transpose()
    }

    /// A build by id.
    pub async fn build(&self, id: BuildId) -> Result<Option<BuildRecord>, StoreError> {
        sqlx::query("SELECT * FROM builds WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "look up a build",
                source,
            })?
            .as_ref()
            .map(decode_build)
            .transpose()
    }

    /// Every build; read at start for the sweep of snapshots and trees, and for the warm pool.
    pub async fn builds(&self) -> Result<Vec<BuildRecord>, StoreError> {
        sqlx::query("SELECT * FROM builds ORDER BY created_at, id")
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "read the builds",
                source,
            })?
            .iter()
            .map(decode_build)
            .collect()
    }

    async fn with_aliases(&self, row: &SqliteRow) -> Result<TemplateRecord, StoreError> {
        let row = Row::new(row, "template", "id");
        let id: TemplateId = row.word("id")?;
        let aliases = sqlx::query_scalar("SELECT alias FROM aliases WHERE template = ? ORDER BY position")
            .bind(id.as_str())
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "read a template's names",
                source,
            })?;
        Ok(TemplateRecord {
            id,
            team: row.word("team")?,
            aliases,
            public: row.get("public")?,
            created_at: row.word("created_at")?,
        })
    }
}

pub(crate) async fn upsert_template(connection: &mut SqliteConnection, template: &TemplateRecord) -> Result<(), sqlx::Error> {
    // Not REPLACE: that would delete the builds and tags that refer to the row.
    sqlx::query(
        "INSERT INTO templates (id, team, public, created_at) VALUES (?,?,?,?)
         ON CONFLICT (id) DO UPDATE SET team = excluded.team, public = excluded.public, created_at = excluded.created_at",
    )
    .bind(template.id.as_str())
    .bind(template.team.to_string())
    .bind(template.public)
    .bind(row::time(template.created_at))
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM aliases WHERE template = ?")
        .bind(template.id.as_str())
        .execute(&mut *connection)
        .await?;
    for (position, alias) in (0_i64..).zip(&template.aliases) {
        sqlx::query("INSERT OR REPLACE INTO aliases (team, alias, template, position) VALUES (?,?,?,?)")
            .bind(template.team.to_string())
            .bind(alias)
            .bind(template.id.as_str())
            .bind(position)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(crate) async fn insert_build(connection: &mut SqliteConnection, build: &BuildRecord) -> Result<(), StoreError> {
    let root = build.root.to_str().ok_or_else(|| StoreError::Unstorable {
        what: "build",
        id: build.id.to_string(),
        source: format!("the path {} is not UTF-8", build.root.display()).into(),
    })?;
    sqlx::query(
        "INSERT INTO builds (
            id, template, engine, root, snapshot, vcpus, memory_mib, disk_mib, pids, env, default_user, default_workdir, created_at
        ) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )
    .bind(build.id.to_string())
    .bind(build.template.as_str())
    .bind(build.engine.to_string())
    .bind(root)
    .bind(build.snapshot.as_str())
    .bind(build.resources.vcpus)
    .bind(build.resources.memory_mib)
    .bind(build.resources.disk_mib)
    .bind(build.resources.pids)
    .bind(row::json("build", &build.id, &build.env)?)
    .bind(&build.default_user)
    .bind(build.default_workdir.as_deref())
    .bind(row::time(build.created_at))
    .execute(&mut *connection)
    .await
    .map_err(|source| StoreError::Query {
        what: "save a build",
        source,
    })?;
    Ok(())
}

pub(crate) fn decode_build(row: &SqliteRow) -> Result<BuildRecord, StoreError> {
    let row = Row::new(row, "build", "id");
    Ok(BuildRecord {
        id: row.word("id")?,
        template: row.word("template")?,
        engine: row.word("engine")?,
        root: row.get::<String>("root")?.into(),
        snapshot: row.word("snapshot")?,
        resources: resources(&row)?,
        env: row.json("env")?,
        default_user: row.get("default_user")?,
        default_workdir: row.get("default_workdir")?,
        created_at: row.word("created_at")?,
    })
}
