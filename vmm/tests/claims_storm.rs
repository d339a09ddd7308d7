//! Many at once, and many that die: on a recorded host of 8 nodes, what is promised is never more than there is, and
//! CPUs are shared only when all are claimed. Other processes are this test binary again, told by an environment
//! variable to claim and wait. A binary of its own, for a child holds copies of all locks of its parent until it has
//! called `execve(2)`: tests of other locks beside it would find them held.

#![expect(clippy::unwrap_used, reason = "tests")]

use resources::test_host::HostShape;
use resources::{Bytes, Claim, Fit, HostRoot, HostTopology, Ledger, Plan, VmSpec, still_fits};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use vmm::claims::{Claims, ClaimsError, Held, Planner};

const DIRECTORY: &str = "NUMAVISOR_TEST_CLAIMS";
const MEMORY: &str = "NUMAVISOR_TEST_MEMORY";
const REPETITIONS: usize = 20;
const STARTS: usize = 50;

/// Eight nodes of uneven size, 38 CPUs.
fn write_host(root: &Path) {
    let shape = (0..8u32).fold(HostShape::new(8), |shape, id| {
        let first = id * 5;
        let last = first + 3 + id % 3;
        let shape = shape
            .memory(id, Bytes::gib(3 + u64::from(id % 4)))
            .cpus(id, &format!("{first}-{}", last.min(first + 4)));
        (0..id)
            .fold(shape, |shape, other| shape.distance(id, other, if id / 4 == other / 4 { 12 } else { 32 }))
    });
    shape.write(&root.join("sys")).unwrap();
}

/// What `numavisor run` plans before it starts anything.
struct Start<'a> {
    root: &'a Path,
    spec: &'a VmSpec,
}

/// No room, or no claims, which no test expects.
#[derive(Debug)]
struct Refused;

impl From<ClaimsError> for Refused {
    fn from(error: ClaimsError) -> Self {
        panic!("{error}")
    }
}

impl Planner for Start<'_> {
    type Plan = Plan;
    type Error = Refused;

    fn plan(&mut self, others: &Ledger) -> Result<Plan, Refused> {
        let host = HostTopology::read(&HostRoot::of(self.root.join("sys"))).unwrap();
        Plan::beside(self.spec, &host, others).map_err(|_| Refused)
    }

    fn claim<'a>(&self, plan: &'a Plan) -> &'a Claim {
        &plan.placement.claim
    }

    fn still_fits(&mut self, plan: &Plan, others: &Ledger, changed: bool) -> Result<bool, Refused> {
        let host = HostTopology::read(&HostRoot::of(self.root.join("sys"))).unwrap();
        Ok(still_fits(&plan.placement.claim, &host, others, changed))
    }
}

fn start(root: &Path, spec: &VmSpec) -> Option<Held> {
    let claims = Claims::open(&root.join("claims"), None).unwrap();
    claims.reserve(&mut Start { root, spec }).ok().map(|(_, held)| held)
}

fn spec(memory: Bytes, vcpus: u32) -> VmSpec {
    VmSpec { memory: Some(memory), vcpus: Some(vcpus), ..VmSpec::default() }
}

/// Invariant 5 of the design: how many live, and what their vCPUs are on each pnode, with its CPUs.
fn assert_not_overbooked(root: &Path) -> (usize, Vec<(u64, u64)>) {
    let host = HostTopology::read(&HostRoot::of(root.join("sys"))).unwrap();
    let living = Claims::look(&root.join("claims")).living().unwrap();
    let mut vcpus = Vec::new();
    for pnode in host.pnodes() {
        let here = living.iter().filter_map(|vm| vm.claim.pnodes.get(&pnode.id));
        let memory: u64 = here.clone().map(|claim| claim.memory.get()).sum();
        let claimed: u64 = here.map(|claim| claim.vcpus).sum();
        assert!(memory <= pnode.available().get(), "pnode {} is overbooked: {memory}", pnode.id);
        vcpus.push((claimed, pnode.cpus.len() as u64));
    }
    (living.len(), vcpus)
}

