//! Decides what one vnode's balloon is asked for, from what it shows and the time: a state machine without threads,
//! clocks or devices. Carrying it out is left to the balloons' thread.

use super::outcome::{Outcome, Phase, Stop};
use devices::virtio::balloon::{BalloonHandle, BalloonView, NotReady, Steering};
use std::time::Duration;

/// Most pages asked for ahead of what came, 64 MiB: a brake that costs no speed, since the driver reads its target
/// before each array of 1 MiB.
pub const WINDOW: u32 = 64 << 8;
/// Between two looks while a request is under way: the window lets 12 GiB/s through.
pub const LOOK: Duration = Duration::from_millis(5);
/// How long a driver may show nothing, or no progress. Linux tries again every 200 ms when it finds no page, and says so.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long one that has made progress may then say nothing at all: its CPU has to wait for one of the host's.
pub const SILENCE: Duration = Duration::from_secs(30);
/// How long a driver that came may take to read its target, which most do once by themselves. Those that never do are
/// asked then.
pub const START: Duration = Duration::from_secs(1);
/// From that look until the driver is asked for something. A Linux driver that is told of a target while it starts takes
/// pages on the CPU that loads it.
pub const SETTLE: Duration = Duration::from_millis(100);
/// First pause after the guest took pages back on its own, because it was out of memory; doubled each time.
pub const REST: Duration = Duration::from_secs(30);
/// Signs of life without a page in between that tell of a driver which finds none: Linux gives one every 200 ms. One or two
/// may be of its last pages, from a guest whose CPU has not run since.
const RETRIES: u64 = 5;
/// Longest such pause.
pub const REST_MOST: Duration = Duration::from_secs(16 * 60);

/// What the balloon is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Pages out in all.
    pub pages: u32,
    /// Without a page of another vnode.
    pub exact: bool,
}

/// What to ask of the balloon at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// As a balloon takes it.
    pub ask: Ask,
    /// One of several for a request: not if the device has turned the driver round since the look, as that step would
    /// send it on to other vnodes' pages.
    pub further: bool,
}

impl Step {
    /// One that holds whatever the driver did since the look.
    fn only(ask: Ask) -> Self {
        Self { ask, further: false }
    }

    /// Asks a balloon that was looked at as `seen`.
    pub fn take(self, handle: &BalloonHandle, seen: &BalloonView) -> Result<(), NotReady> {
        let Ask { pages, exact } = self.ask;
        if self.further { handle.ask_further(pages, exact, seen) } else { handle.ask(pages, exact) }
    }
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Run {
    since: Duration,
    /// Pages that were out at the first look.
    from: Option<u32>,
    /// Something was asked of the driver for it.
    asked: bool,
    /// The driver was asked anew, as it gave another vnode's pages before any of its own.
    again: bool,
    ready_at: Duration,
    held: u32,
    held_at: Duration,
    heard: u64,
    heard_at: Duration,
    /// What it was when the last page came or went.
    heard_when_held: u64,
    /// The driver showed a sign of life.
    alive: bool,
}

/// One vnode's controller.
#[derive(Debug)]
pub struct Controller {
    /// What is wanted until something else is.
    wanted: Ask,
    run: Option<Run>,
    phase: Phase,
    outcome: Option<Outcome>,
    epoch: u64,
    /// The driver has read its target.
    looked: bool,
    /// The driver does what it was asked before and nothing else.
    settled_at: Duration,
    rest: Duration,
    again_at: Option<Duration>,
    /// Since when a driver runs that cannot be interrupted, and which one: it may look for its target by itself.
    deaf: Option<(u64, Duration)>,
}

impl Controller {
    /// Nothing is wanted.
    pub fn new() -> Self {
        Self {
            wanted: Ask { pages: 0, exact: true },
            run: None,
            phase: Phase::Idle,
            outcome: None,
            epoch: 0,
            looked: false,
            settled_at: Duration::ZERO,
            rest: REST,
            again_at: None,
            deaf: None,
        }
    }

    /// This is wanted of the driver that comes: a guest that starts again had it so.
    pub fn hold(&mut self, ask: Ask) {
        self.wanted = ask;
    }

    /// From now on this is wanted; how the request ended whose place it takes, if that was under way.
    pub fn want(&mut self, now: Duration, view: &BalloonView, ask: Ask) -> Option<Outcome> {
        let replaced = self.run.map(|run| {
            let from = run.from.unwrap_or(view.held);
            self.result(view, Stop::Replaced, from, now.saturating_sub(run.since))
        });
        self.wanted = ask;
        self.rest = REST;
        self.begin(now);
        replaced
    }

