//! SSH keys.

use dormouse_store::{SshKeyRecord, Store, TeamId};
use jiff::Timestamp;

fn key(team: TeamId, fingerprint: &str) -> SshKeyRecord {
    SshKeyRecord {
        team,
        fingerprint: fingerprint.to_owned(),
        name: "laptop".to_owned(),
        public_key: "ssh-ed25519 AAAA".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn a_key_belongs_to_each_team_that_registered_it() {
    let store = Store::in_memory().await.unwrap();
    let other = TeamId::random();
    let (ours, theirs) = (key(TeamId::FIRST, "SHA256:a"), key(other, "SHA256:a"));
    assert!(store.add_ssh_key(&ours).await.unwrap());
    assert!(!store.add_ssh_key(&ours).await.unwrap());
    assert!(store.add_ssh_key(&theirs).await.unwrap());
    assert_eq!(store.ssh_keys(TeamId::FIRST).await.unwrap(), [ours]);
    assert_eq!(store.teams_of_ssh_key("SHA256:a").await.unwrap(), [TeamId::FIRST, other]);
    assert_eq!(store.teams_of_ssh_key("SHA256:b").await.unwrap(), []);
    assert!(store.delete_ssh_key(other, "SHA256:a").await.unwrap());
    assert!(!store.delete_ssh_key(other, "SHA256:a").await.unwrap());
    assert_eq!(store.teams_of_ssh_key("SHA256:a").await.unwrap(), [TeamId::FIRST]);
}
