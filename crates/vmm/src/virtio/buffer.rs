//! Stretches of guest memory that a descriptor chain names, and I/O on them without a copy.
//!
//! A [`Buffer`] holds guest addresses only. They are resolved, and so checked, at each access: a buffer that lies
//! outside of the guest's memory is an error of that access and nothing worse.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use vm_memory::bitmap::{BS, Bitmap as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemory as _, Permissions, VolatileSlice};

use crate::memory::GuestMemory;

/// The kernel's limit for the number of pieces in one vectored system call (`IOV_MAX`).
const IOV_MAX: usize = 1024;

type Slice<'m> = VolatileSlice<'m, BS<'m, vm_memory::bitmap::AtomicBitmap>>;

/// One contiguous piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First guest-physical address.
    pub address: GuestAddress,
    /// Length in bytes.
    pub length: u32,
}

/// Pieces of guest memory that are read or written as one stretch of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buffer {
    segments: Vec<Segment>,
    length: usize,
}

impl Buffer {
    /// Adds a piece at the end. An empty one changes nothing.
    pub fn push(&mut self, address: GuestAddress, length: u32) {
        if length > 0 {
            self.segments.push(Segment { address, length });
            self.length += length as usize;
        }
    }

    /// Adds all pieces of `other` at the end.
    pub fn append(&mut self, other: &Self) {
        self.segments.extend_from_slice(&other.segments);
        self.length += other.length;
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces, in order, none of them empty.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The `length` bytes from `offset` on, or fewer where the buffer ends before.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        let mut result = Self::default();
        let (mut skip, mut left) = (offset, length);
        for segment in &self.segments {
            if left == 0 {
                break;
            }
            let available = segment.length as usize;
            if skip >= available {
                skip -= available;
                continue;
            }
            let take = (available - skip).min(left);
            // An address that wraps around is refused when it is resolved. `take` is at most a segment, so a u32.
            result.push(GuestAddress(segment.address.0.wrapping_add(skip as u64)), take as u32);
            left -= take;
            skip = 0;
        }
        result
    }

    /// All bytes from `offset` on.
    pub fn after(&self, offset: usize) -> Self {
        self.slice(offset, usize::MAX)
    }

    /// Copies the first bytes into `target` and returns how many there were.
    ///
    /// # Errors
    /// When the bytes are not in the guest's memory.
    pub fn read(&self, memory: &GuestMemory, target: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        for segment in &self.segments {
            let count = (segment.length as usize).min(target.len() - done);
            memory
                .read_slice(&mut target[done..done + count], segment.address)
                .map_err(outside)?;
            done += count;
        }
        Ok(done)
    }

    /// Copies `source` over the first bytes and returns how much of it fitted.
    ///
    /// # Errors
    /// When the bytes are not in the guest's memory.
    pub fn write(&self, memory: &GuestMemory, source: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        for segment in &self.segments {
            let count = (segment.length as usize).min(source.len() - done);
            memory
                .write_slice(&source[done..done + count], segment.address)
                .map_err(outside)?;
            done += count;
        }
        Ok(done)
    }

    /// Makes every byte zero.
    ///
    /// # Errors
    /// When the bytes are not in the guest's memory.
    pub fn zero(&self, memory: &GuestMemory) -> io::Result<()> {
        static ZEROS: [u8; 4096] = [0; 4096];
        for slice in self.resolve(memory, Permissions::Write)? {
            let mut offset = 0;
            while offset < slice.len() {
                let count = ZEROS.len().min(slice.len() - offset);
                slice.write_slice(&ZEROS[..count], offset).map_err(io::Error::other)?;
                offset += count;
            }
        }
        Ok(())
    }

    /// Fills the whole buffer from `file` at `offset`. What lies beyond the end of the file reads as zeros.
    ///
    /// # Errors
    /// Those of `preadv(2)`, and when the bytes are not in the guest's memory.
    pub fn read_file_at(&self, memory: &GuestMemory, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < self.length {
            let rest = self.after(done);
            let at = file_offset(offset, done)?;
            let count = rest.fill(memory, |pieces| {
                // SAFETY: `fill` passes pieces that stay mapped and writable during the call.
                unsafe { libc::preadv(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int, at) }
            })?;
            if count == 0 {
                return rest.zero(memory);
            }
            done += count;
        }
        Ok(())
    }

    /// Writes the whole buffer to `file` at `offset`.
    ///
    /// # Errors
    /// Those of `pwritev(2)`, and when the bytes are not in the guest's memory.
    pub fn write_file_at(&self, memory: &GuestMemory, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < self.length {
            let at = file_offset(offset, done)?;
            let count = self.after(done).drain(memory, |pieces| {
                // SAFETY: `drain` passes pieces that stay mapped and readable during the call.
                unsafe { libc::pwritev(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int, at) }
            })?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += count;
        }
        Ok(())
    }

    /// Reads once from a stream or packet file and returns the number of bytes.
    ///
    /// # Errors
    /// Those of `readv(2)`, and when the bytes are not in the guest's memory.
    pub fn read_from(&self, memory: &GuestMemory, file: BorrowedFd<'_>) -> io::Result<usize> {
        self.fill(memory, |pieces| {
            // SAFETY: `fill` passes pieces that stay mapped and writable during the call.
            unsafe { libc::readv(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) }
        })
    }

    /// Writes once to a stream or packet file and returns the number of bytes.
    ///
    /// # Errors
    /// Those of `writev(2)`, and when the bytes are not in the guest's memory.
    pub fn write_to(&self, memory: &GuestMemory, file: BorrowedFd<'_>) -> io::Result<usize> {
        self.drain(memory, |pieces| {
            // SAFETY: `drain` passes pieces that stay mapped and readable during the call.
            unsafe { libc::writev(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) }
        })
    }

    /// Runs a system call that writes to this memory, and marks what it wrote as changed.
    fn fill(&self, memory: &GuestMemory, call: impl Fn(&[libc::iovec]) -> isize) -> io::Result<usize> {
        let slices = self.resolve(memory, Permissions::Write)?;
        let count = retry(|| call(&pieces(&slices)))?;
        let mut left = count;
        for slice in &slices {
            let touched = slice.len().min(left);
            slice.bitmap().mark_dirty(0, touched);
            left -= touched;
        }
        Ok(count)
    }

    /// Runs a system call that reads this memory.
    fn drain(&self, memory: &GuestMemory, call: impl Fn(&[libc::iovec]) -> isize) -> io::Result<usize> {
        let slices = self.resolve(memory, Permissions::Read)?;
        retry(|| call(&pieces(&slices)))
    }

    /// The host's view of the first [`IOV_MAX`] pieces.
    fn resolve<'m>(&self, memory: &'m GuestMemory, access: Permissions) -> io::Result<Vec<Slice<'m>>> {
        let mut slices = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let found = memory
                .get_slices(segment.address, segment.length as usize, access)
                .map_err(outside)?;
            for slice in found {
                slices.push(slice.map_err(outside)?);
            }
        }
        Ok(slices)
    }
}

fn pieces(slices: &[Slice<'_>]) -> Vec<libc::iovec> {
    slices
        .iter()
        .take(IOV_MAX)
        .map(|slice| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        })
        .collect()
}

fn retry(call: impl Fn() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn file_offset(offset: u64, done: usize) -> io::Result<libc::off_t> {
    offset
        .checked_add(done as u64)
        .and_then(|at| libc::off_t::try_from(at).ok())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn outside(error: vm_memory::GuestMemoryError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
