//! What the guest reads from CPUID.
//!
//! The guest sees what KVM supports on this host, less what a snapshot could not carry (nested virtualization,
//! performance counters), with its own topology: one package, one core a vCPU.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// A feature of a snapshot that this host does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the CPU lacks features that the snapshot was made with: leaf {leaf:#x}.{subleaf}, register {register}, bits {bits:#x}")]
pub struct Lacking {
    /// The leaf.
    pub leaf: u32,
    /// The subleaf.
    pub subleaf: u32,
    /// The register.
    pub register: &'static str,
    /// The bits that are missing.
    pub bits: u32,
}

const FEATURES: u32 = 1;
const CACHE: u32 = 4;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const AMD_FEATURES: u32 = 0x8000_0001;
const AMD_ADDRESSES: u32 = 0x8000_0008;
const AMD_SVM: u32 = 0x8000_000a;
const AMD_CACHE: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;

/// CPUID of vCPU `index` of `count`.
pub fn guest(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    let id = u32::from(index);
    // Bits of an APIC id that number the vCPUs.
    let shift = u32::from(count).next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            FEATURES => {
                entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | id << 24;
                // Without VMX; with the deadline timer, which KVM's own APIC always has; on a hypervisor.
                entry.ecx = entry.ecx & !(1 << 5) | 1 << 24 | 1 << 31;
                // Several logical processors in a package.
                entry.edx = if count > 1 {
                    entry.edx | 1 << 28
                } else {
                    entry.edx & !(1 << 28)
                };
            }
            // Caches: the last level is shared by all, the others belong to one vCPU.
            CACHE | AMD_CACHE => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { u32::from(count) - 1 } else { 0 };
                entry.eax = entry.eax & !(0xfff << 14) | sharing << 14;
                if entry.function == CACHE {
                    entry.eax = entry.eax & !(0x3f << 26) | (u32::from(count) - 1) << 26;
                }
            }
            PERFORMANCE => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            TOPOLOGY | TOPOLOGY_V2 => topology(entry, id, u32::from(count), shift),
            // Without SVM and without AMD's extended performance counters.
            AMD_FEATURES => entry.ecx &= !(1 << 2 | 1 << 23 | 1 << 24 | 1 << 28),
            AMD_SVM => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            AMD_ADDRESSES => entry.ecx = entry.ecx & !0xf0ff | shift << 12 | (u32::from(count) - 1),
            AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    cpuid
}

/// One level of threads, with a single thread in each core, and one of cores.
fn topology(entry: &mut kvm_cpuid_entry2, id: u32, count: u32, shift: u32) {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    (entry.eax, entry.ebx, entry.ecx) = match entry.index {
        0 => (0, 1, THREAD),
        1 => (shift, count, CORE | 1),
        level => (0, 0, level & 0xff),
    };
    entry.edx = id;
}

