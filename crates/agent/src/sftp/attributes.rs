//! What is said of a file (filexfer 5).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use super::wire::{Malformed, Reader, Writer};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 1 << 31;

/// Attributes in a request or an answer; what is absent is not to be changed, or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    /// With the bits of the file's type, in answers.
    pub(super) mode: Option<u32>,
    /// Of the last access and the last change, seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let flags = reader.u32()?;
        let has = |flag| flags & flag != 0;
        let attributes = Self {
            size: if has(SIZE) { Some(reader.u64()?) } else { None },
            owner: if has(OWNER) {
                Some((reader.u32()?, reader.u32()?))
            } else {
                None
            },
            mode: if has(PERMISSIONS) { Some(reader.u32()?) } else { None },
            times: if has(TIMES) {
                Some((reader.u32()?, reader.u32()?))
            } else {
                None
            },
        };
        if has(EXTENDED) {
            for _ in 0..reader.u32()? {
                reader.string()?;
                reader.string()?;
            }
        }
        Ok(attributes)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        let flag = |flag, present| if present { flag } else { 0 };
        writer.u32(
            flag(SIZE, self.size.is_some())
                | flag(OWNER, self.owner.is_some())
                | flag(PERMISSIONS, self.mode.is_some())
                | flag(TIMES, self.times.is_some()),
        );
        if let Some(size) = self.size {
            writer.u64(size);
        }
        if let Some((user, group)) = self.owner {
            writer.u32(user).u32(group);
        }
        if let Some(mode) = self.mode {
            writer.u32(mode);
        }
        if let Some((accessed, modified)) = self.times {
            writer.u32(accessed).u32(modified);
        }
    }
}

impl From<&Metadata> for Attributes {
    fn from(metadata: &Metadata) -> Self {
        // The protocol's seconds end in 2106, and begin in 1970.
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        Self {
            size: Some(metadata.size()),
            owner: Some((metadata.uid(), metadata.gid())),
            mode: Some(metadata.mode()),
            times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
        }
    }
}
