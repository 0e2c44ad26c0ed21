//! The authority of this installation.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use time::{Duration, OffsetDateTime};

use crate::error::{Error, Result};
use crate::held::{Held, shown};
use crate::private::{self, Readers};

/// How long the authority lasts.
const CA_LIFE: Duration = Duration::days(3650);
/// How long a certificate lasts. Browsers refuse more than 398 days; a process seldom lives so long, and makes new ones in time.
const LEAF_LIFE: Duration = Duration::days(90);
/// Certificates begin so long ago: clients' clocks may be slow.
const SKEW: Duration = Duration::days(1);
/// At a start, an authority with less than this left is complained about.
const OLD: Duration = Duration::days(90);

/// An authority whose key is on this host, and the key that all certificates of this process share.
pub struct LocalCa {
    directory: PathBuf,
    pem: String,
    until: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
    leaf_key: KeyPair,
    signer: Arc<dyn SigningKey>,
}

impl std::fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCa")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl LocalCa {
    /// Opens the authority in `directory`, and makes it when there is none: `ca.crt` for everybody, `ca.key` for the owner only.
    ///
    /// # Errors
    /// When files cannot be read or written, and when what is there is damaged or expired.
    pub fn open(directory: &Path) -> Result<Self> {
        private::make_directory(directory)?;
        // `dormouse ca` and a first start of the server may come at once.
        let lock_file = directory.join("lock");
        let lock = File::create(&lock_file).map_err(Error::file("make", &lock_file))?;
        lock.lock().map_err(Error::file("lock", &lock_file))?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let damaged = |problem: &str| Error::DamagedCa {
            directory: directory.to_owned(),
            problem: problem.to_owned(),
        };
        let (pem, key_pem) = match (private::read(&certificate)?, private::read(&key)?) {
            (Some(pem), Some(key_pem)) => {
                keep_private(&key)?;
                (pem, key_pem)
            }
            (None, None) => {
                let (pem, key_pem) = make()?;
                private::write(&key, Readers::Owner, key_pem.as_bytes())?;
                private::write(&certificate, Readers::All, pem.as_bytes())?;
                tracing::info!(file = %certificate.display(), "a local certificate authority was made");
                (pem, key_pem)
            }
            (Some(_), None) => return Err(damaged("ca.key is missing")),
            (None, Some(_)) => return Err(damaged("ca.crt is missing")),
        };
        let held = match Held::read((&certificate, &pem), (&key, &key_pem)) {
            Ok(held) => held,
            Err(Error::Mismatch { .. }) => return Err(damaged("ca.key does not belong to ca.crt")),
            Err(Error::Content { problem, .. }) => return Err(damaged(&problem)),
            Err(error) => return Err(error),
        };
        let now = OffsetDateTime::now_utc();
        if !held.is_valid(now) {
            return Err(damaged(&format!(
                "it is valid from {} to {}, and now it is {}",
                shown(held.from),
                shown(held.until),
                shown(now)
            )));
        }
        if held.until - now < OLD {
            tracing::warn!(until = shown(held.until), directory = %directory.display(), "the local authority ends soon: remove ca.crt and ca.key to have a new one made");
        }
        let issuer = KeyPair::from_pem(&key_pem).and_then(|key| Issuer::from_ca_cert_pem(&pem, key));
        let issuer = issuer.map_err(|error| damaged(&error.to_string()))?;
        let leaf_key = KeyPair::generate()?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        Ok(Self {
            directory: directory.to_owned(),
            pem,
            until: held.until,
            issuer,
            signer: any_ecdsa_type(&private)?,
            leaf_key,
        })
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The file with the authority's certificate, which everybody can read.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Signs a certificate for these names and addresses; the time is when to make the next one.
    pub(crate) fn sign(&self, names: &[String], addresses: &[IpAddr]) -> Result<(Arc<CertifiedKey>, OffsetDateTime)> {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::new(names)?;
        params
            .subject_alt_names
            .extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        // Something must be there: without a subject, some clients want the names to be marked critical.
        params.distinguished_name = subject("Dormouse");
        params.not_before = now - SKEW;
        params.not_after = (now + LEAF_LIFE).min(self.until);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let renew = now + (params.not_after - now) * 2 / 3;
        let certificate = params.signed_by(&self.leaf_key, &self.issuer)?;
        let pair = CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&self.signer));
        Ok((Arc::new(pair), renew))
    }

    /// The authority's certificate, in DER.
    #[must_use]
    pub fn der(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).ok()
    }
}

