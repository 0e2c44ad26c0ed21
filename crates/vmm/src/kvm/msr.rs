//! Which model-specific registers are saved, and how strictly they are restored.
//!
//! KVM lists the registers that are a vCPU's state. Some of them it will not take back on some hosts; those that do
//! no harm when they keep their reset value are *optional*, all others are *required*: restoring a guest without one
//! of them would corrupt it, so it is refused with the register's name.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{KvmError, Named as _};

/// The deadline of the local APIC's timer. It must be written after the counter and the APIC (see [`write`]).
pub const TSC_DEADLINE: u32 = 0x6e0;
const TSC: u32 = 0x10;
const MISC_ENABLE: u32 = 0x1a0;
const MTRR_DEF_TYPE: u32 = 0x2ff;

/// One register and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msr {
    /// Its index.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// How a register is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Part of the state: failing to restore it is an error.
    Required,
    /// Saved, and restored where the host lets us.
    Optional,
    /// Left alone.
    Never,
}

/// The class of a register.
pub fn class(index: u32) -> Class {
    match index {
        // MCG_CTL exists only with machine-check banks that a guest of ours does not get.
        0x17b => Class::Never,
        // Hyper-V's registers: no guest of ours is shown that interface.
        0x4000_0000..=0x4000_01ff => Class::Never,
        // Performance counters: the guest is shown none.
        0xc1..=0xc8 | 0x186..=0x18d | 0x309..=0x30c | 0x345 | 0x38d..=0x390 | 0x3f1 | 0x4c1..=0x4c8 => Class::Never,
        0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020f | 0xc000_0300..=0xc000_0303 => Class::Never,
        // FEATURE_CONTROL, ARCH_CAPABILITIES, SMI_COUNT, AMD's LS_CFG, DE_CFG and others: refused by some hosts even
        // with the value that they reported; they tell what the CPU can do and hold no state of the guest.
        0x3a
        | 0x8b
        | 0x10a
        | 0x34
        | 0xcf
        | 0x345..=0x347
        | 0x480..=0x491
        | 0xc001_0015
        | 0xc001_0117
        | 0xc001_1020
        | 0xc001_1029 => Class::Optional,
        _ => Class::Required,
    }
}

/// The registers of KVM's list that are saved. The deadline is left for the end.
pub fn saved(listed: &[u32]) -> Vec<u32> {
    let mut saved: Vec<u32> = listed
        .iter()
        .copied()
        .filter(|index| class(*index) != Class::Never && *index != TSC_DEADLINE)
        .collect();
    if listed.contains(&TSC_DEADLINE) {
        saved.push(TSC_DEADLINE);
    }
    saved
}

/// What a CPU that starts Linux should have in its registers.
pub fn boot() -> Vec<Msr> {
    vec![
        // Fast string operations.
        Msr {
            index: MISC_ENABLE,
            value: 1,
        },
        // Memory type ranges enabled, write-back by default: without it the kernel maps memory uncached.
        Msr {
            index: MTRR_DEF_TYPE,
            value: 1 << 11 | 6,
        },
    ]
}

/// Reads `indices`. A register that cannot be read is left out.
///
/// A deadline of zero in a running timer means that it has just passed: it is replaced by the time of the save, so
/// that the interrupt comes at once after a restore and is not lost.
///
/// # Errors
/// When the ioctl fails as a whole.
pub(super) fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<Msr>, KvmError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<kvm_msr_entry> = rest
            .iter()
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::TooMany("KVM_GET_MSRS"))?;
        let count = vcpu.get_msrs(&mut msrs).named("KVM_GET_MSRS")?;
        values.extend(msrs.as_slice()[..count].iter().map(|entry| Msr {
            index: entry.index,
            value: entry.data,
        }));
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    let now = values.iter().find(|msr| msr.index == TSC).map_or(0, |msr| msr.value);
    for msr in values.iter_mut().filter(|msr| msr.index == TSC_DEADLINE && msr.value == 0) {
        msr.value = now;
    }
    Ok(values)
}

/// Writes `msrs` in their order and returns how many optional ones were refused.
///
/// The caller has restored the local APIC before: its timer mode decides whether a deadline is accepted.
///
/// # Errors
/// [`KvmError::MsrRefused`] for a required register.
pub(super) fn write(vcpu: &VcpuFd, msrs: &[Msr]) -> Result<usize, KvmError> {
    let mut skipped = 0;
    let mut rest = msrs;
    while !rest.is_empty() {
        let entries: Vec<kvm_msr_entry> = rest
            .iter()
            .map(|msr| kvm_msr_entry {
                index: msr.index,
                data: msr.value,
                ..Default::default()
            })
            .collect();
        let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::TooMany("KVM_SET_MSRS"))?;
        let count = vcpu.set_msrs(&msrs).named("KVM_SET_MSRS")?;
        let Some(refused) = rest.get(count) else { break };
        if class(refused.index) != Class::Optional {
            return Err(KvmError::MsrRefused {
                index: refused.index,
                value: refused.value,
            });
        }
        skipped += 1;
        rest = &rest[count + 1..];
    }
    Ok(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_comes_last_and_what_is_never_saved_not_at_all() {
        assert_eq!(
            saved(&[TSC_DEADLINE, 0x10, 0x17b, 0x4000_0001, 0x3a]),
            [0x10, 0x3a, TSC_DEADLINE]
        );
        assert_eq!(saved(&[0x10]), [0x10]);
    }

    #[test]
    fn registers_that_guests_depend_on_are_required() {
        // STAR, LSTAR, KERNEL_GS_BASE, TSC, PAT, XSS, MTRRs, kvm-clock, the whole range of KVM's and of PVM's.
        for index in [
            0xc000_0081,
            0xc000_0082,
            0xc000_0102,
            0x10,
            0x277,
            0xda0,
            0x200,
            0x2ff,
            0x4b56_4d00,
            0x4b56_4d01,
            0x4b56_4df1,
        ] {
            assert_eq!(class(index), Class::Required, "{index:#x}");
        }
    }

    #[test]
    fn registers_that_hosts_refuse_are_optional() {
        for index in [0x3a, 0x10a, 0xc001_1020] {
            assert_eq!(class(index), Class::Optional, "{index:#x}");
        }
    }
}
