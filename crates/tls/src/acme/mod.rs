//! Certificates from a public authority over ACME (RFC 8555), got at the start and renewed when a third of their time is left.
//!
//! Until one is there, the local authority's is shown, so that the server works while the proof is under way.

mod challenges;
mod hook;
mod issued;
mod order;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

pub(crate) use self::challenges::ACME_TLS;
pub use self::challenges::Challenges;
pub use self::hook::{Dns01, PublishTxt};
pub use self::issued::Issued;
use self::order::Account;
use crate::Domain;
use crate::error::Result;
use crate::held::shown;

/// Waits after failures, the last one for ever. Public authorities allow five failures an hour for a name.
const WAITS: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
];
/// A clock that is set, or a host that sleeps, must not make a renewal late: due times are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// How this server proves that a name is its own.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A file under `http://<name>/.well-known/acme-challenge/` on port 80 (RFC 8555, 8.3), answered by
    /// [`serve_redirects`](crate::serve_redirects).
    Http01,
    /// A certificate with a mark, shown on port 443 (RFC 8737), by [`serve`](crate::serve).
    TlsAlpn01,
    /// A TXT record (RFC 8555, 8.4): the only one that public authorities accept for wildcards.
    Dns01(Dns01),
}

impl Proof {
    /// The protocol's name for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01(_) => "dns-01",
        }
    }

    /// The names that a certificate for `domain` gets.
    fn names(&self, domain: &Domain) -> Vec<String> {
        match self {
            Self::Dns01(_) => vec![domain.to_string(), format!("*.{domain}")],
            // The domain itself is often somebody else's web site.
            Self::Http01 | Self::TlsAlpn01 => vec![format!("api.{domain}"), format!("sandbox.{domain}")],
        }
    }
}

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct AcmeConfig {
    /// URL of the ACME server's directory.
    pub directory: String,
    /// The authority of the ACME server's own certificate, in PEM; `None`: those that the system trusts.
    pub root: Option<PathBuf>,
    /// Where the authority may write about certificates that end, such as `admin@box.example`.
    pub email: Option<String>,
    /// How names are proved.
    pub proof: Proof,
    /// Where the account and certificates are kept.
    pub directory_path: PathBuf,
}

/// Gets and renews.
#[derive(Debug)]
pub struct Acme {
    config: AcmeConfig,
    issued: Arc<Issued>,
    challenges: Arc<Challenges>,
}

impl Acme {
    /// Takes the certificates into use that were got earlier.
    ///
    /// # Errors
    /// When the directory cannot be made or a file in it cannot be read.
    pub fn open(config: AcmeConfig, domains: &[Domain], issued: Arc<Issued>, challenges: Arc<Challenges>) -> Result<Self> {
        crate::private::make_directory(&config.directory_path)?;
        for domain in domains {
            issued.load(&config.directory_path, domain)?;
        }
        Ok(Self {
            config,
            issued,
            challenges,
        })
    }

    /// Keeps a certificate for each domain until `stop` is cancelled. Failures are logged and tried again.
    pub async fn run(&self, domains: &[Domain], stop: CancellationToken) {
        let mut plans: Vec<_> = domains.iter().map(|domain| (domain, 0, OffsetDateTime::now_utc())).collect();
        for (domain, _, due) in &mut plans {
            if let Some(renew) = self.issued.renewal(domain, &self.config.proof.names(domain)) {
                *due = renew;
            }
        }
        while !stop.is_cancelled() {
            for (domain, failures, due) in &mut plans {
                if OffsetDateTime::now_utc() < *due {
                    continue;
                }
                let result = tokio::select! { result = self.renew(domain) => result, () = stop.cancelled() => return };
                *due = match result {
                    Ok(renew) => {
                        *failures = 0;
                        tracing::info!(%domain, renew = shown(renew), "a certificate was issued");
                        renew
                    }
                    Err(error) => {
                        let wait = WAITS[(*failures).min(WAITS.len() - 1)];
                        *failures += 1;
                        tracing::warn!(%domain, error = &error as &dyn std::error::Error, again_in = ?wait, "no certificate could be had; the one in use stays");
                        OffsetDateTime::now_utc() + wait
                    }
                };
            }
            let next = plans.iter().map(|(_, _, due)| *due).min();
            let wait = next.map_or(LOOK_EVERY, |next| {
                Duration::try_from(next - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO)
            });
            tokio::select! { () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {} () = stop.cancelled() => return }
        }
    }

    /// Gets one certificate and takes it into use; the time is when to get the next.
    ///
    /// # Errors
    /// When the ACME server refuses, or cannot confirm a name.
    pub async fn renew(&self, domain: &Domain) -> Result<OffsetDateTime> {
        let names = self.config.proof.names(domain);
        tracing::info!(%domain, directory = self.config.directory, proof = self.config.proof.name(), "asking for a certificate");
        let account = Account::open(&self.config).await?;
        let (chain, key) = account.order(&names, &self.challenges).await?;
        self.issued.save(&self.config.directory_path, domain, &chain, &key)
    }
}
