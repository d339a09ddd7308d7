//! Controller and device against a model of the Linux driver, under a clock that is an argument.

mod drivers;
mod keeper;
mod linux;

use super::clock::Clock;
use super::controller::{Ask, Controller};
use super::{Entry, Outcome, Phase, Stop, Tell, VnodeMemory};
use devices::virtio::balloon::BalloonView;
use linux::{ARRAY, Linux, Node};
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// The controller looks every 5 ms, as its keeper has it.
const LOOK: u32 = 5;

struct World {
    now: Duration,
    linux: Linux,
    controller: Controller,
    asks: Vec<u32>,
    /// Arrays of the driver between a look and what is asked after it.
    between: u32,
}

/// Node 0 has `free` pages above its watermark, node 1 20,000.
fn world(free: u32) -> World {
    let linux = Linux::new(vec![Node::new(0, free + 1000, 1000), Node::new(1, 21_000, 1000)]);
    World { now: Duration::ZERO, linux, controller: Controller::new(), asks: Vec::new(), between: 0 }
}

impl World {
    fn loaded(free: u32) -> Self {
        let mut world = world(free);
        world.linux.load(1);
        world.pass_all(MS * 200);
        world
    }

    fn want(&mut self, pages: u32, exact: bool) {
        let view = self.linux.handle.view();
        self.controller.want(self.now, &view, Ask { pages, exact });
    }

    /// Passes a millisecond: the driver works, the controller looks now and then, the books are audited.
    fn pass(&mut self) {
        self.now += MS;
        (0..4).for_each(|_| self.linux.run(self.now));
        let looks = self.now.as_millis().is_multiple_of(u128::from(LOOK));
        if looks {
            self.look();
        }
        let (view, taken) = (self.linux.handle.view(), self.linux.host.taken.lock().unwrap().len());
        assert_eq!(usize::try_from(view.held).unwrap(), self.linux.len());
        // A host that has no memory to give has what the guest waits with.
        let waits = if view.owing { ARRAY } else { 0 };
        assert_eq!(usize::try_from(view.returned).unwrap() + waits, taken);
    }

    /// Looks, and carries out what the controller says, while the driver gives arrays.
    fn look(&mut self) {
        let view = self.linux.handle.view();
        if let Some(step) = self.controller.look(self.now, &view) {
            self.asks.push(step.ask.pages);
            (0..self.between).for_each(|_| self.linux.run(self.now));
            let _ = step.take(&self.linux.handle, &view);
        }
    }

    fn pass_all(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.pass();
        }
    }

    fn settle(&mut self) -> Outcome {
        for _ in 0..20_000 {
            self.pass();
            if let Some(outcome) = self.controller.outcome() {
                return outcome;
            }
        }
        panic!("no outcome: {:?}", self.linux.handle.view());
    }

    fn asked(&mut self, pages: u32, exact: bool) -> (Stop, u32, u32) {
        self.want(pages, exact);
        let outcome = self.settle();
        assert_eq!((outcome.exact, outcome.wanted), (exact, pages));
        (outcome.stop, outcome.reached, outcome.off_node)
    }
}

#[test]
fn within_the_vnodes_free_memory_every_page_is_its_own() {
    let mut world = World::loaded(100_000);
    assert_eq!(world.asked(80_000, true), (Stop::Reached, 80_000, 0));
    assert_eq!(world.controller.phase(), Phase::Idle);
    assert_eq!(world.asked(30_001, true), (Stop::Reached, 30_001, 0));
    assert_eq!(world.asked(0, false), (Stop::Reached, 0, 0));
    assert_eq!(world.linux.handle.counters().out_of_order.get(), 0);
}

#[test]
fn no_step_asks_for_more_than_the_window_ahead() {
    let mut world = World::loaded(100_000);
    world.want(90_000, true);
    while world.controller.outcome().is_none() {
        world.pass();
        let view = world.linux.handle.view();
        assert!(view.asked <= view.held + super::controller::WINDOW, "{view:?}");
    }
    assert_eq!(world.linux.len(), 90_000);
}

