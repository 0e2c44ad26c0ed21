//! Random numbers of its own for every clone.
//!
//! A snapshot of a machine holds the state of its kernel's random number generator, so all its clones would go on with the
//! same numbers. The host sends fresh bytes with every identity ([`InitRequest::entropy`]); here they go into the kernel's
//! pool, are counted as entropy, and the generator is made to start anew from the pool, before the first request reaches the
//! sandbox. See `random(4)`: `RNDADDENTROPY` and `RNDRESEEDCRNG` (Linux 4.14).
//!
//! gVisor's random numbers are the host's, so there is nothing to do and no such call; all failures are passed over. Programs
//! that carry a generator of their own through a snapshot (OpenSSL's, Python's `random`) are not reached by this.
//!
//! # Safety argument
//! The two `ioctl`s take a pointer to a structure that outlives the call and a plain number. They read, and write nothing.
//!
//! [`InitRequest::entropy`]: dormouse_agent_proto::InitRequest::entropy
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most bytes that are taken; the kernel's generator has a key of 32.
const MOST: usize = 64;

/// `struct rand_pool_info` of `linux/random.h`, with room for [`MOST`] bytes.
#[repr(C)]
struct Pool {
    /// In bits.
    entropy_count: libc::c_int,
    /// In bytes.
    buf_size: libc::c_int,
    buf: [u8; MOST],
}

/// `_IOW('R', 0x03, int[2])`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `_IO('R', 0x07)`.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Stirs bytes from the host in. What is no base64 is no entropy.
pub(crate) fn stir(encoded: &str) {
    if let Ok(bytes) = STANDARD.decode(encoded)
        && let Err(error) = add(&bytes)
        && !matches!(
            error.raw_os_error(),
            Some(libc::ENOTTY | libc::EPERM | libc::EINVAL | libc::ENOENT)
        )
    {
        crate::complain(&format_args!("the kernel takes no randomness: {error}"));
    }
}

fn add(bytes: &[u8]) -> io::Result<()> {
    let mut device = File::options().write(true).open("/dev/urandom")?;
    let pool = pool_of(bytes);
    // SAFETY: `pool` is a `rand_pool_info` whose `buf_size` is no more than it has, and outlives the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) } == -1 {
        let refused = io::Error::last_os_error();
        // Anybody may stir without being counted.
        device.write_all(bytes)?;
        return Err(refused);
    }
    // SAFETY: takes no argument.
    if unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn pool_of(bytes: &[u8]) -> Pool {
    let length = bytes.len().min(MOST);
    let mut buf = [0; MOST];
    buf[..length].copy_from_slice(&bytes[..length]);
    Pool {
        // At most `MOST`, so neither is cut.
        entropy_count: length as libc::c_int * 8,
        buf_size: length as libc::c_int,
        buf,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_claimed_than_there_is() {
        let pool = pool_of(&[7; 16]);
        assert_eq!((pool.entropy_count, pool.buf_size), (128, 16));
        let pool = pool_of(&[7; 1000]);
        assert_eq!((pool.entropy_count, pool.buf_size), (512, 64));
        assert_eq!(pool_of(&[]).buf_size, 0);
    }

    #[test]
    fn nonsense_and_refusals_are_passed_over() {
        stir("no base64!");
        stir(&STANDARD.encode([7; 32]));
    }
}
