//! `/ssh-keys`: the keys with which a team's people reach its sandboxes by SSH. Dormouse's own; E2B has none.

use axum::Json as Answer;
use axum::extract::State;
use axum::routing::{delete, get};
use dormouse_store::SshKeyRecord;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ssh_key::{Algorithm, HashAlg, PublicKey};
use utoipa_axum::router::OpenApiRouter;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::Json;
use crate::path::Segment;
use crate::state::ApiState;

/// The longest line of an `authorized_keys` file that is read: a key of 16384 bits fits.
const LONGEST_KEY: usize = 8 << 10;

const LONGEST_NAME: usize = 128;

/// Most keys of one team.
const MOST_KEYS: usize = 1000;

/// Shorter RSA keys are refused by OpenSSH as well.
const LEAST_RSA_BITS: u32 = 2048;

/// Not in the OpenAPI document, which is E2B's API; docs/ssh.md has them.
pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .route("/ssh-keys", get(list).post(add))
        .route("/ssh-keys/{fingerprint}", delete(remove))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WireKey {
    fingerprint: String,
    name: String,
    public_key: String,
    created_at: Timestamp,
}

impl From<SshKeyRecord> for WireKey {
    fn from(key: SshKeyRecord) -> Self {
        Self {
            fingerprint: key.fingerprint,
            name: key.name,
            public_key: key.public_key,
            created_at: key.created_at,
        }
    }
}

async fn list(caller: Caller, State(state): State<ApiState>) -> Result<Answer<Vec<WireKey>>, ApiError> {
    let keys = state.store.ssh_keys(caller.owner.team).await?;
    Ok(Answer(keys.into_iter().map(WireKey::from).collect()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewKey {
    /// A line as in `authorized_keys` or a `.pub` file, without options.
    public_key: String,
    /// Instead of the line's comment.
    name: Option<String>,
}

async fn add(
    caller: Caller,
    State(state): State<ApiState>,
    Json(new): Json<NewKey>,
) -> Result<(StatusCode, Answer<WireKey>), ApiError> {
    let key = parse(&new.public_key).map_err(|what| ApiError::invalid("publicKey", what))?;
    let name = new.name.unwrap_or_else(|| key.comment().as_str_lossy().to_owned());
    if name.len() > LONGEST_NAME || name.contains(char::is_control) {
        return Err(ApiError::invalid(
            "name",
            format_args!("must be at most {LONGEST_NAME} printable characters"),
        ));
    }
    if state.store.ssh_keys(caller.owner.team).await?.len() >= MOST_KEYS {
        return Err(ApiError::bad_request(format!("a team has at most {MOST_KEYS} SSH keys")));
    }
    let record = SshKeyRecord {
        team: caller.owner.team,
        fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
        name,
        public_key: bare(&key)?,
        created_at: Timestamp::now(),
    };
    if !state.store.add_ssh_key(&record).await? {
        let message = format!("The key {} is registered already", record.fingerprint);
        return Err(ApiError::new(StatusCode::CONFLICT, message));
    }
    Ok((StatusCode::CREATED, Answer(record.into())))
}

async fn remove(caller: Caller, State(state): State<ApiState>, Segment(fingerprint): Segment) -> Result<StatusCode, ApiError> {
    if state.store.delete_ssh_key(caller.owner.team, &fingerprint).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("There is no SSH key {fingerprint}"),
        ))
    }
}

/// A key that the gateway accepts, or what is wrong with it.
fn parse(line: &str) -> Result<PublicKey, String> {
    let line = line.trim();
    if line.contains("PRIVATE KEY") {
        return Err("this is a private key: keep it to yourself, and send the file that ends in .pub".to_owned());
    }
    if line.len() > LONGEST_KEY || line.contains('\n') {
        return Err("must be one public key".to_owned());
    }
    let key = PublicKey::from_openssh(line).map_err(|_| "is no public key as in a .pub file".to_owned())?;
    let rsa_bits = key.key_data().rsa().map(ssh_key::public::RsaPublicKey::key_size);
    match (key.algorithm(), rsa_bits) {
        (Algorithm::Rsa { .. }, Some(bits)) if bits < LEAST_RSA_BITS => {
            Err(format!("RSA keys must have at least {LEAST_RSA_BITS} bits, this has {bits}"))
        }
        (
            Algorithm::Ed25519
            | Algorithm::Ecdsa { .. }
            | Algorithm::Rsa { .. }
            | Algorithm::SkEd25519
            | Algorithm::SkEcdsaSha2NistP256,
            _,
        ) => Ok(key),
        (other, _) => Err(format!("keys of the kind {other} are not accepted")),
    }
}

/// The key's line without its comment.
fn bare(key: &PublicKey) -> Result<String, ApiError> {
    let mut key = key.clone();
    key.set_comment("");
    let line = key.to_openssh().map_err(|error| ApiError::invalid("publicKey", error))?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ someone@somewhere";

    #[test]
    fn a_line_of_a_pub_file_is_a_key_and_other_things_are_not() {
        let key = parse(&format!("  {KEY}\n")).unwrap();
        assert_eq!(key.comment().as_str_lossy(), "someone@somewhere");
        assert_eq!(bare(&key).unwrap(), KEY.rsplit_once(' ').unwrap().0);
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            &format!("{KEY}\n{KEY}"),
            "ssh-dss AAAAB3NzaC1kc3M=",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(
            parse("-----BEGIN OPENSSH PRIVATE KEY-----")
                .unwrap_err()
                .contains("keep it to yourself")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_refused(text in "(ssh-[a-z0-9]{0,8} )?[A-Za-z0-9+/=]{0,200}( .*)?") {
            let _ = parse(&text);
        }
    }
}
