//! A certificate with its key, ready for handshakes, and what is known about it.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;

use crate::error::{Error, Result};

/// A certificate that this server can show.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The names it is for, lower case; some may begin with `*.`.
    pub(crate) names: Vec<String>,
    /// Start of its time.
    pub(crate) from: OffsetDateTime,
    /// End of its time.
    pub(crate) until: OffsetDateTime,
    /// For the handshake.
    pub(crate) key: Arc<CertifiedKey>,
}

impl Held {
    /// Reads a chain (the server's certificate first) and its key, both in PEM. The paths are for errors only.
    pub(crate) fn read(certificate: (&Path, &str), key: (&Path, &str)) -> Result<Self> {
        let (certificate, chain) = certificate;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| Error::content(certificate, format!("its PEM is malformed ({error})")))?;
        let Some(first) = chain.first() else {
            return Err(Error::content(
                certificate,
                "it holds no certificate; PEM is needed, with lines that begin with -----BEGIN CERTIFICATE-----",
            ));
        };
        let (names, from, until) = inspect(first).map_err(|problem| Error::content(certificate, problem))?;
        let (key, text) = key;
        let private = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
            Error::content(
                key,
                "it holds no private key; an unencrypted one in PEM is needed, such as -----BEGIN PRIVATE KEY-----",
            )
        })?;
        let signer = any_supported_type(&private).map_err(|_| {
            Error::content(
                key,
                "its kind of key is not supported; use ECDSA (P-256, P-384), Ed25519 or RSA",
            )
        })?;
        let pair = CertifiedKey::new(chain, signer);
        match pair.keys_match() {
            // The second means that this kind of key cannot be compared.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => {
                return Err(Error::Mismatch {
                    certificate: certificate.to_owned(),
                    key: key.to_owned(),
                });
            }
        }
        Ok(Self {
            names,
            from,
            until,
            key: Arc::new(pair),
        })
    }

    /// Whether it is for this name, which is lower case. A wildcard stands for one whole label (RFC 9525, 6.3).
    pub(crate) fn covers(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names
            .iter()
            .any(|own| own == name || own.strip_prefix("*.").is_some_and(|below| parent == Some(below)))
    }

    /// Whether its time is now.
    pub(crate) fn is_valid(&self, now: OffsetDateTime) -> bool {
        self.from <= now && now < self.until
    }
}

/// The names and the time of a certificate.
fn inspect(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, OffsetDateTime, OffsetDateTime), String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| format!("it holds no X.509 certificate ({error})"))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| format!("its alternative names are malformed ({error})"))?
        .map(|extension| {
            let names = extension.value.general_names.iter();
            names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        })
        .unwrap_or_default();
    let validity = parsed.validity();
    Ok((names, validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}

/// A point in time for people, to the second.
pub(crate) fn shown(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
