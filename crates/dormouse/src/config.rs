//! Configuration: flags over `DORMOUSE_*` variables over `dormouse.toml` over the defaults.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use dormouse_engine::Resources;
use dormouse_tls::Domain;
use serde::Deserialize;

use crate::config_tls::{DnsConfig, ListenOn, ProofKind, TlsConfig, one_or_many, parsed};

/// What can be set, on the command line and in the file alike. Everything is optional here; [`Config`] has the defaults.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// Everything Dormouse keeps [default: /var/lib/dormouse]
    #[arg(long, env = "DORMOUSE_DATA_DIR", value_name = "DIR")]
    #[serde(skip)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration file [default: dormouse.toml in the data directory]
    #[arg(long, env = "DORMOUSE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Address to serve on [default: 127.0.0.1:3000]
    #[arg(long, env = "DORMOUSE_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address to serve SSH on, such as 0.0.0.0:2222 [default: SSH is off]
    #[arg(long, env = "DORMOUSE_SSH_LISTEN", value_name = "ADDRESS")]
    pub(crate) ssh_listen: Option<SocketAddr>,
    /// Base domains of host names, `api.<domain>` and `<port>-<id>.<domain>`, separated by commas [default: localhost]
    #[arg(long, env = "DORMOUSE_DOMAIN", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) domain: Option<Vec<Domain>>,
    /// Domain that clients are told, with the port if it is not 443; `none` leaves it to them [default: the base domain, if it is one]
    #[arg(long, env = "DORMOUSE_PUBLIC_DOMAIN", value_name = "DOMAIN[:PORT]|none")]
    pub(crate) public_domain: Option<String>,
    /// Address to serve HTTPS on, such as `:8443`; `off` for none [default: port 8443 beside `listen` if a domain is given]
    #[arg(long, env = "DORMOUSE_TLS_LISTEN", value_name = "ADDRESS|off")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) tls_listen: Option<ListenOn>,
    /// Certificates of your own, PEM with the chain; other names get those of the local authority
    #[arg(long, env = "DORMOUSE_TLS_CERT", value_name = "FILE", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) tls_cert: Option<Vec<PathBuf>>,
    /// Their keys, in the same order
    #[arg(long, env = "DORMOUSE_TLS_KEY", value_name = "FILE", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) tls_key: Option<Vec<PathBuf>>,
    /// Address, such as `:80`, where plain HTTP is led to HTTPS and ACME's http-01 is answered
    #[arg(long, env = "DORMOUSE_REDIRECT_LISTEN", value_name = "ADDRESS|off")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) redirect_listen: Option<ListenOn>,
    /// Get certificates over ACME: `letsencrypt`, `letsencrypt-staging`, or a directory's URL. This agrees to the authority's terms
    #[arg(long, env = "DORMOUSE_ACME", value_name = "AUTHORITY")]
    pub(crate) acme: Option<String>,
    /// Where the ACME authority may write to
    #[arg(long, env = "DORMOUSE_ACME_EMAIL", value_name = "ADDRESS")]
    pub(crate) acme_email: Option<String>,
    /// Authority of the ACME server's own certificate, if the system does not trust it
    #[arg(long, env = "DORMOUSE_ACME_ROOT", value_name = "FILE")]
    pub(crate) acme_root: Option<PathBuf>,
    /// How names are proved to the ACME server [default: dns-01 with a hook or `dns-listen`, else tls-alpn-01]
    #[arg(long, env = "DORMOUSE_ACME_PROOF")]
    pub(crate) acme_proof: Option<ProofKind>,
    /// Program that publishes TXT records for dns-01, called as lego's exec provider calls it
    #[arg(long, env = "DORMOUSE_ACME_DNS_HOOK", value_name = "PROGRAM")]
    pub(crate) acme_dns_hook: Option<PathBuf>,
    /// Address, such as `:53`, of a DNS responder for the base domains
    #[arg(long, env = "DORMOUSE_DNS_LISTEN", value_name = "ADDRESS|off")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) dns_listen: Option<ListenOn>,
    /// Addresses that names lead to [default: this host's, as the asking client reaches it]
    #[arg(long, env = "DORMOUSE_DNS_ADDRESS", value_name = "IP", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) dns_address: Option<Vec<IpAddr>>,
    /// Most sandboxes running at once [default: 1000]
    #[arg(long, env = "DORMOUSE_MAX_RUNNING", value_name = "N")]
    pub(crate) max_running: Option<usize>,
    /// Longest continuous run of a sandbox, hours; a pause resets it [default: 24]
    #[arg(long, env = "DORMOUSE_MAX_RUN_HOURS", value_name = "HOURS")]
    pub(crate) max_run_hours: Option<u32>,
    /// Instances kept ready of each template in use; 0 turns the warm pool off [default: 2]
    #[arg(long, env = "DORMOUSE_POOL_SIZE", value_name = "N")]
    pub(crate) pool_size: Option<usize>,
    /// Memory that lightly sleeping sandboxes may keep, MiB; 0 turns light sleep off [default: a sixth of the host's]
    #[arg(long, env = "DORMOUSE_LIGHT_SLEEP_MEMORY_MIB", value_name = "MIB")]
    pub(crate) light_sleep_memory_mib: Option<u64>,
    /// Seconds after which light sleep becomes deep sleep [default: 900]
    #[arg(long, env = "DORMOUSE_LIGHT_SLEEP_SECONDS", value_name = "SECONDS")]
    pub(crate) light_sleep_seconds: Option<u64>,
    /// CPUs of a sandbox of the base template [default: 2]
    #[arg(long, env = "DORMOUSE_BASE_VCPUS", value_name = "N")]
    pub(crate) base_vcpus: Option<u32>,
    /// Memory of a sandbox of the base template, MiB [default: 1024]
    #[arg(long, env = "DORMOUSE_BASE_MEMORY_MIB", value_name = "MIB")]
    pub(crate) base_memory_mib: Option<u32>,
    /// Certificates that sandboxes trust besides Debian's: `auto` for those that this host trusts besides its own Debian's, or PEM files
    #[arg(long, env = "DORMOUSE_EXTRA_CA", value_name = "auto|FILE", value_delimiter = ',')]
    pub(crate) extra_ca: Option<Vec<String>>,
    /// The runsc program [default: found on PATH]
    #[arg(long, env = "DORMOUSE_RUNSC", value_name = "FILE")]
    pub(crate) runsc: Option<PathBuf>,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    /// `None`: no SSH.
    pub(crate) ssh_listen: Option<SocketAddr>,
    /// The base domains; at least one.
    pub(crate) domains: Vec<Domain>,
    /// What clients are told, without the port of HTTPS; `None` leaves host names to their own setting.
    pub(crate) told_domain: Option<crate::config_tls::ToldDomain>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) dns: Option<DnsConfig>,
    pub(crate) max_running: usize,
    pub(crate) max_run: Duration,
    pub(crate) pool_size: usize,
    pub(crate) light_sleep_memory: u64,
    pub(crate) light_sleep_age: Duration,
    pub(crate) base: Resources,
    pub(crate) extra_ca: Vec<String>,
    pub(crate) runsc: Option<PathBuf>,
}

