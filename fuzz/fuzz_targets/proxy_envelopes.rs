//! Connect streams that pass the proxy.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_proxy::fuzzing::envelopes(data));

#[cfg(not(fuzzing))]
fn main() {}
