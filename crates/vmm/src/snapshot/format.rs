//! The state's file.
//!
//! ```text
//!  0   8  magic, "DRMSSNAP"
//!  8   2  version of the format, little endian
//! 10   6  zero
//! 16   8  length of the payload, little endian
//! 24  32  BLAKE3 of the payload: also the layer's name
//! 56   …  the payload: a `Layer` in postcard's encoding
//! ```
//!
//! The payload's structures have no version of their own: any change to them raises [`VERSION`], and a file of another
//! version is refused. Its length is checked before anything is read, its hash before anything is decoded.

use std::fs::File;
use std::io::{Read as _, Write as _};

use serde::{Deserialize, Serialize};

use super::layers::Run;
use super::tags::Tags;
use crate::machine::MachineState;

const MAGIC: [u8; 8] = *b"DRMSSNAP";
/// Version of the format.
pub const VERSION: u16 = 1;
/// Most bytes of a payload: eight vCPUs need well below 100 kB, the list of pages the rest.
pub const MAX_PAYLOAD: u64 = 16 << 20;
const HEADER: usize = 56;

/// A layer's name: the hash of its payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerId(pub [u8; 32]);

impl std::fmt::Display for LayerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for LayerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerId({self})")
    }
}

/// What the state's file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    /// The layer below; none for a full one.
    pub parent: Option<LayerId>,
    /// Bytes of the guest's memory.
    pub memory_size: u64,
    /// The layer's pages.
    pub runs: Vec<Run>,
    /// What it was made on.
    pub tags: Tags,
    /// The machine.
    pub machine: MachineState,
}

/// Why a state's file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It is not a snapshot.
    #[error("this is no snapshot")]
    Magic,
    /// It is of another version.
    #[error("the snapshot has format {found}; this program reads format {VERSION}")]
    Version {
        /// The version of the file.
        found: u16,
    },
    /// It says that it is larger than any snapshot.
    #[error("the snapshot's state has {0} bytes; at most {MAX_PAYLOAD} are read")]
    TooLarge(u64),
    /// It is damaged.
    #[error("the snapshot's state is damaged: its checksum is wrong")]
    Checksum,
    /// Its content makes no sense.
    #[error("the snapshot's state cannot be decoded")]
    Decode(#[source] postcard::Error),
    /// The state cannot be encoded.
    #[error("the state cannot be encoded")]
    Encode(#[source] postcard::Error),
    /// The file cannot be read or written.
    #[error("cannot access the snapshot's state")]
    Io(#[from] std::io::Error),
}

/// Writes `layer` and returns its name.
///
/// # Errors
/// When the file cannot be written or the layer is too large.
pub fn write(layer: &Layer, file: &mut File) -> Result<LayerId, FormatError> {
    let payload = postcard::to_stdvec(layer).map_err(FormatError::Encode)?;
    let length = payload.len() as u64;
    if length > MAX_PAYLOAD {
        return Err(FormatError::TooLarge(length));
    }
    let hash = *blake3::hash(&payload).as_bytes();
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&hash);
    bytes.extend_from_slice(&payload);
    file.write_all(&bytes)?;
    Ok(LayerId(hash))
}

/// Reads a layer and its name.
///
/// # Errors
/// [`FormatError`] says what is wrong with the file.
pub fn read(file: &mut File) -> Result<(LayerId, Layer), FormatError> {
    let mut header = [0; HEADER];
    file.read_exact(&mut header).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => FormatError::Magic,
        _ => FormatError::Io(error),
    })?;
    let (magic, rest) = header.split_at(8);
    let (version, rest) = rest.split_at(8);
    let (length, hash) = rest.split_at(8);
    if magic != MAGIC {
        return Err(FormatError::Magic);
    }
    let found = u16::from_le_bytes([version[0], version[1]]);
    if found != VERSION {
        return Err(FormatError::Version { found });
    }
    let length = u64::from_le_bytes(length.try_into().map_err(|_| FormatError::Magic)?);
    if length > MAX_PAYLOAD {
        return Err(FormatError::TooLarge(length));
    }
    let mut payload = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut payload)?;
    if blake3::hash(&payload).as_bytes() != hash {
        return Err(FormatError::Checksum);
    }
    let layer = postcard::from_bytes(&payload).map_err(FormatError::Decode)?;
    Ok((LayerId(hash.try_into().map_err(|_| FormatError::Magic)?), layer))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    fn header(version: u16, length: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(blake3::hash(payload).as_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn files_that_are_no_snapshots_are_refused_before_they_are_decoded() {
        assert!(matches!(read(&mut file(b"short")), Err(FormatError::Magic)));
        assert!(matches!(read(&mut file(&[7; 100])), Err(FormatError::Magic)));
        assert!(matches!(
            read(&mut file(&header(9, 0, b""))),
            Err(FormatError::Version { found: 9 })
        ));
        assert!(matches!(
            read(&mut file(&header(VERSION, u64::MAX, b""))),
            Err(FormatError::TooLarge(u64::MAX))
        ));
        assert!(matches!(
            read(&mut file(&header(VERSION, 3, b"abcd"))),
            Err(FormatError::Checksum)
        ));
        assert!(matches!(
            read(&mut file(&header(VERSION, 4, b"\xff\xff\xff\xff"))),
            Err(FormatError::Decode(_))
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_payload_makes_the_decoder_panic(payload: Vec<u8>) {
            let _ = read(&mut file(&header(VERSION, payload.len() as u64, &payload)));
        }
    }
}
