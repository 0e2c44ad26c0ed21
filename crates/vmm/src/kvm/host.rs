//! What the KVM of this host offers.

use std::path::Path;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};

use super::{KvmError, Named as _};

/// Which implementation of KVM runs the guest. State is not exchanged between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// VMX.
    Intel,
    /// SVM.
    Amd,
    /// PVM: shadow paging without hardware virtualization.
    Pvm,
    /// KVM is there, but none of the known modules.
    Other,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Intel => "intel",
            Self::Amd => "amd",
            Self::Pvm => "pvm",
            Self::Other => "other",
        })
    }
}

/// The opened `/dev/kvm` and what was learnt from it.
#[derive(Debug)]
pub struct Host {
    pub(crate) kvm: Kvm,
    /// The implementation.
    pub backend: Backend,
    /// CPUID as KVM can show it to a guest.
    pub supported_cpuid: CpuId,
    /// The registers that KVM lists as state, without those that are never saved.
    pub msrs: Vec<u32>,
    /// Bytes of the extended state of a vCPU.
    pub xsave_size: usize,
    /// Whether XCR0 can be read and written.
    pub has_xcrs: bool,
    /// Whether the frequency of the time stamp counter can be scaled.
    pub can_scale_tsc: bool,
}

/// What the machine cannot do without, by its name in the kernel's documentation.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

impl Host {
    /// Opens `/dev/kvm` and asks what it offers.
    ///
    /// # Errors
    /// [`KvmError::Open`] without a usable device, [`KvmError::Missing`] without an extension that is needed.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        for (cap, name) in NEEDED {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Missing(name));
            }
        }
        let supported_cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .named("KVM_GET_SUPPORTED_CPUID")?;
        let list = kvm.get_msr_index_list().named("KVM_GET_MSR_INDEX_LIST")?;
        let xsave_size = usize::try_from(kvm.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(4096);
        Ok(Self {
            backend: backend(Path::new("/sys/module")),
            msrs: super::msr::saved(list.as_slice()),
            xsave_size,
            has_xcrs: kvm.check_extension(Cap::Xcrs),
            can_scale_tsc: kvm.check_extension(Cap::TscControl),
            supported_cpuid,
            kvm,
        })
    }
}

/// The backend by the kernel modules in `modules`. PVM first: its machine may have the others built in.
fn backend(modules: &Path) -> Backend {
    let known = [
        ("kvm_pvm", Backend::Pvm),
        ("kvm_amd", Backend::Amd),
        ("kvm_intel", Backend::Intel),
    ];
    known
        .into_iter()
        .find(|(module, _)| modules.join(module).exists())
        .map_or(Backend::Other, |(_, backend)| backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_is_told_by_its_module() {
        let modules = tempfile::tempdir().unwrap();
        assert_eq!(backend(modules.path()), Backend::Other);
        std::fs::create_dir(modules.path().join("kvm_amd")).unwrap();
        assert_eq!(backend(modules.path()), Backend::Amd);
        std::fs::create_dir(modules.path().join("kvm_pvm")).unwrap();
        assert_eq!(backend(modules.path()), Backend::Pvm);
    }
}
