//! What a balloon knows and what it makes of each array of pages, without queues or threads. The order that matters is
//! here: an array is judged before its buffer is used, so that `exact` can turn the driver round in time.

mod saved;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::PAGE_BYTES;
use super::counters::BalloonCounters;
use super::hints::Hints;
use super::host::{BalloonHost, PagePlace};
use super::stack::{Removed, Stack};
use super::stats::GuestStats;
use super::view::{BalloonView, Steering};
use crate::interrupt::MsiMessage;

pub use saved::{BalloonDriverState, BalloonState, PagesOut};

/// Bit 2 of a message address: the destination is logical, no APIC ID (Intel SDM volume 3, "Message Address Register
/// Format").
const LOGICAL: u64 = 1 << 2;
/// Linux brings no more than an array of them before it turns round; a driver that goes on brings them in vain.
const MAX_MISPLACED: usize = 4096;

/// Bit 4: the message is in the remappable format.
const REMAPPABLE: u64 = 1 << 4;

/// What has to be done about an array before its buffer is used.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Pages whose memory goes to the host, or back to the guest.
    pub pages: Vec<u32>,
    /// The configuration changed.
    pub interrupt: bool,
    /// As many pages are out as were asked for.
    pub settled: bool,
    /// Fewer pages are out than were asked for: the guest took some back on its own.
    pub drained: bool,
}

/// The state of one balloon.
#[derive(Default)]
pub(super) struct State {
    /// APIC IDs of the vnode's CPUs.
    apic_ids: Vec<u32>,
    message: Option<MsiMessage>,
    active: bool,
    target_read: bool,
    epoch: u64,
    exact: bool,
    heard: u64,
    asked: u32,
    /// The most that was asked for since the driver's last array: it may act on an older value.
    asked_most: u32,
    actual: u32,
    stack: Stack,
    off_node: u32,
    /// Pages of the last array, until the host has let their memory go.
    letting_go: u32,
    dry: Option<u32>,
    /// Pages of other vnodes that were out before the array that turned the driver round.
    off_node_before: u32,
    /// Pages of other vnodes that came while none was wanted, the first [`MAX_MISPLACED`] of them.
    misplaced: BTreeSet<u32>,
    /// The driver waits for memory that the host does not have.
    pub owing: bool,
    /// What the driver says its free pages are filled with.
    pub poison: u32,
    /// It fills them (PAGE_POISON).
    poisons: bool,
    pub hints: Hints,
    pub counters: Arc<BalloonCounters>,
    pub guest: GuestStats,
}

impl State {
    pub fn new(apic_ids: Vec<u32>, counters: Arc<BalloonCounters>) -> Self {
        Self { apic_ids, counters, ..Self::default() }
    }

    /// `num_pages`, `actual` and `poison_val`.
    pub fn config(&self) -> (u32, u32, u32) {
        (self.asked, self.actual, self.poison)
    }

    /// Free pages of the guest are to keep what it filled them with, unless that is zeros.
    pub fn is_poisoned(&self) -> bool {
        self.poisons && self.poison != 0
    }

    /// The driver reads `num_pages`.
    pub fn read_target(&mut self) {
        self.target_read |= self.active;
    }

    pub fn set_actual(&mut self, actual: u32) {
        self.actual = actual;
        self.heard += 1;
    }

    pub fn steering(&self) -> Steering {
        match self.message {
            None => Steering::NoInterrupt,
            Some(message) if message.address & (LOGICAL | REMAPPABLE) != 0 => Steering::Unknown,
            Some(message) if self.apic_ids.contains(&message.destination()) => Steering::OnNode,
            Some(message) => Steering::OffNode(message.destination()),
        }
    }

    pub fn active(&self) -> bool {
        self.active
    }

    pub fn ready(&self) -> bool {
        self.active && self.message.is_some()
    }

    /// The interrupt goes elsewhere now. Away from the vnode: what is not yet taken is not taken. True if the driver
    /// has to be told.
    pub fn steer(&mut self, message: Option<MsiMessage>) -> bool {
        self.message = message;
        matches!(self.steering(), Steering::OffNode(_)) && self.active && self.lower(self.stack.len())
    }

    /// A driver came.
    pub fn begin(&mut self, hints: bool, poisons: bool) {
        // Written before DRIVER_OK.
        let poison = self.poison;
        self.clear();
        (self.poison, self.poisons) = (poison, poisons);
        self.hints = Hints::new(hints, self.hints.rounds());
        self.epoch += 1;
        self.active = true;
    }

    /// The driver is gone, and with it all that it gave.
    pub fn end(&mut self) {
        self.clear();
    }

    fn clear(&mut self) {
        let Self { apic_ids, message, epoch, counters, hints, .. } = std::mem::take(self);
        let hints = Hints::new(false, hints.rounds());
        *self = Self { apic_ids, message, epoch, counters, hints, ..Self::default() };
    }

    /// Asks for as many pages. The caller has seen that this may be asked.
    pub fn ask(&mut self, pages: u32, exact: bool) {
        self.asked_most = self.asked_most.max(self.asked).max(pages);
        self.asked = pages;
        self.exact = exact;
        self.dry = None;
        if !exact {
            self.misplaced.clear();
        }
    }

    /// Has the driver hint what is free, or end that; false if it cannot.
    pub fn hint(&mut self, begin: bool) -> bool {
        if begin {
            return self.hints.begin();
        }
        self.hints.end();
        true
    }

