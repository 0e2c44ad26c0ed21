//! What can go wrong, in words for the person who can mend it.

use std::io;
use std::path::{Path, PathBuf};

/// A certificate, a key or the work with them fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not usable: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A certificate and a key are from different pairs.
    #[error("The key in {} does not belong to the certificate in {}; give the files of one pair in the same place of both lists", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The time is not within the certificate's.
    #[error("The certificate in {} is valid from {from} to {until}, which is not now; renew it, or set this host's clock", path.display())]
    NotNow {
        /// The certificate's file.
        path: PathBuf,
        /// Start of its time.
        from: String,
        /// End of its time.
        until: String,
    },
    /// A certificate is for none of the base domains.
    #[error("The certificate in {} is for {names}, which covers none of the base domains ({domains}); it needs the name *.<domain>", path.display())]
    OtherNames {
        /// The certificate's file.
        path: PathBuf,
        /// The names in it.
        names: String,
        /// The base domains.
        domains: String,
    },
    /// Not as many certificates as keys.
    #[error("{certificates} certificate files and {keys} key files are given; each certificate needs its key")]
    Unpaired {
        /// Certificates given.
        certificates: usize,
        /// Keys given.
        keys: usize,
    },
    /// The local authority's files do not fit together, or one is missing.
    #[error("The local authority in {} is damaged: {problem}. Remove both ca.crt and ca.key to have a new one made; clients must then trust the new one", directory.display())]
    DamagedCa {
        /// Where its files are.
        directory: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A certificate could not be made.
    #[error("Cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// The TLS library refuses a certificate or a setting.
    #[error("Cannot set TLS up")]
    Tls(#[from] rustls::Error),
    /// The ACME server, or the way to it.
    #[error("The ACME server at {directory} did not cooperate")]
    Acme {
        /// Its directory's URL.
        directory: String,
        /// Why.
        source: instant_acme::Error,
    },
    /// The ACME server could not confirm that a name is ours.
    #[error("The ACME server at {directory} did not confirm {name} by {challenge}: {problem}")]
    Unconfirmed {
        /// Its directory's URL.
        directory: String,
        /// The name.
        name: String,
        /// How it was to be confirmed.
        challenge: &'static str,
        /// What the server says.
        problem: String,
    },
    /// The program that publishes DNS records failed.
    #[error("The DNS hook `{} {arguments}` failed: {problem}", program.display())]
    Hook {
        /// The program.
        program: PathBuf,
        /// What it was called with.
        arguments: String,
        /// How it ended.
        problem: String,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: which file, and what was tried.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// A file is not what it should be.
    pub(crate) fn content(path: &Path, problem: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}
