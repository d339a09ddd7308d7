//! What is made of each array: where `exact` turns the driver round, and which pages stay with the guest.

use std::sync::Arc;

use crate::Counter;
use crate::interrupt::MsiMessage;
use crate::virtio::balloon::state::{State, Verdict};
use crate::virtio::balloon::test_host::{TestHost, message};
use crate::virtio::balloon::{PAGE_BYTES, Steering};

#[test]
fn a_balloon_that_has_all_that_was_asked_for_has_settled() {
    let (mut state, host) = (state(3, true), TestHost::default());
    assert!(!state.inflate(&[2, 1], &host).settled);
    assert!(state.inflate(&[3], &host).settled);
    assert!(!state.inflate(&[4], &host).settled);
}

fn state(pages: u32, exact: bool) -> State {
    let mut state = State::new(vec![2, 3], Arc::default());
    state.begin(false, false);
    state.steer(message(3));
    state.ask(pages, exact);
    state
}

fn verdict(pages: impl IntoIterator<Item = u32>, interrupt: bool) -> Verdict {
    Verdict { pages: pages.into_iter().collect(), interrupt, settled: false, drained: false }
}

#[test]
fn exact_turns_the_driver_round_at_the_first_page_of_another_vnode() {
    let (mut state, host) = (state(500, true), TestHost::default());
    assert_eq!(state.inflate(&[3, 2, 1, 0], &host), verdict([3, 2, 1, 0], false));
    assert_eq!((state.view().returned, state.view().letting_go), (0, 4));
    state.let_go();
    assert_eq!((state.view().returned, state.view().letting_go), (4, 0));
    // Two good pages, one of another vnode, and good ones above it, which go back too.
    let array = [11, 10, 1000, 9, 8];
    assert_eq!(state.inflate(&array, &host), verdict([11, 10], true));
    state.let_go();
    let view = state.view();
    assert_eq!((view.asked, view.held, view.off_node, view.returned, view.dry), (6, 9, 1, 6, Some(6)));
    assert_eq!(state.deflate(&[8, 9, 1000], &host), verdict([], false));
    let view = state.view();
    assert_eq!((view.asked, view.held, view.off_node, view.returned), (6, 6, 0, 6));
    let counters = &state.counters;
    assert_eq!((view.rollbacks, counters.drained_bytes.get()), (1, 0));
    assert_eq!(counters.inflated_off_node_bytes.get(), PAGE_BYTES);
    assert_eq!(state.deflate(&[10], &host).pages, [10]);
}

#[test]
fn a_page_that_moves_while_the_driver_goes_back_leaves_none_of_another_vnode() {
    let (mut state, host) = (state(500, true), TestHost::default());
    state.inflate(&[3, 2, 1, 0], &host);
    assert_eq!(state.inflate(&[1001, 1000, 9, 8], &host), verdict([], true));
    // Compaction moves a page of the first array.
    state.inflate(&[40], &host);
    state.deflate(&[2], &host);
    let verdict = state.deflate(&[40, 8, 9, 1000], &host);
    assert!(verdict.interrupt, "the driver is not told");
    let view = state.view();
    assert_eq!((view.asked, view.held, view.off_node, view.dry), (3, 4, 1, Some(3)));
    state.deflate(&[1001], &host);
    let view = state.view();
    assert_eq!((view.asked, view.held, view.off_node, view.dry), (3, 3, 0, Some(3)));
}

#[test]
fn a_page_that_moves_to_another_vnode_while_the_driver_goes_back_does_not_stop_it_on_the_way() {
    for moves in 1..4 {
        let (mut state, host) = (state(500, true), TestHost::default());
        state.inflate(&[3, 2, 1, 0], &host);
        state.inflate(&[1001, 1000, 9, 8], &host);
        assert_eq!((state.view().asked, state.view().dry), (4, Some(4)));
        // Compaction has each page moved by a CPU of its own.
        (0..moves).for_each(|page| drop(state.inflate(&[1100 + page], &host)));
        (0..moves).for_each(|page| drop(state.deflate(&[page], &host)));
        let view = state.view();
        assert_eq!((view.held, view.asked, view.dry), (8, 4, Some(4)), "{moves} pages");
        if moves == 1 {
            state.deflate(&[1100, 8, 9, 1000], &host);
            let view = state.view();
            assert_eq!((view.asked, view.held, view.off_node, view.dry), (3, 4, 1, Some(3)));
            state.deflate(&[1001], &host);
            assert_eq!((state.view().held, state.view().off_node), (3, 0));
        }
    }
}

#[test]
fn what_was_brought_of_another_vnode_before_the_driver_was_sent_on_goes_back_too() {
    let (mut state, host) = (state(500, true), TestHost::default());
    state.inflate(&[3, 2, 1, 0], &host);
    assert_eq!(state.inflate(&[9, 1000, 8], &host), verdict([9], true));
    // Whoever asked did not know.
    state.ask(500, true);
    state.inflate(&[13, 12, 11, 10], &host);
    assert_eq!(state.inflate(&[1002, 1001], &host), verdict([], true));
    assert_eq!(state.view().dry, Some(11));
    let verdict = state.deflate(&[1001, 1002], &host);
    assert!(verdict.interrupt, "the driver is not told");
    let view = state.view();
    assert_eq!((view.asked, view.held, view.off_node, view.dry), (5, 11, 1, Some(5)));
    state.deflate(&[10, 11, 12, 13, 8, 1000], &host);
    let view = state.view();
    assert_eq!((view.asked, view.held, view.off_node, view.dry), (5, 5, 0, Some(5)));
}

