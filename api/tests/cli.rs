//! The command from outside: what it prints for recorded hosts, and what it says to bad input. Everything here runs
//! without KVM. `UPDATE_GOLDEN=1 cargo test -p api` writes the expected outputs anew; read the difference.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

use resources::test_host::HostShape;
use resources::{AccessAttributes, Bytes};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn numavisor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_numavisor")).args(args).output().unwrap()
}

fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{name} differs; UPDATE_GOLDEN=1 writes it anew");
}

/// Standard output of a command that does well.
fn printed(args: &[&str]) -> String {
    let output = numavisor(args);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn figures(latency: u32, bandwidth: u32) -> AccessAttributes {
    AccessAttributes {
        read_latency_ns: latency,
        write_latency_ns: latency + 10,
        read_bandwidth_mib: bandwidth,
        write_bandwidth_mib: bandwidth,
    }
}

/// Hosts and a plan for each.
fn cases() -> Vec<(&'static str, HostShape, Vec<&'static str>)> {
    vec![
        (
            "two",
            HostShape::new(2)
                .distance(0, 1, 21)
                .attributes(0, figures(80, 20_000))
                .attributes(1, figures(80, 20_000)),
            vec![
                "--numa=id=0,memory=1G,vcpus=[0-1],pnode=0,affinity=hard",
                "--numa=id=1,memory=1G,vcpus=[2-3],pnode=1,affinity=hard",
                "--distances=host",
            ],
        ),
        (
            "uneven",
            HostShape::new(4)
                .memory(0, Bytes::gib(8))
                .memory(1, Bytes::gib(2))
                .memory(2, Bytes::gib(64))
                .distance(0, 1, 12)
                .distance(2, 3, 12)
                .distance(0, 2, 32),
            vec!["--vnodes=4", "--vcpus=6", "--memory=6G", "--distance=0:3=31", "--distance=3:0=41"],
        ),
        (
            "holes",
            HostShape::with_ids([0, 2, 5, 9]).distance(2, 9, 17),
            vec![
                "--numa=id=1,memory=2G,vcpus=[1,3],pnode=9",
                "--numa=id=0,memory=2G,vcpus=[0,2],pnode=[2,5]",
            ],
        ),
        (
            "cpuless",
            HostShape::new(3)
                .cpus(2, "")
                .memory(2, Bytes::gib(64))
                .distance(1, 2, 14)
                .attributes(0, figures(80, 20_000))
                .attributes(1, figures(80, 20_000))
                .attributes(2, figures(300, 8_000)),
            vec![
                "--numa=id=0,memory=1G,vcpus=[0-1],pnode=0",
                "--numa=id=1,memory=4G,vcpus=[],pnode=2",
                "--numa=id=2,memory=1G,vcpus=[2],pnode=2",
                "--distances=host",
            ],
        ),
        (
            "memoryless",
            HostShape::new(3).memory(1, Bytes::ZERO).distance(1, 2, 12),
            vec![
                "--numa=id=0,memory=1G,vcpus=0,pnode=1,policy=preferred",
                "--numa=id=1,memory=0,vcpus=[1-2],pnode=1",
                "--numa=id=2,memory=3G,vcpus=[3],pnode=[0,2],policy=interleave,pages=4K,prefault=on",
            ],
        ),
        (
            "offline",
            HostShape::new(2).cpus(0, "0-3").cpus(1, "4-7").offline("1-3,7").pool(
                1,
                Bytes::mib(2),
                1024,
                600,
            ),
            vec![
                "--numa=id=0,memory=1G,vcpus=[0-1],pnode=0,affinity=hard",
                "--numa=id=1,memory=1G,vcpus=[2-3],pages=2M,affinity=none",
                "--numa=id=2,memory=4G,vcpus=4,pnode=0,policy=preferred",
            ],
        ),
        (
            "tiers",
            HostShape::new(2).cpus(1, ""),
            vec![
                "--numa=id=0,memory=1G,vcpus=[0-1],pnode=0",
                "--numa=id=1,memory=1G,vcpus=[],pnode=1,initiator=0",
                "--attribute=0:0,latency=80ns,bandwidth=20G",
                "--attribute=0:1,read-latency=200,write-latency=350,read-bandwidth=8G",
                "--memory-cache=vnode=1,size=512M,level=1,associativity=direct,policy=write-back,line=64",
                "--memory-cache=vnode=1,size=4G,level=2",
                "--pin=1=node:0,^0",
            ],
        ),
        ("eight", HostShape::new(8).distance(0, 7, 255), vec!["--vnodes=8", "--vcpus=300", "--memory=8G"]),
        ("sixty-four", HostShape::new(64), vec!["--vnodes=64", "--memory=4G"]),
    ]
}

#[test]
fn hosts_and_plans_are_shown_as_recorded() {
    for (name, shape, flags) in cases() {
        let root = tempfile::tempdir().unwrap();
        shape.write(root.path()).unwrap();
        let sysfs = format!("--sysfs={}", root.path().display());
        golden(&format!("{name}.host.txt"), &printed(&["host", &sysfs]));
        golden(&format!("{name}.host.json"), &printed(&["host", "--json", &sysfs]));
        let args = |first: &[&'static str]| -> Vec<String> {
            first.iter().chain(&flags).map(|flag| (*flag).to_owned()).chain([sysfs.clone()]).collect()
        };
        let run = |args: Vec<String>| printed(&args.iter().map(String::as_str).collect::<Vec<_>>());
        golden(&format!("{name}.plan.txt"), &run(args(&["plan"])));
        golden(&format!("{name}.plan.json"), &run(args(&["plan", "--json"])));
    }
}

#[test]
fn help_is_shown_as_recorded() {
    golden("help.txt", &printed(&["--help"]));
    golden("help-run.txt", &printed(&["run", "--help"]));
    golden("help-plan.txt", &printed(&["plan", "--help"]));
    golden("help-host.txt", &printed(&["host", "--help"]));
}

#[test]
fn the_manual_and_the_completions_know_every_command() {
    let man = printed(&["man"]);
    let bash = printed(&["completions", "bash"]);
    for command in ["run", "plan", "host"] {
        assert!(man.contains(command) && bash.contains(command), "{command}");
    }
    let directory = tempfile::tempdir().unwrap();
    printed(&["man", "--dir", directory.path().to_str().unwrap()]);
    for (words, page) in [(&["run"][..], "numavisor-run.1"), (&["ctl", "mem-set"], "numavisor-ctl-mem-set.1")]
    {
        let shown = printed(&[&["man"][..], words].concat());
        assert_eq!(shown, std::fs::read_to_string(directory.path().join(page)).unwrap());
        assert!(shown.contains(&page[..page.len() - 2].replace('-', "\\-")), "{shown}");
    }
    let unknown = numavisor(&["man", "ctl", "fly"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&unknown.stderr)
            .starts_with("numavisor: `fly`: not a command of numavisor ctl")
    );
}

/// Two nodes to refuse things on, and files to refuse.
struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        HostShape::new(2).memory(1, Bytes::ZERO).write(&root.path().join("sys")).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Status and line of `numavisor plan` with these flags.
    fn plan(&self, flags: &str) -> (Option<i32>, String) {
        let sysfs = format!("--sysfs={}", self.path("sys").display());
        let args: Vec<&str> = ["plan", sysfs.as_str()].into_iter().chain(flags.split_whitespace()).collect();
        self.said(&numavisor(&args))
    }

    fn said(&self, output: &Output) -> (Option<i32>, String) {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        let line = text.strip_prefix("numavisor: ").unwrap().strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "more than one line: {text}");
        let root = format!("{}/", self.root.path().display());
        (output.status.code(), line.replace(&root, ""))
    }
}

