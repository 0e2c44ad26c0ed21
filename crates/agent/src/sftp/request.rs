//! From a packet to a request (filexfer 6).

use super::attributes::Attributes;
use super::wire::{Malformed, Reader};

/// What a client asks for. Paths are bytes, as they are in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Init,
    Open {
        path: &'a [u8],
        flags: u32,
        attributes: Attributes,
    },
    Close(&'a [u8]),
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        data: &'a [u8],
    },
    Lstat(&'a [u8]),
    Fstat(&'a [u8]),
    Setstat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Fsetstat {
        handle: &'a [u8],
        attributes: Attributes,
    },
    Opendir(&'a [u8]),
    Readdir(&'a [u8]),
    Remove(&'a [u8]),
    Mkdir {
        path: &'a [u8],
        attributes: Attributes,
    },
    Rmdir(&'a [u8]),
    Realpath(&'a [u8]),
    Stat(&'a [u8]),
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Readlink(&'a [u8]),
    Symlink {
        target: &'a [u8],
        link: &'a [u8],
    },
    Extended {
        name: &'a [u8],
        data: Reader<'a>,
    },
    Unknown,
}

impl<'a> Request<'a> {
    /// The request's number and the request. `None` for a packet that has not even a number to answer to.
    pub(super) fn parse(packet: &'a [u8]) -> Option<(u32, Result<Self, Malformed>)> {
        let mut reader = Reader::new(packet);
        let kind = reader.u8().ok()?;
        // The first packet has a version in the place of the number.
        let id = reader.u32().ok()?;
        if kind == 1 {
            return Some((id, Ok(Self::Init)));
        }
        Some((id, Self::body(kind, &mut reader)))
    }

    fn body(kind: u8, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match kind {
            3 => Self::Open {
                path: reader.string()?,
                flags: reader.u32()?,
                attributes: Attributes::read(reader)?,
            },
            4 => Self::Close(reader.string()?),
            5 => Self::Read {
                handle: reader.string()?,
                offset: reader.u64()?,
                length: reader.u32()?,
            },
            6 => Self::Write {
                handle: reader.string()?,
                offset: reader.u64()?,
                data: reader.string()?,
            },
            7 => Self::Lstat(reader.string()?),
            8 => Self::Fstat(reader.string()?),
            9 => Self::Setstat {
                path: reader.string()?,
                attributes: Attributes::read(reader)?,
            },
            10 => Self::Fsetstat {
                handle: reader.string()?,
                attributes: Attributes::read(reader)?,
            },
            11 => Self::Opendir(reader.string()?),
            12 => Self::Readdir(reader.string()?),
            13 => Self::Remove(reader.string()?),
            14 => Self::Mkdir {
                path: reader.string()?,
                attributes: Attributes::read(reader)?,
            },
            15 => Self::Rmdir(reader.string()?),
            16 => Self::Realpath(reader.string()?),
            17 => Self::Stat(reader.string()?),
            18 => Self::Rename {
                from: reader.string()?,
                to: reader.string()?,
            },
            19 => Self::Readlink(reader.string()?),
            // The draft has them the other way round; every client follows OpenSSH.
            20 => Self::Symlink {
                target: reader.string()?,
                link: reader.string()?,
            },
            200 => Self::Extended {
                name: reader.string()?,
                data: *reader,
            },
            _ => Self::Unknown,
        })
    }
}
