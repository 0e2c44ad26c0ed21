//! Proofs that an ACME server may come to look at.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::error::Result;

/// The application protocol by which an ACME server says that it comes for a proof (RFC 8737, 6.2).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// Proofs under way; empty most of the time.
#[derive(Debug, Default)]
pub struct Challenges {
    http: RwLock<HashMap<String, String>>,
    tls: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Challenges {
    /// What to answer for an HTTP-01 token.
    pub(crate) fn http(&self, token: &str) -> Option<String> {
        self.http.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    pub(crate) fn add_http(&self, token: &str, proof: &str) {
        let mut http = self.http.write().unwrap_or_else(PoisonError::into_inner);
        http.insert(token.to_owned(), proof.to_owned());
    }

    pub(crate) fn remove_http(&self, token: &str) {
        self.http.write().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    /// Prepares the certificate of RFC 8737, 3: for this name alone, with the digest of the proof in an extension.
    pub(crate) fn add_tls(&self, name: &str, digest: &[u8]) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = params.self_signed(&key)?;
        let signer = any_ecdsa_type(&PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))?;
        let pair = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signer));
        let mut tls = self.tls.write().unwrap_or_else(PoisonError::into_inner);
        tls.insert(name.to_ascii_lowercase(), pair);
        Ok(())
    }

    pub(crate) fn remove_tls(&self, name: &str) {
        let mut tls = self.tls.write().unwrap_or_else(PoisonError::into_inner);
        tls.remove(&name.to_ascii_lowercase());
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        self.tls.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()
    }
}
