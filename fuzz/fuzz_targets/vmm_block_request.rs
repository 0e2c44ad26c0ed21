//! Requests of the guest to a disk.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_vmm::virtio::fuzzing::block_request(data));

#[cfg(not(fuzzing))]
fn main() {}
