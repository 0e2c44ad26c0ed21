//! The process: from a configuration to a machine in its jail, served until its end.

use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::boot::{BootError, Linux};
use crate::config::{self, Config, ConsoleConfig, DiskConfig, Start};
use crate::control::server::{End, Server};
use crate::jail::seccomp::{Filters, Kind, SeccompError};
use crate::jail::{self, JailError};
use crate::kvm::{Host, KvmError};
use crate::machine::{Builder, Console, Machine, MachineError, Prepare, ThreadKind};
use crate::memory::{self, MemoryError};
use crate::snapshot::{self, Mismatch, Origin, PageMap, SnapshotError};
use crate::virtio::Shared;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{Block, Disk, IoPool, Layer, LayerError, LayeredDisk, RawDisk};
use crate::virtio::net::{Net, Tap};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::Vsock;

/// Threads that read and write disks.
const DISK_THREADS: usize = 2;

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It was called wrongly.
    #[error("usage: dormouse vmm <configuration file>")]
    Usage,
    /// The configuration makes no sense.
    #[error("the configuration {path} cannot be understood")]
    Config {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The configuration is of another version.
    #[error("the configuration has version {0}; this program reads version {expected}", expected = config::VERSION)]
    Version(u32),
    /// A file cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A disk cannot be used.
    #[error("cannot use the disk {name}")]
    Disk {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: LayerError,
    },
    /// A disk has neither base nor layers.
    #[error("the disk {0} has no file that could be its content")]
    NoDisk(String),
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Linux cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The snapshot cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The snapshot was made on another host.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The machine cannot be made.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The process cannot be jailed.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// A thread cannot be filtered.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The control socket failed.
    #[error("the control socket failed")]
    Control(#[source] std::io::Error),
}

/// The process's main function. `arguments` are those after the name of the (sub)command: the configuration's path.
///
/// The exit status is 0 when the guest switched itself off or a client ended the machine, 1 on an error, which is
/// printed, and 2 when the guest crashed its CPU or KVM failed.
pub fn vmm_main(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(End::Quit | End::Stopped(crate::machine::StopReason::Shutdown)) => ExitCode::SUCCESS,
        Ok(End::Stopped(_)) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {}", crate::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<End, ProcessError> {
    let [path] = arguments else { return Err(ProcessError::Usage) };
    let text = at(Path::new(path), std::fs::read_to_string)?;
    let config: Config = serde_json::from_str(&text).map_err(|source| ProcessError::Config {
        path: path.into(),
        source,
    })?;
    if config.version != config::VERSION {
        return Err(ProcessError::Version(config.version));
    }
    // Bound first: whoever waits for the machine waits for this socket, and is answered when everything is ready.
    let listener = at(&config.control, UnixListener::bind)?;
    let (mut server, filters, is_boot) = assemble(&config)?;
    if let Some(filters) = filters {
        filters.apply(Kind::Main)?;
    }
    if is_boot {
        server.machine.resume();
    }
    server.run(&listener).map_err(ProcessError::Control)
}

/// Opens everything, jails the process and makes the machine, paused.
fn assemble(config: &Config) -> Result<(Server, Option<Filters>, bool), ProcessError> {
    let host = Host::open()?;
    let page_map = PageMap::open().map_err(|source| ProcessError::File {
        path: "/proc/self/pagemap".into(),
        source,
    })?;
    let prepared = Prepared::open(config)?;
    let console = console(config.console.as_ref())?;
    let filters = config.jail.as_ref().map(|_| Filters::new()).transpose()?;
    let disks = config.disks.iter().map(disk).collect::<Result<Vec<_>, _>>()?;
    let taps = config
        .networks
        .iter()
        .map(|network| at(Path::new(&network.tap), |_| Tap::open(&network.tap)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut builder = Builder::new(host, prepared.memory(), config.vcpus, console)?;
    prepared.check(&builder)?;
    if let Some(jail) = &config.jail {
        jail::enter(jail)?;
    }
    // From here on paths are those of the jail, where only the sockets of the guest are.
    let pool = IoPool::start(DISK_THREADS, {
        let filters = filters.clone();
        move || restrict(filters.as_ref(), Kind::DiskIo)
    })
    .map_err(|error| MachineError::Host("cannot start the threads of the disks", error))?;
    let device = |error| MachineError::Host("cannot make the files of a device", error);
    for (disk, config) in disks.into_iter().zip(&config.disks) {
        builder.add_virtio(Block::new(disk, &config.name, pool.clone()).map_err(device)?)?;
    }
    for (tap, network) in taps.into_iter().zip(&config.networks) {
        builder.add_virtio(Net::new(Box::new(tap), network.mac, network.mtu))?;
    }
    if let Some(vsock) = &config.vsock {
        builder.add_virtio(at(&vsock.path, |path| Vsock::bind(vsock.cid, path.to_owned()))?)?;
    }
    if config.rng {
        builder.add_virtio(Rng::default())?;
    }
    let balloon = config.balloon.then(|| builder.add_virtio(Balloon::default())).transpose()?;
    let is_boot = matches!(config.start, Start::Boot { .. });
    let (machine, origin) = prepared.start(builder, &prepare(filters.clone()))?;
    Ok((server(machine, origin, page_map, balloon), filters, is_boot))
}

fn server(machine: Machine, origin: Option<Origin>, page_map: PageMap, balloon: Option<Shared<Balloon>>) -> Server {
    Server {
        machine,
        origin,
        page_map,
        balloon,
    }
}

/// What runs first on the machine's threads.
fn prepare(filters: Option<Filters>) -> Prepare {
    Arc::new(move |kind| {
        restrict(
            filters.as_ref(),
            match kind {
                ThreadKind::Vcpu => Kind::Vcpu,
                ThreadKind::Devices => Kind::Devices,
            },
        );
    })
}

/// Filters the calling thread. A thread that cannot be filtered must not go on.
fn restrict(filters: Option<&Filters>, kind: Kind) {
    if let Some(filters) = filters {
        filters
            .apply(kind)
            .expect("the kernel accepts the filters of all threads or of none");
    }
}

/// What the guest starts from, opened.
enum Prepared {
    Boot {
        memory: memory::GuestMemory,
        entry: u64,
    },
    Restore {
        opened: Box<snapshot::Opened>,
        clock: crate::kvm::Clock,
    },
}

impl Prepared {
    fn open(config: &Config) -> Result<Self, ProcessError> {
        match &config.start {
            Start::Boot {
                kernel,
                initramfs,
                command_line,
                memory_mib,
            } => {
                let memory = memory::allocate(memory_mib.saturating_mul(1 << 20))?;
                let (mut kernel, mut initramfs) = (at(kernel, File::open)?, at(initramfs, File::open)?);
                let entry = Linux {
                    kernel: &mut kernel,
                    initramfs: &mut initramfs,
                    command_line,
                }
                .load(&memory)?;
                Ok(Self::Boot { memory, entry })
            }
            Start::Restore { layers, clock } => {
                let open = |files: &config::LayerFiles| Ok((at(&files.state, File::open)?, at(&files.memory, File::open)?));
                let mut files = layers.iter().map(open).collect::<Result<Vec<_>, ProcessError>>()?;
                Ok(Self::Restore {
                    opened: Box::new(snapshot::open(&mut files)?),
                    clock: *clock,
                })
            }
        }
    }

    fn memory(&self) -> &memory::GuestMemory {
        match self {
            Self::Boot { memory, .. } => memory,
            Self::Restore { opened, .. } => &opened.memory,
        }
    }

    fn check(&self, builder: &Builder) -> Result<(), Mismatch> {
        match self {
            Self::Boot { .. } => Ok(()),
            Self::Restore { opened, .. } => builder.check(&opened.tags, &opened.machine),
        }
    }

    fn start(self, builder: Builder, prepare: &Prepare) -> Result<(Machine, Option<Origin>), MachineError> {
        match self {
            Self::Boot { entry, .. } => Ok((builder.boot(entry, prepare)?, None)),
            Self::Restore { opened, clock } => Ok((builder.restore(&opened.machine, clock, prepare)?, Some(opened.origin))),
        }
    }
}

fn console(config: Option<&ConsoleConfig>) -> Result<Console, ProcessError> {
    let Some(config) = config else {
        return Ok(Console {
            to: Box::new(std::io::sink()),
            limit: 0,
        });
    };
    let file = at(&config.path, |path| OpenOptions::new().append(true).create(true).open(path))?;
    Ok(Console {
        to: Box::new(file),
        limit: config.limit,
    })
}

fn disk(config: &DiskConfig) -> Result<Arc<dyn Disk>, ProcessError> {
    let failed = |source| ProcessError::Disk {
        name: config.name.clone(),
        source,
    };
    let writable = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    let Some(top) = &config.top else {
        let base = config
            .base
            .as_ref()
            .ok_or_else(|| ProcessError::NoDisk(config.name.clone()))?;
        let file = if config.read_only {
            at(base, File::open)?
        } else {
            at(base, writable)?
        };
        return Ok(Arc::new(at(base, |_| RawDisk::new(file, config.read_only))?));
    };
    let base = config.base.as_ref().map(|path| at(path, File::open)).transpose()?;
    let sealed = |path: &PathBuf| Layer::open_read_only(at(path, File::open)?).map_err(failed);
    let layers = config.layers.iter().map(sealed).collect::<Result<Vec<_>, _>>()?;
    let top = Layer::open(at(top, writable)?).map_err(failed)?;
    Ok(Arc::new(LayeredDisk::new(base, layers, top).map_err(failed)?))
}

/// Does something with a file; the error names it.
fn at<'p, T>(path: &'p Path, act: impl FnOnce(&'p Path) -> std::io::Result<T>) -> Result<T, ProcessError> {
    act(path).map_err(|source| ProcessError::File {
        path: path.to_owned(),
        source,
    })
}
