//! Paths, headers and queries of requests for files.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_agent::fuzzing::file_request(data));

#[cfg(not(fuzzing))]
fn main() {}
