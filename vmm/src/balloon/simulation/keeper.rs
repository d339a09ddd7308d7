//! The thread that looks at balloons, in a VM that lives meanwhile: when it is woken, and when not.

use super::{Ask, Clock, Ends, Entry, Linux, MS, Phase, Stop, VnodeMemory, World, world};
use crate::balloon::clock::VmClock;
use crate::balloon::keeper::keep;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    let entries = [Entry::new(
        &crate::balloon::target::tests::vnode(),
        linux.handle.clone(),
        Arc::default(),
        Arc::default(),
    )];
    let wake = Arc::clone(&woken);
    linux.handle.on_change(Arc::new(move || wake.store(true, Ordering::Relaxed)));
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
        &crate::balloon::target::tests::vnode(),
        world.linux.handle.clone(),
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
