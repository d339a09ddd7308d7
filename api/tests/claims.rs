//! Claims from outside: what `host` and `plan` say of VMs that live, and a VM that claims while it runs. The last needs
//! KVM for a guest of a few instructions; skipped, and said so, where there is none.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

use resources::test_host::HostShape;
use resources::{Bytes, Claim, NodeClaim, PnodeId};
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vmm::claims::{Claims, Held, Survey};
use vmm::test_kernel::{outs, pvh_elf};

const COM1: u16 = 0x3f8;

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    /// Two nodes with 3.3 GiB available and two CPUs each.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        HostShape::new(2).write(&root.path().join("sys")).unwrap();
        Self { root }
    }

    fn claims(&self) -> PathBuf {
        self.root.path().join("claims")
    }

    fn numavisor(&self, args: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_numavisor"))
            .args(args.split_whitespace())
            .arg(format!("--sysfs={}", self.root.path().join("sys").display()))
            .arg(format!("--claims-dir={}", self.claims().display()))
            .output()
            .unwrap()
    }

    fn printed(&self, args: &str) -> String {
        let output = self.numavisor(args);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A VM, as far as claims go.
    fn claim(&self, pnode: u32, memory: Bytes, vcpus: u64, pinned: &str) -> Held {
        let claims = Claims::open(&self.claims(), None).unwrap();
        let pinned = pinned.parse().unwrap();
        let node = NodeClaim { memory, vcpus, pinned, ..NodeClaim::default() };
        let book = claims.lock(&claims.survey().unwrap()).unwrap();
        book.claim(&Claim { pnodes: [(PnodeId(pnode), node)].into() }).unwrap()
    }
}

#[test]
fn nobody_lives_where_nobody_ever_claimed_and_looking_makes_nothing() {
    let bench = Bench::new();
    assert!(bench.printed("host --claims").ends_with("\nno claims\n"));
    assert!(bench.printed("host --claims --json").contains("\"claims\": []"));
    bench.printed("plan");
    assert!(!bench.claims().exists());
}

#[test]
fn host_lists_the_living_and_their_sums_by_pnode() {
    let bench = Bench::new();
    let held = [bench.claim(0, Bytes::gib(1), 1, "1"), bench.claim(0, Bytes::mib(512), 1, "")];
    let text = bench.printed("host --claims");
    let sums = "\
PNODE  CLAIMED  UNTOUCHED  HIT  MISS  FOREIGN  INTERLEAVED  LEFT  PAGES CLAIMED  VCPUS  PINNED
    0     1.5G       1.5G    -     -        -            -  1.8G  -                  2  1
    1        -          -    -     -        -            -  3.3G  -                  0  -
";
    assert!(text.contains(sums), "{text}");
    let me = std::process::id();
    assert_eq!(text.lines().filter(|line| line.trim_start().starts_with(&format!("{me} "))).count(), 2);
    let json: serde_json::Value = serde_json::from_str(&bench.printed("host --claims --json")).unwrap();
    assert_eq!(json["pnodes"][0]["claimed"]["memory_untouched"], 3u64 << 29);
    assert_eq!(json["pnodes"][0]["claimed"]["memory_hit"], 0);
    assert_eq!(json["pnodes"][0]["claimed"]["memory_miss"], 0);
    assert_eq!(json["claims"][0]["pid"], me);
    drop(held);
    assert!(!bench.printed("host --json").contains("\"claim"));
}

#[test]
fn plans_are_made_beside_the_living() {
    let bench = Bench::new();
    let alone = bench.printed("plan --memory=2G");
    assert!(alone.contains("pnode 0: distances 0, 0 vCPUs claimed"), "{alone}");
    let held = bench.claim(0, Bytes::gib(2), 1, "");
    let beside = bench.printed("plan --memory=2G");
    assert!(
        beside.contains("auto, fit=prefer: pnode 1: distances 0, 0 vCPUs claimed, 3.3G free"),
        "{beside}"
    );
    assert!(beside.contains("nearest miss: pnode 0, short of 656M of memory"), "{beside}");
    let refused = bench.numavisor("plan --numa=id=0,memory=2G,pnode=0");
    let line = "numavisor: vnodes[0].memory: 2G do not fit on pnode 0, which has 1.3G available for it (policy=bind)\n";
    assert_eq!((refused.status.code(), String::from_utf8_lossy(&refused.stderr).as_ref()), (Some(3), line));
    let strict = bench.numavisor("plan --memory=4G --fit=strict");
    let line = "numavisor: vnodes[0].pnode: no pnode has room for 4G of memory and 1 unclaimed CPU; nearest is \
                pnode 1, short of 656M of memory (placement=auto, fit=strict)\n";
    assert_eq!((strict.status.code(), String::from_utf8_lossy(&strict.stderr).as_ref()), (Some(3), line));
    drop(held);
    assert_eq!(bench.printed("plan --memory=2G"), alone);
}

#[test]
fn a_file_left_behind_is_a_warning_and_no_more() {
    let bench = Bench::new();
    drop(bench.claim(0, Bytes::gib(1), 1, ""));
    std::fs::write(bench.claims().join("9-9-9.claim"), b"{").unwrap();
    let output = bench.numavisor("plan");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("9-9-9.claim: ignored, its process is gone"));
}

