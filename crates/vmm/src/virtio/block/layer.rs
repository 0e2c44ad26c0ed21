//! A layer file: the blocks of a disk that differ from what lies below it.
//!
//! ```text
//!   0        4096              data offset = 4096 + bitmap, rounded up to 4096
//!   │ header │ bitmap ...      │ data: block n at data offset + n * 4096, sparse ...
//! ```
//!
//! A bit of the bitmap says that the layer has the block. A block that it has but that is a hole in the file reads as
//! zeros, which is how a discarded block hides the one below. The bitmap is kept in memory and written by
//! [`Layer::flush`] after the data that it speaks of, so that after a crash no bit stands for data that was never written.
//! Numbers are little endian.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Size of a block in bytes.
pub const BLOCK: u64 = 4096;

/// The largest disk: 16 TiB. Its bitmap takes 512 MiB of memory.
pub const MAX_SIZE: u64 = 16 << 40;

const MAGIC: [u8; 8] = *b"DRMLAYER";
const VERSION: u32 = 1;
const SEALED: u32 = 1;
const HEADER: usize = 32;

/// Bits in a page of the bitmap, the unit in which it is written.
const PAGE_BITS: u64 = BLOCK * 8;
const PAGE_WORDS: usize = (BLOCK / 8) as usize;

/// Why a file is not a layer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file cannot be read or written.
    #[error("cannot access the layer file")]
    Io(#[from] io::Error),
    /// The file is not a layer, or is damaged.
    #[error("not a layer file: {0}")]
    Format(&'static str),
    /// The size is zero, not a multiple of a block, or above [`MAX_SIZE`].
    #[error("{0} bytes are no size for a disk: it is a multiple of {BLOCK}, and at most {MAX_SIZE}")]
    Size(u64),
    /// The layer must not change any more: other layers build on it.
    #[error("the layer is sealed")]
    Sealed,
    /// Another process writes to the layer, or reads it while it shall be written.
    #[error("the layer file is in use")]
    InUse,
}

/// The first bytes of a layer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    size: u64,
    sealed: bool,
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(BLOCK as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        bytes[24..28].copy_from_slice(&(if self.sealed { SEALED } else { 0 }).to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; HEADER]) -> Result<Self, LayerError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC {
            return Err(LayerError::Format("it begins with something else"));
        }
        if word(8) != VERSION || u64::from(word(12)) != BLOCK {
            return Err(LayerError::Format("its version is not known"));
        }
        if word(24) & !SEALED != 0 {
            return Err(LayerError::Format("it has flags that are not known"));
        }
        let size = u64::from(word(16)) | u64::from(word(20)) << 32;
        check_size(size)?;
        Ok(Self {
            size,
            sealed: word(24) & SEALED != 0,
        })
    }

    fn blocks(self) -> u64 {
        self.size / BLOCK
    }

    fn bitmap_pages(self) -> u64 {
        self.blocks().div_ceil(PAGE_BITS)
    }

    fn data_offset(self) -> u64 {
        BLOCK + self.bitmap_pages() * BLOCK
    }
}

fn check_size(size: u64) -> Result<(), LayerError> {
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(BLOCK) {
        return Err(LayerError::Size(size));
    }
    Ok(())
}

/// An open layer file.
#[derive(Debug)]
pub struct Layer {
    file: File,
    header: Header,
    bits: Vec<AtomicU64>,
    /// The pages of the bitmap that are newer than the file's.
    changed: Vec<AtomicBool>,
    flushing: Mutex<()>,
}

impl Layer {
    /// Makes an empty layer for a disk of `size` bytes out of an empty file, open for reading and writing.
    ///
    /// # Errors
    /// [`LayerError`] when the size is not possible, the file is not empty or it cannot be written.
    pub fn create(file: File, size: u64) -> Result<Self, LayerError> {
        check_size(size)?;
        lock(file.try_lock())?;
        if file.metadata()?.len() != 0 {
            return Err(LayerError::Format("a new layer needs an empty file"));
        }
        let header = Header { size, sealed: false };
        file.set_len(header.data_offset() + size)?;
        file.write_all_at(&header.encode(), 0)?;
        Ok(Self::with_bits(
            file,
            header,
            (0..header.bitmap_pages() as usize * PAGE_WORDS).map(|_| 0),
        ))
    }

    /// Opens a layer to write to it. The file must be open for reading and writing; nobody else may have it open.
    ///
    /// # Errors
    /// [`LayerError`] when the file is not a layer, is sealed, or is in use.
    pub fn open(file: File) -> Result<Self, LayerError> {
        lock(file.try_lock())?;
        let layer = Self::load(file)?;
        if layer.header.sealed {
            return Err(LayerError::Sealed);
        }
        Ok(layer)
    }

    /// Opens a layer to read what it has. Nobody may be writing to it.
    ///
    /// # Errors
    /// [`LayerError`] when the file is not a layer, or is written to.
    pub fn open_read_only(file: File) -> Result<Self, LayerError> {
        lock(file.try_lock_shared())?;
        Self::load(file)
    }

