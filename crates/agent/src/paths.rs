//! From the path that a client names to the path that is meant (contract 3.6).

use std::path::{Component, Path, PathBuf};

/// A path that cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// `~other`: whose home that is, the contract does not let us look up.
    #[error("cannot expand user-specific home dir in path '{0}'")]
    OtherHome(String),
    /// No file name can hold one.
    #[error("path contains a NUL byte")]
    Nul,
}

/// Resolves `path` for somebody whose home is `home`; an empty path means `fallback`.
///
/// `~` and relative paths start at the home, absolute ones stay. The result is absolute and has no `.`, `..` or empty
/// components; links are not looked at, so `..` behind a link means what it says.
pub(crate) fn resolve(path: &str, home: &str, fallback: Option<&str>) -> Result<PathBuf, PathError> {
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    let named = if path.is_empty() { fallback.unwrap_or(home) } else { path };
    let joined = match named.strip_prefix('~') {
        None => Path::new(home).join(named),
        Some("") => PathBuf::from(home),
        Some(rest) => match rest.strip_prefix('/') {
            Some(inside) => Path::new(home).join(inside.trim_start_matches('/')),
            None => return Err(PathError::OtherHome(path.to_owned())),
        },
    };
    Ok(clean(&joined))
}

/// Makes a path absolute and plain, without looking at the file system.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(path: &str, expected: &str) {
        let resolved = resolve(path, "/home/user", Some("/work")).expect("resolves");
        assert_eq!(resolved, Path::new(expected), "{path}");
    }

    #[test]
    fn follows_the_contract() {
        check("", "/work");
        check("~", "/home/user");
        check("~/a", "/home/user/a");
        check("~//a", "/home/user/a");
        check("a/b", "/home/user/a/b");
        check("./a/../b/", "/home/user/b");
        check("/a//b/./c", "/a/b/c");
        check("/../..", "/");
        check("a~", "/home/user/a~");
        assert_eq!(resolve("", "/root", None), Ok("/root".into()));
        assert_eq!(
            resolve("~other/x", "/root", None),
            Err(PathError::OtherHome("~other/x".into()))
        );
        assert_eq!(resolve("a\0b", "/root", None), Err(PathError::Nul));
    }

    proptest! {
        #[test]
        fn result_is_absolute_and_plain(path in "[a~./\\PC]*", home in "/[a-z/.]*") {
            if let Ok(resolved) = resolve(&path, &home, None) {
                prop_assert!(resolved.is_absolute());
                let plain = resolved.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
                prop_assert!(plain, "{:?}", resolved);
                prop_assert_eq!(clean(&resolved), resolved);
            }
        }
    }
}