/// Checks that a guest which was shown `snapshot` finds all its features on a host that supports `supported`.
///
/// # Errors
/// [`Lacking`] with the first bits that are missing.
pub fn check(snapshot: &CpuId, supported: &CpuId) -> Result<(), Lacking> {
    // The leaves whose registers are plain sets of features.
    type Register = (&'static str, fn(&kvm_cpuid_entry2) -> u32, u32);
    const EAX: Register = ("eax", |entry| entry.eax, !0);
    const EBX: Register = ("ebx", |entry| entry.ebx, !0);
    const ECX: Register = ("ecx", |entry| entry.ecx, !0);
    const EDX: Register = ("edx", |entry| entry.edx, !0);
    // OSXSAVE and OSPKE mirror CR4; the hypervisor and deadline bits are ours.
    const ECX_1: Register = ("ecx", |entry| entry.ecx, !(1 << 27 | 1 << 24 | 1 << 31));
    const ECX_7: Register = ("ecx", |entry| entry.ecx, !(1 << 4));
    // "Several processors in a package" is ours.
    const EDX_1: Register = ("edx", |entry| entry.edx, !(1 << 28));
    let sets: [(u32, u32, &[Register]); 7] = [
        (FEATURES, 0, &[ECX_1, EDX_1]),
        (7, 0, &[EBX, ECX_7, EDX]),
        (7, 1, &[EAX]),
        (0xd, 0, &[EAX, EDX]),
        (0xd, 1, &[EAX]),
        (AMD_FEATURES, 0, &[ECX, EDX]),
        (0x4000_0001, 0, &[EAX]),
    ];
    let find = |cpuid: &CpuId, leaf, subleaf| {
        cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == leaf && entry.index == subleaf)
            .copied()
            .unwrap_or_default()
    };
    for (leaf, subleaf, registers) in sets {
        let (wanted, offered) = (find(snapshot, leaf, subleaf), find(supported, leaf, subleaf));
        for (register, read, mask) in registers {
            let bits = read(&wanted) & !read(&offered) & mask;
            if bits != 0 {
                return Err(Lacking {
                    leaf,
                    subleaf,
                    register,
                    bits,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuid(entries: &[(u32, u32, [u32; 4])]) -> CpuId {
        let entries: Vec<kvm_cpuid_entry2> = entries
            .iter()
            .map(|(function, index, [eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
                function: *function,
                index: *index,
                eax: *eax,
                ebx: *ebx,
                ecx: *ecx,
                edx: *edx,
                ..Default::default()
            })
            .collect();
        CpuId::from_entries(&entries).unwrap()
    }

    #[test]
    fn every_vcpu_has_its_own_id_and_knows_how_many_there_are() {
        let supported = cpuid(&[(1, 0, [0, 0x1234, 1 << 5, 0]), (0xb, 0, [9; 4]), (0xb, 1, [9; 4])]);
        let third = guest(&supported, 2, 3);
        let entries = third.as_slice();
        assert_eq!(entries[0].ebx, 2 << 24 | 3 << 16 | 0x1234);
        assert_eq!(entries[0].ecx, 1 << 24 | 1 << 31);
        assert_eq!(entries[0].edx, 1 << 28);
        assert_eq!(
            (entries[1].eax, entries[1].ebx, entries[1].ecx, entries[1].edx),
            (0, 1, 0x100, 2)
        );
        assert_eq!(
            (entries[2].eax, entries[2].ebx, entries[2].ecx, entries[2].edx),
            (2, 3, 0x201, 2)
        );
    }

    #[test]
    fn nested_virtualization_is_not_shown() {
        let guest = guest(
            &cpuid(&[(AMD_FEATURES, 0, [0, 0, 1 << 2 | 1, 0]), (AMD_SVM, 0, [1; 4])]),
            0,
            1,
        );
        assert_eq!(guest.as_slice()[0].ecx, 1);
        assert_eq!(guest.as_slice()[1].edx, 0);
    }

    #[test]
    fn a_host_with_more_features_takes_the_snapshot_and_one_with_fewer_refuses() {
        let rich = cpuid(&[(7, 0, [0, 0b111, 0, 0])]);
        let poor = cpuid(&[(7, 0, [0, 0b101, 0, 0])]);
        assert_eq!(check(&poor, &rich), Ok(()));
        assert_eq!(
            check(&rich, &poor),
            Err(Lacking {
                leaf: 7,
                subleaf: 0,
                register: "ebx",
                bits: 0b10
            })
        );
        assert_eq!(
            check(&rich, &cpuid(&[])),
            Err(Lacking {
                leaf: 7,
                subleaf: 0,
                register: "ebx",
                bits: 0b111
            })
        );
    }

    #[test]
    fn bits_that_mirror_the_guest_or_are_ours_are_not_compared() {
        assert_eq!(
            check(&cpuid(&[(1, 0, [0, 0, 1 << 27 | 1 << 24 | 1 << 31, 1 << 28])]), &cpuid(&[])),
            Ok(())
        );
    }
}
