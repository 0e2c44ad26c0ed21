//! Packets of the guest to the socket device.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_vmm::virtio::fuzzing::vsock(data));

#[cfg(not(fuzzing))]
fn main() {}
