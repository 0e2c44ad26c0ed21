use std::fs;

use dormouse_builder::BuilderError;
use dormouse_engine::Operation;
use dormouse_store::{BuildId, BuildStatus, DeletedTemplate};

use crate::world::{World, spec, step};

fn messages(view: &dormouse_builder::BuildView) -> Vec<&str> {
    view.entries.iter().map(|entry| entry.message.as_str()).collect()
}

#[tokio::test]
async fn a_build_leaves_a_tree_a_snapshot_and_its_tags() {
    let world = World::new().await;
    let (template, build) = world.request("web", &["v1", "default"]).await;
    world
        .start(
            &template,
            build,
            vec![step("ENV", &["A", "1", "PATH", "/opt:$PATH"]), step("USER", &["user"])],
        )
        .await;
    assert_eq!(world.view(&template, build).await.job.status, BuildStatus::Building);
    let view = world.ended(&template, build).await;
    assert_eq!(view.job.status, BuildStatus::Ready, "{:?}", messages(&view));
    let record = world.store.tagged_build(&template, "v1").await.unwrap().unwrap();
    assert_eq!(record.id, build);
    assert_eq!(record.env["A"], "1");
    assert_eq!(record.env["LANG"], "C.UTF-8");
    assert!(record.env["PATH"].starts_with("/opt:/usr/local/sbin:"));
    let root = world.dir.path().join(&record.root);
    assert!(
        fs::read_to_string(root.join(".e2b"))
            .unwrap()
            .contains(&format!("BUILD_ID={build}\n"))
    );
    assert_eq!(fs::read(root.join("usr/lib/dormouse/agent")).unwrap(), b"agent");
    assert!(
        fs::read_to_string(root.join("etc/profile.d/template-path.sh"))
            .unwrap()
            .contains("'/opt:")
    );
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    // The base keeps its own.
    assert!(world.dir.path().join("templates/base/x/root/tmp/left").exists());
    assert_eq!(world.engine.instances(), []);
    let said = messages(&view);
    assert!(said[0].starts_with("Building template "), "{said:?}");
    assert!(said.last().unwrap().starts_with("Build finished, took "), "{said:?}");
}

#[tokio::test]
async fn the_next_build_finds_the_steps_and_force_does_not() {
    let world = World::new().await;
    let steps = || vec![step("ENV", &["A", "1"]), step("ENV", &["B", "$A"])];
    let (template, first) = world.request("web", &["default"]).await;
    world.start(&template, first, steps()).await;
    world.ended(&template, first).await;
    let cached = async |steps| {
        let (template, build) = world.request("web", &["default"]).await;
        world.start(&template, build, steps).await;
        let view = world.ended(&template, build).await;
        let found = messages(&view)
            .iter()
            .filter(|line| line.starts_with("CACHED [builder"))
            .count();
        (view.job.status, found)
    };
    assert_eq!(cached(steps()).await, (BuildStatus::Ready, 2));
    let mut forced = steps();
    forced[1].force = true;
    assert_eq!(cached(forced).await, (BuildStatus::Ready, 1));
    assert_eq!(cached(vec![step("ENV", &["B", "$A"])]).await, (BuildStatus::Ready, 0));
}

#[tokio::test]
async fn a_failure_says_where_and_leaves_nothing() {
    let world = World::new().await;
    for (steps, step_name, part) in [
        (
            vec![step("ENV", &["A", "1"]), step("VOLUME", &["/x"])],
            Some("2"),
            "unknown instruction",
        ),
        (vec![step("ENV", &["A"])], Some("1"), "even number"),
        (
            vec![step("COPY", &["a", "b"])],
            Some("1"),
            "COPY requires files hash to be set",
        ),
    ] {
        let (template, build) = world.request("web", &["default"]).await;
        world.start(&template, build, steps).await;
        let view = world.ended(&template, build).await;
        assert_eq!(view.job.status, BuildStatus::Error);
        assert_eq!(view.job.step.as_deref(), step_name);
        assert!(view.job.reason.as_deref().unwrap().contains(part), "{:?}", view.job.reason);
        assert!(messages(&view).last().unwrap().starts_with("Build failed: "));
    }
    world.engine.fail(Operation::Snapshot, 1);
    let (template, build) = world.request("web", &["default"]).await;
    world.start(&template, build, Vec::new()).await;
    let view = world.ended(&template, build).await;
    assert_eq!(view.job.step.as_deref(), Some("finalize"));
    assert_eq!(world.engine.instances(), []);
    assert!(!world.dir.path().join("templates/builds").join(build.to_string()).exists());
    assert_eq!(fs::read_dir(world.dir.path().join("layers")).unwrap().count(), 1);
    assert_eq!(world.store.builds_of(&template.id).await.unwrap(), []);
}

