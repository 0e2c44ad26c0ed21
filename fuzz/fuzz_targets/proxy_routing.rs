//! Paths, hosts and routing headers together.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_proxy::fuzzing::routing(data));

#[cfg(not(fuzzing))]
fn main() {}
