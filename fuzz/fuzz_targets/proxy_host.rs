//! Host names.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_proxy::fuzzing::host(data));

#[cfg(not(fuzzing))]
fn main() {}