/// vCPUs share CPUs only when every CPU is claimed; how many live, and their vCPUs. For as long as none has gone: those
/// that stay are where they were.
fn assert_none_shares_needlessly(root: &Path) -> (usize, u64) {
    let (living, vcpus) = assert_not_overbooked(root);
    let shared = vcpus.iter().any(|(claimed, cpus)| claimed > cpus);
    let unclaimed = vcpus.iter().any(|(claimed, cpus)| claimed < cpus);
    assert!(!(shared && unclaimed), "vCPUs share CPUs while others are unclaimed: {vcpus:?}");
    (living, vcpus.iter().map(|(claimed, _)| claimed).sum())
}

#[test]
fn fifty_starts_at_once_never_overbook_a_node() {
    for repetition in 0..REPETITIONS {
        let root = tempfile::tempdir().unwrap();
        write_host(root.path());
        // From too little for the memory of the host to too much.
        let memory = Bytes::mib(256 + 64 * (repetition as u64 % 5));
        let together = Barrier::new(STARTS);
        let held: Vec<Option<Held>> = std::thread::scope(|scope| {
            let one = |_| {
                scope.spawn(|| {
                    together.wait();
                    start(root.path(), &spec(memory, 1))
                })
            };
            let threads: Vec<_> = (0..STARTS).map(one).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (living, vcpus) = assert_none_shares_needlessly(root.path());
        let started = held.iter().flatten().count();
        assert_eq!((living, vcpus), (started, started as u64));
        // None is refused as long as there is room for it somewhere.
        let refused = STARTS - started;
        assert!(
            refused == 0 || start(root.path(), &spec(memory, 1)).is_none(),
            "{refused} refused too early"
        );
        assert!(start(root.path(), &VmSpec { fit: Fit::Strict, ..spec(memory, 1) }).is_none() || vcpus < 38);
    }
}

/// Not a test: what the processes of the tests below do.
#[test]
fn a_process_that_claims_and_waits() {
    let (Ok(root), Ok(memory)) = (std::env::var(DIRECTORY), std::env::var(MEMORY)) else { return };
    let held = start(Path::new(&root), &spec(memory.parse().unwrap(), 1));
    println!("\nclaimed={}", held.is_some());
    // Until the other end is closed.
    let _ = std::io::stdin().read(&mut [0]);
}

fn spawn(root: &Path, memory: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["a_process_that_claims_and_waits", "--exact", "--nocapture"])
        .env(DIRECTORY, root)
        .env(MEMORY, memory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether it got its claim; waits until it knows.
fn claimed(child: &mut Child) -> bool {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let word = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("claimed=").map(str::to_owned));
    word.unwrap() == "true"
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn fifty_processes_at_once_never_overbook_and_kill_releases_at_once() {
    let root = tempfile::tempdir().unwrap();
    write_host(root.path());
    for _ in 0..4 {
        let mut children: Vec<Child> = (0..STARTS).map(|_| spawn(root.path(), "512M")).collect();
        let started = children.iter_mut().map(claimed).filter(|claimed| *claimed).count();
        assert!(started > 30, "{started}");
        assert_eq!(assert_none_shares_needlessly(root.path()).0, started);
        // Two of three die without a word: what they had is free as soon as they are gone.
        for child in children.drain(..STARTS * 2 / 3) {
            kill(child);
        }
        let (living, _) = assert_not_overbooked(root.path());
        assert!(living <= STARTS - STARTS * 2 / 3);
        assert!(start(root.path(), &spec(Bytes::gib(1), 4)).is_some());
        children.into_iter().for_each(kill);
        assert_eq!(assert_not_overbooked(root.path()).0, 0);
    }
}

#[test]
fn processes_that_die_while_they_claim_leave_nothing_that_hurts() {
    let root = tempfile::tempdir().unwrap();
    write_host(root.path());
    let until = Instant::now() + Duration::from_secs(4);
    let mut round = 0u64;
    while Instant::now() < until {
        let children: Vec<Child> = (0..6).map(|_| spawn(root.path(), "256M")).collect();
        // From before they have opened anything to after they have claimed.
        std::thread::sleep(Duration::from_micros(round * 997 % 25_000));
        children.into_iter().for_each(kill);
        let held = start(root.path(), &spec(Bytes::gib(1), 1));
        assert!(held.is_some(), "a dead process still holds the lock, or a claim");
        assert_eq!(assert_not_overbooked(root.path()).0, 1);
        round += 1;
    }
    let left = std::fs::read_dir(root.path().join("claims")).unwrap().count();
    assert_eq!(left, 1, "only the lock is left");
}
