//! One virtual CPU: its state, and the order in which the state is saved and restored.

use kvm_bindings::{CpuId, Xsave, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::msr::{self, Msr};
use super::{Host, KvmError, Named as _, Vm};

/// Everything that a vCPU is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VcpuState {
    /// CPUID as the guest was shown it.
    pub cpuid: CpuId,
    /// Model-specific registers in the order in which they are written back.
    pub msrs: Vec<Msr>,
    /// Frequency of the time stamp counter, in kHz; 0 where the host does not tell.
    pub tsc_khz: u32,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Xsave,
    xcrs: Option<kvm_xcrs>,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
}

/// A vCPU that no thread runs at the moment.
#[derive(Debug)]
pub struct Vcpu {
    pub(super) fd: VcpuFd,
    /// Its number, counted from 0; also its APIC id.
    pub index: u8,
    // As it was set: some backends answer KVM_GET_CPUID2 with more than that.
    cpuid: CpuId,
    msrs: Vec<u32>,
    xsave_size: usize,
    has_xcrs: bool,
    can_scale_tsc: bool,
}

impl Vcpu {
    /// Makes vCPU `index` of `vm`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new(host: &Host, vm: &Vm, index: u8) -> Result<Self, KvmError> {
        let fd = vm.fd.create_vcpu(u64::from(index)).named("KVM_CREATE_VCPU")?;
        Ok(Self {
            fd,
            index,
            cpuid: host.supported_cpuid.clone(),
            msrs: host.msrs.clone(),
            xsave_size: host.xsave_size,
            has_xcrs: host.has_xcrs,
            can_scale_tsc: host.can_scale_tsc,
        })
    }

    /// Sets up a vCPU that the guest has not run on: CPUID and the registers that firmware would have set.
    /// `registers` are those of the first vCPU; the others wait until the guest starts them.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn prepare(&mut self, cpuid: &CpuId, registers: Option<(&kvm_regs, &kvm_sregs)>) -> Result<(), KvmError> {
        self.fd.set_cpuid2(cpuid).named("KVM_SET_CPUID2")?;
        self.cpuid = cpuid.clone();
        msr::write(&self.fd, &msr::boot())?;
        if let Some((regs, sregs)) = registers {
            self.fd.set_sregs(sregs).named("KVM_SET_SREGS")?;
            self.fd.set_regs(regs).named("KVM_SET_REGS")?;
        }
        Ok(())
    }

    /// The special registers, as KVM made them.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn special_registers(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().named("KVM_GET_SREGS")
    }

    /// Frequency of the time stamp counter, in kHz; 0 where the host does not tell.
    pub fn tsc_khz(&self) -> u32 {
        self.fd.get_tsc_khz().unwrap_or(0)
    }

    /// Saves the vCPU.
    ///
    /// The order matters. MP_STATE comes first, because reading it lets KVM act on pending INIT and SIPI, which
    /// changes registers and the APIC. Pending events come last, because the calls before may still add to them.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn save(&self) -> Result<VcpuState, KvmError> {
        let mp_state = self.fd.get_mp_state().named("KVM_GET_MP_STATE")?;
        let regs = self.fd.get_regs().named("KVM_GET_REGS")?;
        let sregs = self.fd.get_sregs().named("KVM_GET_SREGS")?;
        let mut xsave =
            Xsave::new(self.xsave_size.saturating_sub(4096).div_ceil(4)).map_err(|_| KvmError::TooMany("KVM_GET_XSAVE2"))?;
        // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 reports, which is the most that this call writes.
        unsafe { self.fd.get_xsave2(&mut xsave) }.named("KVM_GET_XSAVE2")?;
        let xcrs = self.has_xcrs.then(|| self.fd.get_xcrs().named("KVM_GET_XCRS")).transpose()?;
        let debugregs = self.fd.get_debug_regs().named("KVM_GET_DEBUGREGS")?;
        let lapic = self.fd.get_lapic().named("KVM_GET_LAPIC")?;
        let tsc_khz = self.tsc_khz();
        let cpuid = self.cpuid.clone();
        let msrs = msr::read(&self.fd, &self.msrs)?;
        let events = self.fd.get_vcpu_events().named("KVM_GET_VCPU_EVENTS")?;
        Ok(VcpuState {
            cpuid,
            msrs,
            tsc_khz,
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs,
            debugregs,
            lapic,
            events,
        })
    }

    /// Restores the vCPU, which has not run. Memory slots and interrupt controllers exist already: some registers
    /// hold guest addresses that KVM maps when they are written.
    ///
    /// CPUID decides which registers exist, so it is first. The APIC comes before the registers because its timer
    /// mode decides whether a deadline is taken. Returns how many optional registers the host refused.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn restore(&mut self, state: &VcpuState) -> Result<usize, KvmError> {
        // Where the counter cannot be scaled, the caller has compared the frequencies.
        if self.can_scale_tsc && state.tsc_khz != 0 && state.tsc_khz != self.tsc_khz() {
            self.fd.set_tsc_khz(state.tsc_khz).named("KVM_SET_TSC_KHZ")?;
        }
        self.fd.set_cpuid2(&state.cpuid).named("KVM_SET_CPUID2")?;
        self.cpuid = state.cpuid.clone();
        self.fd.set_mp_state(state.mp_state).named("KVM_SET_MP_STATE")?;
        self.fd.set_regs(&state.regs).named("KVM_SET_REGS")?;
        self.fd.set_sregs(&state.sregs).named("KVM_SET_SREGS")?;
        // SAFETY: no dynamically enabled feature is permitted in this process, so the state fits the buffer.
        unsafe { self.fd.set_xsave2(&state.xsave) }.named("KVM_SET_XSAVE")?;
        if let (true, Some(xcrs)) = (self.has_xcrs, &state.xcrs) {
            self.fd.set_xcrs(xcrs).named("KVM_SET_XCRS")?;
        }
        self.fd.set_debug_regs(&state.debugregs).named("KVM_SET_DEBUGREGS")?;
        self.fd.set_lapic(&state.lapic).named("KVM_SET_LAPIC")?;
        let skipped = msr::write(&self.fd, &state.msrs)?;
        self.fd.set_vcpu_events(&state.events).named("KVM_SET_VCPU_EVENTS")?;
        self.clock_was_stopped();
        Ok(skipped)
    }

    /// Tells the guest's watchdogs that time stood still. A guest without kvm-clock has nothing to tell.
    pub(super) fn clock_was_stopped(&self) {
        let _ = self.fd.kvmclock_ctrl();
    }
}
