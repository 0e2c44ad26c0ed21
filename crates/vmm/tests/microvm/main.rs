//! Linux in our machine. This program is both sides: started by a person it runs the tests, as process 1 it is the
//! guest's init.
//!
//! `cargo xtask test-microvm` runs it inside QEMU, where there is a KVM that any kernel runs on. It needs the kernel's
//! file in `DORMOUSE_TEST_KERNEL` and its modules' tree in `DORMOUSE_TEST_MODULES`; without them it is skipped.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "tests: a failure is to be seen where it happens"
)]

mod guest;
mod linux;
mod tests;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::main();
    }
    let Some(linux) = linux::Files::from_environment() else {
        println!("skipped: DORMOUSE_TEST_KERNEL and DORMOUSE_TEST_MODULES name no kernel (see cargo xtask test-microvm)");
        return ExitCode::SUCCESS;
    };
    let only = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests::ALL {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let started = Instant::now();
        let result = catch_unwind(|| test(&linux));
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1} s)", started.elapsed().as_secs_f32());
        if result.is_ok() { passed += 1 } else { failed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
