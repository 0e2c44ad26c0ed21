//! Making a sandbox: take a pooled instance (or restore the template's snapshot), give it its identity, write the row.
//!
//! A pooled instance may have died on its shelf, or not wake: then the template's snapshot is restored after all.

use std::sync::Arc;

use dormouse_engine::{InstanceId, NetworkPolicy};
use dormouse_store::{BuildRecord, SandboxId, SandboxRecord, SandboxState, TeamId, TemplateRecord};

use crate::driver::Driver;
use crate::model::{NewSandbox, Owner, Phase, Sandbox};
use crate::node::Node;
use crate::wake::{identity, policy};
use crate::{ControlError, clock, events, pool, supervise, token};

/// The tag that a reference without one means.
const DEFAULT_TAG: &str = "default";
/// The namespace of the first team's names. Templates of other namespaces do not exist yet.
const NAMESPACE: &str = "default";

/// Makes a sandbox. Must not be dropped half-way: run it as a task of its own.
pub(crate) async fn create(node: Arc<Node>, owner: Owner, new: NewSandbox) -> Result<Sandbox, ControlError> {
    if new.timeout > owner.max_run {
        return Err(ControlError::TimeoutTooLong(owner.max_run));
    }
    let (template, build) = find_build(&node, owner.team, &new.template).await?;
    node.check_engine(&build)?;
    let permit = node.permit()?;
    let (pooled, dropped) = node.pool.take(&build);
    for stale in dropped {
        node.destroy_later(stale);
    }
    let record = match pooled {
        Some(instance) => {
            let record = record(&owner, new, &template, &build, instance);
            match finish(&node, &record, &build, true).await {
                Ok(()) => record,
                Err(ControlError::Engine(error)) => {
                    tracing::warn!(build = %build.id, error = &error as &dyn std::error::Error, "a pooled instance could not be used");
                    make(&node, record, &build).await?
                }
                Err(other) => return Err(other),
            }
        }
        None => {
            let record = record(&owner, new, &template, &build, InstanceId::random());
            make(&node, record, &build).await?
        }
    };
    let (mut driver, inbox) = Driver::register(&node, record, Phase::Creating, Some(permit));
    driver.unannounced = Some(events::created(&driver.record));
    driver.begin_run();
    let sandbox = driver.sandbox();
    supervise::launch(driver, inbox);
    Ok(sandbox)
}

/// Restores the template's snapshot for the sandbox.
async fn make(node: &Arc<Node>, mut record: SandboxRecord, build: &BuildRecord) -> Result<SandboxRecord, ControlError> {
    let request = pool::request(node, build);
    // If the row of an attempt before this one could not be removed, it is another sandbox's.
    record.id = SandboxId::random();
    record.instance = Some(request.id.clone());
    node.engine.start(request).await?;
    finish(node, &record, build, false).await?;
    Ok(record)
}

/// Turns the record's instance into the sandbox. On an error nothing of either is left.
async fn finish(node: &Arc<Node>, record: &SandboxRecord, build: &BuildRecord, pooled: bool) -> Result<(), ControlError> {
    // The row may be there before the identity: nobody has been told, and a start after a crash gives the identity again. The event
    // is the driver's first deed.
    let (ready, saved) = tokio::join!(make_ready(node, record, build, pooled), node.store.save(record, &[]));
    let Err(error) = ready.and(saved.map_err(ControlError::from)) else {
        return Ok(());
    };
    if let Some(instance) = record.instance.clone() {
        node.destroy_later(instance);
    }
    // Removed even if it seems not to have been written: a write that failed may have reached the disk all the same.
    if let Err(error) = node.store.remove(&record.id, &[]).await {
        tracing::error!(sandbox = %record.id, error = &error as &dyn std::error::Error, "the row of a failed creation stays; the next start removes it");
    }
    Err(error)
}

async fn make_ready(node: &Node, record: &SandboxRecord, build: &BuildRecord, pooled: bool) -> Result<(), ControlError> {
    let Some(instance) = &record.instance else {
        return Err(ControlError::NotRunning(record.id.clone()));
    };
    let policy = policy(record);
    if policy != NetworkPolicy::default() {
        node.engine.set_network(instance, policy).await?;
    }
    if pooled {
        node.engine.resume(instance).await?;
    }
    node.engine.identify(instance, identity(record, build)).await?;
    Ok(())
}

fn record(owner: &Owner, new: NewSandbox, template: &TemplateRecord, build: &BuildRecord, instance: InstanceId) -> SandboxRecord {
    let now = clock::now();
    let private = new.network.as_ref().and_then(|network| network.allow_public_traffic) == Some(false);
    SandboxRecord {
        id: SandboxId::random(),
        team: owner.team,
        template: template.id.clone(),
        alias: template.aliases.first().cloned(),
        build: build.id,
        state: SandboxState::Running,
        instance: Some(instance),
        snapshot: None,
        created_at: now,
        started_at: now,
        end_at: clock::later(now, new.timeout),
        timeout: new.given_timeout,
        max_run: owner.max_run,
        on_timeout: new.on_timeout,
        auto_resume: new.auto_resume,
        access_token: new.secure.then(token::random),
        traffic_token: private.then(token::random),
        allow_internet: new.allow_internet,
        network: new.network,
        metadata: new.metadata,
        env: new.env,
        resources: build.resources,
    }
}

/// Resolves `[namespace/]alias-or-id[:tag]` (contract 4.1).
pub(crate) async fn find_build(
    node: &Node,
    team: TeamId,
    reference: &str,
) -> Result<(TemplateRecord, BuildRecord), ControlError> {
    let reference = reference.trim().to_lowercase();
    let (name, tag) = reference.split_once(':').unwrap_or((&reference, DEFAULT_TAG));
    let bare = match name.split_once('/') {
        None => Some(name),
        Some((NAMESPACE, bare)) => Some(bare),
        Some(_) => None,
    };
    let template = match bare {
        Some(bare) => node.store.template(team, bare).await?,
        None => None,
    };
    let template = template.ok_or_else(|| ControlError::TemplateNotFound(reference.clone()))?;
    let build = node.store.tagged_build(&template, tag).await?;
    let build = build.ok_or_else(|| ControlError::TagNotFound {
        tag: tag.to_owned(),
        template: name.to_owned(),
    })?;
    Ok((template, build))
}
