//! The account of a driver's pages is there after a restore, and the host lets their memory go once more.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::device::{Bench, plain};
use crate::state::Section;
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::BalloonState;
use crate::virtio::balloon::test_host::{Asked, run};
use crate::virtio::test_driver::TestMemory;

fn save(bench: &mut Bench) -> Section {
    bench.worker.as_mut().unwrap().stop(&AtomicBool::new(false));
    VirtioDevice::<TestMemory>::save(&bench.device, bench.worker.as_deref()).unwrap()
}

fn restore(bench: &mut Bench, section: Section) -> Result<(), String> {
    let worker = bench.worker.as_deref_mut();
    VirtioDevice::<TestMemory>::restore(&mut bench.device, section, worker).map_err(|error| error.to_string())
}

#[test]
fn pages_that_are_out_stay_out_and_are_taken_once_more() {
    let mut old = plain();
    old.handle.ask(5, true).unwrap();
    assert!(old.array(0, &[7, 8, 9, 5]));
    // Another vnode's turns the driver round: it and what came after it are kept.
    assert!(old.array(0, &[4, 1000, 6]));
    let section = save(&mut old);
    let mut new = plain();
    restore(&mut new, section.clone()).unwrap();
    new.worker.as_mut().unwrap().start();
    assert_eq!(new.host.asked(), [Asked::Take(vec![run(4, 2), run(7, 3)])]);
    let (old_view, view) = (old.handle.view(), new.handle.view());
    assert_eq!((view.held, view.off_node, view.returned, view.dry), (7, 1, 5, Some(5)));
    assert_eq!((view.asked, view.held, view.dry), (old_view.asked, old_view.held, old_view.dry));
    assert_eq!(save(&mut new), section);
    // Those that were kept need not be given.
    assert!(new.array(1, &[6, 1000]) && new.array(1, &[4]));
    assert_eq!(new.host.asked(), [Asked::Give(vec![run(4, 1)])]);
}

#[test]
fn a_driver_that_waits_for_memory_waits_on_after_a_restore() {
    let mut old = plain();
    old.handle.ask(4, false).unwrap();
    assert!(old.array(0, &[1, 2, 3, 4]));
    old.host.poor.store(true, Ordering::Relaxed);
    assert!(!old.array(1, &[4, 3]));
    let section = save(&mut old);
    let state: BalloonState = section.clone().decode().unwrap();
    assert_eq!(state.driver.unwrap().waited_for, Some(vec![run(3, 2)]));
    // The array is the next on its queue again: stopped or not, the host is asked once more.
    old.worker.as_mut().unwrap().start();
    assert!(old.queues[1].used().is_none() && old.handle.view().owing);
    old.host.poor.store(false, Ordering::Relaxed);
    old.worker.as_mut().unwrap().start();
    assert!(old.queues[1].used().is_some() && !old.handle.view().owing);
}

#[test]
fn an_account_that_no_driver_has_is_refused_with_field_value_and_rule() {
    let mut bench = plain();
    bench.handle.ask(5, true).unwrap();
    assert!(bench.array(0, &[7, 8]));
    let before = save(&mut bench);
    let pages = |pages: Value| ("/driver/pages", pages);
    let page = |first: u32, count: u32| json!({ "first": first, "count": count, "kept": false });
    const PAGES: &str = "must be pages of the guest's memory, each there once";
    for ((path, value), text) in [
        (pages(json!([page(7, 2), page(8, 1)])), format!("driver.pages[1]: 1 from 8, {PAGES}")),
        (pages(json!([page(7, 0)])), format!("driver.pages[0]: 0 from 7, {PAGES}")),
        (pages(json!([page(1999, 2)])), format!("driver.pages[0]: 2 from 1999, {PAGES}")),
        (pages(json!([page(9, u32::MAX)])), format!("driver.pages[0]: 4294967295 from 9, {PAGES}")),
        (
            ("/driver/hint_command", json!(2)),
            "driver.hint_command: 2, round 0, must be 0, 1 or the number of the last round".to_owned(),
        ),
        (
            ("/driver/waited_for", json!([{ "first": 1999, "count": 2 }])),
            "driver.waited_for[0]: 2 from 1999, must be pages of the guest's memory, at most 16384 in all"
                .to_owned(),
        ),
        (
            ("/driver", Value::Null),
            "driver: false, must be there if the device is active, and only then".to_owned(),
        ),
    ] {
        let mut section = before.clone();
        *section.state.pointer_mut(path).unwrap() = value;
        assert_eq!(restore(&mut bench, section), Err(format!("virtio-balloon: {text}")));
        assert_eq!(save(&mut bench), before);
    }
}
