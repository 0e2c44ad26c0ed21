//! The shim as a program of its own, so that the tests of this crate need no other one.

fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    dormouse_engine_gvisor::shim_main(&arguments)
}
