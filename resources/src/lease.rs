//! Memory of one vnode that is released from its claim while its balloon holds the pages: how much may be released,
//! and how much has to be claimed again before the guest gets pages back. `vmm` makes the claims.

use crate::host::HostTopology;
use crate::ids::PnodeId;
use crate::ledger::Ledger;
use crate::placement::room::Room;
use crate::reclaim::BALLOON_PAGE;
use crate::topology::Vnode;
use crate::units::Bytes;

/// What a vnode can use is its memory less `out` less `unbooted`; what is claimed for it is its memory less `released`.
/// So `released <= out + unbooted`: what the guest can use is claimed. Only a driver that is [reset](Self::forget) with pages
/// out has it otherwise; what is [owed](Self::owed) then is claimed as soon as there is room, and until then somebody sees
/// to it that the guest does not use it.
///
/// A release lowers the lease first and the claim after it; a claim grows first and the lease learns of it after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    released: Bytes,
    out: Bytes,
    unbooted: Bytes,
    wanted: Bytes,
}

impl Lease {
    /// Of a vnode that boots: so much of its memory is released, and so much of it was left out of the memory map.
    pub fn new(released: Bytes, unbooted: Bytes) -> Self {
        Self { released, unbooted, ..Self::default() }
    }

    /// What its claim was lowered by.
    pub fn released(&self) -> Bytes {
        self.released
    }

    /// What has to be claimed again before the guest goes on; zero while it does not wait.
    pub fn wanted(&self) -> Bytes {
        self.wanted.max(self.owed())
    }

    /// What the guest could use though it is not claimed.
    pub fn owed(&self) -> Bytes {
        self.released.saturating_sub(self.out.saturating_add(self.unbooted))
    }

    /// The driver is gone, and nobody waits: all that was out is the guest's again, claimed or not.
    pub fn forget(&mut self) {
        (self.out, self.wanted) = (Bytes::ZERO, Bytes::ZERO);
    }

    /// The guest gave pages, and the host has their memory.
    pub fn came_out(&mut self, bytes: Bytes) {
        self.out = self.out.saturating_add(bytes);
    }

    /// The guest wants pages back: true if it may have them now. If not it waits, and asks for the same again.
    pub fn go_back(&mut self, bytes: Bytes) -> bool {
        let rest = self.out.saturating_sub(bytes);
        self.wanted = self.released.saturating_sub(rest.saturating_add(self.unbooted));
        if self.wanted > Bytes::ZERO {
            return false;
        }
        self.out = rest;
        true
    }

    /// The driver is gone, and all pages are the guest's again: true if it may have them now.
    pub fn all_back(&mut self) -> bool {
        self.go_back(self.out)
    }

    /// How much more may be released: nothing while the guest waits to have pages back.
    pub fn releasable(&self) -> Bytes {
        if self.wanted() > Bytes::ZERO {
            return Bytes::ZERO;
        }
        self.out.saturating_add(self.unbooted).saturating_sub(self.released)
    }

    /// Releases as much of `most` as may be; the claim is to be lowered by that much now, and not before.
    pub fn release(&mut self, most: Bytes) -> Bytes {
        let bytes = most.min(self.releasable());
        self.released = self.released.saturating_add(bytes);
        bytes
    }

    /// So much is claimed again: the claim has grown already.
    pub fn claimed(&mut self, bytes: Bytes) {
        self.released = self.released.saturating_sub(bytes);
        self.wanted = self.wanted.saturating_sub(bytes);
    }
}

/// How much of a vnode's released memory a pnode has room for again, at most `most`, in pages of the vnode's pool if it
/// has one. `ledger` holds all claims, this VM's own included.
pub fn room_for(vnode: &Vnode, pnode: PnodeId, host: &HostTopology, ledger: &Ledger, most: Bytes) -> Bytes {
    let room = Room::new(host, ledger);
    match vnode.pages.pool() {
        None => Bytes(room.memory(pnode).min(most).get() / BALLOON_PAGE.get() * BALLOON_PAGE.get()),
        Some(size) => {
            let pages = room.huge_pages(pnode, size).min(most.get() / size.get());
            Bytes(pages.saturating_mul(size.get()))
        }
    }
}

#[cfg(test)]
mod tests;
