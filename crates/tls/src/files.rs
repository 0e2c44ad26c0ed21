//! Certificates from files of the operator's, read again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use time::{Duration, OffsetDateTime};

use crate::Domain;
use crate::error::{Error, Result};
use crate::held::{Held, shown};

/// At this distance to its end, a certificate is complained about when it is read.
const SOON: Duration = Duration::days(14);

/// A certificate (with the chain to its authority) and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFiles {
    /// The certificate and those between it and its authority, in this order.
    pub certificate: PathBuf,
    /// The key; may be the same file.
    pub key: PathBuf,
}

impl OwnFiles {
    /// Brings certificates and keys together by their place in both lists.
    ///
    /// # Errors
    /// When one list is longer.
    pub fn pair(certificates: &[PathBuf], keys: &[PathBuf]) -> Result<Vec<Self>> {
        if certificates.len() != keys.len() {
            return Err(Error::Unpaired {
                certificates: certificates.len(),
                keys: keys.len(),
            });
        }
        let pairs = certificates.iter().zip(keys);
        Ok(pairs
            .map(|(certificate, key)| Self {
                certificate: certificate.clone(),
                key: key.clone(),
            })
            .collect())
    }
}

/// What tells a changed file.
type Stamp = [Option<(u64, i64, i64, u64)>; 2];

/// Files, and what was last read from them.
#[derive(Debug)]
pub(crate) struct Watched {
    files: OwnFiles,
    domains: Vec<Domain>,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    held: Arc<Held>,
    /// Of the files at the last attempt, good or bad.
    stamp: Stamp,
}

impl Watched {
    /// Reads and checks.
    pub(crate) fn open(files: OwnFiles, domains: &[Domain]) -> Result<Self> {
        let stamp = stamp(&files);
        let held = load(&files, domains)?;
        Ok(Self {
            files,
            domains: domains.to_vec(),
            current: RwLock::new(Current {
                held: Arc::new(held),
                stamp,
            }),
        })
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).held)
    }

    /// Looks whether the files changed, and takes the new certificate when it is good; a bad one is logged and the old one stays.
    pub(crate) fn look(&self) {
        let now = stamp(&self.files);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).stamp == now {
            return;
        }
        let loaded = load(&self.files, &self.domains);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.stamp = now;
        let file = self.files.certificate.display();
        match loaded {
            Ok(held) => {
                tracing::info!(%file, until = shown(held.until), "a changed certificate is in use");
                current.held = Arc::new(held);
            }
            // Also between the writing of the certificate and that of its key: the next look finds both.
            Err(error) => {
                tracing::warn!(%file, error = &error as &dyn std::error::Error, "a changed certificate is not usable yet, the old one stays");
            }
        }
    }
}

fn load(files: &OwnFiles, domains: &[Domain]) -> Result<Held> {
    let certificate = fs::read_to_string(&files.certificate).map_err(Error::file("read", &files.certificate))?;
    let key = fs::read_to_string(&files.key).map_err(Error::file("read", &files.key))?;
    let held = Held::read((&files.certificate, &certificate), (&files.key, &key))?;
    let now = OffsetDateTime::now_utc();
    if !held.is_valid(now) {
        return Err(Error::NotNow {
            path: files.certificate.clone(),
            from: shown(held.from),
            until: shown(held.until),
        });
    }
    check_names(&files.certificate, &held, domains)?;
    if held.until - now < SOON {
        tracing::warn!(file = %files.certificate.display(), until = shown(held.until), "a certificate ends soon");
    }
    Ok(held)
}

/// A certificate for other names is a mistake; one that lacks some names may be meant so.
fn check_names(file: &Path, held: &Held, domains: &[Domain]) -> Result<()> {
    let mut covered = false;
    for domain in domains {
        let api = held.covers(&format!("api.{domain}"));
        // Any label will do: only a wildcard can be for it.
        let sandboxes = held.covers(&format!("49983-i0.{domain}"));
        covered |= api || sandboxes || held.covers(domain.as_str());
        if api && !sandboxes {
            tracing::warn!(file = %file.display(), "the certificate has no name *.{domain}: hosts of single sandboxes get one of the local authority");
        }
    }
    if covered {
        return Ok(());
    }
    let domains: Vec<_> = domains.iter().map(Domain::as_str).collect();
    let names = if held.names.is_empty() {
        "no host names".to_owned()
    } else {
        held.names.join(", ")
    };
    Err(Error::OtherNames {
        path: file.to_owned(),
        names,
        domains: domains.join(", "),
    })
}

fn stamp(files: &OwnFiles) -> Stamp {
    [&files.certificate, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    fn domains() -> Vec<Domain> {
        vec!["box.example".parse().unwrap()]
    }

    fn files(dir: &TempDir) -> OwnFiles {
        OwnFiles {
            certificate: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        }
    }

    fn put(files: &OwnFiles, names: &[&str], last_year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
    }

    fn refusal(spoil: impl FnOnce(&OwnFiles)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        put(&files, &["*.box.example"], 4000);
        spoil(&files);
        Watched::open(files, &domains()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_hint() {
        let error = refusal(|files| put(files, &["*.box.example"], 2020));
        assert!(
            error.contains("until") || error.contains("2020-01-01") && error.contains("renew it"),
            "{error}"
        );
        let error = refusal(|files| put(files, &["*.other.example"], 4000));
        assert!(error.contains("*.other.example") && error.contains("box.example"), "{error}");
        let error = refusal(|files| fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap());
        assert!(error.contains("does not belong"), "{error}");
        let error = refusal(|files| fs::write(&files.certificate, "hello").unwrap());
        assert!(error.contains("no certificate"), "{error}");
        let error = refusal(|files| fs::write(&files.key, "hello").unwrap());
        assert!(error.contains("no private key"), "{error}");
        let error = refusal(|files| fs::remove_file(&files.key).unwrap());
        assert!(error.contains("Cannot read"), "{error}");
    }

    #[test]
    fn each_certificate_needs_a_key() {
        let error = OwnFiles::pair(&["a".into(), "b".into()], &["c".into()]).unwrap_err();
        assert!(error.to_string().contains("2 certificate files and 1 key files"), "{error}");
    }

    #[test]
    fn a_changed_certificate_is_taken_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        put(&files, &["*.box.example"], 4000);
        let watched = Watched::open(files.clone(), &domains()).unwrap();
        let first = watched.held();
        watched.look();
        assert!(Arc::ptr_eq(&first, &watched.held()));

        fs::write(&files.certificate, "half of a").unwrap();
        watched.look();
        assert!(Arc::ptr_eq(&first, &watched.held()));

        put(&files, &["*.box.example", "box.example"], 4000);
        watched.look();
        assert_eq!(watched.held().names, ["*.box.example", "box.example"]);
    }
}
