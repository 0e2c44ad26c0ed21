//! Bodies of Connect requests to the agent.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dormouse_agent::fuzzing::connect(data));

#[cfg(not(fuzzing))]
fn main() {}
