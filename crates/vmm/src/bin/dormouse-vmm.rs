//! The monitor alone, for tests and for machines without the rest; the product's is a hidden subcommand of `dormouse`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    dormouse_vmm::process::vmm_main(&arguments)
}
