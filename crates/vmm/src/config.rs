//! What a machine is made of: the file that the process is started with.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::jail::JailConfig;
use crate::kvm::Clock;

/// The version of this format.
pub const VERSION: u32 = 1;

/// The whole configuration, as JSON. Paths are opened before the process jails itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Version of the format: [`VERSION`].
    pub version: u32,
    /// Where the control socket is made. Nothing may be there yet.
    pub control: PathBuf,
    /// Number of vCPUs, 1 to 8. Of a restored machine: as in the snapshot.
    pub vcpus: u8,
    /// What the guest starts from.
    pub start: Start,
    /// Where the guest's console goes; nowhere without it.
    #[serde(default)]
    pub console: Option<ConsoleConfig>,
    /// Disks, in the order of their slots.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// Network cards, after the disks.
    #[serde(default)]
    pub networks: Vec<NetworkConfig>,
    /// The socket device.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
    /// Whether there is a source of random numbers.
    #[serde(default = "yes")]
    pub rng: bool,
    /// Whether there is a balloon.
    #[serde(default = "yes")]
    pub balloon: bool,
    /// The jail. Without it the process keeps the rights that it was started with; for tests only.
    #[serde(default)]
    pub jail: Option<JailConfig>,
}

fn yes() -> bool {
    true
}

/// What the guest starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Start {
    /// A kernel. The guest runs at once.
    Boot {
        /// A bzImage.
        kernel: PathBuf,
        /// The initramfs.
        initramfs: PathBuf,
        /// The kernel's command line.
        command_line: String,
        /// Memory in MiB.
        memory_mib: u64,
    },
    /// A snapshot. The guest is paused until it is told to resume.
    Restore {
        /// The layers, from the first to the last.
        layers: Vec<LayerFiles>,
        /// What the guest's clock does with the time since the save.
        #[serde(default)]
        clock: Clock,
    },
}

/// The files of a layer of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerFiles {
    /// The machine's state.
    pub state: PathBuf,
    /// Its memory.
    pub memory: PathBuf,
}

/// The guest's console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsoleConfig {
    /// A file that output is added to.
    pub path: PathBuf,
    /// Most bytes of output.
    #[serde(default = "ConsoleConfig::default_limit")]
    pub limit: u64,
}

impl ConsoleConfig {
    fn default_limit() -> u64 {
        1 << 20
    }
}

/// A disk: a plain file, or a base and layers over it (see [`crate::virtio::block`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskConfig {
    /// The name that the guest can ask for, up to 20 bytes.
    pub name: String,
    /// A raw image; the lowest layer if there are others.
    #[serde(default)]
    pub base: Option<PathBuf>,
    /// Sealed layers over the base, from the lowest to the highest.
    #[serde(default)]
    pub layers: Vec<PathBuf>,
    /// The layer that takes the guest's writes; made by the caller. Without it the disk is the base alone.
    #[serde(default)]
    pub top: Option<PathBuf>,
    /// Whether the guest cannot write. Only for a base alone.
    #[serde(default)]
    pub read_only: bool,
}

/// A network card on a TAP interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkConfig {
    /// The interface, in the network namespace that the process was started in.
    pub tap: String,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// Largest packet, if it is not 1500 bytes.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// The socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id, 3 or more.
    pub cid: u64,
    /// The Unix socket for programs of the host.
    pub path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_configuration_is_understood() {
        let text = r#"{"version":1,"control":"c","vcpus":2,
            "start":{"boot":{"kernel":"k","initramfs":"i","commandLine":"quiet","memoryMib":256}}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert!(config.rng && config.balloon && config.jail.is_none());
        assert!(matches!(config.start, Start::Boot { memory_mib: 256, .. }));
        assert_eq!(
            serde_json::from_str::<Config>(&serde_json::to_string(&config).unwrap()).unwrap(),
            config
        );
    }

    #[test]
    fn a_restore_keeps_time_right_unless_told_otherwise_and_typos_are_refused() {
        let start: Start = serde_json::from_str(r#"{"restore":{"layers":[{"state":"s","memory":"m"}]}}"#).unwrap();
        assert!(matches!(
            start,
            Start::Restore {
                clock: Clock::Realtime,
                ..
            }
        ));
        assert!(serde_json::from_str::<Start>(r#"{"restore":{"layers":[],"clok":"frozen"}}"#).is_err());
    }
}