/// A new authority: certificate and key in PEM.
fn make() -> Result<(String, String)> {
    let now = OffsetDateTime::now_utc();
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // Told apart in a list of authorities by host and day.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    params.distinguished_name = subject(&format!("Dormouse local CA {} {}", host.trim(), now.date()));
    params.not_before = now - SKEW;
    params.not_after = now + CA_LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A common name has at most 64 characters (RFC 5280, A.1).
fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    subject
}

/// A key that was copied about may have become readable for others.
fn keep_private(key: &Path) -> Result<()> {
    let metadata = fs::metadata(key).map_err(Error::file("look at", key))?;
    if metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(file = %key.display(), "others could read the authority's key: this is mended, but they may have a copy");
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).map_err(Error::file("protect", key))
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::ParsedExtension;
    use x509_parser::parse_x509_certificate;
    use x509_parser::prelude::X509Certificate;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn it_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = LocalCa::open(dir.path()).unwrap();
        assert_eq!(mode(&dir.path().join("ca.key")), 0o600);
        assert_eq!(mode(&first.file()), 0o644);
        assert_eq!(LocalCa::open(dir.path()).unwrap().pem(), first.pem());
    }

    #[test]
    fn starts_at_the_same_time_agree() {
        let dir = tempfile::tempdir().unwrap();
        let open = || LocalCa::open(dir.path()).unwrap().pem().to_owned();
        let made: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|pem| *pem == made[0]));
    }

    #[test]
    fn a_key_that_others_can_read_is_protected_again() {
        let dir = tempfile::tempdir().unwrap();
        LocalCa::open(dir.path()).unwrap();
        let key = dir.path().join("ca.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        LocalCa::open(dir.path()).unwrap();
        assert_eq!(mode(&key), 0o600);
    }

    #[test]
    fn damage_is_explained() {
        let check = |spoil: &dyn Fn(&Path), words: &str| {
            let dir = tempfile::tempdir().unwrap();
            LocalCa::open(dir.path()).unwrap();
            spoil(dir.path());
            let error = LocalCa::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("Remove both"), "{error}");
        };
        check(&|dir| fs::remove_file(dir.join("ca.key")).unwrap(), "ca.key is missing");
        check(&|dir| fs::remove_file(dir.join("ca.crt")).unwrap(), "ca.crt is missing");
        check(&|dir| fs::write(dir.join("ca.crt"), "nonsense").unwrap(), "no certificate");
        let other = KeyPair::generate().unwrap().serialize_pem();
        check(&|dir| fs::write(dir.join("ca.key"), &other).unwrap(), "does not belong");
    }

    #[test]
    fn an_expired_authority_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(dir.path().join("ca.key"), key.serialize_pem()).unwrap();
        let error = LocalCa::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("2020-01-01T00:00:00Z"), "{error}");
    }

    #[test]
    fn certificates_have_what_strict_clients_ask_for() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(dir.path()).unwrap();
        let (pair, renew) = ca
            .sign(&["*.box.example".to_owned()], &["127.0.0.1".parse().unwrap()])
            .unwrap();
        let (_, leaf) = parse_x509_certificate(&pair.cert[0]).unwrap();
        let issuer = ca.der().unwrap();
        let (_, issuer) = parse_x509_certificate(&issuer).unwrap();

        leaf.verify_signature(Some(issuer.public_key())).unwrap();
        let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert!(life <= 398 * 24 * 3600, "{life}");
        assert!(renew.unix_timestamp() < leaf.validity().not_after.timestamp());
        assert!(leaf.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(!leaf.is_ca());
        let id = |certificate: &X509Certificate<'_>, wanted: &dyn Fn(&ParsedExtension<'_>) -> Option<Vec<u8>>| {
            certificate
                .extensions()
                .iter()
                .find_map(|extension| wanted(extension.parsed_extension()))
        };
        let issuers = id(&leaf, &|extension| match extension {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
        let own = id(&issuer, &|extension| match extension {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        assert!(own.is_some());
        assert_eq!(issuers, own);
        assert!(issuer.is_ca());
        assert!(issuer.basic_constraints().unwrap().unwrap().critical);
        assert!(issuer.key_usage().unwrap().unwrap().value.key_cert_sign());
    }
}
