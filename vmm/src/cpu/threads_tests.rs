//! Tests of [`VcpuThreads`]: kicks are neither lost nor repeated, and reach threads whatever mask they inherit.

use super::{Wanted, kick_all};
use crate::cpu::test_vm::{ENTRY, TestVm};
use crate::cpu::{ExitReason, StopCause};
use crate::test_kernel::SPINNING;
use devices::{MmioBusBuilder, PioBusBuilder};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

const LONG: Duration = Duration::from_secs(120);

/// The signals that a thread of this process blocks, a bit for each.
fn blocked(thread: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn each_thread_is_kicked_once_and_again_only_if_the_signal_was_not_queued() {
    let kicks = RefCell::new(Vec::new());
    kick_all(&[1, 2, 3], |thread| {
        kicks.borrow_mut().push(*thread);
        *thread != 2 || kicks.borrow().len() > 4
    });
    assert_eq!(*kicks.borrow(), [1, 2, 3, 2, 2]);
}

#[test]
fn sixty_four_vcpus_that_spin_stop_with_a_kick_each() {
    let Some((_vm, mut threads)) = TestVm::spinning(64) else { return };
    let before: Vec<_> =
        threads.exits().map(|(_, exits)| (exits.of(ExitReason::Interrupted), exits)).collect();
    threads.stop();
    let kicked = before.iter().map(|(before, exits)| exits.of(ExitReason::Interrupted) - before);
    assert_eq!(kicked.collect::<Vec<_>>(), [1; 64]);
}

#[test]
fn a_vcpu_that_halts_for_ever_stops_though_the_signal_was_blocked_where_it_was_started() {
    // cli; hlt
    let code = [0xfa, 0xf4];
    let Some(vm) = TestVm::new(3, &code, PioBusBuilder::new(), MmioBusBuilder::new()) else { return };
    let mut threads = vm.threads();
    let kick = 1 << (libc::SIGRTMIN() - 1);
    let this = nix::unistd::gettid().to_string();
    assert_eq!(blocked(&this) & kick, kick, "workers inherit this");
    for (_, thread) in threads.ids() {
        assert_eq!(blocked(&thread.to_string()) & kick, 0);
    }
    threads.run();
    threads.stop();
}

/// Exits all the time, so that most kicks come while a thread is outside of KVM_RUN. One kick per pause is sent: were
/// one lost, the wait would end without all threads.
#[test]
fn no_kick_is_lost_on_the_way_into_the_guest() {
    // mov dx, 0x1234; again: in al, dx; jmp again
    let code = [0x66, 0xba, 0x34, 0x12, 0xec, 0xeb, 0xfd];
    let Some(vm) = TestVm::new(2, &code, PioBusBuilder::new(), MmioBusBuilder::new()) else { return };
    let mut threads = vm.threads();
    for _ in 0..300 {
        threads.run();
        std::thread::yield_now();
        threads.gate.set(Wanted::Wait);
        kick_all(&threads.threads, super::VcpuThread::kick);
        assert_eq!(threads.gate.wait_for(2, LONG), 2);
    }
    threads.stop();
}

#[test]
fn vcpus_run_guest_after_guest_in_the_same_threads() {
    let Some((vm, mut threads)) = TestVm::spinning(4) else { return };
    let ids: Vec<_> = threads.ids().collect();
    let held = Arc::strong_count(&vm.setup);
    for _ in 0..20 {
        threads.rest();
        assert_eq!(Arc::strong_count(&vm.setup), held - 4, "a thread holds what its guest had");
        let count = GuestAddress(SPINNING.into());
        vm.ram.memory().write_obj(0_u16, count).unwrap();
        threads.reset().unwrap();
        vm.setup.vm.power_on().unwrap();
        threads.begin(&vm.setup, &vm.plan, ENTRY, |cause| panic!("{cause:?}")).unwrap();
        threads.run();
        // The others are started by the first, as after power-on.
        while vm.ram.memory().read_obj::<u16>(count).unwrap() < 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(threads.ids().collect::<Vec<_>>(), ids);
    threads.stop();
}

#[test]
fn a_vcpu_that_stopped_by_itself_can_be_given_another_guest() {
    // A fault without a table of handlers.
    let Some(vm) = TestVm::new(2, &[0x0f, 0x0b], PioBusBuilder::new(), MmioBusBuilder::new()) else { return };
    let (stops, stopped) = std::sync::mpsc::channel();
    let tell = move |cause| {
        let _ = stops.send(matches!(cause, StopCause::TripleFault(..)));
    };
    crate::sys::prepare_kicks().unwrap();
    let mut threads =
        super::VcpuThreads::start(&vm.setup, &vm.plan, ENTRY, &mut BTreeMap::new(), tell.clone()).unwrap();
    for _ in 0..3 {
        threads.run();
        assert_eq!(stopped.recv_timeout(LONG), Ok(true));
        threads.rest();
        threads.reset().unwrap();
        threads.begin(&vm.setup, &vm.plan, ENTRY, tell.clone()).unwrap();
    }
    threads.stop();
}
