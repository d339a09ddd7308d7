//! A soak: guests that look at their own memory (`guest::guard`) while it is taken, given back and moved, by numavisor or by
//! QEMU. Corruptions and guests that died are counted, with all that is known of how they died.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bench::{CMDLINE, qemu};
use super::host::HostFacts;
use super::kvm_trace::KvmTrace;
use super::payload::Payload;
use super::spec::{GuestSpec, Vnode};
use super::vm::{Start, Vm, fault};
use crate::lab::job::{Event, Monitor, Pressure, Soak};
use crate::qmp::Qmp;

/// Memory of numavisor's vnodes; of QEMU's guest as `bench::qemu` has it.
const VNODES_MIB: [u64; 2] = [256, 240];
const QEMU_MIB: u64 = 512;
/// The least that a balloon leaves, on both sides.
const FLOOR_MIB: u64 = 64;
/// How long a balloon may work on what it was asked for.
const PATIENCE: Duration = Duration::from_secs(120);
/// A balloon that has not changed for so long has got all there is.
const STILL: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// Lines of a guest that died.
const SHOWN: usize = 12;

/// What one guest came to.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// Memory was taken, given back and moved so often.
    pub(crate) rounds: u64,
    /// Pages that the guest looked at.
    pub(crate) looked: u64,
    /// Those that were not as it had written them.
    pub(crate) wrong: u64,
    /// How it died, if it did.
    pub(crate) death: Option<String>,
}

/// A guest under soak.
pub(crate) struct Guest {
    vm: Vm,
    monitor: Hands,
    pressure: Pressure,
    balloon: bool,
}

/// How its monitor is asked for things.
enum Hands {
    Numavisor { program: PathBuf, socket: String, pnodes: [u32; 2], _directory: tempfile::TempDir },
    Qemu { qmp: Box<Qmp>, _directory: tempfile::TempDir },
}

/// Guests one after the other until the time or the rounds are over; each is told as soon as it is over, since the host may
/// not come to its own end.
pub(super) fn run(payload: &Payload, soak: &Soak) -> Result<i32> {
    let trace = soak.trace.then(KvmTrace::start).transpose()?;
    let until = Instant::now() + Duration::from_secs(soak.seconds);
    let (mut left, mut clean) = (soak.rounds, true);
    while left > 0 && Instant::now() < until {
        let transcript = Rc::new(RefCell::new(String::new()));
        let mut outcome = Outcome::default();
        let lived = live(payload, soak, left.min(soak.rounds_of_guest), until, &transcript, &mut outcome);
        if let Err(error) = lived {
            outcome.death = Some(signature(&error));
            println!("a guest died after {} rounds: {error:#}", outcome.rounds);
            let transcript = transcript.borrow();
            let lines: Vec<&str> = transcript.lines().collect();
            lines[lines.len().saturating_sub(SHOWN)..].iter().for_each(|line| println!("  | {line}"));
            trace.iter().flat_map(KvmTrace::take).for_each(|line| println!("  kvm {line}"));
        }
        clean &= outcome.wrong == 0 && outcome.death.is_none();
        // One that does not come up at all must not go on for ever.
        left = left.saturating_sub(outcome.rounds.max(1));
        Event::Bench(serde_json::to_value(&outcome)?).say();
    }
    Ok(i32::from(!clean))
}

/// In few words, to count by.
fn signature(error: &anyhow::Error) -> String {
    fault(error).map_or_else(|| error.root_cause().to_string(), |fault| fault.to_string())
}

fn live(
    payload: &Payload,
    soak: &Soak,
    rounds: u64,
    until: Instant,
    transcript: &Rc<RefCell<String>>,
    outcome: &mut Outcome,
) -> Result<()> {
    let nodes = HostFacts::look()?.nodes;
    let pnode = |index: usize| nodes.get(index).or(nodes.first()).map_or(0, |node| node.node);
    let mut guest = match soak.monitor {
        Monitor::Numavisor => Guest::numavisor(
            payload,
            [pnode(0), pnode(1)],
            soak.vcpus,
            soak.pressure,
            soak.balloon,
            transcript,
        )?,
        Monitor::Qemu => Guest::qemu(payload, soak.vcpus, soak.pressure, soak.balloon, transcript)?,
    };
    for round in 0..rounds {
        if Instant::now() >= until {
            break;
        }
        let done = guest.round(round);
        // It counts as far as the guest could still say what it had seen.
        let found = done.and_then(|()| guest.found());
        found.map(|found| outcome.take(&found))?;
        outcome.rounds = round + 1;
    }
    guest.end()
}

