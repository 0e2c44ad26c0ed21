//! Certificates that were got, on disk and in use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use time::OffsetDateTime;

use crate::Domain;
use crate::error::Result;
use crate::held::Held;
use crate::private::{self, Readers};

/// The certificates from ACME, one a domain.
#[derive(Debug, Default)]
pub struct Issued {
    held: RwLock<HashMap<Domain, Arc<Held>>>,
}

impl Issued {
    /// The certificate for a name, if there is one whose time is now.
    pub(crate) fn covering(&self, name: &str, now: OffsetDateTime) -> Option<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.values().find(|held| held.covers(name) && held.is_valid(now)).cloned()
    }

    /// Reads what was saved; a damaged file is as good as none, because another certificate can be had.
    pub(crate) fn load(&self, directory: &Path, domain: &Domain) -> Result<()> {
        let file = file(directory, domain);
        let Some(text) = private::read(&file)? else { return Ok(()) };
        match Held::read((&file, &text), (&file, &text)) {
            Ok(held) => self.put(domain, held),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "a certificate is got anew"),
        }
        Ok(())
    }

    /// Saves a chain and its key and takes them into use; the time is when to get the next.
    pub(crate) fn save(&self, directory: &Path, domain: &Domain, chain: &str, key: &str) -> Result<OffsetDateTime> {
        let file = file(directory, domain);
        // One file, so that chain and key always fit.
        let text = format!("{}\n{}", chain.trim_end(), key);
        let held = Held::read((&file, &text), (&file, &text))?;
        private::write(&file, Readers::Owner, text.as_bytes())?;
        let renew = renewal(&held);
        self.put(domain, held);
        Ok(renew)
    }

    /// When to get the next certificate for a domain; `None` for at once, because there is none for all of the names.
    pub(crate) fn renewal(&self, domain: &Domain, names: &[String]) -> Option<OffsetDateTime> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let held = held.get(domain)?;
        names.iter().all(|name| held.names.contains(name)).then(|| renewal(held))
    }

    fn put(&self, domain: &Domain, held: Held) {
        let mut all = self.held.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(domain.clone(), Arc::new(held));
    }
}

/// With a third of its time left.
fn renewal(held: &Held) -> OffsetDateTime {
    held.until - (held.until - held.from) / 3
}

fn file(directory: &Path, domain: &Domain) -> PathBuf {
    directory.join(format!("{domain}.pem"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn what_was_saved_is_found_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let domain: Domain = "box.example".parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["*.box.example".to_owned()]).unwrap();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - time::Duration::days(1), now + time::Duration::days(89));
        let due = now + time::Duration::days(59);
        let chain = params.self_signed(&key).unwrap().pem();

        let renew = Issued::default()
            .save(dir.path(), &domain, &chain, &key.serialize_pem())
            .unwrap();
        let next = Issued::default();
        next.load(dir.path(), &domain).unwrap();

        // Certificates count in seconds.
        assert!((renew - due).abs() < time::Duration::seconds(2), "{renew}");
        assert!(next.covering("api.box.example", now).is_some());
        assert!(next.covering("api.box.example", now + time::Duration::days(90)).is_none());
        assert_eq!(next.renewal(&domain, &["*.box.example".to_owned()]), Some(renew));
        assert_eq!(next.renewal(&domain, &["box.example".to_owned()]), None);
        let mode = std::fs::metadata(file(dir.path(), &domain)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let domain: Domain = "box.example".parse().unwrap();
        std::fs::write(file(dir.path(), &domain), "half a certificate").unwrap();
        let issued = Issued::default();
        issued.load(dir.path(), &domain).unwrap();
        assert_eq!(issued.renewal(&domain, &[]), None);
    }
}
