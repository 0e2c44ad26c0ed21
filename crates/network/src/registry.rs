//! Which slots there are and who has them. Knows nothing of the kernel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::{Prefix, SlotName};
use crate::error::{NetworkError, Result};

/// Who has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is being made, or removed, right now.
    Busy,
    /// It waits to be taken.
    Ready,
    /// A [`crate::Slot`] stands for it.
    Held,
    /// It exists, but nothing in this process stands for it: it waits to be adopted or swept.
    Left,
}

/// All slots by index. An index is given out again only when its slot is gone.
#[derive(Debug)]
pub(crate) struct Registry {
    slots: BTreeMap<u16, (SlotName, Phase)>,
    ready: VecDeque<SlotName>,
    /// Indexes without a slot of which the host still has a device.
    devices: BTreeSet<u16>,
    next: u16,
    limit: u16,
}

impl Registry {
    /// Indexes run from 1 to `limit`: the pair of addresses with index 0 is the forwarder's.
    pub(crate) fn new(limit: u16) -> Self {
        Self {
            slots: BTreeMap::new(),
            ready: VecDeque::new(),
            devices: BTreeSet::new(),
            next: 1,
            limit,
        }
    }

    /// Notes what an earlier daemon left.
    pub(crate) fn note_left(&mut self, name: SlotName) {
        self.slots.entry(name.index()).or_insert((name, Phase::Left));
    }

    /// Notes that a device with this index exists. Unless a slot explains it, the index is not given out.
    pub(crate) fn note_device(&mut self, index: u16) {
        if !self.slots.contains_key(&index) {
            self.devices.insert(index);
        }
    }

    /// The devices that no slot explains.
    pub(crate) fn orphan_devices(&self) -> Vec<u16> {
        self.devices.iter().copied().collect()
    }

    /// A device that no slot explains is gone.
    pub(crate) fn forget_device(&mut self, index: u16) {
        self.devices.remove(&index);
    }

    /// Chooses a name for a slot that is to be made. Indexes go round before one is used again, so that a connection
    /// that outlived its slot does not meet the next one.
    pub(crate) fn begin(&mut self, prefix: &Prefix) -> Result<SlotName> {
        for _ in 0..self.limit {
            let index = self.next;
            self.next = if index == self.limit { 1 } else { index + 1 };
            if !self.slots.contains_key(&index) && !self.devices.contains(&index) {
                let name = SlotName::new(prefix, index);
                self.slots.insert(index, (name.clone(), Phase::Busy));
                return Ok(name);
            }
        }
        Err(NetworkError::Exhausted {
            limit: usize::from(self.limit),
        })
    }

    /// A slot was made for somebody.
    pub(crate) fn made_held(&mut self, name: &SlotName) {
        self.set(name, Phase::Held);
    }

    /// A slot was made for nobody in particular.
    pub(crate) fn made_ready(&mut self, name: &SlotName) {
        self.set(name, Phase::Ready);
        self.ready.push_back(name.clone());
    }

