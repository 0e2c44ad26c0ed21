//! Which certificate a client gets.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::acme::Issued;
use crate::error::Result;
use crate::files::Watched;
use crate::minted::Minted;
use crate::{Domain, LocalCa, OwnFiles};

/// How often files of the operator's are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Every certificate there is. The operator's files come first, then those from ACME, then the local authority's.
#[derive(Debug)]
pub struct Certificates {
    domains: Vec<Domain>,
    files: Vec<Watched>,
    issued: Arc<Issued>,
    minted: Minted,
}

impl Certificates {
    /// Opens all of them. `addresses` are this server's, for clients that name no host.
    ///
    /// # Errors
    /// When one of the operator's files is missing, damaged, expired, or for other names.
    pub fn open(domains: Vec<Domain>, files: Vec<OwnFiles>, ca: Arc<LocalCa>, addresses: Vec<IpAddr>) -> Result<Self> {
        let files = files
            .into_iter()
            .map(|files| Watched::open(files, &domains))
            .collect::<Result<_>>()?;
        Ok(Self {
            files,
            issued: Arc::default(),
            minted: Minted::new(ca, addresses),
            domains,
        })
    }

    /// Where certificates from ACME are put.
    #[must_use]
    pub fn issued(&self) -> Arc<Issued> {
        Arc::clone(&self.issued)
    }

    /// Takes changed files into use, until `stop` is cancelled.
    pub async fn watch(&self, stop: CancellationToken) {
        if self.files.is_empty() {
            return;
        }
        loop {
            tokio::select! { () = tokio::time::sleep(LOOK_EVERY) => {} () = stop.cancelled() => return }
            self.files.iter().for_each(Watched::look);
        }
    }

    /// The certificate for a name; `None` for names that are not ours.
    pub(crate) fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = name else {
            return self.minted.nameless();
        };
        let name = name.to_ascii_lowercase();
        let now = OffsetDateTime::now_utc();
        let own = self.files.iter().map(Watched::held).find(|held| held.covers(&name));
        // An expired one is still more telling than one of an authority that the client does not know.
        if let Some(own) = own {
            return Some(Arc::clone(&own.key));
        }
        if let Some(issued) = self.issued.covering(&name, now) {
            return Some(Arc::clone(&issued.key));
        }
        if let Some(domain) = self.domains.iter().find(|domain| domain.holds(&name)) {
            return self.minted.below(domain, &name);
        }
        (name == "localhost").then(|| self.minted.nameless()).flatten()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use x509_parser::prelude::*;

    use super::*;

    fn certificates(domains: &[&str]) -> (tempfile::TempDir, Certificates) {
        let dir = tempfile::tempdir().unwrap();
        let ca = Arc::new(LocalCa::open(dir.path()).unwrap());
        let domains = domains.iter().map(|domain| domain.parse().unwrap()).collect();
        let addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let certificates = Certificates::open(domains, Vec::new(), ca, addresses).unwrap();
        (dir, certificates)
    }

    fn names(key: &CertifiedKey) -> Vec<String> {
        let (_, certificate) = parse_x509_certificate(&key.cert[0]).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        names.value.general_names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_below_every_base_domain_get_one_and_others_do_not() {
        let (_dir, certificates) = certificates(&["box.example", "custom.example", "localhost"]);
        let chosen = |name| certificates.choose(Some(name)).map(|key| names(&key));
        assert_eq!(
            chosen("API.box.example"),
            Some(vec!["DNSName(box.example)".into(), "DNSName(*.box.example)".into()])
        );
        assert_eq!(
            chosen("80-i1.custom.example"),
            Some(vec!["DNSName(custom.example)".into(), "DNSName(*.custom.example)".into()])
        );
        // Clients refuse a wildcard right below a top-level domain.
        assert_eq!(chosen("80-i1.localhost"), Some(vec!["DNSName(80-i1.localhost)".into()]));
        for name in ["other.example", "a.b.box.example", "xbox.example", "example"] {
            assert_eq!(chosen(name), None, "{name}");
        }
    }

    #[test]
    fn clients_that_name_nobody_get_the_addresses() {
        let (_dir, certificates) = certificates(&["box.example"]);
        let names = names(&certificates.choose(None).unwrap());
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(certificates.choose(Some("localhost")).is_some());
    }

    #[test]
    fn the_operators_certificate_comes_first() {
        let (dir, _) = certificates(&["box.example"]);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["*.box.example".to_owned()]).unwrap();
        let files = OwnFiles {
            certificate: dir.path().join("own.pem"),
            key: dir.path().join("own.key"),
        };
        std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        let ca = Arc::new(LocalCa::open(dir.path()).unwrap());
        let domains = vec!["box.example".parse().unwrap(), "custom.example".parse().unwrap()];
        let certificates = Certificates::open(domains, vec![files], ca, Vec::new()).unwrap();
        let chosen = |name| certificates.choose(Some(name)).map(|key| names(&key)).unwrap();
        assert_eq!(chosen("api.box.example"), ["DNSName(*.box.example)"]);
        // What the files do not cover is the local authority's.
        assert_eq!(chosen("api.custom.example").len(), 2);
        assert_eq!(chosen("box.example").len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_name_makes_it_panic(name in "\\PC*") {
            let (_dir, certificates) = certificates(&["box.example"]);
            certificates.choose(Some(&name));
        }
    }
}
