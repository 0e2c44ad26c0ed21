//! KVM: what the host offers, the virtual machine, and its CPUs.
//!
//! Everything here is a thin, typed layer over the ioctls. The order in which state is saved and restored is the
//! knowledge that this module holds; see [`vcpu`] and [`vm`].

pub mod cpuid;
pub mod host;
pub mod msr;
pub mod run;
pub mod vcpu;
pub mod vm;

pub use host::{Backend, Host};
pub use run::{VcpuEvent, VcpuThread};
pub use vcpu::{Vcpu, VcpuState};
pub use vm::{Clock, Vm, VmState};

/// An ioctl of KVM failed, or the host lacks something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm (is it there, and may this user write to it?)")]
    Open(#[source] kvm_ioctls::Error),
    /// The host's KVM lacks an extension that the machine is built on.
    #[error("KVM of this host lacks {0}")]
    Missing(&'static str),
    /// One ioctl failed.
    #[error("{0} failed")]
    Ioctl(&'static str, #[source] kvm_ioctls::Error),
    /// A model-specific register was refused.
    #[error("KVM refused the value {value:#x} for the model-specific register {index:#x}")]
    MsrRefused {
        /// Its index.
        index: u32,
        /// What it should have become.
        value: u64,
    },
    /// More CPUID leaves or registers than the interface can carry.
    #[error("{0}: too many entries")]
    TooMany(&'static str),
    /// A thread cannot be made.
    #[error("cannot start the thread of a vCPU")]
    Thread(#[source] std::io::Error),
    /// The thread of a vCPU is gone.
    #[error("the thread of vCPU {0} is gone")]
    Gone(u8),
}

/// Names the ioctl in an error.
pub(crate) trait Named<T> {
    fn named(self, ioctl: &'static str) -> Result<T, KvmError>;
}

impl<T> Named<T> for Result<T, kvm_ioctls::Error> {
    fn named(self, ioctl: &'static str) -> Result<T, KvmError> {
        self.map_err(|error| KvmError::Ioctl(ioctl, error))
    }
}
