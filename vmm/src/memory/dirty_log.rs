//! What of guest memory was written while somebody looks: by the guest, from KVM's log, and by this process, from the bitmaps
//! of its regions. What vhost writes is not seen.

use super::dirty::{DIRTY_PAGE, DirtyBitmap};
use super::ram::GuestRam;
use crate::sys::{GuestVm, HostError, barrier_of_all_threads};
use resources::{Bytes, VnodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// A log of writes; it ends when it is dropped. Costs the guest a page fault for each page that it writes meanwhile.
pub struct DirtyLog {
    vm: Weak<GuestVm>,
    ram: Weak<GuestRam>,
}

/// What was written of a vnode's memory, in whole pages of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// By the guest.
    pub guest: Bytes,
    /// By this process, for its devices.
    pub devices: Bytes,
    /// By either.
    pub all: Bytes,
}

impl DirtyLog {
    /// Begins it. Keeps neither the VM nor its memory.
    pub fn start(vm: &Arc<GuestVm>, ram: &Arc<GuestRam>) -> Result<Self, HostError> {
        let log = Self { vm: Arc::downgrade(vm), ram: Arc::downgrade(ram) };
        for region in ram.regions() {
            region.dirty.switch_on(region.mapping.size());
            vm.log_writes(region.range.start, true)?;
        }
        barrier_of_all_threads()?;
        Ok(log)
    }

    /// What was written since the last call; `None` once the VM is over.
    pub fn take(&self) -> Option<Result<BTreeMap<VnodeId, Written>, HostError>> {
        let (vm, ram) = (self.vm.upgrade()?, self.ram.upgrade()?);
        let mut vnodes = BTreeMap::<VnodeId, Written>::new();
        for region in ram.regions() {
            let guest = match vm.dirty_log(region.range.start) {
                Ok(guest) => guest,
                Err(error) => return Some(Err(error)),
            };
            let devices = region.dirty.take();
            let all = guest.iter().zip(&devices).map(|(guest, devices)| guest | devices);
            let written = vnodes.entry(region.range.vnode).or_default();
            written.all = written.all.saturating_add(bytes(all));
            written.guest = written.guest.saturating_add(bytes(guest.iter().copied()));
            written.devices = written.devices.saturating_add(bytes(devices.iter().copied()));
        }
        Some(Ok(vnodes))
    }
}

impl Drop for DirtyLog {
    fn drop(&mut self) {
        let Some(ram) = self.ram.upgrade() else { return };
        for region in ram.regions() {
            DirtyBitmap::switch_off(&region.dirty);
            if let Some(Err(error)) = self.vm.upgrade().map(|vm| vm.log_writes(region.range.start, false)) {
                tracing::warn!(%error, "cannot stop KVM's dirty logging");
            }
        }
    }
}

fn bytes(words: impl Iterator<Item = u64>) -> Bytes {
    let pages: u64 = words.map(|word| u64::from(word.count_ones())).sum();
    Bytes(pages.saturating_mul(DIRTY_PAGE as u64))
}

#[cfg(test)]
mod tests {
    use super::{DIRTY_PAGE, DirtyLog, Written};
    use crate::cpu::test_vm::TestVm;
    use devices::{MmioBusBuilder, PioBusBuilder};
    use resources::{Bytes, VnodeId};
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    use vm_memory::{Bytes as _, GuestAddress};

    const PAGE: Bytes = Bytes(DIRTY_PAGE as u64);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn writes_of_the_guest_and_of_devices_are_seen_while_it_lasts() {
        // mov byte [0x200000], 1; jmp back
        let code = [0xc6, 0x05, 0x00, 0x00, 0x20, 0x00, 0x01, 0xeb, 0xf7];
        let Some(vm) = TestVm::new(1, &code, PioBusBuilder::new(), MmioBusBuilder::new()) else { return };
        let (kvm, memory) = (&vm.setup.vm, vm.ram.memory());
        let threads = vm.threads();
        threads.run();
        let log = DirtyLog::start(kvm, &vm.ram).unwrap();
        let take = || log.take().unwrap().unwrap()[&VnodeId(0)];
        for round in 0..3 {
            memory.write_obj(1_u8, GuestAddress(0x20_0fff)).unwrap();
            memory.write_obj(1_u64, GuestAddress(0x30_0ffc)).unwrap();
            let (began, mut seen) = (Instant::now(), take());
            while seen.guest < PAGE {
                assert!(began.elapsed() < LONG, "round {round}: {seen:?}");
                let more = take();
                seen.guest = more.guest;
            }
            // The guest's page, which the device wrote too, and two that a write across their border dirtied.
            assert_eq!((seen.guest, seen.devices), (PAGE, Bytes(3 * PAGE.get())), "round {round}");
        }
        drop(log);
        memory.write_obj(1_u8, GuestAddress(0x40_0000)).unwrap();
        // The next one begins with nothing.
        threads.pause();
        while threads.running() > 0 {
            std::thread::yield_now();
        }
        let log = DirtyLog::start(kvm, &vm.ram).unwrap();
        assert_eq!(log.take().unwrap().unwrap()[&VnodeId(0)], Written::default());
        let ram = Arc::downgrade(&vm.ram);
        drop((threads, vm));
        assert!(ram.upgrade().is_none() && log.take().is_none(), "it keeps nothing of the VM");
    }
}