#[test]
fn those_who_look_wait_for_nobody() {
    let bench = Bench::new();
    let _held = bench.claim(0, Bytes::gib(1), 1, "");
    let _busy = Claims::open(&bench.claims(), None).unwrap().lock(&Survey::default()).unwrap();
    assert!(bench.printed("host --claims").contains("\n    0       1G         1G"));
    assert!(bench.printed("plan --memory=2G").contains("auto, fit=prefer: pnode "));
}

/// Starts that are refused before anything else is looked at: status and the line.
fn refused(mut command: Command) -> (Option<i32>, String) {
    let output = command.args(["--memory=32M", "--kernel=/dev/null"]).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn nothing_starts_where_it_cannot_claim_unless_that_is_what_was_asked() {
    const REMEDY: &str =
        "; --claims-dir DIR uses another directory, --claims-dir none starts without claims\n";
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, "").unwrap();
    let run = |directory: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
        command.args(["run", "--claims-dir", directory]);
        command
    };
    let name = file.display();
    let line = format!("numavisor: claims: {name}: is not a directory{REMEDY}");
    assert_eq!(refused(run(file.to_str().unwrap())), (Some(3), line));
    let line = format!("numavisor: claims: {name}/a: mkdir: Not a directory (os error 20){REMEDY}");
    assert_eq!(refused(run(&format!("{name}/a/b"))), (Some(3), line));
    let (_, line) = refused(run("none"));
    assert!(!line.contains("claims"), "{line}");
}

#[test]
fn nothing_starts_where_the_default_directory_cannot_be_used() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        testing::skip("needs root, to be another user");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    let run = |runtime: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
        command.arg("run").env("XDG_RUNTIME_DIR", runtime).uid(NOBODY).gid(NOBODY).current_dir("/");
        refused(command)
    };
    // Root's, so nobody may write there.
    let (status, line) = run(root.path());
    let start = format!("numavisor: claims: {}/numavisor: mkdir: Permission denied", root.path().display());
    assert!(status == Some(3) && line.starts_with(&start) && line.lines().count() == 1, "{status:?} {line}");
    std::fs::create_dir(root.path().join("numavisor")).unwrap();
    let (status, line) = run(root.path());
    let why = "/numavisor: belongs to another user; --claims-dir DIR ";
    assert!(status == Some(3) && line.contains(why) && line.lines().count() == 1, "{status:?} {line}");
    // To look at nothing is no mistake; to look and not be let in is.
    let plan = Command::new(env!("CARGO_BIN_EXE_numavisor"))
        .args(["plan", "--claims-dir"])
        .arg(root.path().join("numavisor"))
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", String::from_utf8_lossy(&plan.stderr));
    std::fs::set_permissions(root.path().join("numavisor"), Permissions::from_mode(0o700)).unwrap();
    let host = Command::new(env!("CARGO_BIN_EXE_numavisor"))
        .args(["host", "--claims", "--claims-dir"])
        .arg(root.path().join("numavisor"))
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(host.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&host.stderr).contains("/numavisor: opendir: Permission denied"));
    // Another user has claimed in this one's directory, and nobody may read what.
    let own = root.path().join("numavisor");
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    std::fs::write(own.join("1-1-1.claim"), "").unwrap();
    std::fs::set_permissions(own.join("1-1-1.claim"), Permissions::from_mode(0o600)).unwrap();
    let (status, line) = run(root.path());
    let why = "/numavisor/1-1-1.claim: open: Permission denied (os error 13); --claims-dir DIR ";
    assert!(status == Some(3) && line.contains(why) && line.lines().count() == 1, "{status:?} {line}");
}

#[test]
fn a_directory_that_cannot_be_is_refused_if_it_was_named() {
    let bench = Bench::new();
    std::fs::write(bench.claims(), b"a file").unwrap();
    let output = bench.numavisor("host --claims");
    assert_eq!(output.status.code(), Some(3));
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.starts_with("numavisor: claims: ") && line.lines().count() == 1, "{line}");
}

fn run(claims: &Path, kernel: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_numavisor"))
        .args(["run", "--memory=32M", "--kernel"])
        .arg(kernel)
        .arg(format!("--claims-dir={}", claims.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"up\n");
    child
}

#[test]
fn a_vm_claims_as_long_as_it_runs_and_what_it_touches_is_seen() {
    if !testing::kvm() {
        return;
    }
    let bench = Bench::new();
    let kernel = bench.root.path().join("kernel");
    std::fs::write(&kernel, pvh_elf(&outs(&[(COM1, b'u'), (COM1, b'p'), (COM1, b'\n')]), true)).unwrap();
    let mut children = [run(&bench.claims(), &kernel), run(&bench.claims(), &kernel)];
    let claims = Claims::look(&bench.claims());
    let running = claims.living().unwrap();
    let mut pids: Vec<u32> = running.iter().map(|vm| vm.pid).collect();
    pids.sort_unstable();
    let mut expected = children.each_ref().map(Child::id);
    expected.sort_unstable();
    assert_eq!(pids, expected);
    for vm in &running {
        assert_eq!((vm.claim.total().memory, vm.claim.total().vcpus), (Bytes::mib(32), 1));
        let seen = vm.touched.as_ref().unwrap();
        let touched = seen.has.total().memory;
        let hit = seen.stat.values().fold(Bytes::ZERO, |sum, stat| sum.saturating_add(stat.hit));
        assert_eq!(hit, touched);
        assert!(touched > Bytes::ZERO && touched <= Bytes::mib(32), "{touched}");
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (patience, started) = (Duration::from_secs(5), Instant::now());
    while !claims.living().unwrap().is_empty() {
        assert!(started.elapsed() < patience, "killed VMs still have claims");
    }
}
