//! The part of the configuration that is about names: base domains, HTTPS, ACME, DNS.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use dormouse_tls::{Domain, OwnFiles};
use serde::de::{Deserialize, Deserializer, Error as _};

use crate::config::{Config, Settings};

/// The base domain where none is configured: names below it lead to loopback everywhere (RFC 6761).
const DOMAIN: &str = "localhost";
/// Where HTTPS is served unless another port is named.
const TLS_PORT: u16 = 8443;
/// The port that URLs need not name.
const HTTPS: u16 = 443;

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenOn {
    /// Switched off.
    Off,
    /// Here.
    At(SocketAddr),
}

impl ListenOn {
    fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for ListenOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let wrong = || format!("`{text}` is no address to listen on, such as `:8443` or `127.0.0.1:8443`, nor `off`");
        let address = match text.strip_prefix(':') {
            Some(port) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.parse().map_err(|_| wrong())?)),
            None => text.parse().map_err(|_| wrong())?,
        };
        Ok(Self::At(address))
    }
}

/// How names are proved to an ACME server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProofKind {
    #[value(name = "http-01")]
    #[serde(rename = "http-01")]
    Http01,
    #[value(name = "tls-alpn-01")]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[value(name = "dns-01")]
    #[serde(rename = "dns-01")]
    Dns01,
}

/// HTTPS.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfig {
    pub(crate) listen: SocketAddr,
    /// Nobody asked for this port by name.
    pub(crate) is_default: bool,
    pub(crate) files: Vec<OwnFiles>,
    pub(crate) redirect: Option<SocketAddr>,
    pub(crate) acme: Option<AcmeSettings>,
}

/// ACME, as configured.
#[derive(Clone, Debug)]
pub(crate) struct AcmeSettings {
    pub(crate) directory: String,
    pub(crate) email: Option<String>,
    pub(crate) root: Option<PathBuf>,
    pub(crate) proof: ProofKind,
    pub(crate) hook: Option<PathBuf>,
}

/// The DNS responder.
#[derive(Clone, Debug)]
pub(crate) struct DnsConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) addresses: Vec<IpAddr>,
}

/// What clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToldDomain {
    /// This, as it stands.
    Exactly(String),
    /// The only base domain, with the port of HTTPS if need be.
    Base(Domain),
}

/// The settings about names, merged and checked against each other.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) domains: Vec<Domain>,
    pub(crate) told: Option<ToldDomain>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) dns: Option<DnsConfig>,
}

impl Names {
    pub(crate) fn of(first: &Settings, second: &Settings, listen: SocketAddr) -> anyhow::Result<Self> {
        let configured = first
            .domain
            .clone()
            .or_else(|| second.domain.clone())
            .filter(|domains| !domains.is_empty());
        let told = match first
            .public_domain
            .as_ref()
            .or(second.public_domain.as_ref())
            .map(String::as_str)
        {
            Some("none") => None,
            Some(text) => Some(ToldDomain::Exactly(public_domain(text)?)),
            None => match configured.as_deref() {
                // Clients of one of several come by one that they know.
                Some([only]) => Some(ToldDomain::Base(only.clone())),
                _ => None,
            },
        };
        let dns = first
            .dns_listen
            .or(second.dns_listen)
            .and_then(ListenOn::address)
            .map(|listen| DnsConfig {
                listen,
                addresses: first
                    .dns_address
                    .clone()
                    .or_else(|| second.dns_address.clone())
                    .unwrap_or_default(),
            });
        let tls_listen = match first.tls_listen.or(second.tls_listen) {
            Some(listen) => listen.address(),
            None => configured.is_some().then(|| SocketAddr::new(listen.ip(), TLS_PORT)),
        };
        let tls = match tls_listen {
            None => None,
            Some(address) => Some(TlsConfig {
                listen: address,
                is_default: first.tls_listen.or(second.tls_listen).is_none(),
                files: OwnFiles::pair(
                    first
                        .tls_cert
                        .as_ref()
                        .or(second.tls_cert.as_ref())
                        .map(Vec::as_slice)
                        .unwrap_or_default(),
                    first
                        .tls_key
                        .as_ref()
                        .or(second.tls_key.as_ref())
                        .map(Vec::as_slice)
                        .unwrap_or_default(),
                )?,
                redirect: first.redirect_listen.or(second.redirect_listen).and_then(ListenOn::address),
                acme: acme(first, second, dns.is_some())?,
            }),
        };
        let domains = match configured {
            Some(domains) => domains,
            None => vec![DOMAIN.parse::<Domain>()?],
        };
        Ok(Self { domains, told, tls, dns })
    }
}

fn acme(first: &Settings, second: &Settings, responder: bool) -> anyhow::Result<Option<AcmeSettings>> {
    let Some(directory) = first.acme.as_ref().or(second.acme.as_ref()) else {
        return Ok(None);
    };
    let directory = match directory.as_str() {
        "letsencrypt" => "https://acme-v02.api.letsencrypt.org/directory",
        "letsencrypt-staging" => "https://acme-staging-v02.api.letsencrypt.org/directory",
        url if url.starts_with("https://") => url,
        other => {
            bail!("`{other}` is no ACME authority: use `letsencrypt`, `letsencrypt-staging`, or the https:// URL of a directory")
        }
    };
    let hook = first.acme_dns_hook.clone().or_else(|| second.acme_dns_hook.clone());
    let proof = match first.acme_proof.or(second.acme_proof) {
        Some(proof) => proof,
        None if hook.is_some() || responder => ProofKind::Dns01,
        None => ProofKind::TlsAlpn01,
    };
    if proof == ProofKind::Dns01 && hook.is_none() && !responder {
        bail!(
            "dns-01 needs somebody who publishes records: --acme-dns-hook, or --dns-listen with the domain delegated to this host"
        );
    }
    if proof == ProofKind::Http01
        && first
            .redirect_listen
            .or(second.redirect_listen)
            .and_then(ListenOn::address)
            .is_none()
    {
        bail!("http-01 is answered on the plain port: add `--redirect-listen :80`");
    }
    Ok(Some(AcmeSettings {
        directory: directory.to_owned(),
        email: first.acme_email.clone().or_else(|| second.acme_email.clone()),
        root: first.acme_root.clone().or_else(|| second.acme_root.clone()),
        proof,
        hook,
    }))
}