#[test]
fn bad_machines_are_refused_in_one_line() {
    let bench = Bench::new();
    let two = "--numa id=0,memory=64M,vcpus=0 --numa id=1,memory=64M,vcpus=1";
    let cases = [
        (
            "--numa id=0,mem=1G",
            "--numa[0].mem: unknown key, must be one of id, memory, vcpus, pnode, policy, affinity, pages, prefault, shared, latency, bandwidth, initiator",
        ),
        (
            "--numa id=0,memory=64M,vcpus=[0-1] --numa id=1,memory=64M,vcpus=[1-2]",
            "vnodes[1].vcpus: vCPU 1 is already on vnode 0, a vCPU must be on exactly one vnode",
        ),
        (
            "--numa id=0,memory=64M,vcpus=0 --numa id=1,memory=64M,vcpus=2",
            "vcpus: vCPU 1 of 3 is on no vnode, a vCPU must be on exactly one vnode",
        ),
        (
            "--vcpus 1 --numa id=0,memory=64M,vcpus=[0-1]",
            "vnodes[0].vcpus: vCPU 1 does not exist, vCPUs are 0 to 0",
        ),
        ("--vcpus 0", "vcpus: 0 vCPUs, must be 1 to 4096"),
        ("--vcpus 5000", "vcpus: 5000 vCPUs, must be 1 to 4096"),
        ("--vnodes 0", "vnodes: 0 vnodes, must be 1 to 256"),
        ("--vnodes 2 --numa id=0", "vnodes: 2 vnodes but 1 described, must be equal or left out"),
        ("--numa id=0,pnode=7", "vnodes[0].pnode: 7 does not exist, this host has 0-1"),
        ("--numa id=0,pnode=[]", "vnodes[0].pnode: the list is empty, must name a host node or be left out"),
        ("--numa id=0,pnode=1", "vnodes[0].pnode: 1 has no memory, must have some for policy=bind"),
        ("--memory 513M", "memory: 513M is not a multiple of 2M"),
        ("--numa id=0,memory=513M", "vnodes[0].memory: 513M is not a multiple of 2M (pages=thp)"),
        ("--numa id=0,memory=1536M,pages=1G", "vnodes[0].memory: 1536M is not a multiple of 1G (pages=1G)"),
        ("--memory 0", "memory: no vnode has memory, a VM needs some"),
        ("--memory 17T", "memory: the vnodes have more than 16383G in total"),
        (
            "--memory 1G --numa id=0,memory=2G",
            "memory: 1G for the VM but 2G for its vnodes, must be equal or left out",
        ),
        (
            "--numa id=0,memory=64M,vcpus=0 --numa id=1,memory=0,vcpus=[]",
            "vnodes[1]: has neither memory nor vCPUs, must have one of them",
        ),
        ("--numa id=0 --numa id=0", "numa[1].id: 0 is given twice, ids must differ"),
        ("--numa id=0 --numa id=2", "numa[1].id: 2 leaves a gap, ids must be 0 to 1"),
        ("--distance 0:1", "--distance[0]: `0:1` is not F:T=V, such as 0:1=21"),
        ("--numa id=0,latency=90", "vnodes[0].latency: 90 is invalid, must be given together with bandwidth"),
        ("--numa id=0,latency=0,bandwidth=1G", "vnodes[0].latency: 0 is invalid, must be at least 1 ns"),
    ];
    for (flags, expected) in cases {
        assert_eq!(bench.plan(flags), (Some(2), expected.to_owned()), "{flags}");
    }
    let distances = [
        ("0:1=9", "distances[0]: 9 is not a distance, must be 10 to 255"),
        ("0:1=10", "distances[0]: 10 is not remote (0:1), must be 11 to 255"),
        ("0:1=256", "distances[0]: 256 is not a distance, must be 10 to 255"),
        ("1:1=11", "distances[0]: 11 for node 1 to itself, must be 10"),
        ("0:2=20", "distances[0]: node 2 does not exist, nodes are 0 to 1"),
    ];
    for (distance, expected) in distances {
        assert_eq!(bench.plan(&format!("{two} --distance {distance}")), (Some(2), expected.to_owned()));
    }
}

