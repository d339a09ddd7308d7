//! The leases of a VM's vnodes, where devices, orders by pnode and the thread that claims memory back meet. What a lease
//! allows is decided in `resources`; the claim itself is `placement`'s.

use resources::lease::Lease;
use resources::{Bytes, VnodeId};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The leases, by vnode. Shared; each is locked for moments only.
#[derive(Debug, Default)]
pub struct Leases {
    all: Vec<Mutex<Lease>>,
    none: Mutex<Lease>,
    bell: Mutex<Bell>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct Bell {
    rung: bool,
    /// A driver went with pages out that are not claimed.
    owed: bool,
    over: bool,
}

impl Leases {
    /// As vnodes boot, by id.
    pub fn new(leases: impl IntoIterator<Item = Lease>) -> Self {
        Self { all: leases.into_iter().map(Mutex::new).collect(), ..Self::default() }
    }

    /// A vnode's; that of one without is always empty.
    pub fn of(&self, vnode: VnodeId) -> MutexGuard<'_, Lease> {
        self.all.get(vnode.index()).unwrap_or(&self.none).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest wants pages of a vnode back: true if it may have them now. If not, they are claimed, and then it may.
    pub fn go_back(&self, vnode: VnodeId, bytes: Bytes) -> bool {
        let may = self.of(vnode).go_back(bytes);
        self.ring_unless(may)
    }

    /// The same for all that its balloon holds.
    pub fn all_back(&self, vnode: VnodeId) -> bool {
        let may = self.of(vnode).all_back();
        self.ring_unless(may)
    }

    /// Its driver is gone, and nobody waits for what has to be claimed again.
    pub fn forget(&self, vnode: VnodeId) {
        let owed = {
            let mut lease = self.of(vnode);
            lease.forget();
            lease.owed()
        };
        if owed > Bytes::ZERO {
            let mut bell = self.bell();
            (bell.rung, bell.owed) = (true, true);
            self.rung.notify_all();
        }
    }

    fn ring_unless(&self, may: bool) -> bool {
        if !may {
            self.bell().rung = true;
            self.rung.notify_all();
        }
        may
    }

    /// Waits until a guest wants something that is not claimed, or until then; false when it is over.
    pub fn wait(&self, until: Option<Instant>) -> bool {
        self.wait_for(until, |bell| &mut bell.rung)
    }

    /// Waits until something is owed, or until then; false when it is over.
    pub fn wait_owed(&self, until: Option<Instant>) -> bool {
        self.wait_for(until, |bell| &mut bell.owed)
    }

    fn wait_for(&self, until: Option<Instant>, what: fn(&mut Bell) -> &mut bool) -> bool {
        let bell = self.bell();
        let quiet = |bell: &mut Bell| !*what(bell) && !bell.over;
        let mut bell = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => self.rung.wait_while(bell, quiet).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                self.rung.wait_timeout_while(bell, time, quiet).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *what(&mut bell) = false;
        !bell.over
    }

    /// Nobody waits any more.
    pub fn end(&self) {
        self.bell().over = true;
        self.rung.notify_all();
    }

    fn bell(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
