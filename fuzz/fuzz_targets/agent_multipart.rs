//! Forms that are uploaded to the agent.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_agent::fuzzing::multipart(data));

#[cfg(not(fuzzing))]
fn main() {}
