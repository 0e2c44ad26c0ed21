//! The host's end of a network card: a TAP interface that carries virtio headers.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

/// Length of the header before each frame: `struct virtio_net_hdr_v1`.
pub(super) const HEADER: usize = 12;

/// Something that takes and gives one frame at a time, each after a header.
pub trait Backend: Send + Debug + AsFd {
    /// Tells which frames the guest can take as they are: `TUN_F_*` of `linux/if_tun.h`.
    ///
    /// # Errors
    /// When the host cannot do that.
    fn set_offload(&self, flags: u32) -> io::Result<()>;
}

/// A TAP interface.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Opens the interface `name` of the network namespace that the thread is in. It is made when it does not exist and
    /// the process may do so.
    ///
    /// # Errors
    /// When the name is too long, or the interface cannot be had.
    pub fn open(name: &str) -> io::Result<Self> {
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                // The flags fit: they are below 0x8000.
                ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
            },
        };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no name for an interface"),
            ));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is what it gets.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &mut request) })?;
        Self::from_file(file)
    }

    /// Takes over an interface that another process opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    ///
    /// # Errors
    /// When the file is not such an interface.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        rustix::io::ioctl_fionbio(&file, true)?;
        Self::from_file(file)
    }

    fn from_file(file: File) -> io::Result<Self> {
        let size = HEADER as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as libc::Ioctl, &size) })?;
        Ok(Self(file))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Backend for Tap {
    fn set_offload(&self, flags: u32) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes a number and accesses no memory of ours.
        check(unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::TUNSETOFFLOAD as libc::Ioctl,
                libc::c_ulong::from(flags),
            )
        })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