    /// The oldest ready slot, now held.
    pub(crate) fn take_ready(&mut self) -> Option<SlotName> {
        let name = self.ready.pop_front()?;
        self.set(&name, Phase::Held);
        Some(name)
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// All ready slots, to be removed.
    pub(crate) fn drain_ready(&mut self) -> Vec<SlotName> {
        let names: Vec<_> = self.ready.drain(..).collect();
        for name in &names {
            self.set(name, Phase::Busy);
        }
        names
    }

    /// A slot that is left becomes held.
    pub(crate) fn adopt(&mut self, name: &SlotName) -> Result<()> {
        match self.slots.get_mut(&name.index()) {
            Some((known, phase)) if known == name && *phase == Phase::Left => {
                *phase = Phase::Held;
                Ok(())
            }
            Some((known, _)) if known == name => Err(NetworkError::InUse { name: name.to_string() }),
            _ => Err(NetworkError::NoSuchSlot {
                name: name.to_string(),
                missing: "everything".to_owned(),
            }),
        }
    }

    /// Its holder let go of a slot without releasing it.
    pub(crate) fn leave(&mut self, name: &SlotName) {
        self.set(name, Phase::Left);
    }

    /// A slot is about to be removed by its holder.
    pub(crate) fn begin_release(&mut self, name: &SlotName) {
        self.set(name, Phase::Busy);
    }

    /// A slot with this name may be swept: nobody stands for it. From now on nobody can adopt it.
    pub(crate) fn begin_sweep(&mut self, name: &SlotName) -> bool {
        match self.slots.get_mut(&name.index()) {
            Some((known, phase)) if known == name => {
                let left = *phase == Phase::Left;
                if left {
                    *phase = Phase::Busy;
                }
                left
            }
            // Another slot has its index, and so the device that would be removed with it.
            Some(_) => false,
            None => true,
        }
    }

    /// A slot is gone, or was never made.
    pub(crate) fn forget(&mut self, name: &SlotName) {
        if self.slots.get(&name.index()).is_some_and(|(known, _)| known == name) {
            self.slots.remove(&name.index());
        }
    }

    /// The slot whose uplink has this index.
    pub(crate) fn by_index(&self, index: u16) -> Option<&SlotName> {
        self.slots.get(&index).map(|(name, _)| name)
    }

    fn set(&mut self, name: &SlotName, to: Phase) {
        if let Some((known, phase)) = self.slots.get_mut(&name.index())
            && known == name
        {
            *phase = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn prefix() -> Prefix {
        Prefix::for_data_dir(Path::new("/nonexistent"))
    }

    #[test]
    fn indexes_are_unique_and_bounded() {
        let mut registry = Registry::new(3);
        let names: Vec<_> = (0..3).map(|_| registry.begin(&prefix()).expect("room")).collect();
        assert_eq!(names.iter().map(SlotName::index).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(matches!(registry.begin(&prefix()), Err(NetworkError::Exhausted { limit: 3 })));

        registry.forget(&names[1]);
        assert_eq!(registry.begin(&prefix()).expect("room again").index(), 2);
    }

    #[test]
    fn a_slot_has_one_holder() {
        let mut registry = Registry::new(3);
        let name = registry.begin(&prefix()).expect("room");
        registry.made_ready(&name);
        assert_eq!(registry.take_ready().as_ref(), Some(&name));
        assert!(matches!(registry.adopt(&name), Err(NetworkError::InUse { .. })));
        assert!(!registry.begin_sweep(&name));

        registry.leave(&name);
        registry.adopt(&name).expect("left slots can be adopted");
        assert!(matches!(registry.adopt(&name), Err(NetworkError::InUse { .. })));
    }

    #[test]
    fn a_swept_slot_cannot_be_adopted() {
        let mut registry = Registry::new(3);
        let name = registry.begin(&prefix()).expect("room");
        registry.leave(&name);
        assert!(registry.begin_sweep(&name));
        assert!(registry.adopt(&name).is_err());
        assert!(!registry.begin_sweep(&name), "only one sweep removes it");
    }

    #[test]
    fn a_remainder_with_another_slots_index_is_left_alone() {
        let mut registry = Registry::new(3);
        let held = registry.begin(&prefix()).expect("room");
        let remainder = SlotName::new(&prefix(), held.index());
        assert!(
            !registry.begin_sweep(&remainder),
            "its removal would take the device of the other slot"
        );

        registry.forget(&remainder);
        assert_eq!(registry.by_index(held.index()), Some(&held));
        registry.forget(&held);
        assert!(registry.begin_sweep(&remainder));
    }

    #[test]
    fn an_index_with_an_unexplained_device_is_not_given_out() {
        let mut registry = Registry::new(2);
        registry.note_device(1);
        assert_eq!(registry.begin(&prefix()).expect("room").index(), 2);
        registry.note_device(2);
        assert_eq!(registry.orphan_devices(), [1], "the device of a slot is explained");

        registry.forget_device(1);
        assert_eq!(registry.begin(&prefix()).expect("room").index(), 1);
    }
}