    fn load(file: File) -> Result<Self, LayerError> {
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => LayerError::Format("it is too short"),
            _ => LayerError::Io(error),
        })?;
        let header = Header::decode(bytes)?;
        if file.metadata()?.len() != header.data_offset() + header.size {
            return Err(LayerError::Format("its length is not that of its disk"));
        }
        let mut bitmap = vec![0; (header.bitmap_pages() * BLOCK) as usize];
        file.read_exact_at(&mut bitmap, BLOCK)?;
        let (words, _) = bitmap.as_chunks();
        Ok(Self::with_bits(
            file,
            header,
            words.iter().map(|word| u64::from_le_bytes(*word)),
        ))
    }

    fn with_bits(file: File, header: Header, bits: impl Iterator<Item = u64>) -> Self {
        Self {
            file,
            header,
            bits: bits.map(AtomicU64::new).collect(),
            changed: (0..header.bitmap_pages()).map(|_| AtomicBool::new(false)).collect(),
            flushing: Mutex::new(()),
        }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.header.size
    }

    /// The file, for data at [`position`](Self::position).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the file keeps the disk's byte at `offset`.
    pub fn position(&self, offset: u64) -> u64 {
        self.header.data_offset() + offset
    }

    /// Whether the layer has the block.
    pub fn has(&self, block: u64) -> bool {
        let word = &self.bits[(block / 64) as usize];
        word.load(Ordering::Acquire) & 1 << (block % 64) != 0
    }

    /// Number of blocks that the layer has.
    pub fn block_count(&self) -> u64 {
        self.bits
            .iter()
            .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
            .sum()
    }

    /// From now on the layer has these blocks. Their data is in the file already.
    pub fn add(&self, blocks: std::ops::Range<u64>) {
        for block in blocks {
            let bit = 1 << (block % 64);
            // Release: whoever sees the bit sees the data. The page is marked after the bit, so that a flush that comes
            // in between writes the page again.
            let before = self.bits[(block / 64) as usize].fetch_or(bit, Ordering::Release);
            if before & bit == 0 {
                self.changed[(block / PAGE_BITS) as usize].store(true, Ordering::Release);
            }
        }
    }

    /// Makes durable what was written and added before.
    ///
    /// # Errors
    /// When the file cannot be written; what was changed is tried again the next time.
    pub fn flush(&self) -> io::Result<()> {
        // One at a time: the second must not return before the first has written what both are to make durable.
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        // Copied before the data is made durable: a bit that is set later may speak of data that is not.
        let pages = self.changed_pages();
        let result = self
            .file
            .sync_data()
            .and_then(|()| self.write_pages(&pages))
            .and_then(|()| if pages.is_empty() { Ok(()) } else { self.file.sync_data() });
        self.retry_later(&pages, result)
    }

    /// Writes the bitmap to the file, for another process to read.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settle(&self) -> io::Result<()> {
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = self.changed_pages();
        self.retry_later(&pages, self.write_pages(&pages))
    }

    /// Ends the time in which the layer changes: it is made durable, and from now on others may read it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn seal(&mut self) -> Result<(), LayerError> {
        self.flush()?;
        self.header.sealed = true;
        self.file.write_all_at(&self.header.encode(), 0)?;
        self.file.sync_data()?;
        lock(self.file.try_lock_shared())
    }

    fn changed_pages(&self) -> Vec<(usize, Vec<u8>)> {
        let pages = self.changed.iter().enumerate();
        let changed = pages.filter(|(_, changed)| changed.swap(false, Ordering::AcqRel));
        let copy = |page: usize| {
            let words = &self.bits[page * PAGE_WORDS..(page + 1) * PAGE_WORDS];
            words
                .iter()
                .flat_map(|word| word.load(Ordering::Acquire).to_le_bytes())
                .collect()
        };
        changed.map(|(page, _)| (page, copy(page))).collect()
    }

    fn write_pages(&self, pages: &[(usize, Vec<u8>)]) -> io::Result<()> {
        pages
            .iter()
            .try_for_each(|(page, bytes)| self.file.write_all_at(bytes, BLOCK + *page as u64 * BLOCK))
    }

    fn retry_later(&self, pages: &[(usize, Vec<u8>)], result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            for (page, _) in pages {
                self.changed[*page].store(true, Ordering::Release);
            }
        }
        result
    }
}

impl Drop for Layer {
    /// A process that ends in order leaves nothing behind in memory.
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            tracing::warn!(%error, "the last changes of a disk's layer are lost");
        }
    }
}

fn lock(result: Result<(), TryLockError>) -> Result<(), LayerError> {
    result.map_err(|error| match error {
        TryLockError::WouldBlock => LayerError::InUse,
        TryLockError::Error(error) => LayerError::Io(error),
    })
}
