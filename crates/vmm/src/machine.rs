//! A machine: memory, vCPUs and devices put together, started, paused, saved and restored.
//!
//! ```text
//!  Builder ──boot/restore──► Machine (paused) ◄──pause/resume──► Machine (running)
//!                                 │ save                              │ the guest stops
//!                                 ▼                                   ▼
//!                            MachineState                        StopReason
//! ```
//!
//! Order of a pause: first the vCPUs, then the device thread; nothing produces work for devices that rest.
//! Order of a restore: memory slots and interrupt controllers, vCPUs, clock and controllers' state, devices, and last
//! the interrupts that tell the guest of it, which older state must not overwrite.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::acpi::Acpi;
use crate::boot::registers;
use crate::bus::RangeError;
use crate::events::{DevicesPaused, EventLoop, SharedHandler};
use crate::interrupt::IrqFd;
use crate::kvm::run::Buses;
use crate::kvm::{Backend, Clock, Host, KvmError, Vcpu, VcpuEvent, VcpuState, VcpuThread, Vm, VmState, cpuid};
use crate::layout;
use crate::legacy::generation;
use crate::legacy::power::{OnOff, RESET_PORT, Reset, Sleep};
use crate::legacy::serial::{self, Serial, SerialState};
use crate::memory::{GuestMemory, MemoryError};
use crate::snapshot::{Mismatch, Tags};
use crate::virtio::mmio::QUEUE_NOTIFY;
use crate::virtio::{MmioTransport, RestoreError, Shared, Virtio, VirtioDevice, VirtioMetrics, VirtioState};

/// Most vCPUs of a machine.
pub const MAX_VCPUS: u8 = 8;

/// Why a machine cannot be made, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The number of vCPUs is not supported.
    #[error("a machine has 1 to {MAX_VCPUS} vCPUs, not {0}")]
    Vcpus(usize),
    /// The state is of a machine with other devices.
    #[error("the state has {found} {what}, the machine {expected}")]
    Shape {
        /// What is counted.
        what: &'static str,
        /// Number in the machine.
        expected: usize,
        /// Number in the state.
        found: usize,
    },
    /// The machine runs.
    #[error("the machine is not paused")]
    NotPaused,
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Memory cannot be set up.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Tables do not fit in the guest's memory.
    #[error("memory is too small for the tables")]
    Tables(#[from] vm_memory::GuestMemoryError),
    /// Devices overlap.
    #[error(transparent)]
    Bus(#[from] RangeError),
    /// There are more devices than slots.
    #[error("a machine has at most {max} virtio devices", max = layout::MAX_VIRTIO)]
    Slots,
    /// A device cannot continue its state.
    #[error("cannot restore the device in slot {slot}")]
    Device {
        /// The slot, counted from 0.
        slot: usize,
        /// Why not.
        #[source]
        source: RestoreError,
    },
    /// A device cannot save what it keeps in files.
    #[error("cannot save the device in slot {slot}")]
    SaveDevice {
        /// The slot, counted from 0.
        slot: usize,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file of the host cannot be made or used.
    #[error("{0}")]
    Host(&'static str, #[source] std::io::Error),
}

/// Why a machine stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "camelCase")]
pub enum StopReason {
    /// The guest switched itself off or wanted a reset.
    Shutdown,
    /// The guest crashed its CPU.
    TripleFault {
        /// The vCPU.
        vcpu: u8,
    },
    /// KVM could not go on.
    Failed {
        /// The vCPU.
        vcpu: u8,
        /// What KVM said.
        message: String,
    },
}

fn lock<T: ?Sized>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the first reason to stop is kept, and who waits for it.
#[derive(Debug)]
struct Stop {
    reason: Mutex<Option<StopReason>>,
    event: EventFd,
}

impl Stop {
    fn report(&self, reason: StopReason) {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reason);
        // The counter cannot overflow: there are few vCPUs.
        let _ = self.event.write(1);
    }
}

/// The guest's console.
pub struct Console {
    /// Where its output goes.
    pub to: Box<dyn Write + Send>,
    /// Most bytes of output; what comes after is lost.
    pub limit: u64,
}

/// A machine whose devices are being put together.
pub struct Builder {
    vm: Vm,
    vcpus: Vec<Vcpu>,
    host: Host,
    buses: Buses,
    handlers: Vec<SharedHandler>,
    virtio: Vec<Shared<dyn VirtioDevice>>,
    console: Console,
    serial_line: EventFd,
    generation_line: EventFd,
    stop: Arc<Stop>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("vm", &self.vm)
            .field("buses", &self.buses)
            .finish_non_exhaustive()
    }
}

/// Everything that a machine is, but its memory and what its disks hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineState {
    /// State of the vCPUs.
    pub vcpus: Vec<VcpuState>,
    vm: VmState,
    serial: SerialState,
    virtio: Vec<VirtioState>,
}

/// What runs first on a thread of the machine (the jail).
pub type Prepare = Arc<dyn Fn(ThreadKind) + Send + Sync>;

/// The kinds of threads besides the main thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs a vCPU.
    Vcpu,
    /// Runs the devices.
    Devices,
}