#[tokio::test]
async fn an_unknown_base_is_told() {
    let world = World::new().await;
    for (from, part) in [
        ("nothing", "template 'nothing' not found"),
        ("base:v9", "tag 'v9' does not exist"),
    ] {
        let (template, build) = world.request("web", &["default"]).await;
        world.builder.start(&template, build, spec(from, Vec::new())).await.unwrap();
        let view = world.ended(&template, build).await;
        assert_eq!(view.job.step.as_deref(), Some("base"));
        assert!(view.job.reason.as_deref().unwrap().contains(part), "{:?}", view.job.reason);
    }
}

#[tokio::test]
async fn a_build_starts_once() {
    let world = World::new().await;
    let (template, build) = world.request("web", &["default"]).await;
    let unknown = world
        .builder
        .start(&template, BuildId::random(), spec("base", Vec::new()))
        .await;
    assert!(matches!(unknown, Err(BuilderError::UnknownBuild(_))));
    world.start(&template, build, Vec::new()).await;
    let again = world.builder.start(&template, build, spec("base", Vec::new())).await;
    assert!(matches!(again, Err(BuilderError::NotWaiting)));
    world.ended(&template, build).await;
}

#[tokio::test]
async fn a_newer_build_cancels_the_older() {
    let world = World::new().await;
    let gate = world.engine.hold(Operation::Snapshot);
    let (template, old) = world.request("web", &["default"]).await;
    world.start(&template, old, Vec::new()).await;
    let (_, new) = world.request("web", &["default"]).await;
    world.start(&template, new, Vec::new()).await;
    let view = world.ended(&template, old).await;
    assert_eq!(view.job.status, BuildStatus::Error);
    assert!(
        view.job.reason.as_deref().unwrap().contains("newer build"),
        "{:?}",
        view.job.reason
    );
    gate.add_permits(10);
    let view = world.ended(&template, new).await;
    assert_eq!(view.job.status, BuildStatus::Ready, "{:?}", messages(&view));
    let record = world.store.tagged_build(&template, "default").await.unwrap().unwrap();
    assert_eq!(record.id, new);
}

#[tokio::test]
async fn a_build_that_a_crash_ended_has_failed() {
    let mut world = World::new().await;
    let _held = world.engine.hold(Operation::Snapshot);
    let (template, build) = world.request("web", &["default"]).await;
    world.start(&template, build, Vec::new()).await;
    let waiting = world.request("other", &["default"]).await;
    let trees = world.dir.path().join("templates/builds");
    // From then on the first builder waits in the engine for ever, as one that is no more.
    while !messages(&world.view(&template, build).await)
        .iter()
        .any(|message| message.contains("Writing the snapshot"))
    {
        tokio::task::yield_now().await;
    }
    assert!(trees.join(build.to_string()).exists());
    world.crash().await;
    let view = world.view(&template, build).await;
    assert_eq!(view.job.status, BuildStatus::Error);
    assert!(
        view.job.reason.as_deref().unwrap().contains("restarted"),
        "{:?}",
        view.job.reason
    );
    assert!(messages(&view).last().unwrap().starts_with("Build failed: "));
    assert!(!trees.join(build.to_string()).exists());
    // One that had not begun can still be started.
    assert_eq!(world.view(&waiting.0, waiting.1).await.job.status, BuildStatus::Waiting);
}

#[tokio::test]
async fn a_deleted_template_leaves_nothing() {
    let world = World::new().await;
    let (template, build) = world.request("web", &["default"]).await;
    world.start(&template, build, Vec::new()).await;
    world.ended(&template, build).await;
    let deleted = world.builder.delete(&template).await.unwrap();
    assert!(matches!(deleted, DeletedTemplate::Deleted(builds) if builds.len() == 1));
    world.builder.stop().await;
    assert!(!world.dir.path().join("templates/builds").join(build.to_string()).exists());
    assert_eq!(fs::read_dir(world.dir.path().join("layers")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(world.dir.path().join("templates/logs")).unwrap().count(), 0);
}