#[test]
fn past_the_vnodes_free_memory_exact_ends_dry_without_a_foreign_page() {
    let mut world = World::loaded(10_000);
    let (stop, reached, off_node) = world.asked(15_000, true);
    assert_eq!((stop, off_node), (Stop::Dry, 0));
    assert!((10_000 - 255..=10_000).contains(&reached), "{reached}");
    assert_eq!(world.controller.phase(), Phase::Exhausted);
    let asks = world.asks.len();
    world.pass_all(Duration::from_secs(60));
    // It does not try again and again.
    assert_eq!((world.asks.len(), world.linux.handle.view().rollbacks), (asks, 1));
    assert_eq!(world.linux.handle.view().held, reached);
}

#[test]
fn a_driver_that_is_turned_round_between_a_look_and_the_next_step_is_not_sent_on() {
    for (free, between) in (0..128).flat_map(|free| [1, 3, 80].map(|between| (9_800 + free * 16, between))) {
        let mut world = World::loaded(free);
        world.between = between;
        let (stop, reached, off_node) = world.asked(35_000, true);
        assert_eq!((stop, off_node), (Stop::Dry, 0), "of {free}, {between} arrays between");
        assert!((free - 255..=free).contains(&reached), "{reached} of {free}, {between} arrays between");
        assert_eq!(world.linux.handle.view().rollbacks, 1);
    }
}

#[test]
fn a_host_that_is_slow_to_let_go_is_not_a_guest_without_memory() {
    let world = World::loaded(10_000);
    let slow = BalloonView { held: 1_000, asked: 1_000, letting_go: 256, ..world.linux.handle.view() };
    let mut controller = Controller::new();
    controller.want(Duration::ZERO, &slow, Ask { pages: 1_000, exact: true });
    for second in 0..60 {
        controller.look(Duration::from_secs(second), &slow);
        assert_eq!(controller.outcome(), None, "after {second} s");
    }
    controller.look(Duration::from_secs(60), &BalloonView { letting_go: 0, ..slow });
    assert_eq!(controller.outcome().map(|outcome| outcome.stop), Some(Stop::Reached));
}

#[test]
fn a_guest_whose_cpu_does_not_run_is_not_one_without_memory() {
    let world = World::loaded(10_000);
    let view = BalloonView { held: 1_000, asked: 0, ..world.linux.handle.view() };
    let ends = |heard: &dyn Fn(u32) -> u32| {
        let mut controller = Controller::new();
        controller.want(Duration::ZERO, &view, Ask { pages: 2_000, exact: true });
        (0..600).find_map(|tenth| {
            let heard = view.heard + u64::from(heard(tenth));
            controller.look(MS * 100 * tenth, &BalloonView { heard, ..view.clone() });
            controller.outcome().map(|outcome| (tenth / 10, outcome.stop))
        })
    };
    // What it says of its last pages comes late, and nothing after it.
    assert_eq!(ends(&|tenth| u32::from(tenth >= 40)), Some((34, Stop::Unresponsive)));
    // One that finds no page says so again and again.
    assert_eq!(ends(&|tenth| tenth / 2), Some((5, Stop::Exhausted)));
}

#[test]
fn best_effort_goes_on_with_other_vnodes_and_says_how_many() {
    let mut world = World::loaded(10_000);
    assert_eq!(world.asked(15_000, false), (Stop::Reached, 15_000, 5_000));
}

#[test]
fn a_guest_without_memory_ends_exhausted_and_is_left_alone() {
    let mut world = World::loaded(10_000);
    assert_eq!(world.asked(50_000, false), (Stop::Exhausted, 30_000, 20_000));
    world.pass_all(Duration::from_secs(1));
    assert_eq!(world.linux.handle.view().asked, 30_000);
}

#[test]
fn a_silent_guest_is_unresponsive_and_gives_nothing_when_it_wakes() {
    let mut world = World::loaded(10_000);
    world.linux.silent = true;
    assert_eq!(world.asked(5_000, true), (Stop::Unresponsive, 0, 0));
    assert_eq!(world.controller.phase(), Phase::Unresponsive);
    world.pass();
    world.linux.silent = false;
    world.pass_all(Duration::from_secs(1));
    assert_eq!(world.linux.handle.view().held, 0);
    assert_eq!(world.asked(5_000, true), (Stop::Reached, 5_000, 0));
}

