//! The machine on the KVM of this host, with small guests in machine code. Skipped, with the reason, where there is no
//! usable `/dev/kvm`.

mod guest;
mod machine;
mod process;
mod snapshot;
