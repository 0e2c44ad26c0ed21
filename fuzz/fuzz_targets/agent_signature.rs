//! Signatures of links to files.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_agent::fuzzing::signature(data));

#[cfg(not(fuzzing))]
fn main() {}
