//! Who gets in.

use dormouse_control::Phase;
use dormouse_ssh::SshConfig;
use dormouse_store::TeamId;

use crate::world::{World, run};

#[tokio::test]
async fn a_key_that_nobody_registered_is_refused_whatever_the_name() {
    let world = World::new(SshConfig::default()).await;
    let sandbox = world.sandbox(TeamId::FIRST).await;
    for name in [sandbox.as_str(), "inosuchsandbox", "root"] {
        let key = world.key(1, &[]).await;
        assert!(world.login(name, key).await.is_none(), "{name}");
    }
}

#[tokio::test]
async fn another_teams_sandbox_is_one_that_does_not_exist() {
    let world = World::new(SshConfig::default()).await;
    let (ours, theirs) = (TeamId::FIRST, TeamId::random());
    let sandbox = world.sandbox(theirs).await;
    let key = world.key(1, &[ours]).await;
    let client = world.login(sandbox.as_str(), key.clone()).await.unwrap();
    let (words, status) = run(&client).await;
    let nowhere = world.login("inosuchsandbox", key).await.unwrap();
    let (expected, _) = run(&nowhere).await;
    assert_eq!(words, expected.replace("inosuchsandbox", sandbox.as_str()));
    assert!(words.contains("doesn't exist or you don't have access to it"), "{words}");
    assert_eq!(status, Some(255));
}

#[tokio::test]
async fn a_key_of_several_teams_reaches_the_sandboxes_of_each() {
    let world = World::new(SshConfig::default()).await;
    let other = TeamId::random();
    let key = world.key(1, &[TeamId::FIRST, other]).await;
    for team in [TeamId::FIRST, other] {
        let sandbox = world.sandbox(team).await;
        let client = world.login(sandbox.as_str(), key.clone()).await.unwrap();
        // The simulator has no agent; that it was asked shows that the sandbox was found.
        let (words, _) = run(&client).await;
        assert!(!words.contains("doesn't exist"), "{words}");
    }
}

#[tokio::test]
async fn a_login_alone_wakes_nothing_and_a_command_does() {
    let world = World::new(SshConfig::default()).await;
    let sandbox = world.sandbox(TeamId::FIRST).await;
    world.control.pause(TeamId::FIRST, &sandbox).await.unwrap();
    let phase = || world.control.get(TeamId::FIRST, &sandbox).unwrap().phase;
    let key = world.key(1, &[TeamId::FIRST]).await;
    let client = world.login(sandbox.as_str(), key).await.unwrap();
    assert_eq!(phase(), Phase::Paused);
    run(&client).await;
    assert_eq!(phase(), Phase::Running);
}

#[tokio::test]
async fn a_name_that_is_no_sandbox_is_explained() {
    let world = World::new(SshConfig::default()).await;
    let key = world.key(1, &[TeamId::FIRST]).await;
    let client = world.login("Root", key).await.unwrap();
    let (words, status) = run(&client).await;
    assert!(words.contains("log in with a sandbox's id"), "{words}");
    assert_eq!(status, Some(255));
}
