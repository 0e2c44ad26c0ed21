//! Who this sandbox is, as the last `/init` said.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use dormouse_agent_proto::InitRequest;

use crate::users::Accounts;

/// The identity as requests need it. Replaced as a whole, never changed in place.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// What [`InitRequest`] said.
    pub request: InitRequest,
    /// Sandbox-wide variables, the agent's own among them (contract 3.5).
    pub environment: BTreeMap<String, String>,
    /// Directory for processes that name none.
    pub default_workdir: Option<String>,
}

impl Identity {
    /// Derives the identity from a request.
    pub(crate) fn new(request: InitRequest) -> Self {
        let mut environment = request.env_vars.clone();
        let own = [
            ("E2B_SANDBOX", "true"),
            ("E2B_SANDBOX_ID", request.sandbox_id.as_str()),
            ("E2B_TEMPLATE_ID", request.template_id.as_str()),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let default_workdir = request.default_workdir.clone().filter(|path| !path.is_empty());
        Self {
            request,
            environment,
            default_workdir,
        }
    }

    /// What callers must show, if anything.
    pub(crate) fn token(&self) -> Option<&str> {
        self.request.access_token.as_deref().filter(|token| !token.is_empty())
    }

    /// The user for requests that name none.
    pub(crate) fn default_user<'a>(&'a self, accounts: &Accounts) -> &'a str {
        match self.request.default_user.as_deref() {
            Some(user) if !user.is_empty() => user,
            _ if accounts.user("user").is_ok() => "user",
            _ => "root",
        }
    }
}

/// The current identity.
#[derive(Debug, Default)]
pub(crate) struct CurrentIdentity {
    identity: RwLock<Arc<Identity>>,
}

impl CurrentIdentity {
    /// The identity at this moment. A request takes it once, and so never mixes two.
    pub(crate) fn get(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the identity.
    pub(crate) fn set(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_variables_cannot_be_forged() {
        let identity = Identity::new(InitRequest {
            sandbox_id: "i1".into(),
            env_vars: [("E2B_SANDBOX_ID".to_owned(), "i2".to_owned())].into(),
            ..InitRequest::default()
        });
        assert_eq!(identity.environment["E2B_SANDBOX_ID"], "i1");
    }

    #[test]
    fn default_user_exists() {
        let identity = Identity::default();
        assert_eq!(identity.default_user(&Accounts::default()), "root");
        let accounts = Accounts::parse("user:x:1000:1000::/home/user:/bin/bash", "");
        assert_eq!(identity.default_user(&accounts), "user");
        let named = Identity::new(InitRequest {
            default_user: Some("me".into()),
            ..InitRequest::default()
        });
        assert_eq!(named.default_user(&accounts), "me");
    }
}
