//! What a block device keeps its data in.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::memory::GuestMemory;
use crate::virtio::buffer::Buffer;

/// A disk. Called from several threads at once; positions were checked to be inside of it.
///
/// Two requests that overlap and are under way at the same time may end in any order, as on real disks.
pub trait Disk: Send + Sync + Debug {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Whether writes fail.
    fn is_read_only(&self) -> bool;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// When the disk cannot be read, or the buffer is not in the guest's memory.
    fn read(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()>;

    /// Writes `buffer` at `offset`. It is durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// When the disk cannot be written, or the buffer is not in the guest's memory.
    fn write(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()>;

    /// Makes durable what was written before this was called.
    ///
    /// # Errors
    /// When the disk cannot be written.
    fn flush(&self) -> io::Result<()>;

    /// Gives back the space of a range whose content is not needed any more.
    ///
    /// # Errors
    /// When the disk cannot be written.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// When the disk cannot be written.
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Before a snapshot: puts everything that this process knows of the disk into its files, so that another process can
    /// go on with them. Says nothing about durability.
    ///
    /// # Errors
    /// When the disk cannot be written.
    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk that is a plain file or block device.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    size: u64,
    read_only: bool,
}

impl RawDisk {
    /// A disk of the size of `file`, rounded down to whole sectors. `file` must be open for writing unless `read_only`.
    ///
    /// # Errors
    /// When the size cannot be found out.
    pub fn new(file: File, read_only: bool) -> io::Result<Self> {
        use std::io::{Seek as _, SeekFrom};
        // Other than the metadata's, this is also the size of a block device.
        let size = (&file).seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            size: size / super::request::SECTOR * super::request::SECTOR,
            read_only,
        })
    }
}

impl Disk for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()> {
        buffer.read_file_at(memory, self.file.as_fd(), offset)
    }

    fn write(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()> {
        buffer.write_file_at(memory, self.file.as_fd(), offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        punch_hole(&self.file, offset, length).map(drop)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        zero(&self.file, offset, length)
    }
}

/// Gives the space of a range of a file back; the range then reads as zeros. Returns false where the file system cannot.
pub(super) fn punch_hole(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes a range of a file zero, by a hole where the file system can.
pub(super) fn zero(file: &File, offset: u64, length: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    if punch_hole(file, offset, length)? {
        return Ok(());
    }
    let mut done = 0;
    while done < length {
        let count = (length - done).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..count as usize], offset + done)?;
        done += count;
    }
    Ok(())
}