    /// When to look again, at the latest, as of a look just now. If nothing is under way and nothing is due, only a change
    /// of the device calls for one.
    pub fn next_look(&self, now: Duration, view: &BalloonView) -> Option<Duration> {
        match self.run {
            Some(_) => Some(now.saturating_add(LOOK)),
            // Without a driver nothing is due before one comes.
            None if self.has_driver(now, view) => self.again_at,
            None => self.polls_at().filter(|_| self.wanted.pages > 0),
        }
    }

    /// Linux masks the interrupt for a moment while it moves it; from then on the driver is one that has none.
    fn polls_at(&self) -> Option<Duration> {
        self.deaf.map(|(_, since)| since.saturating_add(PATIENCE))
    }

    /// A driver is there that will find its target: as it is interrupted, or since it looks by itself.
    fn has_driver(&self, now: Duration, view: &BalloonView) -> bool {
        view.ready || self.polls_at().is_some_and(|at| now >= at)
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How the last request ended; `None` before the first and while one is under way.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Pages that are wanted.
    pub fn wanted(&self) -> Ask {
        self.wanted
    }

    fn begin(&mut self, now: Duration) {
        self.outcome = None;
        self.again_at = None;
        self.run = Some(Run {
            since: now,
            from: None,
            asked: false,
            again: false,
            ready_at: now,
            held: 0,
            held_at: now,
            heard: 0,
            heard_at: now,
            heard_when_held: 0,
            alive: false,
        });
    }

    /// Looks at the balloon; says what to ask of it, if anything.
    pub fn look(&mut self, now: Duration, view: &BalloonView) -> Option<Step> {
        self.deaf = match self.deaf {
            _ if view.ready || !view.active => None,
            Some((epoch, since)) if epoch == view.epoch => Some((epoch, since)),
            Some(_) | None => Some((view.epoch, now)),
        };
        let has_driver = self.has_driver(now, view);
        let new_driver = has_driver && view.epoch != self.epoch;
        if new_driver {
            (self.epoch, self.looked) = (view.epoch, false);
            self.settled_at = now + START;
        }
        if has_driver && view.target_read && !std::mem::replace(&mut self.looked, true) {
            self.settled_at = self.settled_at.min(now + SETTLE);
        }
        match self.run {
            Some(run) if new_driver => self.go_on(now, view, Run { asked: false, again: false, ..run }),
            Some(run) => self.go_on(now, view, run),
            None => self.stand_by(now, view, new_driver),
        }
    }

    /// No request is under way: the driver may be a new one, or have been drained.
    fn stand_by(&mut self, now: Duration, view: &BalloonView, new_driver: bool) -> Option<Step> {
        if !self.has_driver(now, view) {
            return None;
        }
        let due = self.again_at.is_some_and(|at| now >= at);
        if due || (new_driver && self.wanted.pages > 0) {
            self.begin(now);
            return None;
        }
        if view.held < view.asked && self.phase == Phase::Idle {
            // The guest needed it more. It does not inflate again before it is told to, nor shall the next interrupt
            // for another reason have it do so.
            self.again_at = Some(now + self.rest);
            self.rest = (self.rest * 2).min(REST_MOST);
            self.phase = Phase::Exhausted;
            self.outcome = Some(self.result(view, Stop::Drained, view.asked, Duration::ZERO));
            return Some(Step::only(Ask { pages: view.held, ..self.wanted }));
        }
        None
    }

    fn go_on(&mut self, now: Duration, view: &BalloonView, mut run: Run) -> Option<Step> {
        run.from.get_or_insert(view.held);
        if !self.has_driver(now, view) {
            self.run = Some(run);
            // One that cannot be interrupted is asked before long.
            if !view.active && now.saturating_sub(run.ready_at) >= PATIENCE {
                self.finish(now, view, Stop::NoDriver);
            }
            return None;
        }
        run.ready_at = now;
        if !run.asked && now < self.settled_at {
            self.run = Some(run);
            return None;
        }
        // The driver waits for its array while the host lets go what it brought.
        if view.held != run.held || view.letting_go > 0 || !run.asked {
            (run.held, run.held_at, run.heard_when_held) = (view.held, now, view.heard);
        }
        if view.heard != run.heard || !run.asked {
            run.alive |= run.asked;
            (run.heard, run.heard_at) = (view.heard, now);
        }
        self.run = Some(run);
        let wanted = self.wanted.pages;
        let dry = view.dry.filter(|_| run.asked && self.wanted.exact);
        let goal = dry.map_or(wanted, |dry| dry.min(wanted));
        if view.held == goal && view.letting_go == 0 && (run.asked || view.asked == goal) {
            if dry.is_some() && !run.again && run.from.is_some_and(|from| view.held <= from) {
                // It may have worked elsewhere: as it started, or since its interrupt moved. Its work has to end first.
                self.run = Some(Run { asked: false, again: true, ..run });
                self.settled_at = now + SETTLE;
                return None;
            }
            let stop = if dry.is_some() { Stop::Dry } else { Stop::Reached };
            self.finish(now, view, stop);
            return None;
        }
        if view.held < goal
            && let Steering::OffNode(apic_id) = view.steering
        {
            self.finish(now, view, Stop::OffNode(apic_id));
            return self.freeze(view);
        }
        self.phase = if view.held < goal { Phase::Inflating } else { Phase::Deflating };
        let (stuck, silent) = (now.saturating_sub(run.held_at), now.saturating_sub(run.heard_at));
        let retries = view.heard.saturating_sub(run.heard_when_held);
        let given_up = match run.alive {
            _ if stuck < PATIENCE => None,
            _ if view.owing => Some(Stop::HostShort),
            true if silent < PATIENCE && retries >= RETRIES => Some(Stop::Exhausted),
            // A driver that looks by itself does so when it likes.
            alive if (alive || !view.ready) && silent < SILENCE => None,
            _ => Some(Stop::Unresponsive),
        };
        if let Some(stop) = given_up {
            self.finish(now, view, stop);
            // Nobody looks any more when it goes on.
            return if stop == Stop::HostShort { Some(Step::only(self.wanted)) } else { self.freeze(view) };
        }
        if dry.is_some() {
            // The device has turned the driver round by itself.
            return None;
        }
        self.step(view, wanted)
    }

    /// The next target on the way, if it is time for another.
    fn step(&mut self, view: &BalloonView, wanted: u32) -> Option<Step> {
        // One that looks by itself would take no more than a window each time.
        let window = if view.ready { WINDOW } else { u32::MAX };
        let pages = if view.held < wanted {
            view.held.saturating_add(window).min(wanted)
        } else {
            view.held.saturating_sub(window).max(wanted)
        };
        let run = self.run.as_mut()?;
        let far = pages.abs_diff(view.asked) >= WINDOW / 4;
        if !run.asked || far || (pages == wanted && view.asked != wanted) {
            let further = std::mem::replace(&mut run.asked, true);
            return Some(Step { ask: Ask { pages, ..self.wanted }, further });
        }
        None
    }

    /// What did not come is not wanted any more, lest it come when nobody looks.
    fn freeze(&self, view: &BalloonView) -> Option<Step> {
        (view.asked > view.held).then(|| Step::only(Ask { pages: view.held, ..self.wanted }))
    }

    fn finish(&mut self, now: Duration, view: &BalloonView, stop: Stop) {
        let run = self.run.take();
        let took = run.map_or(Duration::ZERO, |run| now.saturating_sub(run.since));
        let from = run.and_then(|run| run.from).unwrap_or(view.held);
        self.phase = match stop {
            Stop::Reached
            | Stop::HostShort
            | Stop::Replaced
            | Stop::WholePages
            | Stop::NoDriver
            | Stop::OffNode(_) => Phase::Idle,
            Stop::Dry | Stop::Exhausted | Stop::Drained => Phase::Exhausted,
            Stop::Unresponsive => Phase::Unresponsive,
        };
        self.outcome = Some(self.result(view, stop, from, took));
        match stop {
            Stop::Reached => self.rest = REST,
            // The next driver begins where this one should have come to; one that waits goes on by itself.
            Stop::HostShort | Stop::Replaced | Stop::WholePages | Stop::NoDriver | Stop::Drained => {}
            // What was had is kept, and no more is asked for.
            Stop::Dry | Stop::Exhausted | Stop::Unresponsive | Stop::OffNode(_) => {
                self.wanted.pages = view.held;
            }
        }
    }

    fn result(&self, view: &BalloonView, stop: Stop, from: u32, took: Duration) -> Outcome {
        let wanted = self.wanted;
        Outcome {
            from,
            wanted: wanted.pages,
            exact: wanted.exact,
            reached: view.held,
            off_node: view.off_node,
            stop,
            took,
        }
    }
}
