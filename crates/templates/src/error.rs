//! Why a template could not be made, and what the person in front of it can do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a template could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program of the host that the build needs is not installed.
    #[error("the program `{program}` is not installed")]
    MissingProgram {
        /// Its name on PATH.
        program: String,
    },
    /// The caller is not root.
    #[error("building a template needs root")]
    NotRoot,
    /// The file system of the templates directory is, or became, full.
    #[error("no space left for the template below `{path}`")]
    DiskFull {
        /// The templates directory.
        path: PathBuf,
    },
    /// Debian's packages could not be fetched.
    #[error("the Debian mirror could not be reached: {detail}")]
    Network {
        /// The line with which the package manager said so.
        detail: String,
    },
    /// A program of the build ended with an error; `tail` is the end of what it said.
    #[error("`{program}` failed ({status}): {tail}")]
    Program {
        /// What ran.
        program: String,
        /// How it ended.
        status: String,
        /// Its last lines.
        tail: String,
    },
    /// A program of the build said nothing for so long that it was stopped.
    #[error("`{program}` said nothing for {silence:?} and was stopped")]
    Stalled {
        /// What ran.
        program: String,
        /// How long it was silent.
        silence: Duration,
    },
    /// A file with certificates holds none, or is not PEM.
    #[error("`{path}` holds no PEM certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// What a finished build says about itself cannot be read.
    #[error("the description of the build at `{path}` is damaged")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file could not be read or written.
    #[error("could not {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What the person can do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::MissingProgram { program } => Some(format!("install it: `apt-get install {}`", package_of(program))),
            Error::NotRoot => Some("run the same command with sudo".into()),
            Error::DiskFull { path } => Some(format!(
                "the base template needs about 2 GB: free some space on the disk of `{}`, or give another data \
                 directory with --data-dir",
                path.display()
            )),
            Error::Network { .. } => {
                Some("check that `apt-get update` works on this host: the build uses the host's mirror and proxy settings".into())
            }
            Error::Stalled { .. } => Some("run the command again; what was finished is kept".into()),
            Error::NoCertificate { .. } => Some("give a file with BEGIN CERTIFICATE blocks".into()),
            Error::Manifest { path, .. } => path
                .parent()
                .map(|build| format!("remove `{}` and build again", build.display())),
            Error::Program { .. } | Error::Io { .. } => None,
        }
    }

    /// For `map_err` on file operations: names the action and the path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path },
            _ => Error::Io { action, path, source },
        }
    }
}

/// The Debian package that holds a program, where the names differ.
fn package_of(program: &str) -> &str {
    match program {
        "chroot" | "cp" => "coreutils",
        "apt-get" | "apt-config" => "apt",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_told_apart_from_other_failures() {
        let full = Error::io("write", "/x")(io::Error::from(io::ErrorKind::StorageFull));
        let other = Error::io("write", "/x")(io::Error::from(io::ErrorKind::PermissionDenied));

        assert!(matches!(full, Error::DiskFull { .. }));
        assert_eq!(other.to_string(), "could not write `/x`");
    }

    #[test]
    fn missing_program_hint_names_the_package() {
        let error = Error::MissingProgram {
            program: "chroot".into(),
        };
        assert_eq!(error.hint().as_deref(), Some("install it: `apt-get install coreutils`"));
    }
}
