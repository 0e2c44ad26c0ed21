//! The machine on the KVM of this host, with small guests in machine code. Skipped, with the reason, where there is no
//! usable `/dev/kvm`.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "tests: a failure is to be seen where it happens"
)]

mod guest;
mod machine;
mod process;
mod snapshot;
