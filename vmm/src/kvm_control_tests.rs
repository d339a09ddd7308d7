//! Tiny guests on `/dev/kvm` that can always be ended and asked: readers that do not read, a control loop that hangs. Skipped,
//! and said so, where there is no usable KVM.

use crate::test_kernel::pvh_elf;
use crate::{
    Answer, Error, Exit, JobState, JobView, Observer, Options, Payload, Request, RequestError, Vm, VmHandle,
    VmState, VmView,
};
use nix::fcntl::OFlag;
use resources::{CpuSet, HostRoot, HostTopology, OnReset, Plan, SerialSpec, VcpuId, VmSpec, VnodeId};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// `mov dx, COM1; mov al, 'x'; again: out dx, al; jmp again`
const PRINTS: [u8; 9] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd];
/// `jmp` to itself.
const SPINS: [u8; 2] = [0xeb, 0xfe];

struct Guest {
    handle: VmHandle,
    thread: JoinHandle<Result<Exit, Error>>,
    directory: tempfile::TempDir,
}

/// A guest that runs; `serial` is a name in its directory.
fn start(code: &[u8], serial: Option<&str>, observer: Option<Box<dyn Observer>>) -> Option<Guest> {
    if !testing::kvm() {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("kernel");
    std::fs::write(&kernel, pvh_elf(code, true)).unwrap();
    let serial = serial.map_or(SerialSpec::None, |name| {
        let path = directory.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        SerialSpec::File(path)
    });
    let plan = Plan::new(&VmSpec::default(), &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
    let payload = Payload { kernel, initramfs: None, cmdline: String::new() };
    let options = Options { serial, observer, on_reset: OnReset::Exit, ..Options::default() };
    let vm = Vm::new(plan, payload, options).unwrap();
    let handle = vm.handle();
    let thread = std::thread::spawn(move || vm.run());
    while handle.view().state == VmState::Starting {
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(Guest { handle, thread, directory })
}

impl Guest {
    fn ends(self) -> Exit {
        assert_eq!(self.handle.ask(Request::Stop).unwrap(), Answer::Done);
        self.thread.join().unwrap().unwrap()
    }

    /// The FIFO, filled to the brim.
    fn fill(&self, name: &str) -> File {
        let mut fifo = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.directory.path().join(name))
            .unwrap();
        while fifo.write(&[b'.'; 4096]).is_ok() {}
        fifo
    }
}

#[test]
fn a_guest_whose_output_nobody_reads_can_be_paused_and_ended() {
    let Some(guest) = start(&PRINTS, Some("fifo"), None) else { return };
    let mut fifo = guest.fill("fifo");
    // What waits for the reader fills up too, and then the vCPU waits.
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        assert_eq!(guest.handle.ask(Request::Pause).unwrap(), Answer::Done);
        assert_eq!(guest.handle.view().state, VmState::Paused);
        assert_eq!(guest.handle.ask(Request::Resume).unwrap(), Answer::Done);
    }
    // A reader that comes has the guest go on.
    let mut seen = 0;
    let mut bytes = [0; 4096];
    while seen < 200 << 10 {
        match fifo.read(&mut bytes) {
            Ok(count) => seen += count,
            Err(_) => std::thread::yield_now(),
        }
    }
    assert_eq!(guest.ends(), Exit::Killed);
}

/// Keeps the control loop in its hand when it is told to.
#[derive(Clone, Default)]
struct Holder(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Holder {
    fn hold(&self, hold: bool) {
        self.0.0.lock().unwrap().0 = hold;
        self.0.1.notify_all();
    }

    fn wait_until_held(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |(_, held)| !*held).unwrap());
    }
}

impl Observer for Holder {
    fn view(&self, _: &VmView) {
        let mut state = self.0.0.lock().unwrap();
        while state.0 {
            state.1 = true;
            self.0.1.notify_all();
            state = self.0.1.wait(state).unwrap();
        }
        state.1 = false;
    }

    fn job(&self, _: &JobView) {}

    fn balloon(&self, _: &crate::balloon::VnodeMemory) {}
}