#[test]
fn a_guest_whose_cpu_waits_for_one_of_the_hosts_is_waited_for() {
    let mut world = World::loaded(10_000);
    for (silence, stop) in [(25, Stop::Reached), (31, Stop::Unresponsive)] {
        world.want(0, true);
        world.settle();
        world.want(9_000, true);
        world.pass_all(MS * 8);
        let held = world.linux.len();
        assert!(held > 0 && held < 9_000, "{held}");
        world.linux.silent = true;
        world.pass_all(Duration::from_secs(silence));
        world.linux.silent = false;
        assert_eq!(world.settle().stop, stop);
    }
}

#[test]
fn a_guest_that_takes_pages_back_waits_for_a_host_that_has_none() {
    let mut world = World::loaded(70_000);
    assert_eq!(world.asked(60_000, true), (Stop::Reached, 60_000, 0));
    world.linux.host.poor.store(true, Ordering::Relaxed);
    let (stop, reached, _) = world.asked(1_000, true);
    assert_eq!((stop, reached), (Stop::HostShort, 60_000 - 256));
    world.linux.host.poor.store(false, Ordering::Relaxed);
    world.pass_all(Duration::from_secs(1));
    assert_eq!((world.linux.len(), world.controller.wanted().pages), (1_000, 1_000));
}

#[test]
fn pages_taken_back_on_oom_are_asked_for_again_after_a_rest() {
    let mut world = World::loaded(30_000);
    assert_eq!(world.asked(20_000, true), (Stop::Reached, 20_000, 0));
    world.linux.run_out_of_memory();
    let outcome = loop {
        world.pass();
        let outcome = world.controller.outcome().unwrap();
        if outcome.stop != Stop::Reached {
            break outcome;
        }
    };
    assert_eq!((outcome.stop, outcome.reached), (Stop::Drained, 20_000 - 256));
    world.pass_all(Duration::from_secs(29));
    assert_eq!(world.linux.len(), 20_000 - 256);
    world.pass_all(Duration::from_secs(2));
    assert_eq!((world.linux.len(), world.controller.phase()), (20_000, Phase::Idle));
}

#[test]
fn pages_that_move_while_they_are_out_change_nothing() {
    let mut world = World::loaded(30_000);
    assert_eq!(world.asked(10_000, true), (Stop::Reached, 10_000, 0));
    for index in [0, 5_000, 9_999, 9_999, 17] {
        world.linux.migrate(index, 0);
        world.pass_all(MS * 10);
    }
    let view = world.linux.handle.view();
    assert_eq!((view.held, view.off_node, view.migrations), (10_000, 0, 5));
    // One goes to another vnode: exact gives it back.
    world.linux.migrate(3, 1);
    world.pass_all(MS * 10);
    let view = world.linux.handle.view();
    assert_eq!((view.held, view.off_node), (9_999, 0));
    assert_eq!(world.asked(0, true), (Stop::Reached, 0, 0));
    assert_eq!(world.linux.handle.counters().unknown.get(), 0);
}

#[test]
fn a_new_request_takes_the_place_of_the_one_under_way() {
    let mut world = World::loaded(90_000);
    world.want(80_000, true);
    world.pass_all(MS * 20);
    let held = world.linux.handle.view().held;
    assert!(held > 1_000 && held < 80_000, "{held}");
    assert_eq!(world.asked(1_000, true), (Stop::Reached, 1_000, 0));
}