#[test]
fn best_effort_keeps_pages_of_other_vnodes_and_counts_them() {
    let (mut state, host) = (state(500, false), TestHost::default());
    assert_eq!(state.inflate(&[1001, 1000, 9], &host), verdict([1001, 1000, 9], false));
    let view = state.view();
    assert_eq!((view.asked, view.held, view.off_node, view.dry), (500, 3, 2, None));
}

#[test]
fn asking_again_forgets_that_the_vnode_was_dry() {
    let (mut state, host) = (state(500, true), TestHost::default());
    assert_eq!(state.inflate(&[1000, 1], &host), verdict([], true));
    assert_eq!(state.view().dry, Some(0));
    state.ask(200, true);
    assert_eq!((state.view().dry, state.view().asked), (None, 200));
}

#[test]
fn a_page_that_moves_is_dropped_from_beneath_and_comes_back_on_top() {
    let (mut state, host) = (state(3, true), TestHost::default());
    state.inflate(&[3, 2, 1], &host);
    assert_eq!(state.inflate(&[40], &host), verdict([40], false));
    assert_eq!(state.deflate(&[3], &host), verdict([3], false));
    let view = state.view();
    assert_eq!((view.held, view.migrations, state.counters.unasked.get()), (3, 1, 0));
    assert_eq!(state.deflate(&[40], &host).pages, [40]);
    assert_eq!(state.counters.out_of_order.get(), 0);
}

#[test]
fn exact_gives_back_a_page_that_moved_to_another_vnode() {
    let (mut state, host) = (state(3, true), TestHost::default());
    state.inflate(&[3, 2, 1], &host);
    assert_eq!(state.inflate(&[1000], &host), verdict([1000], false));
    assert_eq!(state.deflate(&[2], &host), verdict([2], true));
    assert_eq!((state.view().asked, state.view().held, state.view().off_node), (2, 3, 1));
    assert_eq!(state.deflate(&[1000], &host), verdict([1000], false));
    assert_eq!((state.view().held, state.view().off_node), (2, 0));
}

#[test]
fn numbers_outside_twice_or_unknown_are_answered_and_counted() {
    let (mut state, host) = (state(500, true), TestHost::default());
    assert_eq!(state.inflate(&[1, 5000, 1, u32::MAX, 2], &host), verdict([1, 2], false));
    assert_eq!(state.inflate(&[2, 3], &host), verdict([3], false));
    assert_eq!(state.deflate(&[77, 3, 5000], &host), Verdict { drained: true, ..verdict([3], false) });
    let counters = &state.counters;
    let faults = [&counters.outside, &counters.duplicates, &counters.unknown].map(Counter::get);
    assert_eq!((faults, counters.inflated_bytes.get()), ([2, 2, 2], 3 * PAGE_BYTES));
}

#[test]
fn pages_that_nobody_asked_for_are_counted_but_not_one_array_that_was_under_way() {
    let (mut state, host) = (state(500, false), TestHost::default());
    state.inflate(&[1, 2], &host);
    state.ask(2, false);
    // The driver read its target before it was lowered.
    state.inflate(&[3, 4], &host);
    assert_eq!(state.counters.unasked.get(), 0);
    state.inflate(&[5, 6], &host);
    assert_eq!(state.counters.unasked.get(), 2);
}

#[test]
fn what_the_guest_takes_back_unasked_is_counted_as_drained() {
    let (mut state, host) = (state(4, false), TestHost::default());
    state.inflate(&[4, 3, 2, 1], &host);
    state.deflate(&[1, 2], &host);
    assert_eq!((state.view().held, state.view().asked), (2, 4));
    assert_eq!(state.counters.drained_bytes.get(), 2 * PAGE_BYTES);
}

#[test]
fn steering_follows_the_message_and_leaving_the_vnode_stops_the_rest() {
    let (mut state, host) = (state(500, true), TestHost::default());
    state.inflate(&[2, 1], &host);
    assert_eq!(state.steering(), Steering::OnNode);
    // Masked for a moment while Linux changes the entry.
    assert!(!state.steer(None));
    assert_eq!((state.steering(), state.ready(), state.view().asked), (Steering::NoInterrupt, false, 500));
    assert!(state.steer(message(4)));
    assert_eq!((state.steering(), state.view().asked), (Steering::OffNode(4), 2));
    assert!(!state.steer(message(2)));
    let logical = MsiMessage { address: 0xFEE0_3004, data: 0 };
    state.steer(Some(logical));
    assert_eq!(state.steering(), Steering::Unknown);
}

#[test]
fn a_driver_that_goes_leaves_nothing_and_the_next_begins_at_nothing() {
    let (mut state, host) = (state(500, true), TestHost::default());
    state.inflate(&[2, 1], &host);
    state.end();
    assert!(!state.ready());
    state.begin(false, false);
    let view = state.view();
    assert_eq!((view.epoch, view.ready, view.asked, view.held, view.dry), (2, true, 0, 0, None));
    assert_eq!(state.counters.inflated_bytes.get(), 2 * PAGE_BYTES);
}
