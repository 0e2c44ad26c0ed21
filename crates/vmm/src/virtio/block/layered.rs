//! A disk made of layers: a base image that never changes, sealed layers on it, and one on top that takes the writes.
//!
//! A block is read from the topmost layer that has it, else from the base image, else it is zeros. Sandboxes of one
//! template share the base and the template's layers; a snapshot seals the top layer, and whoever goes on from it puts a
//! new one of its own on top.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::disk::{Disk, punch_hole, zero};
use super::layer::{BLOCK, Layer, LayerError};
use crate::memory::GuestMemory;
use crate::virtio::buffer::Buffer;

#[derive(Debug)]
struct Layers {
    base: Option<File>,
    /// Oldest first.
    sealed: Vec<Layer>,
    top: Layer,
}

/// A disk of layers. See the module's description.
#[derive(Debug)]
pub struct LayeredDisk {
    size: u64,
    layers: RwLock<Layers>,
    /// Held while a block that is written in part is copied up from below.
    copying: Mutex<()>,
}

/// Where the data of some blocks is.
enum Source<'a> {
    Layer(&'a Layer),
    Base(&'a File),
    Zeros,
}

impl LayeredDisk {
    /// A disk of the size of `top`. `sealed` are the layers between it and `base`, oldest first.
    ///
    /// The base image may be smaller than the disk, which then continues with zeros.
    ///
    /// # Errors
    /// [`LayerError::Size`] when a layer is larger than the disk.
    pub fn new(base: Option<File>, sealed: Vec<Layer>, top: Layer) -> Result<Self, LayerError> {
        let size = top.size();
        if let Some(layer) = sealed.iter().find(|layer| layer.size() > size) {
            return Err(LayerError::Size(layer.size()));
        }
        Ok(Self {
            size,
            layers: RwLock::new(Layers { base, sealed, top }),
            copying: Mutex::new(()),
        })
    }

    /// Seals the top layer and goes on with a new one in `file`, which is empty and open for reading and writing. What the
    /// disk holds does not change, and from now on other machines may build on the sealed layers too.
    ///
    /// Call it while no request is under way, or what they write may be on either side.
    ///
    /// # Errors
    /// [`LayerError`] when a file cannot be written. The disk then goes on as it was.
    pub fn push_layer(&self, file: File) -> Result<(), LayerError> {
        let next = Layer::create(file, self.size)?;
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.top.seal()?;
        let sealed = std::mem::replace(&mut layers.top, next);
        layers.sealed.push(sealed);
        Ok(())
    }

    /// Bytes that the top layer has of its own.
    pub fn top_bytes(&self) -> u64 {
        self.layers().top.block_count() * BLOCK
    }

    fn layers(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blocks that lie wholly in a range; empty when there is none.
    fn whole_blocks(offset: u64, length: u64) -> std::ops::Range<u64> {
        let first = offset.div_ceil(BLOCK);
        first..((offset + length) / BLOCK).max(first)
    }

    /// Makes sure that the top layer has the blocks at the ends of a range that are in it only in part.
    fn copy_up_ends(&self, layers: &Layers, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let end = offset + length;
        let (first, last) = (offset / BLOCK, (end - 1) / BLOCK);
        if !offset.is_multiple_of(BLOCK) || (first == last && !end.is_multiple_of(BLOCK)) {
            self.copy_up(layers, first)?;
        }
        if last != first && !end.is_multiple_of(BLOCK) {
            self.copy_up(layers, last)?;
        }
        Ok(())
    }

    fn copy_up(&self, layers: &Layers, block: u64) -> io::Result<()> {
        if layers.top.has(block) {
            return Ok(());
        }
        // Two writers of different parts of the block must not both copy it: the later copy would undo the earlier write.
        let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        if layers.top.has(block) {
            return Ok(());
        }
        let mut data = [0; BLOCK as usize];
        let offset = block * BLOCK;
        match layers.source(block) {
            Source::Layer(layer) => layer.file().read_exact_at(&mut data, layer.position(offset))?,
            Source::Base(base) => read_to_end_at(base, &mut data, offset)?,
            Source::Zeros => {}
        }
        layers.top.file().write_all_at(&data, layers.top.position(offset))?;
        layers.top.add(block..block + 1);
        Ok(())
    }

    /// Makes whole blocks zero: holes that hide what lies below.
    fn clear(layers: &Layers, blocks: std::ops::Range<u64>) -> io::Result<()> {
        if !blocks.is_empty() {
            let length = (blocks.end - blocks.start) * BLOCK;
            zero(layers.top.file(), layers.top.position(blocks.start * BLOCK), length)?;
            layers.top.add(blocks);
        }
        Ok(())
    }
}

impl Layers {
    /// Who has a block.
    fn source(&self, block: u64) -> Source<'_> {
        let sealed = self.sealed.iter().rev();
        let mut layers = std::iter::once(&self.top).chain(sealed);
        // A sealed layer may be of a time when the disk was smaller.
        match layers.find(|layer| block * BLOCK < layer.size() && layer.has(block)) {
            Some(layer) => Source::Layer(layer),
            None => self.base.as_ref().map_or(Source::Zeros, Source::Base),
        }
    }
}

impl Source<'_> {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Layer(one), Self::Layer(other)) => std::ptr::eq(*one, *other),
            (Self::Base(_), Self::Base(_)) | (Self::Zeros, Self::Zeros) => true,
            _ => false,
        }
    }
}

impl Disk for LayeredDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()> {
        let layers = self.layers();
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        while at < end {
            let source = layers.source(at / BLOCK);
            let mut stop = (at / BLOCK + 1) * BLOCK;
            while stop < end && source.is(&layers.source(stop / BLOCK)) {
                stop += BLOCK;
            }
            let stop = stop.min(end);
            let part = buffer.slice((at - offset) as usize, (stop - at) as usize);
            match source {
                Source::Layer(layer) => part.read_file_at(memory, layer.file().as_fd(), layer.position(at))?,
                Source::Base(base) => part.read_file_at(memory, base.as_fd(), at)?,
                Source::Zeros => part.zero(memory)?,
            }
            at = stop;
        }
        Ok(())
    }

    fn write(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()> {
        let layers = self.layers();
        let length = buffer.len() as u64;
        self.copy_up_ends(&layers, offset, length)?;
        buffer.write_file_at(memory, layers.top.file().as_fd(), layers.top.position(offset))?;
        layers.top.add(Self::whole_blocks(offset, length));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.layers().top.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let layers = self.layers();
        let blocks = Self::whole_blocks(offset, length);
        if blocks.is_empty() {
            return Ok(());
        }
        let length = (blocks.end - blocks.start) * BLOCK;
        // Without holes there is no space to give back, and the content may stay.
        if punch_hole(layers.top.file(), layers.top.position(blocks.start * BLOCK), length)? {
            layers.top.add(blocks);
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let layers = self.layers();
        self.copy_up_ends(&layers, offset, length)?;
        let whole = Self::whole_blocks(offset, length);
        let (start, end) = (whole.start * BLOCK, whole.end * BLOCK);
        if whole.is_empty() {
            return zero(layers.top.file(), layers.top.position(offset), length);
        }
        zero(layers.top.file(), layers.top.position(offset), start - offset)?;
        Self::clear(&layers, whole)?;
        zero(layers.top.file(), layers.top.position(end), offset + length - end)
    }

    fn settle(&self) -> io::Result<()> {
        self.layers().top.settle()
    }
}

/// Reads what there is; the rest of `data` stays as it is.
fn read_to_end_at(file: &File, mut data: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.read_at(data, offset) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                data = &mut data[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "layered_tests.rs"]
mod tests;