impl Outcome {
    fn take(&mut self, found: &Value) {
        let number = |key: &str| found[key].as_u64().unwrap_or(0);
        self.looked = number("looked");
        if number("wrong") > self.wrong {
            println!("corrupted: {found}");
        }
        self.wrong = number("wrong");
    }
}

impl Guest {
    /// One of two vnodes on two pnodes, with half of the vCPUs each.
    pub(crate) fn numavisor(
        payload: &Payload,
        pnodes: [u32; 2],
        vcpus: u32,
        pressure: Pressure,
        balloon: bool,
        transcript: &Rc<RefCell<String>>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("api").to_string_lossy().into_owned();
        let first: Vec<u32> = (0..vcpus.div_ceil(2)).collect();
        let second: Vec<u32> = (vcpus.div_ceil(2)..vcpus).collect();
        let vnode = |index: usize, vcpus: &[u32]| Vnode::on(pnodes[index], VNODES_MIB[index], vcpus);
        let spec = GuestSpec::new(vec![vnode(0, &first), vnode(1, &second)]);
        let vm = Vm::start(payload, &Start::of(&spec).flag(&["--api-socket", &socket]), transcript)?;
        let program = payload.numavisor();
        let monitor = Hands::Numavisor { program, socket, pnodes, _directory: directory };
        Self { vm, monitor, pressure, balloon }.guarded("virtio_pci virtio_balloon")
    }

