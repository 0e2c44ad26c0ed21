//! HTTPS and DNS beside the plain listener: opened at the start, served until the stop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use dormouse_dns::{Responder, TxtRecords};
use dormouse_proxy::Front;
use dormouse_tls::acme::{Acme, AcmeConfig, Challenges, Dns01, Proof, PublishTxt};
use dormouse_tls::{Certificates, Domain, Limits, LocalCa};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::reachable;
use crate::config::Config;
use crate::config_tls::{AcmeSettings, ProofKind, TlsConfig};
use crate::data_dir::DataDir;

/// What answers for the base domains.
#[derive(Debug)]
pub(crate) struct Names {
    https: Option<Https>,
    /// Answers for as long as it is held.
    responder: Option<Responder>,
}

#[derive(Debug)]
struct Https {
    listener: TcpListener,
    address: SocketAddr,
    redirects: Option<TcpListener>,
    certificates: Arc<Certificates>,
    challenges: Arc<Challenges>,
    acme: Option<Acme>,
}

impl Names {
    /// Opens what is configured, so that mistakes show before anything else is touched.
    pub(crate) async fn open(config: &Config, data: &DataDir) -> anyhow::Result<Self> {
        let responder = match &config.dns {
            None => None,
            Some(dns) => {
                let config = dormouse_dns::Config {
                    listen: dns.listen,
                    domains: config.domains.iter().map(ToString::to_string).collect(),
                    addresses: dns.addresses.clone(),
                };
                Some(Responder::start(config).await?)
            }
        };
        let https = match &config.tls {
            None => None,
            Some(tls) => Some(Https::open(config, tls, data, responder.as_ref()).await?),
        };
        Ok(Self { https, responder })
    }

    pub(crate) fn https_port(&self) -> Option<u16> {
        self.https.as_ref().map(|https| https.address.port())
    }

    /// Adds the addresses to what is written down for other commands.
    pub(crate) fn write_down(&self, server: &mut Value) {
        if let Some(https) = &self.https {
            server["tls"] = json!(reachable(https.address));
        }
        if let Some(responder) = &self.responder {
            server["dns"] = json!(reachable(responder.address()));
        }
    }

    /// Tells people.
    pub(crate) fn announce(&self, config: &Config) {
        if let Some(https) = &self.https {
            for domain in &config.domains {
                println!(
                    "HTTPS: https://api.{domain}:{}, sandboxes at https://<port>-<id>.{domain}:{0}",
                    https.address.port()
                );
            }
            println!("Trust its certificates: dormouse ca; variables for SDKs: dormouse env --tls");
        }
        if let Some(responder) = &self.responder {
            println!("DNS for these domains at {}", responder.address());
        }
    }

    /// Serves until `stop` is cancelled and the clients are gone.
    pub(crate) async fn serve(self, domains: Vec<Domain>, front: Front, stop: CancellationToken) -> anyhow::Result<()> {
        let Some(https) = self.https else {
            // The responder must answer as long as the plain listener does.
            stop.cancelled().await;
            return Ok(());
        };
        let port = https.address.port();
        let redirects = async {
            if let Some(listener) = https.redirects {
                dormouse_tls::serve_redirects(listener, port, Arc::clone(&https.challenges), stop.clone()).await;
            }
        };
        let acme = async {
            if let Some(acme) = &https.acme {
                acme.run(&domains, stop.clone()).await;
            }
        };
        let limits = Limits {
            connections: front.config().max_connections,
            ..Limits::default()
        };
        let handle = {
            let stop = stop.clone();
            move |stream, peer| dormouse_proxy::serve_stream(stream, peer, front.clone(), stop.clone())
        };
        let clients = dormouse_tls::serve(
            https.listener,
            Arc::clone(&https.certificates),
            Arc::clone(&https.challenges),
            limits,
            stop.clone(),
            handle,
        );
        let (served, (), (), ()) = tokio::join!(clients, redirects, acme, https.certificates.watch(stop.clone()));
        Ok(served?)
    }
}

impl Https {
    async fn open(config: &Config, tls: &TlsConfig, data: &DataDir, responder: Option<&Responder>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(tls.listen).await.with_context(|| {
            let hint = if tls.is_default {
                "; name another address with --tls-listen, or `--tls-listen off`"
            } else {
                ""
            };
            format!("Cannot listen on {} for HTTPS{hint}", tls.listen)
        })?;
        let redirects = match tls.redirect {
            None => None,
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .with_context(|| format!("Cannot listen on {address} for redirects"))?,
            ),
        };
        let address = listener.local_addr()?;
        let ca = Arc::new(LocalCa::open(&data.tls())?);
        let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        addresses.extend(Some(address.ip()).filter(|ip| !ip.is_unspecified()));
        addresses.extend(config.dns.iter().flat_map(|dns| dns.addresses.clone()));
        addresses.sort_unstable();
        addresses.dedup();
        let certificates = Certificates::open(config.domains.clone(), tls.files.clone(), ca, addresses)?;
        let challenges = Arc::<Challenges>::default();
        let acme = match &tls.acme {
            None => None,
            Some(acme) => {
                let acme = acme_config(acme, data, responder)?;
                Some(Acme::open(
                    acme,
                    &config.domains,
                    certificates.issued(),
                    Arc::clone(&challenges),
                )?)
            }
        };
        Ok(Self {
            listener,
            address,
            redirects,
            certificates: Arc::new(certificates),
            challenges,
            acme,
        })
    }
}

fn acme_config(acme: &AcmeSettings, data: &DataDir, responder: Option<&Responder>) -> anyhow::Result<AcmeConfig> {
    let proof = match acme.proof {
        ProofKind::Http01 => Proof::Http01,
        ProofKind::TlsAlpn01 => Proof::TlsAlpn01,
        ProofKind::Dns01 => Proof::Dns01(match (&acme.hook, responder) {
            (Some(hook), _) => Dns01::Hook(hook.clone()),
            (None, Some(responder)) => Dns01::Responder(Arc::new(Published(responder.txt()))),
            (None, None) => anyhow::bail!("dns-01 needs --acme-dns-hook or --dns-listen"),
        }),
    };
    Ok(AcmeConfig {
        directory: acme.directory.clone(),
        root: acme.root.clone(),
        email: acme.email.clone(),
        proof,
        directory_path: data.tls().join("acme"),
    })
}

/// Proofs answered by our own responder.
#[derive(Debug)]
struct Published(TxtRecords);

impl PublishTxt for Published {
    fn add(&self, name: &str, value: &str) {
        self.0.add(name, value);
    }

    fn remove(&self, name: &str, value: &str) {
        self.0.remove(name, value);
    }
}
