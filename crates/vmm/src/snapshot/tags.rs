//! What a snapshot was made on, and whether this host can continue it.

use serde::{Deserialize, Serialize};

use crate::kvm::{Backend, Host, cpuid};
use crate::machine::MachineState;

/// What a snapshot was made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// The implementation of KVM.
    pub backend: Backend,
    /// Version of the host's kernel, as (major, minor).
    pub kernel: (u32, u32),
    /// Frequency of the guest's time stamp counter, in kHz; 0 where it is not known.
    pub tsc_khz: u32,
}

/// Why this host cannot continue a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// State is not exchanged between implementations of KVM.
    #[error("the snapshot was made on the KVM backend {snapshot}, this host has {host}")]
    Backend {
        /// Of the snapshot.
        snapshot: Backend,
        /// Of this host.
        host: Backend,
    },
    /// An older kernel may not know all of the state.
    #[error("the snapshot was made on Linux {}.{}, this host has the older {}.{}", snapshot.0, snapshot.1, host.0, host.1)]
    Kernel {
        /// Of the snapshot.
        snapshot: (u32, u32),
        /// Of this host.
        host: (u32, u32),
    },
    /// The counter would run at another speed.
    #[error("the snapshot's time stamp counter runs at {snapshot} kHz, this host's at {host} kHz, and it cannot be scaled")]
    Tsc {
        /// Of the snapshot.
        snapshot: u32,
        /// Of this host.
        host: u32,
    },
    /// The CPU has fewer features.
    #[error(transparent)]
    Cpu(#[from] cpuid::Lacking),
}

/// Frequencies differ between boots of one host by this much: parts in a million.
const TSC_TOLERANCE: u64 = 250;

impl Tags {
    /// The tags of a state that was saved on this host.
    pub fn of(state: &MachineState, backend: Backend) -> Self {
        Self {
            backend,
            kernel: kernel(),
            tsc_khz: state.vcpus.first().map_or(0, |vcpu| vcpu.tsc_khz),
        }
    }

    /// Checks that `host`, whose counters run at `tsc_khz`, can continue the snapshot.
    ///
    /// # Errors
    /// The first [`Mismatch`].
    pub fn check(&self, state: &MachineState, host: &Host, tsc_khz: u32) -> Result<(), Mismatch> {
        self.check_host(host.backend, kernel(), tsc_khz, host.can_scale_tsc)?;
        state
            .vcpus
            .iter()
            .try_for_each(|vcpu| cpuid::check(&vcpu.cpuid, &host.supported_cpuid))?;
        Ok(())
    }

    fn check_host(&self, backend: Backend, kernel: (u32, u32), tsc_khz: u32, can_scale: bool) -> Result<(), Mismatch> {
        if self.backend != backend {
            return Err(Mismatch::Backend {
                snapshot: self.backend,
                host: backend,
            });
        }
        if kernel < self.kernel {
            return Err(Mismatch::Kernel {
                snapshot: self.kernel,
                host: kernel,
            });
        }
        let difference = u64::from(self.tsc_khz.abs_diff(tsc_khz)) * 1_000_000;
        if difference > TSC_TOLERANCE * u64::from(self.tsc_khz) && !can_scale {
            return Err(Mismatch::Tsc {
                snapshot: self.tsc_khz,
                host: tsc_khz,
            });
        }
        Ok(())
    }
}

/// Version of the running kernel, as (major, minor); (0, 0) if it cannot be told.
fn kernel() -> (u32, u32) {
    let release = rustix::system::uname();
    parse(&release.release().to_string_lossy()).unwrap_or((0, 0))
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: Tags = Tags {
        backend: Backend::Amd,
        kernel: (6, 1),
        tsc_khz: 2_000_000,
    };

    #[test]
    fn releases_are_understood() {
        assert_eq!(parse("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse("6.18.44"), Some((6, 18)));
        assert_eq!(parse("strange"), None);
    }

    #[test]
    fn the_same_host_and_a_newer_kernel_are_accepted() {
        assert_eq!(TAGS.check_host(Backend::Amd, (6, 1), 2_000_000, false), Ok(()));
        assert_eq!(TAGS.check_host(Backend::Amd, (6, 12), 2_000_400, false), Ok(()));
    }

    #[test]
    fn another_backend_kernel_or_frequency_is_refused_with_the_reason() {
        let refused = |backend, kernel, khz| TAGS.check_host(backend, kernel, khz, false).unwrap_err().to_string();
        assert_eq!(
            refused(Backend::Pvm, (6, 1), 2_000_000),
            "the snapshot was made on the KVM backend amd, this host has pvm"
        );
        assert_eq!(
            refused(Backend::Amd, (5, 15), 2_000_000),
            "the snapshot was made on Linux 6.1, this host has the older 5.15"
        );
        assert!(refused(Backend::Amd, (6, 1), 2_001_000).contains("2001000 kHz"));
        assert_eq!(TAGS.check_host(Backend::Amd, (6, 1), 2_001_000, true), Ok(()));
    }
}