    fn qemu(
        payload: &Payload,
        vcpus: u32,
        pressure: Pressure,
        balloon: bool,
        transcript: &Rc<RefCell<String>>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("qmp");
        let mut command = qemu(payload, "microvm,acpi=on", &vcpus.to_string());
        command.args(["-append", CMDLINE, "-device", "virtio-balloon-device"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        command.current_dir(&payload.directory);
        let vm = Vm::spawn(command, transcript)?;
        let qmp = Box::new(connected(&socket)?);
        Self { vm, monitor: Hands::Qemu { qmp, _directory: directory }, pressure, balloon }
            .guarded("virtio_mmio virtio_balloon")
    }

    /// Up, with its balloon driver, and looking at its memory.
    fn guarded(mut self, modules: &str) -> Result<Self> {
        self.vm.line("the guest's init", |line| line.contains(crate::guest::READY).then_some(()))?;
        self.vm.ask(&format!("modprobe {modules}"))?;
        let percent = match self.pressure {
            Pressure::Low => 40,
            Pressure::High => 75,
        };
        self.vm.ask(&format!("guard {percent}"))?;
        Ok(self)
    }

    /// Takes memory, gives it back, and moves it; every other time the other way.
    pub(crate) fn round(&mut self, round: u64) -> Result<()> {
        if self.balloon {
            self.inflate()?;
        }
        self.move_memory(round)?;
        if self.balloon {
            self.deflate()?;
        }
        Ok(())
    }

    /// What a target keeps of so much: some of the free memory is taken, or more than there is.
    fn kept(&self, mib: u64) -> u64 {
        match self.pressure {
            Pressure::Low => mib * 7 / 8,
            Pressure::High => FLOOR_MIB,
        }
    }

    fn inflate(&mut self) -> Result<()> {
        let (kept, pressure) = (VNODES_MIB.map(|mib| self.kept(mib)), self.pressure);
        let (qemu_kept, began) = (self.kept(QEMU_MIB), Instant::now());
        match &mut self.monitor {
            Hands::Numavisor { program, socket, .. } => {
                let ctl = Ctl { program, socket };
                ctl.targets(kept)?;
                ctl.settled()
            }
            Hands::Qemu { qmp, .. } => {
                qmp.ask("balloon", &json!({ "value": qemu_kept << 20 }))?;
                let (mut last, mut since) = (u64::MAX, began);
                while last > qemu_kept << 20 && (pressure == Pressure::Low || since.elapsed() < STILL) {
                    ensure!(
                        began.elapsed() < PATIENCE,
                        "QEMU's balloon did not come to its end, at {last} bytes"
                    );
                    thread::sleep(LOOK);
                    let actual = actual(qmp)?;
                    if actual != last {
                        (last, since) = (actual, Instant::now());
                    }
                }
                Ok(())
            }
        }
    }

    fn deflate(&mut self) -> Result<()> {
        match &mut self.monitor {
            Hands::Numavisor { program, socket, .. } => {
                let ctl = Ctl { program, socket };
                ctl.targets(VNODES_MIB)?;
                ctl.settled()
            }
            Hands::Qemu { qmp, .. } => {
                let all = QEMU_MIB << 20;
                qmp.ask("balloon", &json!({ "value": all }))?;
                let began = Instant::now();
                while actual(qmp)? < all {
                    ensure!(began.elapsed() < PATIENCE, "QEMU's balloon gave nothing back");
                    thread::sleep(LOOK);
                }
                Ok(())
            }
        }
    }

    /// numavisor's first vnode goes to the pnode of the other one and comes back; of QEMU, all that is on one node does, by
    /// `migratepages`.
    fn move_memory(&mut self, round: u64) -> Result<()> {
        let there = usize::from(round.is_multiple_of(2));
        match &mut self.monitor {
            Hands::Numavisor { program, socket, pnodes, .. } => {
                if pnodes[0] == pnodes[1] {
                    return Ok(());
                }
                let to = pnodes[there].to_string();
                let job = Ctl { program, socket }.ask(&["move", "0", "--pnode", &to])?;
                ensure!(job["state"] == "done", "the move ended as {job}");
                Ok(())
            }
            Hands::Qemu { .. } => {
                let (from, to) = ((1 - there).to_string(), there.to_string());
                let mut command = Command::new("/usr/bin/migratepages");
                let status = command.args([&self.vm.pid().to_string(), &from, &to]).status()?;
                ensure!(status.success(), "migratepages ended with {status}");
                Ok(())
            }
        }
    }

    /// What the guest has seen of its memory so far.
    pub(crate) fn found(&mut self) -> Result<Value> {
        self.vm.ask("guarded")
    }

    /// The last look, and power-off.
    pub(crate) fn end(mut self) -> Result<()> {
        self.vm.ask("unguard")?;
        match self.monitor {
            Hands::Numavisor { .. } => self.vm.power_off(),
            // Its status says nothing of how the guest ended.
            Hands::Qemu { .. } => self.vm.tell("poweroff").and_then(|()| self.vm.ended()).map(drop),
        }
    }
}

/// QEMU opens its socket some time after its start.
fn connected(socket: &Path) -> Result<Qmp> {
    let began = Instant::now();
    loop {
        match Qmp::connect(socket) {
            Ok(qmp) => return Ok(qmp),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn actual(qmp: &mut Qmp) -> Result<u64> {
    qmp.ask("query-balloon", &json!({}))?["actual"].as_u64().context("no size of the balloon")
}

/// `numavisor ctl`.
struct Ctl<'a> {
    program: &'a Path,
    socket: &'a str,
}

impl Ctl<'_> {
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.program);
        let output = command.args(["ctl", "--api-socket", self.socket, "--json"]).args(words).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| {
            format!("ctl {words:?} answers {text}{}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Of all vnodes at once.
    fn targets(&self, mib: [u64; 2]) -> Result<()> {
        for (vnode, mib) in mib.iter().enumerate() {
            self.ask(&["mem-set", &vnode.to_string(), &format!("{mib}M"), "--detach"])?;
        }
        Ok(())
    }

    /// Waits until all balloons have ended what they were asked for, one way or another.
    fn settled(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let answer = self.ask(&["vnodes"])?;
            let vnodes = answer["vnodes"].as_array().with_context(|| format!("no vnodes in {answer}"))?;
            if vnodes.iter().all(|vnode| !vnode["balloon"]["outcome"].is_null()) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("balloons did not come to an end: {answer}");
            }
            thread::sleep(LOOK);
        }
    }
}
