//! Requests of the guest to the balloon.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_vmm::virtio::fuzzing::balloon(data));

#[cfg(not(fuzzing))]
fn main() {}
