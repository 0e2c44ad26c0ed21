//! What the embedding daemon chooses: names, ranges, how many slots to keep ready, DNS upstreams.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::dns::{AllowAll, QueryPolicy};
use crate::error::NetworkError;

/// The mark that everything of one data directory carries on the host: `dm` and six hexadecimal digits.
///
/// Short because it starts the names of network devices, which the kernel limits to 15 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix of a data directory: the same directory always gives the same one.
    ///
    /// Symbolic links are followed, so a link to a data directory is that data directory. The directory need not exist
    /// yet.
    #[must_use]
    pub fn for_data_dir(data_dir: &Path) -> Self {
        let identity = canonical(data_dir);
        let hash = blake3::hash(identity.as_os_str().as_encoded_bytes());
        Self(format!("dm{}", &hash.to_hex()[..6]))
    }

    /// The prefix that was written as this text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("dm")?;
        let valid = digits.len() == 6 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    /// The prefix as text, for example `dm3fa9c1`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a slot: `<prefix>-<index>-<random>`, for example `dm3fa9c1-002a-7c01d2ef`.
///
/// The index says which pair of uplink addresses and which host device belong to the slot, so that a restarted
/// daemon can find them from the name alone. The random part keeps a name from ever meaning two slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotName {
    text: String,
    index: u16,
}

impl SlotName {
    pub(crate) fn new(prefix: &Prefix, index: u16) -> Self {
        let random: u32 = rand::random();
        Self {
            text: format!("{prefix}-{index:04x}-{random:08x}"),
            index,
        }
    }

    /// The name as text; parse it back with [`str::parse`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    pub(crate) fn has_prefix(&self, prefix: &Prefix) -> bool {
        self.text.split('-').next() == Some(prefix.as_str())
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SlotName {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NetworkError::BadSlotName { name: text.to_owned() };
        let lower_hex = |s: &str, len: usize| s.len() == len && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let [prefix, index, random] = text.split('-').collect::<Vec<_>>()[..] else {
            return Err(bad());
        };
        let digits = prefix.strip_prefix("dm").ok_or_else(bad)?;
        if !lower_hex(digits, 6) || !lower_hex(index, 4) || !lower_hex(random, 8) {
            return Err(bad());
        }
        let index = u16::from_str_radix(index, 16).map_err(|_| bad())?;
        Ok(Self {
            text: text.to_owned(),
            index,
        })
    }
}

/// How the slots of one daemon are made.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The mark of everything that is made on the host.
    pub prefix: Prefix,
    /// The data directory that the prefix comes from. When it is gone and nobody lives who serves it, another daemon removes what is left
    /// on the host.
    pub data_dir: PathBuf,
    /// Namespace handles are mounted under `<run_dir>/netns/`. Must be on a file system that stays while sandboxes
    /// live, and be given again after a restart.
    pub run_dir: PathBuf,
    /// Where uplink addresses may come from. A daemon claims the first free /20 (2047 slots) of these ranges: one
    /// that no address and no route of the host touches.
    pub ranges: Vec<Ipv4Net>,
    /// How many slots are kept ready.
    pub ready: usize,
    /// Whether a new slot lets connections out to the internet. [`crate::Slot::set_internet`] changes it later.
    pub internet: bool,
    /// How many connections out of one sandbox the kernel may track at once; more are refused. The table of tracked
    /// connections is the host's, and a sandbox that fills it takes the network from everybody.
    pub max_connections: u32,
    /// Largest packet in bytes on all devices; `None` takes the host's outgoing device's.
    pub mtu: Option<u32>,
    /// The forwarder that answers the sandboxes' DNS queries.
    pub dns: DnsConfig,
}

impl NetworkConfig {
    /// The defaults for a daemon with this data directory.
    #[must_use]
    pub fn new(data_dir: &Path, run_dir: &Path) -> Self {
        Self {
            prefix: Prefix::for_data_dir(data_dir),
            data_dir: canonical(data_dir),
            run_dir: run_dir.to_path_buf(),
            ranges: default_ranges(),
            ready: 4,
            internet: true,
            max_connections: 8192,
            mtu: None,
            dns: DnsConfig::default(),
        }
    }
}

/// How DNS queries are answered.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Servers to ask, in order; empty takes those of the host's `/etc/resolv.conf`.
    pub upstreams: Vec<SocketAddr>,
    /// How long one upstream gets to answer.
    pub timeout: Duration,
    /// How many queries may be under way at once; more are answered `SERVFAIL`.
    pub max_in_flight: usize,
    /// How many answers are kept.
    pub cache_entries: u64,
    /// Decides on every query.
    pub policy: Arc<dyn QueryPolicy>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            timeout: Duration::from_secs(3),
            max_in_flight: 512,
            cache_entries: 4096,
            policy: Arc::new(AllowAll),
        }
    }
}

/// A path as `canonicalize` will give it once all of it exists.
fn canonical(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let existing = path
        .ancestors()
        .find_map(|ancestor| Some((ancestor, std::fs::canonicalize(ancestor).ok()?)));
    match existing {
        Some((ancestor, real)) => match path.strip_prefix(ancestor) {
            Ok(rest) if rest.as_os_str().is_empty() => real,
            Ok(rest) => real.join(rest),
            Err(_) => path,
        },
        None => path,
    }
}

/// Private ranges that are seldom in use, most fitting first. The last is for benchmarks of network gear (RFC 2544).
fn default_ranges() -> Vec<Ipv4Net> {
    [(10, 119), (172, 29), (100, 119), (198, 19)]
        .into_iter()
        .map(|(a, b)| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_name_survives_text() {
        let prefix = Prefix::for_data_dir(Path::new("/nonexistent/data"));
        let name = SlotName::new(&prefix, 0x2a);
        let parsed: SlotName = name.as_str().parse().expect("own names parse");
        assert_eq!(parsed, name);
        assert_eq!(parsed.index(), 0x2a);
        assert!(parsed.has_prefix(&prefix));
    }

    #[test]
    fn foreign_names_are_refused() {
        for text in [
            "",
            "dm12345",
            "dm123456-0001",
            "dm123456-001-00000000",
            "../x-0001-00000000",
            "dm12345G-0001-00000000",
        ] {
            assert!(text.parse::<SlotName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_data_directory_keeps_its_prefix_when_it_is_made() {
        let temporary = tempfile::tempdir().expect("a directory");
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink(temporary.path(), &link).expect("a link");
        let data_dir = link.join("data");
        let before = Prefix::for_data_dir(&data_dir);
        std::fs::create_dir(&data_dir).expect("a directory");

        assert_eq!(Prefix::for_data_dir(&data_dir), before);
        assert_eq!(Prefix::for_data_dir(&temporary.path().join("data")), before);
    }

    #[test]
    fn data_directories_have_different_prefixes() {
        let one = Prefix::for_data_dir(Path::new("/nonexistent/one"));
        let two = Prefix::for_data_dir(Path::new("/nonexistent/two"));
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 8);
    }
}