#[test]
fn what_does_not_fit_on_the_host_is_refused_with_status_3_and_the_numbers() {
    let bench = Bench::new();
    let cases = [
        (
            "--memory 4G",
            "vnodes[0].memory: 4G do not fit on pnode 0, which has 3.3G available for it (policy=bind)",
        ),
        (
            "--memory 1G --numa id=0,pages=2M",
            "vnodes[0].pages: 512 pages of 2M do not fit on pnode 0, which has 0 free for it; raise /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
        ),
    ];
    for (flags, expected) in cases {
        assert_eq!(bench.plan(flags), (Some(3), expected.to_owned()), "{flags}");
    }
    let nowhere = numavisor(&["host", "--sysfs", bench.path("nowhere").to_str().unwrap()]);
    let missing = "nowhere/devices/system/cpu/online: does not exist, must be there";
    assert_eq!(bench.said(&nowhere), (Some(3), missing.to_owned()));
}

#[test]
fn a_configuration_file_is_the_same_as_flags_and_flags_win() {
    let bench = Bench::new();
    let json =
        br#"{"memory": "1G", "vcpus": 2, "numa": [{"id": 0, "pnode": 0, "vcpus": "0-1", "memory": "1G"}]}"#;
    let file = bench.file("vm.json", json);
    let sysfs = format!("--sysfs={}", bench.path("sys").display());
    let config = format!("--config={}", file.display());
    let flags = ["plan", &sysfs, "--memory=1G", "--vcpus=2", "--numa=id=0,pnode=0,vcpus=[0-1],memory=1G"];
    assert_eq!(printed(&["plan", &sysfs, &config]), printed(&flags));
    let wins = printed(&["plan", &sysfs, &config, "--memory=2G", "--numa=id=0"]);
    assert!(wins.starts_with("1 vnode, 2 vCPUs, 2G memory\n"), "{wins}");
}

