//! Tiny guests on `/dev/kvm`: the whole way from plan to exit, in milliseconds. Skipped, and said so, where there is
//! no usable KVM; `NUMAVISOR_NO_SKIPS=1` makes that a failure.

use crate::test_kernel::{outs, pvh_elf};
use crate::{
    Answer, Error, Exit, JobId, JobState, MigrationMode, MoveOutcome, Options, Payload, Request, Vm,
    VmHandle, VmState,
};
use resources::{
    Affinity, Bytes, CpuSet, HostRoot, HostTopology, OnReset, Plan, SerialSpec, VcpuId, VmSpec, VnodeId,
    VnodePlacement,
};

const COM1: u16 = 0x3f8;
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;
const KEYBOARD: u16 = 0x64;
/// SLP_TYP 5, SLP_EN.
const POWER_OFF: u8 = 5 << 2 | 1 << 5;

fn kvm_is_there() -> bool {
    testing::kvm()
}

/// `None` when this machine cannot run any guest.
fn boot(spec: &VmSpec, code: &[u8]) -> Option<(Result<Exit, Error>, String)> {
    if !kvm_is_there() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (kernel, output) = (dir.path().join("kernel"), dir.path().join("serial"));
    std::fs::write(&kernel, pvh_elf(code, true)).unwrap();
    let plan = Plan::new(spec, &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
    let payload = Payload { kernel, initramfs: None, cmdline: String::new() };
    let options =
        Options { serial: SerialSpec::File(output.clone()), on_reset: OnReset::Exit, ..Options::default() };
    let exit = Vm::new(plan, payload, options).and_then(Vm::run);
    Some((exit, std::fs::read_to_string(output).unwrap()))
}

#[test]
fn a_guest_writes_to_its_serial_port_and_powers_off() {
    let code = outs(&[(COM1, b'h'), (COM1, b'i'), (COM1, b'\n'), (SLEEP_CONTROL, POWER_OFF)]);
    if let Some((exit, output)) = boot(&VmSpec::default(), &code) {
        assert_eq!((exit.unwrap(), output.as_str()), (Exit::PowerOff, "hi\n"));
    }
}

#[test]
fn string_output_arrives_byte_by_byte() {
    // mov esi, text; mov ecx, 4; mov dx, COM1; rep outsb
    let mut code = vec![0xbe, 23, 0, 0x10, 0, 0xb9, 4, 0, 0, 0, 0x66, 0xba, 0xf8, 0x03, 0xf3, 0x6e];
    let off = outs(&[(SLEEP_CONTROL, POWER_OFF)]);
    code.extend(&off[..7]);
    assert_eq!(code.len(), 23);
    code.extend(b"rep\n");
    if let Some((exit, output)) = boot(&VmSpec::default(), &code) {
        assert_eq!((exit.unwrap(), output.as_str()), (Exit::PowerOff, "rep\n"));
    }
}

#[test]
fn resets_end_the_vm_with_their_own_cause() {
    for write in [(RESET, 0x52), (KEYBOARD, 0xfe)] {
        if let Some((exit, _)) = boot(&VmSpec::default(), &outs(&[write])) {
            assert_eq!(exit.unwrap(), Exit::Reset);
        }
    }
}

#[test]
fn what_goes_wrong_on_the_board_is_counted_over_resets() {
    if !kvm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    // mov dx, 0x1234; in al, dx; and a reset.
    let mut code = vec![0x66, 0xba, 0x34, 0x12, 0xec];
    code.extend(outs(&[(RESET, 0x52)]));
    std::fs::write(&kernel, pvh_elf(&code, true)).unwrap();
    let plan = Plan::new(&VmSpec::default(), &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
    let payload = Payload { kernel, initramfs: None, cmdline: String::new() };
    let options = Options { serial: SerialSpec::None, on_reset: OnReset::Reboot, ..Options::default() };
    let vm = Vm::new(plan, payload, options).unwrap();
    let handle = vm.handle();
    let thread = std::thread::spawn(move || vm.run());
    let mut board = None;
    while board
        .as_ref()
        .is_none_or(|board: &std::sync::Arc<crate::BoardCounters>| board.ports.reads.get() < 3)
    {
        std::thread::sleep(std::time::Duration::from_millis(1));
        board = board.or_else(|| handle.board());
        assert!(!thread.is_finished());
    }
    while !matches!(handle.ask(Request::Stop), Ok(Answer::Done)) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(thread.join().unwrap().unwrap(), Exit::Killed);
}

#[test]
fn a_crash_is_reported_in_one_line_with_the_state_of_its_vcpu() {
    // mov dx, 0x1234; out dx, al; out dx, al; lidt [its end: six zeros]; ud2
    let mut code = vec![0x66, 0xba, 0x34, 0x12, 0xee, 0xee, 0x0f, 0x01, 0x1d, 15, 0, 0x10, 0, 0x0f, 0x0b];
    code.extend([0; 6]);
    let Some((exit, _)) = boot(&VmSpec::default(), &code) else { return };
    let exit = exit.unwrap();
    let line = exit.crash().unwrap_or_else(|| panic!("{exit:?}"));
    assert!(line.starts_with("the guest crashed: vCPU 0 shut down after a triple fault; "), "{line}");
    for part in ["rip 0x", " cr3 0x", " efer 0x", "; pending: ", "; last exits: port 0x1234 x2, other"] {
        assert!(line.contains(part), "no '{part}' in: {line}");
    }
    assert!(!line.contains('\n') && line.len() < 1024, "{line}");
    // Intel's KVM leaves it where it was; AMD's resets it.
    assert!(
        line.contains("; rip 0x10000d ") || line.contains("; registers as KVM reset them: rip 0xfff0 "),
        "{line}"
    );
}

#[test]
fn many_vcpus_start_and_stop() {
    let spec = VmSpec { vcpus: Some(16), vnodes: Some(4.into()), ..VmSpec::default() };
    if let Some((exit, _)) = boot(&spec, &outs(&[(SLEEP_CONTROL, POWER_OFF)])) {
        assert_eq!(exit.unwrap(), Exit::PowerOff);
    }
}

#[test]
fn accesses_to_nothing_are_all_ones_and_harmless() {
    // mov dx, 0x1234; in al, dx; not al; mov dx, COM1; out dx, al: a NUL on the line.
    let mut code = vec![0x66, 0xba, 0x34, 0x12, 0xec, 0xf6, 0xd0, 0x66, 0xba, 0xf8, 0x03, 0xee];
    code.extend(outs(&[(COM1, b'\n'), (SLEEP_CONTROL, POWER_OFF)]));
    if let Some((exit, output)) = boot(&VmSpec::default(), &code) {
        assert_eq!((exit.unwrap(), output.as_str()), (Exit::PowerOff, "\0\n"));
    }
}

/// Ends the VM as soon as it hears how far its memory is.
struct Impatient(std::sync::Arc<std::sync::OnceLock<VmHandle>>);

impl crate::Progress for Impatient {
    fn prefault(&mut self, _: Bytes, _: Bytes) {
        let answer = self.0.get().unwrap().ask(Request::Stop);
        assert!(matches!(answer, Ok(Answer::Done)), "{answer:?}");
    }
}

#[test]
fn a_vm_that_takes_its_memory_can_be_ended() {
    if !kvm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (kernel, output) = (dir.path().join("kernel"), dir.path().join("serial"));
    let code = outs(&[(COM1, b'x'), (SLEEP_CONTROL, POWER_OFF)]);
    std::fs::write(&kernel, pvh_elf(&code, true)).unwrap();
    let spec: VmSpec =
        serde_json::from_str(r#"{"numa": [{"id": 0, "memory": "1G", "vcpus": "0", "prefault": "on"}]}"#)
            .unwrap();
    let plan = Plan::new(&spec, &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
    let payload = Payload { kernel, initramfs: None, cmdline: String::new() };
    let slot = std::sync::Arc::default();
    let progress = Some(Box::new(Impatient(std::sync::Arc::clone(&slot))) as _);
    let vm = Vm::new(
        plan,
        payload,
        Options { serial: SerialSpec::File(output.clone()), progress, ..Options::default() },
    )
    .unwrap();
    assert!(slot.set(vm.handle()).is_ok());
    assert_eq!(vm.run().unwrap(), Exit::Killed);
    assert_eq!(std::fs::read_to_string(output).unwrap(), "");
}

/// A guest that never ends by itself, its handle, and how it ended.
fn spin() -> Option<(VmHandle, std::thread::JoinHandle<Result<Exit, Error>>)> {
    if !kvm_is_there() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    // jmp to itself
    std::fs::write(&kernel, pvh_elf(&[0xeb, 0xfe], true)).unwrap();
    let spec = VmSpec { vcpus: Some(2), ..VmSpec::default() };
    let plan = Plan::new(&spec, &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
    let payload = Payload { kernel, initramfs: None, cmdline: String::new() };
    let options = Options { serial: SerialSpec::None, on_reset: OnReset::Exit, ..Options::default() };
    let vm = Vm::new(plan, payload, options).unwrap();
    let handle = vm.handle();
    let thread = std::thread::spawn(move || {
        let result = vm.run();
        drop(dir);
        result
    });
    while handle.view().state == VmState::Starting {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Some((handle, thread))
}

#[test]
fn a_vm_pauses_and_resumes_and_stops_on_request() {
    let Some((handle, thread)) = spin() else { return };
    assert_eq!(handle.view().vcpus.len(), 2);
    for _ in 0..3 {
        assert_eq!(handle.ask(Request::Pause).unwrap(), Answer::Done);
        assert_eq!(handle.view().state, VmState::Paused);
        assert_eq!(handle.ask(Request::Resume).unwrap(), Answer::Done);
        assert_eq!(handle.view().state, VmState::Running);
    }
    handle.ask(Request::Stop).unwrap();
    assert_eq!(thread.join().unwrap().unwrap(), Exit::Killed);
    assert_eq!(handle.view().state, VmState::Ended);
    let error = handle.ask(Request::Pause).unwrap_err().to_string();
    assert_eq!(error, "the VM is Ended, it must run");
}

#[test]
fn a_vcpu_thread_goes_where_it_is_sent() {
    let Some((handle, thread)) = spin() else { return };
    let cpus: CpuSet = "0".parse().unwrap();
    handle.ask(Request::Affinity(VcpuId(1), cpus.clone())).unwrap();
    let vcpu = handle.view().vcpus[1].clone();
    assert_eq!(vcpu.affinity, cpus);
    let status = std::fs::read_to_string(format!("/proc/self/task/{}/status", vcpu.thread)).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    assert!(handle.ask(Request::Affinity(VcpuId(9), cpus)).is_err());
    handle.ask(Request::Stop).unwrap();
    thread.join().unwrap().unwrap();
}

/// Where the kernel lets each vCPU's thread run.
fn allowed(handle: &VmHandle) -> Vec<CpuSet> {
    let threads = handle.view().vcpus.clone().into_iter().map(|vcpu| {
        let path = format!("/proc/self/task/{}/status", vcpu.thread);
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().parse().unwrap()
    });
    threads.collect()
}

fn ended(handle: &VmHandle, job: JobId) -> JobState {
    loop {
        match handle.job(job).unwrap().state {
            JobState::Running => std::thread::sleep(std::time::Duration::from_millis(1)),
            state => break state,
        }
    }
}

#[test]
fn a_thread_that_may_not_follow_its_vnode_fails_the_move_and_is_told_where_it_is() {
    let Some((handle, thread)) = spin() else { return };
    let first = handle.view().placement.vnodes[0].clone();
    let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
    let (cpu, nowhere) = (cpus("0"), cpus("1023"));
    handle.ask(Request::Affinity(VcpuId(1), cpu.clone())).unwrap();
    // The kernel refuses a CPU that is not there; the other vCPU goes.
    let vcpus = [(VcpuId(0), cpu.clone()), (VcpuId(1), nowhere)];
    let to = VnodePlacement { vcpus: vcpus.into(), affinity: Affinity::Hard, ..first.clone() };
    let go = |to: &VnodePlacement| {
        let request =
            Request::Move { to: vec![to.clone()], mode: MigrationMode::Sequential, bandwidth: None };
        match handle.ask(request).unwrap() {
            Answer::Started(job) => ended(&handle, job),
            other => panic!("{other:?}"),
        }
    };
    let JobState::Failed(error, outcome) = go(&to) else { panic!("the move did not fail") };
    assert_eq!((error.call, error.errno()), ("sched_setaffinity", libc::EINVAL));
    assert!(error.to_string().contains("vCPU 1 to CPUs 1023"), "{error}");
    let nothing = MoveOutcome { policy_on: first.pnodes.clone(), ..MoveOutcome::default() };
    assert_eq!(outcome, nothing);
    let here = vec![cpu.clone(), cpu.clone()];
    let view = handle.view();
    assert_eq!(view.vcpus.iter().map(|vcpu| vcpu.affinity.clone()).collect::<Vec<_>>(), here);
    assert_eq!(view.placement.vnodes[0].vcpus.values().cloned().collect::<Vec<_>>(), here);
    assert_eq!((allowed(&handle), &view.placement.vnodes[0].claim), (here, &first.claim));
    assert_eq!(handle.move_counts(VnodeId(0)).failed, 1);
    // To where there are CPUs it goes.
    assert!(matches!(go(&first), JobState::Done(done) if done == nothing));
    assert_eq!(allowed(&handle), first.vcpus.values().cloned().collect::<Vec<_>>());
    handle.ask(Request::Stop).unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn the_vcpus_of_a_vnode_are_held_as_they_are_told_and_a_refusal_changes_nothing() {
    let Some((handle, thread)) = spin() else { return };
    let host = HostTopology::read(&HostRoot::this()).unwrap();
    let look = || Ok(host.clone());
    let vnode = handle.view().placement.vnodes[0].clone();
    let allowed = || allowed(&handle);
    let cpus = vnode.cpus.clone();
    let enough = cpus.len() >= vnode.vcpus.len();
    handle.set_vnode_affinity(VnodeId(0), Affinity::Hard, None, &look).unwrap();
    let hard = allowed();
    assert!(hard.iter().all(|one| if enough { one.len() == 1 } else { *one == cpus }), "{hard:?}");
    assert!(!enough || hard[0] != hard[1], "{hard:?}");
    let nowhere = "77".parse().unwrap();
    let error = handle.set_vnode_affinity(VnodeId(0), Affinity::Soft, Some(&nowhere), &look).unwrap_err();
    assert!(error.to_string().starts_with("pnode 77: does not exist"), "{error}");
    assert_eq!((allowed(), handle.view().placement.vnodes[0].affinity), (hard, Affinity::Hard));
    // A CPU that is not there: the kernel refuses, and all are where they were.
    let mut place = handle.view().placement.vnodes[0].clone();
    place.vcpus.insert(VcpuId(1), "1023".parse().unwrap());
    place.vcpus.insert(VcpuId(0), cpus.clone());
    let before = allowed();
    assert!(handle.ask(Request::Rehome(Box::new(place))).is_err());
    assert_eq!(allowed(), before);
    handle.set_vnode_affinity(VnodeId(0), Affinity::Soft, Some(&vnode.cpu_pnodes), &look).unwrap();
    assert!(allowed().iter().all(|one| *one == cpus));
    assert_eq!(handle.view().placement.vnodes[0].claim, vnode.claim);
    handle.ask(Request::Stop).unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_move_to_where_a_vnode_is_looks_at_every_page_and_moves_none() {
    let Some((handle, thread)) = spin() else { return };
    let look = || Ok(HostTopology::read(&HostRoot::this()).unwrap());
    let home = handle.view().placement.vnodes[0].pnodes.clone();
    let before = handle.residency(VnodeId(0)).unwrap().unwrap();
    assert_eq!(before.foreign(&home), Bytes::ZERO);
    let job = handle.move_vnode(VnodeId(0), &home, None, &look).unwrap();
    let outcome = ended(&handle, job);
    let nothing = MoveOutcome { policy_on: home, ..MoveOutcome::default() };
    assert!(matches!(outcome, JobState::Done(ref done) if *done == nothing), "{outcome:?}");
    let view = handle.job(job).unwrap();
    assert_eq!((view.seen, view.total), (Bytes::mib(512), Bytes::mib(512)));
    assert!(!handle.cancel(job));
    let nowhere = handle.move_vnode(VnodeId(0), &"77".parse().unwrap(), None, &look).unwrap_err();
    assert!(nowhere.to_string().starts_with("pnode 77: does not exist"));
    handle.ask(Request::Stop).unwrap();
    thread.join().unwrap().unwrap();
}
