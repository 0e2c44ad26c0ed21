//! Users and working directories of a build (contract 5.3).

use std::path::{Path, PathBuf};

use dormouse_agent_client::Command;
use dormouse_rootfs::confined::{Owner, Root, absolute};
use dormouse_rootfs::overlay::with_merged;
use dormouse_rootfs::users::{User, Users};

use crate::cache::Draft;
use crate::context::{Context, STANDARD_PATH, quoted};
use crate::error::Failure;
use crate::job::{Job, Stack};
use crate::logs::Level;
use crate::run;

/// Makes and enters a working directory; returns it as an absolute path.
pub(crate) async fn workdir(stack: &Stack, draft: &Draft, context: &Context, path: &str) -> Result<String, Failure> {
    let (context, path) = (context.clone(), path.to_owned());
    stack
        .in_merged(draft, move |root| {
            let root = Root::open(root)?;
            let users = Users::of(&root)?;
            let user = users.user(&context.user);
            let whole = absolute(&base(&context, user.as_ref()), Path::new(&path));
            let owner = user.map_or(Owner::ROOT, |user| user.owner);
            root.dir_or_make(&whole, owner)
                .map_err(|error| Failure::of(&format!("the directory {} could not be made", whole.display()), &error))?;
            whole
                .into_os_string()
                .into_string()
                .map_err(|_| Failure::new("the working directory is no text"))
        })
        .await
}

/// Where relative paths begin: the working directory, or the user's home.
pub(crate) fn base(context: &Context, user: Option<&User>) -> PathBuf {
    match (&context.workdir, user) {
        (Some(workdir), _) => PathBuf::from(workdir),
        (None, Some(user)) => user.home.clone(),
        (None, None) => PathBuf::from("/"),
    }
}

/// Looks a user up in the tree; a group behind a colon is left out.
pub(crate) async fn find(stack: &Stack, draft: &Draft, name: &str) -> Result<Option<User>, Failure> {
    let name = name.split(':').next().unwrap_or_default().to_owned();
    stack
        .in_merged(draft, move |root| Ok(Users::of(&Root::open(root)?)?.user(&name)))
        .await
}

/// Makes a user as the contract says. `true` when the layer of the draft has it.
pub(crate) async fn make(
    job: &Job,
    stack: &Stack,
    draft: &Draft,
    name: &str,
    say: impl FnMut(Level, &str, String) + Send,
) -> Result<(), Failure> {
    let name = name.split(':').next().unwrap_or_default();
    let valid = !name.is_empty()
        && name.len() <= 32
        && !name.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !valid {
        return Err(Failure::new(format!("'{name}' is no name for a user")));
    }
    let name = quoted(name);
    // BusyBox has another program for it.
    let script = format!(
        "if command -v useradd >/dev/null 2>&1; then useradd --create-home --shell /bin/bash {name}; \
         else adduser -D -s /bin/bash {name}; fi"
    );
    let command = Command::new("/bin/sh", ["-c".to_owned(), script.clone()]).env("PATH", STANDARD_PATH);
    run::step(job, stack, draft, &command, "root", &script, say).await
}

impl Stack {
    /// Works in the merged view of the layers and the draft, in a thread of its own.
    pub(crate) async fn in_merged<T: Send + 'static>(
        &self,
        draft: &Draft,
        work: impl FnOnce(&Path) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut lower = vec![self.root.clone()];
        lower.extend(self.layer_paths());
        let (at, diff, space) = (draft.at(), draft.diff(), draft.work());
        tokio::task::spawn_blocking(move || with_merged(&at, &lower, &diff, &space, work))
            .await
            .map_err(std::io::Error::other)?
    }
}
