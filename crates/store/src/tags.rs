//! Tags of templates, and what else their owner changes (contract 5.4).

use jiff::Timestamp;

use crate::build_jobs::point_tag;
use crate::row::Row;
use crate::{BuildId, BuildRecord, Store, StoreError, TemplateId, TemplateRecord, templates};

/// A tag and the build that it points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// The tag.
    pub tag: String,
    /// The build.
    pub build: BuildId,
    /// When it was last pointed.
    pub created_at: Timestamp,
}

/// What became of the wish to delete a template.
#[derive(Clone, Debug, PartialEq)]
pub enum DeletedTemplate {
    /// It is gone. These builds of it were ready: their trees and snapshots can be removed.
    Deleted(Vec<BuildRecord>),
    /// There are sandboxes of it, some of which run.
    Running,
    /// There are sandboxes of it, all of which sleep.
    Paused,
}

impl Store {
    /// The tags of a template, in the order of the alphabet.
    pub async fn tags(&self, template: &TemplateId) -> Result<Vec<TagRecord>, StoreError> {
        sqlx::query("SELECT tag, build, created_at FROM tags WHERE template = ? ORDER BY tag")
            .bind(template.as_str())
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "list tags",
                source,
            })?
            .iter()
            .map(|row| {
                let row = Row::new(row, "tag", "tag");
                Ok(TagRecord {
                    tag: row.get("tag")?,
                    build: row.word("build")?,
                    created_at: row.word("created_at")?,
                })
            })
            .collect()
    }

    /// Points tags at a build of the template.
    pub async fn assign_tags(
        &self,
        template: &TemplateId,
        tags: &[String],
        build: BuildId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let what = "assign tags";
        let (template, tags) = (template.clone(), tags.to_vec());
        self.write(what, move |connection| {
            Box::pin(async move {
                for tag in &tags {
                    point_tag(connection, &template, tag, build, now)
                        .await
                        .map_err(|source| StoreError::Query { what, source })?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Takes tags from a template. All of them, or, when one of them is not there, none: that one is returned.
    pub async fn remove_tags(&self, template: &TemplateId, tags: &[String]) -> Result<Option<String>, StoreError> {
        let what = "remove tags";
        let (template, tags) = (template.clone(), tags.to_vec());
        self.write(what, move |connection| {
            Box::pin(async move {
                let failed = |source| StoreError::Query { what, source };
                for tag in &tags {
                    let there: Option<i64> = sqlx::query_scalar("SELECT 1 FROM tags WHERE template = ? AND tag = ?")
                        .bind(template.as_str())
                        .bind(tag)
                        .fetch_optional(&mut *connection)
                        .await
                        .map_err(failed)?;
                    if there.is_none() {
                        return Ok(Some(tag.clone()));
                    }
                }
                for tag in &tags {
                    sqlx::query("DELETE FROM tags WHERE template = ? AND tag = ?")
                        .bind(template.as_str())
                        .bind(tag)
                        .execute(&mut *connection)
                        .await
                        .map_err(failed)?;
                }
                Ok(None)
            })
        })
        .await
    }

    /// Lets every team use a template, or only its own.
    pub async fn publish_template(&self, template: &TemplateRecord, public: bool) -> Result<(), StoreError> {
        let what = "publish a template";
        let id = template.id.clone();
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE templates SET public = ? WHERE id = ?")
                    .bind(public)
                    .bind(id.as_str())
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }

    /// Deletes a template with its names, tags and builds, unless there are sandboxes of it.
    pub async fn delete_template(&self, template: &TemplateId) -> Result<DeletedTemplate, StoreError> {
        let what = "delete a template";
        let template = template.clone();
        self.write(what, move |connection| {
            Box::pin(async move {
                let failed = |source| StoreError::Query { what, source };
                let states: Vec<String> = sqlx::query_scalar("SELECT DISTINCT state FROM sandboxes WHERE template = ?")
                    .bind(template.as_str())
                    .fetch_all(&mut *connection)
                    .await
                    .map_err(failed)?;
                if states.iter().any(|state| state == "running") {
                    return Ok(DeletedTemplate::Running);
                }
                if !states.is_empty() {
                    return Ok(DeletedTemplate::Paused);
                }
                let builds = sqlx::query("SELECT * FROM builds WHERE template = ?")
                    .bind(template.as_str())
                    .fetch_all(&mut *connection)
                    .await
                    .map_err(failed)?;
                let builds = builds.iter().map(templates::decode_build).collect::<Result<_, _>>()?;
                // Names, builds, jobs and tags refer to it and go with it.
                sqlx::query("DELETE FROM templates WHERE id = ?")
                    .bind(template.as_str())
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                Ok(DeletedTemplate::Deleted(builds))
            })
        })
        .await
    }

    /// Removes the builds of a template that no tag points at and no sandbox is of. Returns them: their files can go too.
    pub async fn prune_builds(&self, template: &TemplateId) -> Result<Vec<BuildRecord>, StoreError> {
        let what = "remove old builds";
        let template = template.clone();
        self.write(what, move |connection| {
            Box::pin(async move {
                let removed = sqlx::query(
                    "DELETE FROM builds WHERE template = ? AND id NOT IN (SELECT build FROM tags)
                     AND id NOT IN (SELECT build FROM sandboxes) RETURNING *",
                )
                .bind(template.as_str())
                .fetch_all(connection)
                .await
                .map_err(|source| StoreError::Query { what, source })?;
                removed.iter().map(templates::decode_build).collect()
            })
        })
        .await
    }

    /// How many sandboxes of a template were made, as far as events tell (they are kept for some days), and when the last one was.
    pub async fn spawned(&self, template: &TemplateId) -> Result<(u64, Option<Timestamp>), StoreError> {
        let row = sqlx::query("SELECT count(*) AS count, max(at) AS last FROM events WHERE template = ? AND kind = 'created'")
            .bind(template.as_str())
            .fetch_one(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "count sandboxes",
                source,
            })?;
        let row = Row::new(&row, "template", "template");
        Ok((row.number("count")?, row.optional_word("last")?))
    }
}
