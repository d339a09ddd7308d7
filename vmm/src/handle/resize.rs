//! A disk's length, asked of its storage and changed there: in a thread for that, since storage may hang. What the guest is
//! told is the block device's business.

use super::request::{Outcome, Reply, request};
use super::{RequestError, VmHandle};
use crate::sys::HostError;
use devices::virtio::blk::BlkHandle;
use resources::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// A disk whose length one at a time may change.
#[derive(Clone)]
pub(crate) struct DiskSize {
    disk: BlkHandle,
    busy: Arc<AtomicBool>,
}

/// A resize is under way until this is dropped.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl DiskSize {
    /// No resize is under way yet.
    pub fn new(disk: BlkHandle) -> Self {
        Self { disk, busy: Arc::default() }
    }

    fn turn(&self) -> Option<Turn> {
        (!self.busy.swap(true, Ordering::AcqRel)).then(|| Turn(Arc::clone(&self.busy)))
    }

    /// The length as the guest knows it now; nothing if the request was given up before anything was changed.
    fn resize(&self, size: Option<Bytes>, reply: &Reply<Bytes>) {
        let resized = self.disk.resize(size.map(Bytes::get), || reply.take());
        if let Some(length) = resized.transpose() {
            reply.send(length.map(Bytes).map_err(RequestError::Disk));
        }
    }
}

impl VmHandle {
    /// Tells the guest the length that a disk has now; with `size` it is made so long first, and never shorter.
    ///
    /// # Errors
    /// [`RequestError::NoAnswer`] if the storage hangs and nothing was done nor will be, [`RequestError::StorageHangs`] if
    /// it hangs while the disk grows.
    pub fn resize_disk(&self, index: usize, size: Option<Bytes>) -> Result<Bytes, RequestError> {
        let disk = {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            let link = link.as_ref().ok_or_else(|| self.not_running())?;
            link.disks.get(index).ok_or(RequestError::NoSuchDisk(index))?.clone()
        };
        let length = resize(disk, index, size, self.patience)?;
        tracing::info!(disk = index, bytes = length.get(), "guest notified of new disk size");
        Ok(length)
    }
}

fn resize(
    disk: DiskSize,
    index: usize,
    size: Option<Bytes>,
    patience: Duration,
) -> Result<Bytes, RequestError> {
    let turn = disk.turn().ok_or(RequestError::Resizing(index))?;
    let (reply, waiter) = request();
    let body = move || {
        disk.resize(size, &reply);
        drop(turn);
    };
    std::thread::Builder::new()
        .name(format!("resize{index}"))
        .spawn(body)
        .map_err(|error| HostError::new("clone", error).of(format!("disk {index}")))?;
    match waiter.wait(patience) {
        Outcome::Answered(length) => length,
        Outcome::GivenUp => Err(RequestError::NoAnswer),
        Outcome::Taken(_) | Outcome::Gone => Err(RequestError::StorageHangs(index)),
    }
}

#[cfg(test)]
mod tests {
    use super::{DiskSize, resize};
    use crate::handle::RequestError;
    use devices::virtio::blk::{Blk, BlkOptions, Disk, DiskBackend, DiskEngine, DiskShape};
    use resources::Bytes;
    use std::io;
    use std::sync::{Arc, Condvar, Mutex};
    use std::time::Duration;

    /// Storage that hangs when it is told to, and what was done to it.
    #[derive(Default)]
    struct Storage {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        hangs: bool,
        hung: bool,
        length: u64,
        grown: u32,
    }

    impl Storage {
        fn answer<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
            let mut state = self.state.lock().unwrap();
            while state.hangs {
                state.hung = true;
                self.changed.notify_all();
                state = self.changed.wait(state).unwrap();
            }
            act(&mut state)
        }

        fn hang(&self, hangs: bool) {
            let mut state = self.state.lock().unwrap();
            (state.hangs, state.hung) = (hangs, false);
            self.changed.notify_all();
        }
    }

    impl Disk for Storage {
        fn shape(&self) -> DiskShape {
            DiskShape {
                read_only: false,
                logical_block: 512,
                physical_block: 512,
                alignment: 0,
                minimum_io: 0,
                optimal_io: 0,
                discard: None,
            }
        }

        fn length(&self) -> io::Result<u64> {
            Ok(self.answer(|state| state.length))
        }

        fn name(&self) -> String {
            "storage".to_owned()
        }

        fn grow(&self, length: u64) -> io::Result<()> {
            self.answer(|state| (state.length, state.grown) = (length, state.grown + 1));
            Ok(())
        }
    }

    impl DiskBackend<crate::pci::GuestMemory> for Storage {
        fn engine(&self, _: &crate::pci::GuestMemory, _: u16) -> Box<dyn DiskEngine> {
            unreachable!("the disk is never active")
        }
    }

    #[test]
    fn storage_that_hangs_is_not_waited_for_and_a_resize_that_was_given_up_is_not_done() {
        let storage = Arc::new(Storage::default());
        let blk = Blk::<crate::pci::GuestMemory>::new(Arc::<Storage>::clone(&storage), BlkOptions::default());
        let disk = DiskSize::new(blk.unwrap().handle());
        let wanted = Some(Bytes(4096));
        storage.hang(true);
        let given_up = resize(disk.clone(), 0, wanted, Duration::from_millis(1));
        assert!(matches!(given_up, Err(RequestError::NoAnswer)), "{given_up:?}");
        let second = resize(disk.clone(), 0, wanted, Duration::from_secs(60));
        assert!(matches!(second, Err(RequestError::Resizing(0))), "{second:?}");
        storage.hang(false);
        while disk.busy.load(std::sync::atomic::Ordering::Acquire) {
            std::thread::yield_now();
        }
        assert_eq!(storage.state.lock().unwrap().grown, 0);
        let third = resize(disk.clone(), 0, wanted, Duration::from_secs(60));
        assert_eq!(third.unwrap(), Bytes(4096));
        assert_eq!(storage.state.lock().unwrap().grown, 1);
    }
}
