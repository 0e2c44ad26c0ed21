//! Baking: the snapshot that a template's sandboxes start from.

use std::sync::Arc;

use dormouse_engine::{InstanceId, StartRequest};
use dormouse_store::SnapshotId;

use crate::ControlError;
use crate::node::Node;

/// Boots the root tree, waits for the agent, writes the snapshot. Must not be dropped half-way: run it as a task of its own.
pub(crate) async fn bake(node: Arc<Node>, request: StartRequest) -> Result<SnapshotId, ControlError> {
    let id = request.id.clone();
    node.engine.start(request).await?;
    let baked = write(&node, &id).await;
    // The snapshot is complete whatever becomes of the instance that it was taken from.
    node.destroy(&id).await;
    baked
}

async fn write(node: &Node, id: &InstanceId) -> Result<SnapshotId, ControlError> {
    let draft = node.snapshots.begin().await?;
    Ok(node.engine.snapshot(id, draft).await?.publish().await?)
}