impl Builder {
    /// A machine with `vcpus` vCPUs, `memory` and a console.
    ///
    /// # Errors
    /// When KVM refuses or the number of vCPUs is not supported.
    pub fn new(host: Host, memory: &GuestMemory, vcpus: u8, console: Console) -> Result<Self, MachineError> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(MachineError::Vcpus(vcpus.into()));
        }
        let vm = Vm::new(&host, memory)?;
        let vcpus = (0..vcpus)
            .map(|index| Vcpu::new(&host, &vm, index))
            .collect::<Result<_, _>>()?;
        let event = EventFd::new(EFD_NONBLOCK).map_err(|error| MachineError::Host("cannot make an event file", error))?;
        let stop = Arc::new(Stop {
            reason: Mutex::new(None),
            event,
        });
        let mut buses = Buses::default();
        let off: OnOff = {
            let stop = stop.clone();
            Arc::new(move || stop.report(StopReason::Shutdown))
        };
        buses
            .pio
            .insert(RESET_PORT.into(), 1, Arc::new(Mutex::new(Reset(off.clone()))))?;
        buses
            .pio
            .insert(layout::SLEEP_PORT.into(), 2, Arc::new(Mutex::new(Sleep(off))))?;
        let serial_line = vm.interrupt(layout::SERIAL_LINE)?;
        let generation_line = vm.interrupt(layout::EVENT_LINE)?;
        Ok(Self {
            vm,
            vcpus,
            host,
            buses,
            handlers: Vec::new(),
            virtio: Vec::new(),
            console,
            serial_line,
            generation_line,
            stop,
        })
    }

    /// Puts a virtio device into the next slot. The slots of a restored machine are those of the saved one.
    ///
    /// # Errors
    /// When there is no slot left, or KVM refuses.
    pub fn add_virtio<D: VirtioDevice + 'static>(&mut self, device: D) -> Result<Shared<D>, MachineError> {
        let slot = self.virtio.len();
        if slot == layout::MAX_VIRTIO {
            return Err(MachineError::Slots);
        }
        let host = |error| MachineError::Host("cannot make the files of a device", error);
        let (address, line) = layout::virtio(slot);
        let line = Arc::new(IrqFd(self.vm.interrupt(line)?));
        let device = Virtio::shared(device, self.vm.memory().clone(), line).map_err(host)?;
        let transport = MmioTransport::new(device.clone()).map_err(host)?;
        for (queue, event) in (0u32..).zip(transport.notifiers()) {
            self.vm.notify_on_write(event, address + QUEUE_NOTIFY, queue)?;
        }
        self.buses
            .mmio
            .insert(address, layout::VIRTIO_STRIDE, Arc::new(Mutex::new(transport)))?;
        self.handlers.push(device.clone());
        self.virtio.push(device.clone());
        Ok(device)
    }

    /// Checks that this host can continue a state with these tags.
    ///
    /// # Errors
    /// The first [`Mismatch`].
    pub fn check(&self, tags: &Tags, state: &MachineState) -> Result<(), Mismatch> {
        tags.check(state, &self.host, self.vcpus.first().map_or(0, Vcpu::tsc_khz))
    }

    /// Starts a guest at the 64-bit code at `entry`, which was loaded before. The machine is paused.
    ///
    /// # Errors
    /// When KVM refuses or memory is too small.
    pub fn boot(mut self, entry: u64, prepare: &Prepare) -> Result<Machine, MachineError> {
        let memory = self.vm.memory();
        let count = self.vcpus.len() as u8;
        Acpi {
            vcpus: count,
            virtio: self.virtio.len(),
        }
        .write(memory)?;
        generation::renew(memory).map_err(|error| MachineError::Host("cannot make a generation id", error))?;
        for vcpu in &mut self.vcpus {
            let cpuid = cpuid::guest(&self.host.supported_cpuid, vcpu.index, count);
            if vcpu.index == 0 {
                let (regs, sregs) = registers::long_mode(memory, entry, vcpu.special_registers()?)?;
                vcpu.prepare(&cpuid, Some((&regs, &sregs)))?;
            } else {
                vcpu.prepare(&cpuid, None)?;
            }
        }
        self.start(prepare, |line, console| Ok(Serial::new(line, console.to, console.limit)))
    }

    /// Continues a guest whose memory was restored before. It gets a new generation id. The machine is paused.
    ///
    /// # Errors
    /// When KVM refuses or `state` is of a machine with other devices.
    pub fn restore(mut self, state: &MachineState, clock: Clock, prepare: &Prepare) -> Result<Machine, MachineError> {
        if self.vcpus.len() != state.vcpus.len() {
            return Err(MachineError::Shape {
                what: "vCPUs",
                expected: self.vcpus.len(),
                found: state.vcpus.len(),
            });
        }
        if self.virtio.len() != state.virtio.len() {
            return Err(MachineError::Shape {
                what: "virtio devices",
                expected: self.virtio.len(),
                found: state.virtio.len(),
            });
        }
        for (vcpu, state) in self.vcpus.iter_mut().zip(&state.vcpus) {
            vcpu.restore(state)?;
        }
        self.vm.restore(&state.vm, clock)?;
        generation::renew(self.vm.memory()).map_err(|error| MachineError::Host("cannot make a generation id", error))?;
        for (slot, (device, state)) in self.virtio.iter().zip(&state.virtio).enumerate() {
            lock(device)
                .restore(state)
                .map_err(|source| MachineError::Device { slot, source })?;
        }
        let machine = self.start(prepare, |line, console| {
            Serial::restore(&state.serial, line, console.to, console.limit)
                .map_err(|error| MachineError::Host("cannot restore the serial line", error))
        })?;
        generation::notify(&machine.generation_line)
            .map_err(|error| MachineError::Host("cannot tell of the new generation id", error))?;
        Ok(machine)
    }

    fn start(
        mut self,
        prepare: &Prepare,
        serial: impl FnOnce(EventFd, Console) -> Result<Serial, MachineError>,
    ) -> Result<Machine, MachineError> {
        let serial = Arc::new(Mutex::new(serial(self.serial_line, self.console)?));
        self.buses
            .pio
            .insert(layout::SERIAL_PORT.into(), serial::PORTS, serial.clone())?;
        let events = {
            let prepare = prepare.clone();
            EventLoop::start(self.handlers, move || prepare(ThreadKind::Devices))
                .map_err(|error| MachineError::Host("cannot start the device thread", error))?
        };
        let devices_paused = Some(events.pause());
        let buses = Arc::new(self.buses);
        let on_event = {
            let stop = self.stop.clone();
            Arc::new(move |vcpu, event| {
                stop.report(match event {
                    VcpuEvent::Shutdown => StopReason::Shutdown,
                    VcpuEvent::TripleFault => StopReason::TripleFault { vcpu },
                    VcpuEvent::Failed(message) => StopReason::Failed { vcpu, message },
                });
            })
        };
        let mut vcpus = Vec::new();
        for vcpu in self.vcpus {
            let prepare = prepare.clone();
            vcpus.push(VcpuThread::start(vcpu, buses.clone(), on_event.clone(), move || {
                prepare(ThreadKind::Vcpu);
            })?);
        }
        Ok(Machine {
            backend: self.host.backend,
            vcpus,
            devices_paused,
            events,
            virtio: self.virtio,
            vm: self.vm,
            serial,
            generation_line: self.generation_line,
            stop: self.stop,
        })
    }
}

