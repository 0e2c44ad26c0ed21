//! System call filters: an allow-list for each kind of thread. Any other call kills the process.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// The kinds of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Serves the control socket and writes snapshots.
    Main,
    /// Runs a vCPU and what the guest writes to registers of devices.
    Vcpu,
    /// Runs the devices.
    Devices,
    /// Reads and writes disks.
    DiskIo,
}

/// A filter cannot be made or set.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The list makes no filter.
    #[error("cannot make the system call filter")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("cannot set the system call filter")]
    Apply(#[source] seccompiler::Error),
}

/// Filters for all kinds of threads, made before the first thread needs one.
#[derive(Debug, Clone)]
pub struct Filters([BpfProgram; 4]);

const KINDS: [Kind; 4] = [Kind::Main, Kind::Vcpu, Kind::Devices, Kind::DiskIo];

impl Filters {
    /// Makes the filters.
    ///
    /// # Errors
    /// When a list makes no filter.
    pub fn new() -> Result<Self, SeccompError> {
        let [main, vcpu, devices, disk_io] = KINDS.map(filter);
        Ok(Self([main?, vcpu?, devices?, disk_io?]))
    }

    /// Filters the calling thread from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn apply(&self, kind: Kind) -> Result<(), SeccompError> {
        apply_filter(&self.0[kind as usize]).map_err(SeccompError::Apply)
    }
}

/// What every thread does: memory, locks, event files, and its end.
const COMMON: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Files: disks, memory files, the state.
const FILES: &[c_long] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_statx,
];

/// The devices' files: TAP, sockets of the guest's connections. On a vCPU's thread when the guest starts or resets a
/// device.
const DEVICES: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fcntl,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

const MAIN: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_uname,
];

/// What a vCPU's thread asks of KVM: to run, and the parts of [`crate::kvm::Vcpu::save`].
const VCPU_IOCTLS: &[u64] = &[
    0xae80,      // KVM_RUN
    0xaead,      // KVM_KVMCLOCK_CTRL
    0xaea3,      // KVM_GET_TSC_KHZ
    0x8004_ae98, // KVM_GET_MP_STATE
    0x8090_ae81, // KVM_GET_REGS
    0x8138_ae83, // KVM_GET_SREGS
    0x9000_aecf, // KVM_GET_XSAVE2
    0x8188_aea6, // KVM_GET_XCRS
    0x8080_aea1, // KVM_GET_DEBUGREGS
    0x8400_ae8e, // KVM_GET_LAPIC
    0xc008_ae88, // KVM_GET_MSRS
    0x8040_ae9f, // KVM_GET_VCPU_EVENTS
];

/// What the main thread asks of KVM: the parts of [`crate::kvm::Vm::save`].
const MAIN_IOCTLS: &[u64] = &[
    0x8070_ae9f, // KVM_GET_PIT2
    0x8030_ae7c, // KVM_GET_CLOCK
    0xc208_ae62, // KVM_GET_IRQCHIP
];

/// What devices ask of their files.
const DEVICE_IOCTLS: &[u64] = &[
    0x5421,      // FIONBIO
    0x4004_54d0, // TUNSETOFFLOAD
];

fn filter(kind: Kind) -> Result<BpfProgram, SeccompError> {
    let (lists, ioctls): (&[&[c_long]], &[&[u64]]) = match kind {
        // Devices finish their work on the main thread when it saves them.
        Kind::Main => (&[COMMON, FILES, DEVICES, MAIN], &[MAIN_IOCTLS, DEVICE_IOCTLS]),
        Kind::Vcpu => (&[COMMON, FILES, DEVICES], &[VCPU_IOCTLS, DEVICE_IOCTLS]),
        Kind::Devices => (&[COMMON, FILES, DEVICES], &[DEVICE_IOCTLS]),
        Kind::DiskIo => (&[COMMON, FILES], &[]),
    };
    compile(lists, ioctls).map_err(SeccompError::Compile)
}

fn compile(lists: &[&[c_long]], ioctls: &[&[u64]]) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = lists.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();
    let one_of = |argument, values: &[u64]| {
        values
            .iter()
            .map(|value| SeccompRule::new(vec![Condition::new(argument, Len::Dword, Op::Eq, *value)?]))
            .collect::<Result<Vec<_>, _>>()
    };
    let ioctls = ioctls.concat();
    if !ioctls.is_empty() {
        rules.insert(libc::SYS_ioctl, one_of(1, &ioctls)?);
    }
    // Memory never becomes code.
    let not_code = || SeccompRule::new(vec![Condition::new(2, Len::Dword, Op::MaskedEq(libc::PROT_EXEC as u64), 0)?]);
    rules.insert(libc::SYS_mmap, vec![not_code()?]);
    rules.insert(libc::SYS_mprotect, vec![not_code()?]);
    // Sockets of this host only.
    rules.insert(libc::SYS_socket, one_of(0, &[libc::AF_UNIX as u64])?);
    // Signals to itself only: the kick of a vCPU, and an abort.
    rules.insert(libc::SYS_tgkill, one_of(0, &[u64::from(std::process::id())])?);
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    BpfProgram::try_from(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_thread_has_a_filter() {
        assert_eq!(KINDS.map(|kind| kind as usize), [0, 1, 2, 3]);
        assert!(Filters::new().unwrap().0.iter().all(|filter| !filter.is_empty()));
    }

    #[test]
    fn no_thread_may_start_programs_or_open_files() {
        for list in [COMMON, FILES, DEVICES, MAIN] {
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_open,
                libc::SYS_openat,
                libc::SYS_ptrace,
                libc::SYS_clone,
                libc::SYS_mount,
            ] {
                assert!(!list.contains(&call));
            }
        }
    }
}
