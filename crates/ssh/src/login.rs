//! The name that a client logs in with: `<sandbox>`, or `<sandbox>+<user>`.

use dormouse_store::SandboxId;

/// The longest user name that Linux's tools make.
const LONGEST_USER: usize = 32;

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) sandbox: SandboxId,
    /// User inside the sandbox; `None`: its default user.
    pub(crate) user: Option<String>,
}

/// The name is not of this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log in with a sandbox's id, as in ssh <sandbox>@host, or with a user besides, as in ssh <sandbox>+root@host")]
pub(crate) struct NoLogin;

impl Login {
    pub(crate) fn parse(name: &str) -> Result<Self, NoLogin> {
        let (sandbox, user) = match name.split_once('+') {
            None => (name, None),
            Some((sandbox, user)) => (sandbox, Some(user)),
        };
        let sandbox = sandbox.parse().map_err(|_| NoLogin)?;
        if user.is_some_and(|user| !is_user(user)) {
            return Err(NoLogin);
        }
        Ok(Self {
            sandbox,
            user: user.map(str::to_owned),
        })
    }
}

/// What `useradd` takes for a name, and some more.
fn is_user(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=LONGEST_USER).contains(&name.len()) && name.bytes().all(known) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_one_meaning() {
        let plain = Login::parse("i0123456789").unwrap();
        assert_eq!((plain.sandbox.as_str(), plain.user), ("i0123456789", None));
        let root = Login::parse("i0123456789+root").unwrap();
        assert_eq!((root.sandbox.as_str(), root.user.as_deref()), ("i0123456789", Some("root")));
        for name in [
            "",
            "+root",
            "i0+",
            "i0+a+b",
            "i0+-x",
            "i0+a:b",
            "i0+a b",
            "../x",
            "Root",
            "i0/root",
            "i0+a\r\nx: y",
        ] {
            assert_eq!(Login::parse(name), Err(NoLogin), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_read_or_refused(name in "\\PC*") {
            if let Ok(login) = Login::parse(&name) {
                let back = match &login.user {
                    None => login.sandbox.to_string(),
                    Some(user) => format!("{}+{user}", login.sandbox),
                };
                prop_assert_eq!(back, name);
            }
        }
    }
}
