//! Drivers that come and go, that cannot be told, or that look by themselves.

use super::{Ask, At, Ends, Entry, MS, Phase, Stop, World, world};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_target_before_the_driver_holds_for_the_driver_that_comes() {
    let mut world = world(10_000);
    assert_eq!(world.asked(5_000, true), (Stop::NoDriver, 0, 0));
    world.pass_all(Duration::from_secs(10));
    world.linux.load(0);
    assert_eq!(world.linux.handle.view().asked, 0);
    world.pass_all(Duration::from_secs(1));
    assert_eq!(world.controller.outcome().map(|outcome| outcome.stop), Some(Stop::Reached));
    assert_eq!(world.linux.handle.view().held, 5_000);
}

#[test]
fn a_driver_that_is_told_while_it_starts_is_asked_anew_when_it_has() {
    let mut world = world(10_000);
    world.linux.starts = 1_000;
    world.linux.load(0);
    assert_eq!(world.asked(5_000, true), (Stop::Reached, 5_000, 0));
    assert_eq!(world.linux.handle.view().rollbacks, 1);
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
    assert_eq!((world.controller.outcome(), world.linux.handle.view().asked), (None, 5_000));
    assert_eq!(world.settle().stop, Stop::Unresponsive);
    world.pass_all(MS * 10);
    world.linux.steer(0);
    world.pass_all(Duration::from_secs(1));
    assert_eq!((world.linux.handle.view().asked, world.linux.len()), (0, 0));
    // One that is masked for a moment is not asked before it can be told.
    world.linux.mask();
    world.want(5_000, true);
    world.pass_all(Duration::from_secs(4));
    assert_eq!(world.linux.handle.view().asked, 0);
    world.linux.steer(0);
    assert_eq!(world.settle().stop, Stop::Reached);
}

#[test]
fn a_guest_that_starts_again_gives_what_the_one_before_was_asked_for() {
    let before = World::loaded(10_000);
    let entry = Entry::new(
        &crate::balloon::target::tests::vnode(),
        before.linux.handle.clone(),
        Arc::default(),
        Arc::default(),
    );
    let ends = Ends::default();
    assert_eq!(entry.held(), None);
    entry.want(&At(before.now), Ask { pages: 4_000, exact: true }, &ends);
    let held = entry.held().unwrap();
    // Nobody looked yet, and the guest is another one.
    let (mut linux, mut now) = (world(10_000).linux, Duration::ZERO);
    let entry = Entry::new(
        &crate::balloon::target::tests::vnode(),
        linux.handle.clone(),
        Arc::default(),
        Arc::default(),
    );
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
    assert_eq!(world.linux.handle.view().rollbacks, 2);
    world.pass_all(Duration::from_secs(60));
    assert_eq!(world.linux.handle.view().rollbacks, 2);
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
