//! The thread of a vCPU.
//!
//! ```text
//!            resume                    signal + pause
//!  paused ───────────► running (KVM_RUN) ───────────► paused
//!     │                    │ triple fault, error
//!     │ drop               ▼
//!     └──► ended       stopped: reports why, then waits as if paused
//! ```
//!
//! Commands are looked at only after `KVM_RUN` was interrupted. An access to a device is finished by the `KVM_RUN` that
//! follows it, so a paused vCPU never has half an access in it, and its registers can be saved.

use std::cell::Cell;
use std::os::unix::thread::JoinHandleExt as _;
use std::ptr;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuExit;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::{KvmError, Vcpu, VcpuState};
use crate::bus::Bus;

/// Why a vCPU stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VcpuEvent {
    /// The guest asked to be reset or switched off.
    Shutdown,
    /// The guest crashed the CPU (triple fault).
    TripleFault,
    /// KVM cannot go on.
    Failed(String),
}

/// The buses that a vCPU reaches devices over.
#[derive(Debug, Default)]
pub struct Buses {
    /// Port I/O.
    pub pio: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

enum Command {
    Resume,
    /// Confirmed once the vCPU does not run.
    Pause(SyncSender<()>),
    Save(SyncSender<Result<VcpuState, KvmError>>),
    End,
}

/// What a vCPU's thread calls when the vCPU stops by itself.
pub type OnEvent = Arc<dyn Fn(u8, VcpuEvent) + Send + Sync>;

/// A vCPU with its thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct VcpuThread {
    index: u8,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

thread_local! {
    /// Where the kernel looks for the wish to leave `KVM_RUN`; null while this thread runs no vCPU.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// Interrupts `KVM_RUN`, or keeps it from starting: without the flag a signal just before the call would be lost.
extern "C" fn on_kick(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IMMEDIATE_EXIT.with(|pointer| {
        let pointer = pointer.get();
        if !pointer.is_null() {
            // SAFETY: the pointer is into the run structure of this thread's vCPU, which stays mapped until the
            // pointer is reset. The kernel reads the byte during a system call of this same thread.
            unsafe { pointer.write_volatile(1) };
        }
    });
}

impl VcpuThread {
    /// Starts the thread of `vcpu`, paused. `prepare` runs first on it (the jail).
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(
        vcpu: Vcpu,
        buses: Arc<Buses>,
        on_event: OnEvent,
        prepare: impl FnOnce() + Send + 'static,
    ) -> Result<Self, KvmError> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| register_signal_handler(kick_signal(), on_kick).expect("a real-time signal can have a handler"));
        let (commands, received) = channel();
        let index = vcpu.index;
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                prepare();
                Runner { vcpu, buses, on_event }.run(&received);
            })
            .map_err(KvmError::Thread)?;
        Ok(Self {
            index,
            commands,
            thread: Some(thread),
        })
    }

    /// Lets the vCPU run.
    pub fn resume(&self) {
        let _ = self.commands.send(Command::Resume);
    }

    /// Asks the vCPU to stop; the receiver hears when it has. Ask all vCPUs first and then wait for all.
    ///
    /// # Errors
    /// [`KvmError::Gone`] without a thread.
    pub fn pause(&self) -> Result<Receiver<()>, KvmError> {
        let (paused, is_paused) = sync_channel(1);
        self.commands
            .send(Command::Pause(paused))
            .map_err(|_| KvmError::Gone(self.index))?;
        self.kick();
        Ok(is_paused)
    }

    /// Saves the paused vCPU.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn save(&self) -> Result<VcpuState, KvmError> {
        let (reply, state) = sync_channel(1);
        self.commands
            .send(Command::Save(reply))
            .map_err(|_| KvmError::Gone(self.index))?;
        state.recv().map_err(|_| KvmError::Gone(self.index))?
    }

    fn kick(&self) {
        if let Some(thread) = &self.thread {
            // SAFETY: the thread was not joined, so its id is valid; the signal has a handler since the thread started.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::End);
        self.kick();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Runner {
    vcpu: Vcpu,
    buses: Arc<Buses>,
    on_event: OnEvent,
}

impl Runner {
    fn run(mut self, commands: &Receiver<Command>) {
        IMMEDIATE_EXIT.set(&raw mut self.vcpu.fd.get_kvm_run().immediate_exit);
        let mut running = false;
        loop {
            // Always looked at before the guest is entered: a kick that came before this thread was ready set no flag.
            let command = if running {
                match commands.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => {
                        if let Some(event) = self.enter() {
                            running = false;
                            (self.on_event)(self.vcpu.index, event);
                        }
                        continue;
                    }
                    Err(TryRecvError::Disconnected) => break,
                }
            } else {
                match commands.recv() {
                    Ok(command) => command,
                    Err(_) => break,
                }
            };
            match command {
                Command::Resume => {
                    running = true;
                    self.vcpu.clock_was_stopped();
                }
                Command::Pause(paused) => {
                    running = false;
                    let _ = paused.send(());
                }
                Command::Save(reply) => {
                    let _ = reply.send(self.vcpu.save());
                }
                Command::End => break,
            }
        }
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }

    /// Runs the guest until this thread is interrupted (none) or the vCPU stops by itself.
    fn enter(&mut self) -> Option<VcpuEvent> {
        let buses = &self.buses;
        loop {
            match self.vcpu.fd.run() {
                Ok(VcpuExit::IoIn(port, data)) => {
                    buses.pio.read(u64::from(port), data);
                }
                Ok(VcpuExit::IoOut(port, data)) => {
                    buses.pio.write(u64::from(port), data);
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    buses.mmio.read(address, data);
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    buses.mmio.write(address, data);
                }
                Ok(VcpuExit::Shutdown) => return Some(VcpuEvent::TripleFault),
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN | KVM_SYSTEM_EVENT_RESET, _)) => {
                    return Some(VcpuEvent::Shutdown);
                }
                Ok(exit) => return Some(VcpuEvent::Failed(format!("{exit:?}"))),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    self.vcpu.fd.set_kvm_immediate_exit(0);
                    return None;
                }
                Err(error) => return Some(VcpuEvent::Failed(format!("KVM_RUN: {error}"))),
            }
        }
    }
}
