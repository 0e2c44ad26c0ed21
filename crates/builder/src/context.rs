//! What steps set for the steps after them, and for sandboxes (contract 5.3).

use std::collections::BTreeMap;

use dormouse_agent_client::Command;
use serde::{Deserialize, Serialize};

/// Where programs are when an image says nothing else; added to every PATH that a build sets.
pub(crate) const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// User, working directory and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) user: String,
    /// None: the user's home.
    pub(crate) workdir: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Context {
    /// A command line of the owner's, by a login shell with all of this.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let env = self.full_env();
        // A login shell's start-up files set PATH anew; what the template says counts.
        let script = match env.get("PATH") {
            Some(path) => format!("PATH={}; export PATH\n{script}", quoted(path)),
            None => script.to_owned(),
        };
        let mut command = Command::shell(script);
        for (name, value) in env {
            command = command.env(name, value);
        }
        match &self.workdir {
            Some(workdir) => command.cwd(workdir),
            None => command,
        }
    }

    /// The environment, with the standard directories at the end of PATH if there is one.
    pub(crate) fn full_env(&self) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        if let Some(path) = env.get_mut("PATH") {
            let there: Vec<String> = path.split(':').map(str::to_owned).collect();
            for standard in STANDARD_PATH.split(':').filter(|dir| !there.iter().any(|there| there == dir)) {
                path.push(':');
                path.push_str(standard);
            }
        }
        env
    }
}

/// A word for the shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_gets_what_it_lacks() {
        let context = Context {
            env: [("PATH".to_owned(), "/opt/bin:/usr/bin".to_owned())].into(),
            ..Context::default()
        };
        assert_eq!(
            context.full_env()["PATH"],
            "/opt/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"
        );
        assert!(!Context::default().full_env().contains_key("PATH"));
    }

    #[test]
    fn quotes_survive() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
