//! The identity that a sandbox is given, when it is created and every time it wakes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Body of `POST /init`, the first request that a sandbox gets (contract 3.3, in our own form).
///
/// It **replaces** all that an earlier one set: what is absent here is absent afterwards, so a clone keeps nothing of
/// its parent. Sending the same request twice changes nothing the second time. Fields that an agent does not know are
/// ignored: a snapshot may hold an agent that is older than the daemon that wakes it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InitRequest {
    /// Becomes `E2B_SANDBOX_ID` and `/run/e2b/.E2B_SANDBOX_ID`.
    pub sandbox_id: String,
    /// Becomes `E2B_TEMPLATE_ID` and `/run/e2b/.E2B_TEMPLATE_ID`.
    pub template_id: String,
    /// Host name; also gets a line in `/etc/hosts`.
    pub hostname: String,
    /// What callers must send as `X-Access-Token`. None: everybody may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Environment of every process that is started from now on. The three `E2B_SANDBOX*` and `E2B_TEMPLATE_ID`
    /// variables are added by the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// User for requests that name none. None: `user`, or root where there is no such user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Directory for processes that name none. None: the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// The host's clock in nanoseconds since 1970. The agent corrects its own where the sandbox may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// Fresh random bytes from the host, in base64. The agent stirs them into its kernel's random numbers, which are those of
    /// its twins after a snapshot. Never the same twice, and no part of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<String>,
    /// Extra lines for `/etc/hosts`, such as `192.0.2.1 events.e2b.local`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<String>,
    /// Certificate authorities in PEM form that the sandbox shall trust besides those of its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
    /// Body of `/etc/resolv.conf`; None leaves the file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
}

impl std::fmt::Debug for InitRequest {
    /// Leaves out the token and the values of variables: this ends up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitRequest")
            .field("sandbox_id", &self.sandbox_id)
            .field("template_id", &self.template_id)
            .field("hostname", &self.hostname)
            .field("secured", &self.access_token.is_some())
            .field("env_names", &self.env_vars.keys().collect::<Vec<_>>())
            .field("default_user", &self.default_user)
            .field("default_workdir", &self.default_workdir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimal_body_is_enough() {
        let body = r#"{"sandboxId":"i1","templateId":"t1","hostname":"e2b"}"#;
        let init: InitRequest = serde_json::from_str(body).expect("valid body");
        assert_eq!(init.sandbox_id, "i1");
        assert_eq!(serde_json::to_string(&init).expect("encodes"), body);
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let init = InitRequest {
            access_token: Some("hush".into()),
            env_vars: [("KEY".to_owned(), "hidden".to_owned())].into(),
            ..InitRequest::default()
        };
        let text = format!("{init:?}");
        assert!(!text.contains("hush") && !text.contains("hidden"), "{text}");
        assert!(text.contains("KEY"), "{text}");
    }
}
