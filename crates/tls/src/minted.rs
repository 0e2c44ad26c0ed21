//! Certificates of the local authority, signed when a client asks for a name and kept for the next one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use crate::{Domain, LocalCa};

/// Most certificates kept. Only domains without a dot need more than one.
const MOST: usize = 1024;

/// Signs and keeps.
#[derive(Debug)]
pub(crate) struct Minted {
    ca: Arc<LocalCa>,
    /// Addresses that clients without a name may have used.
    addresses: Vec<IpAddr>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    certificates: HashMap<String, Entry>,
    /// Counts uses, to tell which certificate was not asked for the longest.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    key: Arc<CertifiedKey>,
    renew: OffsetDateTime,
    used: u64,
}

impl Minted {
    pub(crate) fn new(ca: Arc<LocalCa>, addresses: Vec<IpAddr>) -> Self {
        Self {
            ca,
            addresses,
            kept: Mutex::default(),
        }
    }

    /// A certificate for a name that `domain` holds.
    pub(crate) fn below(&self, domain: &Domain, name: &str) -> Option<Arc<CertifiedKey>> {
        if domain.takes_wildcard() {
            let names = [domain.to_string(), format!("*.{domain}")];
            self.get(domain.as_str(), &names, &[])
        } else {
            self.get(name, &[name.to_owned()], &[])
        }
    }

    /// A certificate for clients that name nobody, or `localhost`.
    pub(crate) fn nameless(&self) -> Option<Arc<CertifiedKey>> {
        self.get("", &["localhost".to_owned()], &self.addresses)
    }

    fn get(&self, kept_as: &str, names: &[String], addresses: &[IpAddr]) -> Option<Arc<CertifiedKey>> {
        let now = OffsetDateTime::now_utc();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let used = kept.uses;
        if let Some(entry) = kept.certificates.get_mut(kept_as).filter(|entry| now < entry.renew) {
            entry.used = used;
            return Some(Arc::clone(&entry.key));
        }
        let (key, renew) = match self.ca.sign(names, addresses) {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    ?names,
                    "a certificate could not be signed"
                );
                return None;
            }
        };
        if kept.certificates.len() >= MOST {
            let oldest = kept
                .certificates
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(name, _)| name.clone());
            oldest.map(|name| kept.certificates.remove(&name));
        }
        let entry = Entry {
            key: Arc::clone(&key),
            renew,
            used,
        };
        kept.certificates.insert(kept_as.to_owned(), entry);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted() -> (tempfile::TempDir, Minted) {
        let dir = tempfile::tempdir().unwrap();
        let ca = Arc::new(LocalCa::open(dir.path()).unwrap());
        (dir, Minted::new(ca, Vec::new()))
    }

    #[test]
    fn one_wildcard_serves_a_domain() {
        let (_dir, minted) = minted();
        let domain: Domain = "box.example".parse().unwrap();
        let one = minted.below(&domain, "api.box.example").unwrap();
        let other = minted.below(&domain, "3000-i1.box.example").unwrap();
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn the_number_of_certificates_is_bounded_and_the_used_one_stays() {
        let (_dir, minted) = minted();
        let domain: Domain = "localhost".parse().unwrap();
        let api = minted.below(&domain, "api.localhost").unwrap();
        for n in 0..MOST + 10 {
            minted.below(&domain, &format!("{n}-i1.localhost")).unwrap();
            if n % 500 == 0 {
                minted.below(&domain, "api.localhost").unwrap();
            }
        }
        assert!(Arc::ptr_eq(&api, &minted.below(&domain, "api.localhost").unwrap()));
        assert_eq!(minted.kept.lock().unwrap().certificates.len(), MOST);
    }
}
