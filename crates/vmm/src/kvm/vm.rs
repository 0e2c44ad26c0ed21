//! The virtual machine as KVM has it: memory slots, interrupt controllers, timer, clock.

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_clock_data,
    kvm_irqchip, kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
use vmm_sys_util::eventfd::EventFd;

use super::{Host, KvmError, Named as _};
use crate::memory::GuestMemory;

/// State of the machine outside of its vCPUs.
#[derive(Clone, Serialize, Deserialize)]
pub struct VmState {
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
    /// The host's wall clock at the save, in nanoseconds since 1970.
    saved_at: u64,
    pic: [kvm_irqchip; 2],
    ioapic: kvm_irqchip,
}

impl std::fmt::Debug for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmState").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// What the guest's clock does with the time between the save and the restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// It moves on by the time that passed, as if the machine had been asleep: the wall clock is right.
    #[default]
    Realtime,
    /// It continues where it was; the agent sets the wall clock.
    Frozen,
}

/// The virtual machine.
#[derive(Debug)]
pub struct Vm {
    pub(super) fd: VmFd,
    // The slots point into it: it must live as long as the machine.
    memory: GuestMemory,
}

/// Three pages below 4 GiB that KVM on Intel needs for real mode; they are in the hole for devices.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

impl Vm {
    /// Makes a machine with in-kernel interrupt controllers and timer, and `memory` in its slots.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new(host: &Host, memory: &GuestMemory) -> Result<Self, KvmError> {
        let fd = create(host)?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .named("KVM_SET_IDENTITY_MAP_ADDR")?;
        fd.set_tss_address(TSS_ADDRESS).named("KVM_SET_TSS_ADDR")?;
        fd.create_irq_chip().named("KVM_CREATE_IRQCHIP")?;
        // A guest that beeps must not reach the host's speaker port.
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        fd.create_pit2(pit).named("KVM_CREATE_PIT2")?;
        for (slot, region) in (0u32..).zip(memory.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the slot is a mapping that `memory` owns, and a clone of `memory` is kept beside the machine.
            // Slots do not overlap because regions do not.
            unsafe { fd.set_user_memory_region(slot) }.named("KVM_SET_USER_MEMORY_REGION")?;
        }
        Ok(Self {
            fd,
            memory: memory.clone(),
        })
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Makes an event file that raises the interrupt `line` when it is written.
    ///
    /// # Errors
    /// When the file cannot be made or KVM refuses.
    pub fn interrupt(&self, line: u32) -> Result<EventFd, KvmError> {
        let event = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)
            .map_err(|error| KvmError::Ioctl("eventfd", kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(0))))?;
        self.fd.register_irqfd(&event, line).named("KVM_IRQFD")?;
        Ok(event)
    }

    /// Has `event` written whenever the guest writes the 32-bit `value` at the memory address `address`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn notify_on_write(&self, event: &EventFd, address: u64, value: u32) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .named("KVM_IOEVENTFD")
    }

    /// Saves the machine. All vCPUs are paused and saved, and no device raises interrupts any more.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn save(&self) -> Result<VmState, KvmError> {
        let pit = self.fd.get_pit2().named("KVM_GET_PIT2")?;
        let clock = self.fd.get_clock().named("KVM_GET_CLOCK")?;
        let saved_at = wall_clock();
        let chip = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            self.fd.get_irqchip(&mut chip).named("KVM_GET_IRQCHIP").map(|()| chip)
        };
        let pic = [chip(KVM_IRQCHIP_PIC_MASTER)?, chip(KVM_IRQCHIP_PIC_SLAVE)?];
        Ok(VmState {
            pit,
            clock,
            saved_at,
            pic,
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
        })
    }

    /// Restores the machine. The vCPUs are restored and have not run: a clock that is set afterwards would be seen to
    /// jump. Interrupts that devices raise must come later, or the controllers' old state would swallow them.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn restore(&self, state: &VmState, clock: Clock) -> Result<(), KvmError> {
        self.fd.set_pit2(&state.pit).named("KVM_SET_PIT2")?;
        let mut data = state.clock;
        // KVM moves the clock on by itself where it knew the wall clock at the save: only on hosts whose own clock is the
        // time stamp counter. The other flags tell about the reading; KVM refuses them when writing.
        data.flags &= KVM_CLOCK_REALTIME;
        match clock {
            Clock::Realtime if data.flags == 0 => data.clock += wall_clock().saturating_sub(state.saved_at),
            Clock::Realtime => {}
            Clock::Frozen => data.flags = 0,
        }
        self.fd.set_clock(&data).named("KVM_SET_CLOCK")?;
        for chip in state.pic.iter().chain([&state.ioapic]) {
            self.fd.set_irqchip(chip).named("KVM_SET_IRQCHIP")?;
        }
        Ok(())
    }
}

/// Nanoseconds since 1970.
fn wall_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// `KVM_CREATE_VM` is interrupted when a signal arrives while the kernel waits for others; a few tries are enough.
fn create(host: &Host) -> Result<VmFd, KvmError> {
    let mut tries = 0;
    loop {
        match host.kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR && tries < 5 => tries += 1,
            result => return result.named("KVM_CREATE_VM"),
        }
    }
}
