//! Controller and device against a model of the Linux driver, under a clock that is an argument.

mod linux;

use super::clock::{Clock, VmClock};
use super::controller::{Ask, Controller};
use super::keeper::keep;
use super::{Entry, Outcome, Phase, Stop, Tell, VnodeMemory};
use devices::virtio::balloon::BalloonView;
use linux::{ARRAY, Linux, Node};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
        let view = self.linux.control.view();
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
        let (view, taken) = (self.linux.control.view(), self.linux.host.taken.lock().unwrap().len());
        assert_eq!(usize::try_from(view.held).unwrap(), self.linux.len());
        // A host that has no memory to give has what the guest waits with.
        let waits = if view.owing { ARRAY } else { 0 };
        assert_eq!(usize::try_from(view.returned).unwrap() + waits, taken);
    }

    /// Looks, and carries out what the controller says, while the driver gives arrays.
    fn look(&mut self) {
        let view = self.linux.control.view();
        if let Some(step) = self.controller.look(self.now, &view) {
            self.asks.push(step.ask.pages);
            (0..self.between).for_each(|_| self.linux.run(self.now));
            let _ = step.take(&self.linux.control, &view);
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
        panic!("no outcome: {:?}", self.linux.control.view());
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
    assert_eq!(world.linux.control.view().figures.out_of_order, 0);
}

#[test]
fn no_step_asks_for_more_than_the_window_ahead() {
    let mut world = World::loaded(100_000);
    world.want(90_000, true);
    while world.controller.outcome().is_none() {
        world.pass();
        let view = world.linux.control.view();
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
    assert_eq!((world.asks.len(), world.linux.control.view().figures.rollbacks), (asks, 1));
    assert_eq!(world.linux.control.view().held, reached);
}

#[test]
fn a_driver_that_is_turned_round_between_a_look_and_the_next_step_is_not_sent_on() {
    for (free, between) in (0..128).flat_map(|free| [1, 3, 80].map(|between| (9_800 + free * 16, between))) {
        let mut world = World::loaded(free);
        world.between = between;
        let (stop, reached, off_node) = world.asked(35_000, true);
        assert_eq!((stop, off_node), (Stop::Dry, 0), "of {free}, {between} arrays between");
        assert!((free - 255..=free).contains(&reached), "{reached} of {free}, {between} arrays between");
        assert_eq!(world.linux.control.view().figures.rollbacks, 1);
    }
}

#[test]
fn a_host_that_is_slow_to_let_go_is_not_a_guest_without_memory() {
    let world = World::loaded(10_000);
    let slow = BalloonView { held: 1_000, asked: 1_000, letting_go: 256, ..world.linux.control.view() };
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
    let view = BalloonView { held: 1_000, asked: 0, ..world.linux.control.view() };
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
    assert_eq!(world.linux.control.view().asked, 30_000);
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
    assert_eq!(world.linux.control.view().held, 0);
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
fn a_target_before_the_driver_holds_for_the_driver_that_comes() {
    let mut world = world(10_000);
    assert_eq!(world.asked(5_000, true), (Stop::NoDriver, 0, 0));
    world.pass_all(Duration::from_secs(10));
    world.linux.load(0);
    assert_eq!(world.linux.control.view().asked, 0);
    world.pass_all(Duration::from_secs(1));
    assert_eq!(world.controller.outcome().map(|outcome| outcome.stop), Some(Stop::Reached));
    assert_eq!(world.linux.control.view().held, 5_000);
}

#[test]
fn a_driver_that_is_told_while_it_starts_is_asked_anew_when_it_has() {
    let mut world = world(10_000);
    world.linux.starts = 1_000;
    world.linux.load(0);
    assert_eq!(world.asked(5_000, true), (Stop::Reached, 5_000, 0));
    assert_eq!(world.linux.control.view().figures.rollbacks, 1);
}

#[test]
fn a_driver_without_an_interrupt_that_looks_by_itself_is_asked() {
    let mut world = world(100_000);
    world.linux.polls = Some(Duration::from_secs(8));
    world.linux.load(0);
    world.linux.mask();
    world.pass_all(Duration::from_secs(20));
    assert_eq!(world.asked(80_000, true), (Stop::Reached, 80_000, 0));
    assert_eq!(world.asked(1_000, true), (Stop::Reached, 1_000, 0));
    // Past the vnode's memory it turns round when it looks again.
    let (stop, reached, off_node) = world.asked(110_000, true);
    assert_eq!((stop, off_node), (Stop::Dry, 0));
    assert!((100_000 - 255..=100_000).contains(&reached), "{reached}");
}

#[test]
fn a_driver_that_can_be_told_nothing_and_does_not_look_is_unresponsive_and_gives_nothing_later() {
    let mut world = world(10_000);
    world.linux.load(0);
    world.pass_all(MS * 200);
    world.linux.mask();
    world.want(5_000, true);
    world.pass_all(Duration::from_secs(34));
    assert_eq!((world.controller.outcome(), world.linux.control.view().asked), (None, 5_000));
    assert_eq!(world.settle().stop, Stop::Unresponsive);
    world.pass_all(MS * 10);
    world.linux.steer(0);
    world.pass_all(Duration::from_secs(1));
    assert_eq!((world.linux.control.view().asked, world.linux.len()), (0, 0));
    // One that is masked for a moment is not asked before it can be told.
    world.linux.mask();
    world.want(5_000, true);
    world.pass_all(Duration::from_secs(4));
    assert_eq!(world.linux.control.view().asked, 0);
    world.linux.steer(0);
    assert_eq!(world.settle().stop, Stop::Reached);
}

#[test]
fn a_guest_that_starts_again_gives_what_the_one_before_was_asked_for() {
    let before = World::loaded(10_000);
    let entry = Entry::new(
        &super::target::tests::vnode(),
        before.linux.control.clone(),
        Arc::default(),
        Arc::default(),
    );
    let ends = Ends::default();
    assert_eq!(entry.held(), None);
    entry.want(&At(before.now), Ask { pages: 4_000, exact: true }, &ends);
    let held = entry.held().unwrap();
    // Nobody looked yet, and the guest is another one.
    let (mut linux, mut now) = (world(10_000).linux, Duration::ZERO);
    let entry =
        Entry::new(&super::target::tests::vnode(), linux.control.clone(), Arc::default(), Arc::default());
    entry.hold(&held);
    assert_eq!(entry.look(&At(now), &ends), None, "waits for a driver");
    linux.load(1);
    while ends.0.lock().unwrap().is_empty() {
        now += MS * 5;
        linux.run(now);
        entry.look(&At(now), &ends);
    }
    assert_eq!(*ends.0.lock().unwrap(), [(1, Stop::Reached)]);
    assert_eq!(entry.view().device.held, 4_000);
}

#[test]
fn a_vnode_without_a_free_page_is_dry_after_the_second_time() {
    let mut world = World::loaded(0);
    assert_eq!(world.asked(5_000, true), (Stop::Dry, 0, 0));
    assert_eq!(world.linux.control.view().figures.rollbacks, 2);
    world.pass_all(Duration::from_secs(60));
    assert_eq!(world.linux.control.view().figures.rollbacks, 2);
}

#[test]
fn a_driver_on_another_vnodes_cpu_is_not_asked() {
    let mut world = world(10_000);
    world.linux.load(9);
    assert_eq!(world.asked(5_000, false), (Stop::OffNode(9), 0, 0));
    assert!(world.asks.is_empty());
    world.linux.steer(1);
    assert_eq!(world.asked(5_000, false), (Stop::Reached, 5_000, 0));
    // It moves away half way: what is out stays, and no more is asked for.
    world.want(9_000, true);
    world.pass_all(MS * 6);
    world.linux.steer(9);
    let outcome = world.settle();
    assert_eq!((outcome.stop, outcome.off_node), (Stop::OffNode(9), 0));
}

#[test]
fn a_module_that_is_unloaded_and_comes_back_is_asked_again() {
    let mut world = World::loaded(30_000);
    world.want(20_000, true);
    world.pass_all(MS * 8);
    assert!(world.linux.len() > 0 && world.controller.outcome().is_none());
    world.linux.unload();
    assert_eq!(world.settle().stop, Stop::NoDriver);
    world.linux.load(1);
    world.pass_all(Duration::from_secs(1));
    assert_eq!((world.linux.len(), world.controller.phase()), (20_000, Phase::Idle));
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
    let view = world.linux.control.view();
    assert_eq!((view.held, view.off_node, view.figures.migrations), (10_000, 0, 5));
    // One goes to another vnode: exact gives it back.
    world.linux.migrate(3, 1);
    world.pass_all(MS * 10);
    let view = world.linux.control.view();
    assert_eq!((view.held, view.off_node), (9_999, 0));
    assert_eq!(world.asked(0, true), (Stop::Reached, 0, 0));
    assert_eq!(world.linux.control.view().figures.unknown, 0);
}

#[test]
fn a_new_request_takes_the_place_of_the_one_under_way() {
    let mut world = World::loaded(90_000);
    world.want(80_000, true);
    world.pass_all(MS * 20);
    let held = world.linux.control.view().held;
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
        let entry = Entry::new(&super::target::tests::vnode(), linux.control.clone(), Arc::default(), Arc::default());
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
    let (view, later) = (world.linux.control.view(), Duration::from_secs(10));
    let gone = BalloonView { ready: false, ..view.clone() };
    for view in [view, gone] {
        let ask = Ask { pages: 0, exact: true };
        world.controller.want(later, &view, ask);
        world.controller.look(later.saturating_sub(Duration::from_nanos(1)), &view);
        world.controller.want(later, &view, ask);
        world.controller.want(later.saturating_sub(MS), &view, ask);
    }
}

/// A guest that lives while the balloons' thread waits, and is told of changes as a thread would be.
struct Life {
    linux: Mutex<Linux>,
    now: Mutex<Duration>,
    woken: Arc<AtomicBool>,
    /// What happens to it, and when.
    script: Mutex<VecDeque<(Duration, Happening)>>,
    /// Each wait: since when, until when at the latest.
    waits: Mutex<Vec<(Duration, Option<Duration>)>>,
    /// When the VM ends.
    end: Duration,
}

type Happening = Box<dyn Fn(&mut Linux) + Send>;

impl Clock for Life {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn wait(&self, until: Option<Duration>) -> bool {
        let mut now = self.now.lock().unwrap();
        self.waits.lock().unwrap().push((*now, until));
        loop {
            *now += MS;
            let mut linux = self.linux.lock().unwrap();
            let mut script = self.script.lock().unwrap();
            while script.front().is_some_and(|(at, _)| at <= &*now) {
                let (_, happens) = script.pop_front().unwrap();
                happens(&mut linux);
            }
            (0..4).for_each(|_| linux.run(*now));
            if *now >= self.end {
                return false;
            }
            if until.is_some_and(|until| *now >= until) || self.woken.swap(false, Ordering::Relaxed) {
                return true;
            }
        }
    }
}

/// Has the balloons' thread live with a guest of 30,000 free pages on the vnode for `end`, asked for 20,000 at first; gives
/// when each of its waits began and what it would have waited for.
fn live(
    end: Duration,
    script: Vec<(Duration, Happening)>,
) -> (Vec<(Duration, Option<Duration>)>, VnodeMemory) {
    let (mut linux, woken) = (world(30_000).linux, Arc::<AtomicBool>::default());
    linux.load(1);
    let entries =
        [Entry::new(&super::target::tests::vnode(), linux.control.clone(), Arc::default(), Arc::default())];
    let wake = Arc::clone(&woken);
    linux.control.on_change(Arc::new(move || wake.store(true, Ordering::Relaxed)));
    let life = Life {
        linux: Mutex::new(linux),
        now: Mutex::default(),
        woken,
        script: Mutex::new(script.into()),
        waits: Mutex::default(),
        end,
    };
    let ends = Ends::default();
    entries[0].want(&life, Ask { pages: 20_000, exact: true }, &ends);
    keep(&entries, &ends, &life);
    (life.waits.into_inner().unwrap(), entries[0].view())
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_vm_whose_target_is_reached_wakes_nobody() {
    let (waits, memory) = live(secs(600), Vec::new());
    assert_eq!(memory.outcome.map(|outcome| outcome.stop), Some(Stop::Reached));
    let idle: Vec<_> = waits.iter().filter(|(since, _)| *since >= secs(5)).collect();
    let (last, until) = *waits.last().unwrap();
    assert_eq!((idle.len(), until), (0, None), "waits since {last:?}");
}

#[test]
fn a_request_under_way_goes_on_after_a_pause_and_reaches_its_target() {
    let mut world = World::loaded(90_000);
    let clock = VmClock::at(world.now);
    let entry = Entry::new(
        &super::target::tests::vnode(),
        world.linux.control.clone(),
        Arc::default(),
        Arc::default(),
    );
    let ends = Ends::default();
    let pass = |world: &mut World, time: Duration, paused: bool| {
        let end = world.now + time;
        while world.now < end {
            world.now += MS;
            clock.set(world.now);
            if !paused {
                (0..4).for_each(|_| world.linux.run(world.now));
            }
            entry.look(&clock, &ends);
        }
    };
    // Until the driver is known.
    pass(&mut world, MS * 200, false);
    entry.want(&clock, Ask { pages: 80_000, exact: true }, &ends);
    pass(&mut world, MS * 20, false);
    let held = entry.view().device.held;
    assert!(held > 1_000 && held < 80_000, "{held}");
    clock.pause();
    pass(&mut world, secs(40), true);
    assert_eq!((entry.view().device.held, entry.view().outcome), (held, None));
    clock.resume();
    pass(&mut world, secs(2), false);
    let outcome = entry.view().outcome.unwrap();
    assert_eq!((outcome.stop, outcome.reached), (Stop::Reached, 80_000));
    assert!(outcome.took < secs(3), "{:?}", outcome.took);
}

#[test]
fn what_a_guest_does_by_itself_is_seen_without_a_look_before_it() {
    let script: Vec<(Duration, Happening)> = vec![
        (secs(100), Box::new(Linux::run_out_of_memory)),
        (secs(300), Box::new(Linux::unload)),
        (secs(400), Box::new(|linux| linux.load(1))),
    ];
    let (waits, memory) = live(secs(500), script);
    // Taken back on OOM at 100 s, asked for again 30 s later, and again when there is another driver.
    assert_eq!((memory.device.held, memory.phase), (20_000, Phase::Idle));
    let between = |from, to| waits.iter().filter(|(since, _)| (secs(from)..secs(to)).contains(since)).count();
    assert_eq!([between(5, 100), between(101, 129), between(140, 300), between(410, 500)], [0; 4]);
    let rest = waits.iter().find(|(since, _)| *since >= secs(100)).unwrap();
    assert_eq!(rest.1.map(|until| until.as_secs()), Some(130));
}