#[test]
fn bad_configuration_files_are_refused() {
    let bench = Bench::new();
    let refused = |path: &Path| bench.plan(&format!("--config {}", path.display()));
    let of = |content: &[u8]| refused(&bench.file("vm.json", content)).1;
    let unknown = "--config: vm.json: kernal: unknown field `kernal`, expected one of";
    assert!(of(b"{\"kernal\": 1}").starts_with(unknown));
    assert_eq!(of(b"[]"), "--config: vm.json: an array where an object belongs");
    let array = "--config: vm.json: numa[0]: an array where an object belongs";
    assert_eq!(of(b"{\"numa\": [[0, \"1G\"]]}"), array);
    let twice = "--config: vm.json: memory: given twice, must be given once";
    assert_eq!(of(b"{\"memory\": \"1G\", \"memory\": \"2G\"}"), twice);
    assert_eq!(of(b""), "--config: vm.json: EOF while parsing a value at line 1 column 0");
    assert_eq!(of(b"\xff"), "--config: vm.json: must be UTF-8 text");
    assert_eq!(of(&vec![b' '; (1 << 20) + 1]), "--config: vm.json: must not be larger than 1048576 bytes");
    assert!(of(&b"[".repeat(100_000)).starts_with("--config: vm.json: recursion limit exceeded"));
    let deep = [b"{\"numa\": [{\"id\": 0, \"vcpus\": ".as_slice(), &b"[".repeat(100_000)].concat();
    assert!(of(&deep).starts_with("--config: vm.json: recursion limit exceeded"));
    let missing = refused(&bench.path("nothing.json"));
    assert_eq!(missing, (Some(2), "--config: nothing.json: No such file or directory (os error 2)".into()));
}

#[test]
fn tables_are_written_where_they_were_asked_for() {
    let bench = Bench::new();
    let directory = bench.path("deep/tables");
    let sysfs = format!("--sysfs={}", bench.path("sys").display());
    let acpi = format!("--acpi-dir={}", directory.display());
    printed(&["plan", &sysfs, &acpi, "--vnodes=2", "--numa=id=0,latency=90,bandwidth=20G", "--numa=id=1"]);
    for (name, signature) in
        [("RSDP", "RSD "), ("SRAT", "SRAT"), ("SLIT", "SLIT"), ("HMAT", "HMAT"), ("DSDT", "DSDT")]
    {
        let table = std::fs::read(directory.join(format!("{name}.dat"))).unwrap();
        assert_eq!(&table[..4], signature.as_bytes());
    }
    let file = bench.file("file", b"");
    let (status, line) = bench.plan(&format!("--acpi-dir {}", file.display()));
    assert_eq!((status, line.as_str()), (Some(2), "--acpi-dir: file: File exists (os error 17)"));
}

#[test]
fn run_without_a_kernel_is_refused() {
    let bench = Bench::new();
    let line = "--kernel: missing, run needs a bzImage or an ELF kernel with a PVH entry";
    assert_eq!(bench.said(&numavisor(&["run"])), (Some(2), line.to_owned()));
}

#[test]
fn a_kernel_that_is_not_one_is_refused_before_kvm_is_asked() {
    if numavisor(&["plan", "--memory=64M"]).status.code() != Some(0) {
        testing::skip("this host has no room for 64M, or does not show its nodes");
        return;
    }
    let bench = Bench::new();
    let run = |kernel: &Path| {
        let kernel = format!("--kernel={}", kernel.display());
        bench.said(&numavisor(&["run", "--memory=64M", "--claims-dir=none", &kernel]))
    };
    let (status, line) = run(&bench.file("junk", b"not a kernel"));
    assert_eq!(status, Some(2));
    assert!(line.starts_with("kernel: junk: "), "{line}");
    let missing = "kernel: nothing: No such file or directory (os error 2)".to_owned();
    assert_eq!(run(&bench.path("nothing")), (Some(2), missing));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_numavisor"))
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}
