//! The generation id: 16 random bytes in the guest's memory that are new in every machine, so that clones notice that
//! they are (Microsoft's "Virtual Machine Generation ID"; Linux mixes a new one into its random numbers).

use std::io;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::layout;
use crate::memory::GuestMemory;

/// Writes a new id. A guest that runs already must be told with [`notify`].
///
/// # Errors
/// When memory is too small, or the host has no random numbers.
pub fn renew(memory: &GuestMemory) -> io::Result<GenerationId> {
    let id = GenerationId(random()?);
    memory
        .write_obj(id.0, GuestAddress(layout::GENERATION_ID))
        .map_err(io::Error::other)?;
    Ok(id)
}

/// Tells the guest that the id changed. The interrupt controllers are restored already, or their old state would
/// swallow the interrupt.
///
/// # Errors
/// When the interrupt cannot be raised.
pub fn notify(line: &EventFd) -> io::Result<()> {
    line.write(1)
}

/// An id of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationId(pub [u8; 16]);

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: the pointer and the length are those of the array.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes come all at once (getrandom(2)).
    if got == 16 {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn a_renewed_id_is_another_one_and_is_in_memory() {
        let memory = memory::allocate(1 << 20).unwrap();
        let ids = [renew(&memory).unwrap(), renew(&memory).unwrap()];
        assert_ne!(ids[0], ids[1]);
        assert_eq!(
            memory.read_obj::<[u8; 16]>(GuestAddress(layout::GENERATION_ID)).unwrap(),
            ids[1].0
        );
    }
}