#[test]
fn what_was_not_taken_up_in_time_is_never_done() {
    let holder = Holder::default();
    let Some(guest) = start(&SPINS, None, Some(Box::new(holder.clone()))) else { return };
    let handle = guest.handle.with_patience(Duration::from_millis(20));
    let place = handle.view().placement.vnodes[0].clone();
    let look = || Ok(HostTopology::read(&HostRoot::this()).unwrap());
    holder.hold(true);
    let (slow, cpus) = (guest.handle.clone(), place.cpus.clone());
    let stuck = std::thread::spawn(move || slow.ask(Request::Affinity(VcpuId(0), cpus)));
    holder.wait_until_held();
    let late = |result: Result<Answer, RequestError>| {
        assert!(matches!(result, Err(RequestError::NoAnswer)), "{result:?}");
    };
    late(handle.move_vnode(VnodeId(0), &place.pnodes, None, &look).map(Answer::Started));
    late(handle.ask(Request::Rehome(Box::new(place.clone()))));
    late(handle.ask(Request::Pause));
    late(handle.ask(Request::Reset));
    late(handle.ask(Request::Stop));
    holder.hold(false);
    // What had been taken up is done and answered, however late.
    assert_eq!(stuck.join().unwrap().unwrap(), Answer::Done);
    assert_eq!(guest.handle.ask(Request::Resume).unwrap(), Answer::Done);
    assert_eq!((guest.handle.view().state, guest.handle.jobs().len()), (VmState::Running, 0));
    // The next one is the first.
    let job = guest.handle.move_vnode(VnodeId(0), &place.pnodes, None, &look).unwrap();
    assert_eq!(job.0, 1);
    assert_eq!(guest.ends(), Exit::Killed);
}

#[test]
fn a_stop_that_was_answered_is_not_lost_against_a_reset_in_the_same_moment() {
    let holder = Holder::default();
    let Some(guest) = start(&SPINS, None, Some(Box::new(holder.clone()))) else { return };
    let cpus = guest.handle.view().placement.vnodes[0].cpus.clone();
    holder.hold(true);
    let ask = |request: Request| {
        let handle = guest.handle.clone();
        let thread = std::thread::spawn(move || handle.ask(request));
        std::thread::sleep(Duration::from_millis(50));
        thread
    };
    let stuck = ask(Request::Affinity(VcpuId(0), cpus));
    holder.wait_until_held();
    let asked = [ask(Request::Reset), ask(Request::Stop)];
    holder.hold(false);
    assert_eq!(stuck.join().unwrap().unwrap(), Answer::Done);
    assert_eq!(asked.map(|thread| thread.join().unwrap().unwrap()), [Answer::Done; 2]);
    assert_eq!(guest.thread.join().unwrap().unwrap(), Exit::Killed);
}

#[test]
fn a_guest_that_is_reset_while_a_vnode_moves_starts_again_where_it_was() {
    let holder = Holder::default();
    let Some(guest) = start(&SPINS, None, Some(Box::new(holder.clone()))) else { return };
    let place = guest.handle.view().placement.vnodes[0].clone();
    let one = CpuSet::one(place.cpus.last().unwrap());
    guest.handle.ask(Request::Affinity(VcpuId(0), one.clone())).unwrap();
    let before = guest.handle.view();
    assert_eq!(before.vcpus[0].affinity, one);
    holder.hold(true);
    let in_thread = |act: Box<dyn FnOnce(VmHandle) -> Result<Answer, RequestError> + Send>| {
        let handle = guest.handle.clone();
        let thread = std::thread::spawn(move || act(handle));
        std::thread::sleep(Duration::from_millis(100));
        thread
    };
    let stuck = in_thread(Box::new(move |handle| handle.ask(Request::Affinity(VcpuId(0), one))));
    holder.wait_until_held();
    let to = place.pnodes.clone();
    let asked = [
        in_thread(Box::new(move |handle| {
            let look = || Ok(HostTopology::read(&HostRoot::this()).unwrap());
            handle.move_vnode(VnodeId(0), &to, None, &look).map(Answer::Started)
        })),
        in_thread(Box::new(|handle| handle.ask(Request::Reset))),
    ];
    holder.hold(false);
    stuck.join().unwrap().unwrap();
    let [moves, reset] = asked.map(|thread| thread.join().unwrap());
    let Ok(Answer::Started(job)) = moves else { panic!("{moves:?}") };
    reset.unwrap();
    while guest.handle.view().state != VmState::Running {
        std::thread::sleep(Duration::from_millis(1));
    }
    let after = guest.handle.view();
    assert_eq!((after.placement, after.vcpus), (before.placement, before.vcpus));
    let JobState::Cancelled(outcome) = guest.handle.job(job).unwrap().state else { panic!("not cancelled") };
    assert_eq!(outcome.policy_on, place.pnodes);
    assert_eq!(guest.ends(), Exit::Killed);
}
