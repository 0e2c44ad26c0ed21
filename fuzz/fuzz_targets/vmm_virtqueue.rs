//! Rings and descriptors in the guest's memory.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_vmm::virtio::fuzzing::virtqueue(data));

#[cfg(not(fuzzing))]
fn main() {}