#[derive(Debug, Clone)]
enum Deed {
    Want(u32, bool),
    Unload,
    Load,
    Oom,
    Migrate(usize, usize),
    Silent(bool),
    Steer(u64),
    Pass(u32),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0_u32..40_000, any::<bool>()).prop_map(|(pages, exact)| Deed::Want(pages, exact)),
        1 => Just(Deed::Unload),
        2 => Just(Deed::Load),
        1 => Just(Deed::Oom),
        2 => (any::<usize>(), 0_usize..2).prop_map(|(index, to)| Deed::Migrate(index, to)),
        1 => any::<bool>().prop_map(Deed::Silent),
        1 => (0_u64..3).prop_map(Deed::Steer),
        8 => (1_u32..300).prop_map(Deed::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_the_last_request_ends_and_the_books_are_right(
        deeds in prop::collection::vec(deed(), 0..40),
    ) {
        let (mut world, mut loaded) = (world(20_000), false);
        for deed in deeds {
            match deed {
                Deed::Want(pages, exact) => world.want(pages, exact),
                Deed::Unload if loaded => {
                    world.linux.unload();
                    loaded = false;
                }
                Deed::Load if !loaded => {
                    world.linux.load(0);
                    loaded = true;
                }
                Deed::Oom if loaded => world.linux.run_out_of_memory(),
                Deed::Migrate(index, to) if world.linux.len() > ARRAY => {
                    let index = index % world.linux.len();
                    world.linux.migrate(index, to);
                }
                Deed::Silent(silent) => world.linux.silent = silent,
                Deed::Steer(apic_id) if loaded => world.linux.steer(apic_id),
                Deed::Pass(time) => world.pass_all(MS * time),
                Deed::Unload | Deed::Load | Deed::Oom | Deed::Migrate(..) | Deed::Steer(_) => {}
            }
        }
        if !loaded {
            world.linux.load(0);
        }
        world.linux.steer(0);
        world.linux.silent = false;
        // From an empty balloon, since best effort may have left pages of another vnode.
        prop_assert_eq!(world.asked(0, true), (Stop::Reached, 0, 0));
        prop_assert_eq!(world.asked(8_000, true), (Stop::Reached, 8_000, 0));
    }
}

/// Requests in the order in which they ended, and how.
#[derive(Default)]
struct Ends(Mutex<Vec<(u64, Stop)>>);

impl Tell for Ends {
    fn ended(&self, memory: &VnodeMemory) {
        let end = memory.outcome.map(|outcome| (memory.request, outcome.stop));
        self.0.lock().unwrap().extend(end);
    }
}

/// A moment.
struct At(Duration);

impl Clock for At {
    fn now(&self) -> Duration {
        self.0
    }

    fn wait(&self, _: Option<Duration>) -> bool {
        false
    }
}

proptest! {
    #[test]
    fn every_request_ends_once_however_soon_another_takes_its_place(
        wants in prop::collection::vec((0_u32..30_000, any::<bool>(), 0_u64..400), 1..30),
    ) {
        let mut linux = world(10_000).linux;
        linux.load(1);
        let entry = Entry::new(&super::target::tests::vnode(), linux.handle.clone(), Arc::default(), Arc::default());
        let (ends, mut now) = (Ends::default(), Duration::ZERO);
        let last = (0, true, 10_000);
        for (pages, exact, time) in wants.iter().copied().chain([last]) {
            entry.want(&At(now), Ask { pages, exact }, &ends);
            for _ in 0..time {
                now += MS;
                linux.run(now);
                entry.look(&At(now), &ends);
            }
        }
        let ends = ends.0.into_inner().unwrap();
        let numbers: Vec<u64> = ends.iter().map(|(number, _)| *number).collect();
        let count = u64::try_from(wants.len() + 1).unwrap();
        prop_assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
        prop_assert_eq!(ends.last(), Some(&(count, Stop::Reached)));
    }
}

#[test]
fn a_look_whose_time_was_read_before_that_of_a_request_is_none_the_worse() {
    let mut world = World::loaded(10_000);
    let (view, later) = (world.linux.handle.view(), Duration::from_secs(10));
    let gone = BalloonView { ready: false, ..view.clone() };
    for view in [view, gone] {
        let ask = Ask { pages: 0, exact: true };
        world.controller.want(later, &view, ask);
        world.controller.look(later.saturating_sub(Duration::from_nanos(1)), &view);
        world.controller.want(later, &view, ask);
        world.controller.want(later.saturating_sub(MS), &view, ask);
    }
}