impl Config {
    /// The domain in the API's answers; `port` is that of HTTPS, if it is served.
    pub(crate) fn told_domain(&self, port: Option<u16>) -> Option<String> {
        match self.told_domain.as_ref()? {
            ToldDomain::Exactly(domain) => Some(domain.clone()),
            ToldDomain::Base(domain) => Some(with_port(domain, port)),
        }
    }

    /// The domain for clients' own setting.
    pub(crate) fn client_domain(&self, port: u16) -> String {
        self.told_domain(Some(port))
            .unwrap_or_else(|| with_port(&self.domains[0], Some(port)))
    }
}

fn with_port(domain: &Domain, port: Option<u16>) -> String {
    match port {
        None | Some(HTTPS) => domain.to_string(),
        Some(port) => format!("{domain}:{port}"),
    }
}

/// A domain with or without a port.
fn public_domain(text: &str) -> anyhow::Result<String> {
    let (domain, port) = match text.split_once(':') {
        Some((domain, port)) if !port.starts_with('/') => {
            let port: u16 = port.parse().with_context(|| format!("`{port}` is no port"))?;
            (domain, Some(port))
        }
        _ => (text, None),
    };
    Ok(with_port(&domain.parse::<Domain>().context("public-domain")?, port))
}

/// A value that is a text in the file, read as on the command line.
pub(crate) fn parsed<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

/// A list that may be a single text in the file.
pub(crate) fn one_or_many<'de, D, T>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Either::deserialize(from)? {
        Either::One(text) => vec![text],
        Either::Many(texts) => texts,
    };
    let values = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    values.map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(toml: &str) -> anyhow::Result<Names> {
        let file: Settings = toml::from_str(toml)?;
        Names::of(&Settings::default(), &file, "127.0.0.1:3000".parse()?)
    }

    fn refusal(toml: &str) -> String {
        format!("{:#}", names(toml).unwrap_err())
    }

    #[test]
    fn without_a_domain_there_is_no_https() {
        let names = names("").unwrap();
        assert!(names.tls.is_none() && names.told.is_none() && names.dns.is_none());
        assert_eq!(names.domains[0].as_str(), "localhost");
    }

    #[test]
    fn a_domain_brings_https_beside_the_plain_port() {
        let names_of = names("domain = \"box.example\"").unwrap();
        assert_eq!(names_of.tls.unwrap().listen.to_string(), "127.0.0.1:8443");
        assert_eq!(names_of.told, Some(ToldDomain::Base("box.example".parse().unwrap())));
        assert!(names("domain = \"box.example\"\ntls-listen = \"off\"").unwrap().tls.is_none());
    }

    #[test]
    fn several_domains_leave_the_answer_to_clients() {
        let several = "domain = [\"box.example\", \"custom.example\"]\n";
        assert_eq!(names(several).unwrap().told, None);
        let told = names(&format!("{several}public-domain = \"Custom.example:8443\""))
            .unwrap()
            .told;
        assert_eq!(told, Some(ToldDomain::Exactly("custom.example:8443".to_owned())));
    }

    #[test]
    fn a_port_alone_is_every_address() {
        let tls = names("tls-listen = \":8443\"").unwrap().tls.unwrap();
        assert_eq!(tls.listen.to_string(), "0.0.0.0:8443");
        assert!(!tls.is_default);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        assert!(refusal("tls-listen = \"8443\"").contains("no address to listen on"));
        assert!(refusal("domain = \"https://box.example\"").contains("without https://"));
        assert!(refusal("domain = \"d.example\"\npublic-domain = \"box.example:http\"").contains("no port"));
        assert!(refusal("domain = \"d.example\"\ntls-cert = \"a.pem\"").contains("1 certificate files and 0 key files"));
        assert!(refusal("domain = \"d.example\"\nacme = \"letsencrypt\"\nacme-proof = \"dns-01\"").contains("--acme-dns-hook"));
        assert!(
            refusal("domain = \"d.example\"\nacme = \"letsencrypt\"\nacme-proof = \"http-01\"").contains("--redirect-listen")
        );
        assert!(refusal("domain = \"d.example\"\nacme = \"http://x/dir\"").contains("no ACME authority"));
    }

    #[test]
    fn who_can_publish_records_proves_by_dns() {
        let proof = |more: &str| {
            names(&format!("domain = \"d.example\"\nacme = \"letsencrypt\"\n{more}"))
                .unwrap()
                .tls
                .unwrap()
                .acme
                .unwrap()
                .proof
        };
        assert_eq!(proof(""), ProofKind::TlsAlpn01);
        assert_eq!(proof("dns-listen = \":53\""), ProofKind::Dns01);
        assert_eq!(proof("acme-dns-hook = \"hook\""), ProofKind::Dns01);
    }
}