/// A machine that is put together. Dropping it ends its threads.
#[derive(Debug)]
pub struct Machine {
    backend: Backend,
    // Threads end before what they use: fields are dropped in this order.
    vcpus: Vec<VcpuThread>,
    devices_paused: Option<DevicesPaused>,
    events: EventLoop,
    virtio: Vec<Shared<dyn VirtioDevice>>,
    vm: Vm,
    serial: Arc<Mutex<Serial>>,
    generation_line: EventFd,
    stop: Arc<Stop>,
}

impl Machine {
    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    /// The implementation of KVM that it runs on.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// Whether nothing of the machine runs.
    pub fn is_paused(&self) -> bool {
        self.devices_paused.is_some()
    }

    /// Lets a paused machine go on.
    pub fn resume(&mut self) {
        if self.devices_paused.take().is_some() {
            for device in &self.virtio {
                lock(device).resume();
            }
            for vcpu in &self.vcpus {
                vcpu.resume();
            }
        }
    }

    /// Stops vCPUs and devices. Returns when nothing of the machine runs.
    ///
    /// # Errors
    /// When a thread of the machine is gone.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        if self.is_paused() {
            return Ok(());
        }
        let pausing = self.vcpus.iter().map(VcpuThread::pause).collect::<Result<Vec<_>, _>>()?;
        for (index, paused) in (0u8..).zip(pausing) {
            paused.recv().map_err(|_| KvmError::Gone(index))?;
        }
        self.devices_paused = Some(self.events.pause());
        Ok(())
    }

    /// The state of the paused machine.
    ///
    /// # Errors
    /// When the machine runs or KVM refuses.
    pub fn save(&self) -> Result<MachineState, MachineError> {
        if !self.is_paused() {
            return Err(MachineError::NotPaused);
        }
        // Devices first: they finish what is under way, which changes guest memory and raises interrupts.
        let mut virtio = Vec::with_capacity(self.virtio.len());
        for (slot, device) in self.virtio.iter().enumerate() {
            virtio.push(
                lock(device)
                    .save()
                    .map_err(|source| MachineError::SaveDevice { slot, source })?,
            );
        }
        let vcpus = self.vcpus.iter().map(VcpuThread::save).collect::<Result<_, _>>()?;
        let serial = lock(&self.serial).save();
        Ok(MachineState {
            vcpus,
            serial,
            virtio,
            vm: self.vm.save()?,
        })
    }

    /// What the devices did so far, by slot.
    pub fn metrics(&self) -> Vec<VirtioMetrics> {
        self.virtio.iter().map(|device| lock(device).metrics()).collect()
    }

    /// Readable once the machine stopped by itself.
    pub fn stopped(&self) -> &EventFd {
        &self.stop.event
    }

    /// Why the machine stopped by itself, if it has.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
