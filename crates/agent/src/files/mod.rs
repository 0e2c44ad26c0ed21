//! File contents over HTTP: `GET` and `POST /files`, and `POST /files/compose` (contract 3.3).
//!
//! Contents stream through with flat memory, however large. Files are read and written as root; what is written
//! belongs to the user that the request names.

mod byteranges;
mod compose;
pub(crate) mod disposition;
mod download;
pub(crate) mod encoding;
pub(crate) mod parts;
pub(crate) mod query;
pub(crate) mod range;
mod reading;
mod target;
mod upload;

pub(crate) use compose::compose;
pub(crate) use download::download;
pub(crate) use upload::upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dormouse_agent_proto::signature::{self, Credentials, Operation};
use http::HeaderMap;

use self::query::FilesQuery;
use crate::access::shown_token;
use crate::agent::Agent;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::paths;
use crate::users::{Accounts, User};

/// For whom a request is.
#[derive(Debug)]
struct Caller {
    user: User,
    accounts: Arc<Accounts>,
    identity: Arc<Identity>,
}

impl Caller {
    /// Checks the request's token or signature, then finds its user.
    fn admit(agent: &Agent, operation: Operation, query: &FilesQuery, headers: &HeaderMap) -> Result<Self, Failure> {
        let identity = agent.identity.get();
        let shown = Credentials {
            token: shown_token(headers),
            signature: query.signature.as_deref(),
            expiration: query.signature_expiration,
        };
        let path = query.path.as_deref().unwrap_or_default();
        let username = query.username.as_deref().unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        signature::check(path, operation, username, identity.token(), shown, now)
            .map_err(|refusal| Failure::unauthorized(refusal.to_string()))?;
        Self::named(agent, identity, username)
    }

    fn named(agent: &Agent, identity: Arc<Identity>, username: &str) -> Result<Self, Failure> {
        let accounts = agent.users.accounts();
        let name = if username.is_empty() {
            identity.default_user(&accounts)
        } else {
            username
        };
        let user = accounts
            .user(name)
            .map_err(|error| Failure::unauthorized(format!("error looking up user '{name}': user: {error}")))?;
        Ok(Self {
            user,
            accounts,
            identity,
        })
    }

    fn resolve(&self, path: &str) -> Result<PathBuf, Failure> {
        paths::resolve(path, &self.user.home, self.identity.default_workdir.as_deref())
            .map_err(|error| Failure::bad_request(error.to_string()))
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Failure::internal("the file operation was interrupted"))?
}