    /// Pages that the guest gives.
    pub fn inflate(&mut self, pfns: &[u32], host: &dyn BalloonHost) -> Verdict {
        self.counters.inflate_arrays.one();
        self.heard += 1;
        let (before, off_node_before) = (self.stack.len(), self.off_node);
        // A driver that has given all it was asked for and gives one more is moving a page (compaction): the old one
        // comes back next.
        let moving = pfns.len() == 1 && before >= self.asked;
        if !moving && before >= self.asked_most {
            self.counters.unasked.add(count(pfns.len()));
        }
        self.asked_most = self.asked;
        let (mut new, mut first_off) = (Vec::with_capacity(pfns.len()), None);
        for pfn in pfns.iter().copied() {
            let place = host.place(pfn);
            if place == PagePlace::Outside {
                self.counters.outside.one();
                continue;
            }
            if !self.stack.push(pfn) {
                self.counters.duplicates.one();
                continue;
            }
            if place == PagePlace::OffNode {
                self.off_node += 1;
                if self.exact && self.misplaced.len() < MAX_MISPLACED {
                    self.misplaced.insert(pfn);
                }
                self.counters.inflated_off_node_bytes.add(PAGE_BYTES);
                first_off.get_or_insert(new.len());
            }
            new.push(pfn);
        }
        let rollback = first_off.filter(|_| self.exact && !moving);
        let mut interrupt = false;
        if let Some(first_off) = rollback {
            // What lies above goes back with it: the driver knows no other order.
            self.off_node_before = off_node_before;
            interrupt = self.roll_back(before.saturating_add(small(first_off)));
            new.drain(first_off..).for_each(|pfn| self.stack.keep(pfn));
        }
        self.counters.inflated_bytes.add(count(new.len()) * PAGE_BYTES);
        self.letting_go = small(new.len());
        let settled = !moving && rollback.is_none() && self.stack.len() >= self.asked;
        Verdict { pages: new, interrupt, settled, drained: false }
    }

    /// The host has let go what the last array brought.
    pub fn let_go(&mut self) {
        self.letting_go = 0;
    }

    /// Pages that the guest takes back.
    pub fn deflate(&mut self, pfns: &[u32], host: &dyn BalloonHost) -> Verdict {
        self.counters.deflate_arrays.one();
        self.heard += 1;
        let (mut back, mut migrated, mut drained) = (Vec::with_capacity(pfns.len()), false, 0);
        for pfn in pfns.iter().copied() {
            let unasked = self.stack.len() <= self.asked;
            let kept = self.stack.is_kept(pfn);
            match self.stack.remove(pfn) {
                Removed::Absent => {
                    self.counters.unknown.one();
                    continue;
                }
                Removed::Deeper if pfns.len() == 1 => {
                    self.counters.migrations.one();
                    migrated = true;
                }
                Removed::Deeper => self.counters.out_of_order.one(),
                Removed::Top if unasked => drained += 1,
                Removed::Top => {}
            }
            self.counters.deflated_bytes.add(PAGE_BYTES);
            self.misplaced.remove(&pfn);
            if host.place(pfn) == PagePlace::OffNode {
                self.off_node -= 1;
            }
            if !kept {
                back.push(pfn);
            }
        }
        self.counters.drained_bytes.add(drained * PAGE_BYTES);
        // The page that came in a migration's place is on top; if it is another vnode's it goes back too. One that came
        // while a driver went back has left a page of another vnode beneath; one that was sent on has left an array of them.
        let off = match self.dry {
            _ if !self.exact => 0,
            _ if migrated => self.off_node_on_top(host),
            Some(dry) if self.stack.len() == dry => {
                let on_top =
                    self.off_node_on_top(host).min(self.off_node.saturating_sub(self.off_node_before));
                on_top.max(self.above_misplaced())
            }
            _ => 0,
        };
        let interrupt = off > 0 && self.roll_back(self.stack.len() - off);
        Verdict { pages: back, interrupt, settled: false, drained: self.stack.len() < self.asked }
    }

    fn off_node_on_top(&self, host: &dyn BalloonHost) -> u32 {
        small(self.stack.downwards().take_while(|pfn| host.place(*pfn) == PagePlace::OffNode).count())
    }

    /// Pages from the lowest that is misplaced to the top.
    fn above_misplaced(&self) -> u32 {
        if self.misplaced.is_empty() {
            return 0;
        }
        let below = self.stack.upwards().take_while(|pfn| !self.misplaced.contains(pfn)).count();
        self.stack.len().saturating_sub(small(below))
    }

    /// Turns the driver round at `pages`, or earlier if it goes back farther already.
    fn roll_back(&mut self, pages: u32) -> bool {
        self.counters.rollbacks.one();
        self.dry = Some(self.dry.map_or(pages, |dry| dry.min(pages)));
        self.lower(pages)
    }

    fn lower(&mut self, pages: u32) -> bool {
        if pages >= self.asked {
            return false;
        }
        self.asked_most = self.asked_most.max(self.asked);
        self.asked = pages;
        true
    }

    pub fn view(&self) -> BalloonView {
        let held = self.stack.len();
        BalloonView {
            epoch: self.epoch,
            active: self.active,
            ready: self.ready(),
            target_read: self.target_read,
            steering: self.steering(),
            heard: self.heard,
            asked: self.asked,
            actual: self.actual,
            held,
            off_node: self.off_node,
            returned: (held - self.stack.kept()).saturating_sub(self.letting_go),
            letting_go: self.letting_go,
            dry: self.dry,
            owing: self.owing,
            rollbacks: self.counters.rollbacks.get(),
            migrations: self.counters.migrations.get(),
            hints: self.hints.rounds(),
            guest: self.guest.clone(),
        }
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
