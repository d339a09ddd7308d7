//! The handle of a balloon: look at it, and ask for pages. What to ask for is decided by whoever has it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::counters::BalloonCounters;
use super::state::State;
use super::view::{BalloonView, Steering};
use crate::interrupt::MsiMessage;
use crate::virtio::VirtioInterrupt;
use crate::{Figure, Figures};

/// Why a balloon cannot be asked for more pages now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotReady {
    /// Before DRIVER_OK; for hints, while the configuration interrupt has no unmasked vector too.
    #[error("the guest has no usable balloon driver")]
    NoDriver,
    /// The pages would come from another vnode.
    #[error("the balloon's interrupt is on APIC ID {0}, which is not a vCPU of the vnode")]
    OffNode(u32),
    /// It was asked as of a look at the balloon before this.
    #[error("the driver is being rolled back, as the vnode has no more free pages")]
    TurnedRound,
}

/// What device, worker and controller share. Locked for moments only.
pub(super) struct Shared {
    pub counters: Arc<BalloonCounters>,
    state: Mutex<State>,
    interrupt: Mutex<Option<Arc<dyn VirtioInterrupt>>>,
    /// Has the worker ask the guest for its figures.
    pub refresh: EventFd,
    /// Has the worker look whether the host has memory now that it owed the guest.
    pub retry: EventFd,
    changed: OnceLock<Arc<dyn Fn() + Send + Sync>>,
}

impl Shared {
    pub fn new(state: State, refresh: EventFd, retry: EventFd) -> Self {
        let counters = Arc::clone(&state.counters);
        let (state, interrupt, changed) = (Mutex::new(state), Mutex::new(None), OnceLock::new());
        Self { counters, state, interrupt, refresh, retry, changed }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn connect(&self, interrupt: Option<Arc<dyn VirtioInterrupt>>) {
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }

    /// Has the driver read its target. Without it a driver that has finished sleeps on.
    pub fn tell(&self) {
        let interrupt = self.interrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(interrupt) = interrupt {
            // A host that cannot interrupt was reported by the transport; the controller sees that nothing comes.
            let _ = interrupt.config_changed();
        }
    }

    pub fn steer(&self, message: Option<MsiMessage>) {
        let tell = self.state().steer(message);
        if tell {
            self.tell();
        }
        self.changed();
    }

    /// Something changed that nobody asked for.
    pub fn changed(&self) {
        if let Some(changed) = self.changed.get() {
            changed();
        }
    }
}

/// Looks at a balloon and asks it for pages. Cheap to clone; outlives the device.
#[derive(Clone)]
pub struct BalloonHandle {
    pub(super) shared: Arc<Shared>,
}

impl Figures for BalloonHandle {
    fn figures(&self) -> Vec<Figure> {
        self.shared.counters.with_faults()
    }
}

impl BalloonHandle {
    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> &BalloonCounters {
        &self.shared.counters
    }

    /// The current status.
    #[must_use]
    pub fn view(&self) -> BalloonView {
        self.shared.state().view()
    }

    /// From now on `changed` is called whenever the balloon changes in a way that nobody asked for: a driver comes or
    /// goes, its interrupt goes elsewhere, it takes pages back that it should not. By vCPU threads and with the device
    /// locked, so it must return at once and look at nothing; as often as the guest likes. The first call counts.
    pub fn on_change(&self, changed: Arc<dyn Fn() + Send + Sync>) {
        let _ = self.shared.changed.set(changed);
    }

    /// Asks the guest to hold out `pages` pages in all. With `exact`, the first page of another vnode turns the driver
    /// round before it learns that its buffer was used, and [`BalloonView::dry`] says where.
    ///
    /// # Errors
    /// There is no driver; more than it holds out now can be asked only of one that will take it from the vnode, or whose
    /// steering is not known. A driver that cannot be interrupted finds its target when it looks.
    pub fn ask(&self, pages: u32, exact: bool) -> Result<(), NotReady> {
        self.ask_of(pages, exact, |_| true)
    }

    /// As [`ask`](Self::ask), on the way to a number of pages: not if the driver was turned round since it was `seen`.
    ///
    /// # Errors
    /// As there, or it was turned round.
    pub fn ask_further(&self, pages: u32, exact: bool, seen: &BalloonView) -> Result<(), NotReady> {
        self.ask_of(pages, exact, |state| state.counters.rollbacks.get() == seen.rollbacks)
    }

    fn ask_of(&self, pages: u32, exact: bool, may: impl Fn(&State) -> bool) -> Result<(), NotReady> {
        {
            let mut state = self.shared.state();
            if !may(&state) {
                return Err(NotReady::TurnedRound);
            }
            if !state.active() {
                return Err(NotReady::NoDriver);
            }
            match state.steering() {
                Steering::OffNode(apic_id) if pages > state.view().held => {
                    return Err(NotReady::OffNode(apic_id));
                }
                Steering::NoInterrupt | Steering::OnNode | Steering::OffNode(_) | Steering::Unknown => {}
            }
            state.ask(pages, exact);
        }
        self.shared.tell();
        Ok(())
    }

    /// Has the guest say what it has free; the host hears of it, and [`BalloonView::hints`] grows when it was all. Until
    /// then, or until [`end_hints`](Self::end_hints), the guest holds all that it hinted.
    ///
    /// # Errors
    /// There is no driver that can be interrupted, or it does not hint.
    pub fn begin_hints(&self) -> Result<(), NotReady> {
        {
            let mut state = self.shared.state();
            if !state.ready() || !state.hint(true) {
                return Err(NotReady::NoDriver);
            }
        }
        self.shared.tell();
        Ok(())
    }

    /// Lets the guest have again what it hinted.
    pub fn end_hints(&self) {
        self.shared.state().hint(false);
        self.shared.tell();
    }

    /// The host has memory that it owed the guest: what waits for it is tried again at once.
    pub fn retry(&self) {
        // Cannot block: the counter would have to be at 2^64 - 2.
        let _ = self.shared.retry.write(1);
    }

    /// Asks the guest for its own figures; [`BalloonView::guest`] has them soon after, if this device asks at all.
    pub fn refresh(&self) {
        // Cannot block: the counter would have to be at 2^64 - 2.
        let _ = self.shared.refresh.write(1);
    }
}