/// Where everything is kept unless another place is named.
pub(crate) const DATA_DIR: &str = "/var/lib/dormouse";
const FILE: &str = "dormouse.toml";
impl Config {
    /// Merges the command line (with the environment, which clap reads) with the file.
    pub(crate) fn load(settings: Settings) -> anyhow::Result<Self> {
        let data_dir = settings.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR));
        let data_dir = std::path::absolute(&data_dir).with_context(|| format!("Cannot resolve {}", data_dir.display()))?;
        let file = match &settings.config {
            Some(file) => read(file)?.with_context(|| format!("No configuration file {}", file.display()))?,
            None => read(&data_dir.join(FILE))?.unwrap_or_default(),
        };
        let base = Resources::default();
        let listen = settings.listen.or(file.listen);
        let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 3000)));
        let names = crate::config_tls::Names::of(&settings, &file, listen)?;
        Ok(Self {
            data_dir,
            ssh_listen: settings.ssh_listen.or(file.ssh_listen),
            listen,
            domains: names.domains,
            told_domain: names.told,
            tls: names.tls,
            dns: names.dns,
            max_running: settings.max_running.or(file.max_running).unwrap_or(1000),
            max_run: hours(settings.max_run_hours.or(file.max_run_hours).unwrap_or(24)),
            pool_size: settings.pool_size.or(file.pool_size).unwrap_or(2),
            light_sleep_memory: settings
                .light_sleep_memory_mib
                .or(file.light_sleep_memory_mib)
                .map_or_else(sixth_of_memory, |mib| mib << 20),
            light_sleep_age: Duration::from_secs(settings.light_sleep_seconds.or(file.light_sleep_seconds).unwrap_or(900)),
            base: Resources {
                vcpus: settings.base_vcpus.or(file.base_vcpus).unwrap_or(base.vcpus),
                memory_mib: settings.base_memory_mib.or(file.base_memory_mib).unwrap_or(base.memory_mib),
                ..base
            },
            extra_ca: settings.extra_ca.or(file.extra_ca).unwrap_or_default(),
            runsc: settings.runsc.or(file.runsc),
        })
    }
}

fn read(file: &Path) -> anyhow::Result<Option<Settings>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(
            toml::from_str(&text).with_context(|| format!("Cannot use {}", file.display()))?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("Cannot read {}", file.display())),
    }
}

fn hours(hours: u32) -> Duration {
    Duration::from_secs(u64::from(hours) * 3600)
}

/// A sixth of the host's memory, in bytes; 1 GiB where the kernel does not say.
fn sixth_of_memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(1 << 30, |info| info.ram_total() / 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> Settings {
        Settings {
            data_dir: Some(dir.to_owned()),
            ..Settings::default()
        }
    }

    #[test]
    fn flag_beats_file_beats_default() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "max-running = 7\npool-size = 5\n").unwrap();
        let config = Config::load(Settings {
            pool_size: Some(1),
            ..settings(dir.path())
        })
        .unwrap();
        assert_eq!((config.pool_size, config.max_running), (1, 7));
        assert_eq!(config.max_run, Duration::from_secs(24 * 3600));
    }

    #[test]
    fn unknown_key_in_the_file_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "pool-sice = 5\n").unwrap();
        let error = format!("{:#}", Config::load(settings(dir.path())).unwrap_err());
        assert!(error.contains("pool-sice"), "{error}");
    }

    #[test]
    fn named_file_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Settings {
            config: Some(dir.path().join("no.toml")),
            ..settings(dir.path())
        };
        assert!(Config::load(missing).is_err());
    }
}
