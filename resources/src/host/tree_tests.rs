//! Trees of machines without NUMA, of older kernels, partial copies, padded and hostile ones.

use super::tests::{figures, written};
use crate::host::{HostError, HostRoot, HostTopology};
use crate::ids::PnodeId;
use crate::spec::{MemoryPolicy, PageSize, VmSpec, VnodeSpec};
use crate::test_host::HostShape;
use crate::{Bytes, Plan, PnodeFree};
use proptest::prelude::{any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn read(root: &Path) -> Result<HostTopology, HostError> {
    HostTopology::read(&HostRoot::of(root))
}

fn put(root: &Path, file: &str, content: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn remove(root: &Path, file: &str) {
    fs::remove_file(root.join("devices/system").join(file)).unwrap();
}

/// All files of a tree.
fn files(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// A machine without NUMA: 8 CPUs of which one is offline, 8 GiB, a pool of huge pages.
fn without_numa() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "devices/system/cpu/online", "0-6\n");
    let meminfo = "MemTotal:        8388608 kB\nMemFree:         6291456 kB\nMemAvailable:    7000000 kB\n\
                   Active(file):     262144 kB\nInactive(file):   262144 kB\nSReclaimable:      65536 kB\n\
                   HugePages_Total:       8\nHugepagesize:       2048 kB\n";
    put(root.path(), "proc/meminfo", meminfo);
    let pool = "kernel/mm/hugepages/hugepages-2048kB";
    for (file, pages) in [("nr_hugepages", "8\n"), ("free_hugepages", "6\n"), ("resv_hugepages", "2\n")] {
        put(root.path(), &format!("{pool}/{file}"), pages);
    }
    root
}

#[test]
fn reserved_pages_are_of_the_nodes_that_must_have_them() {
    let size = Bytes::mib(2);
    let root = written(&HostShape::new(3).pool(0, size, 100, 100).pool(1, size, 50, 20));
    let left = |reserved: &str| {
        put(root.path(), "kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", reserved);
        let host = read(root.path()).unwrap();
        let pools = host.pnodes().iter().filter_map(|pnode| pnode.huge_pages.get(&size));
        pools.take(2).map(|pool| (pool.free, pool.left(0))).collect::<Vec<_>>()
    };
    assert_eq!(left("0\n"), [(100, 100), (20, 20)]);
    // Anywhere.
    assert_eq!(left("20\n"), [(100, 100), (20, 20)]);
    // The second node has no more than 20 of them.
    assert_eq!(left("60\n"), [(100, 60), (20, 20)]);
    assert_eq!(left("110\n"), [(100, 10), (20, 10)]);
    assert_eq!(left("18446744073709551615\n"), [(100, 0), (20, 0)]);
}

#[test]
fn a_machine_without_numa_is_one_pnode_with_all_cpus_and_all_memory() {
    let root = without_numa();
    let host = read(root.path()).unwrap();
    assert!(!host.has_numa());
    let [pnode] = host.pnodes() else { panic!("{host:?}") };
    assert_eq!((pnode.id, pnode.cpus.to_string().as_str()), (PnodeId(0), "0-6"));
    assert_eq!((pnode.memory_total, pnode.memory_free), (Bytes::gib(8), Bytes::gib(6)));
    assert_eq!(pnode.memory_reclaimable, Bytes::mib(512 + 32));
    assert_eq!(pnode.memory_kept, Bytes::mib(128 + 32));
    let pool = pnode.huge_pages[&Bytes::mib(2)];
    assert_eq!((pool.total, pool.free, pool.reserved), (8, 6, 2));
    assert_eq!(
        (pool.left(0), pool.left(1), pool.left(3)),
        (4, 4, 3),
        "two free pages are promised to somebody"
    );
    assert_eq!(host.distance(PnodeId(0), PnodeId(0)).unwrap().get(), 10);
    // Its zones are those of node 0.
    put(
        root.path(),
        "proc/zoneinfo",
        "Node 0, zone Normal\n high 1000\n managed 2097152\n protection: (0, 24)\n",
    );
    assert_eq!(read(root.path()).unwrap().pnodes()[0].memory_kept, Bytes(1024 * 4096));
}

#[test]
fn vms_are_placed_on_a_machine_without_numa() {
    let root = without_numa();
    let host = read(root.path()).unwrap();
    let vnode = |id: u32, vcpus: &str, pnode: Option<&str>| VnodeSpec {
        memory: Some(Bytes::gib(2)),
        vcpus: Some(vcpus.parse().unwrap()),
        pnode: pnode.map(|list| list.parse().unwrap()),
        ..VnodeSpec::new(id)
    };
    let plan = |numa| Plan::new(&VmSpec { numa, ..VmSpec::default() }, &host);
    let placed = plan(vec![vnode(0, "0-1", None), vnode(1, "2-3", Some("0"))]).unwrap();
    assert!(placed.placement.vnodes.iter().all(|at| at.pnodes.to_string() == "0"));
    assert!(!placed.host_has_numa);
    for policy in [MemoryPolicy::Preferred, MemoryPolicy::Interleave] {
        assert!(plan(vec![VnodeSpec { policy: Some(policy), ..vnode(0, "0", Some("0")) }]).is_ok());
    }
    let error =
        plan(vec![VnodeSpec { pages: Some(PageSize::Huge2M), ..vnode(0, "0", Some("0")) }]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vnodes[0].pages: 1024 pages of 2M do not fit on pnode 0, which has 4 free for it; \
         raise /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    );
    let error = plan(vec![vnode(0, "0", Some("1"))]).unwrap_err().to_string();
    assert!(error.contains("pnode: 1"), "{error}");
}

#[test]
fn a_machine_without_numa_needs_its_meminfo_and_its_cpus() {
    let root = without_numa();
    let system = root.path().join("devices/system");
    let meminfo = root.path().join("proc/meminfo");
    fs::remove_file(&meminfo).unwrap();
    let error = read(root.path()).unwrap_err();
    assert_eq!(error, HostError::NoMeminfo { path: meminfo.clone(), nodes: system.join("node") });
    let expected = format!(
        "{}: does not exist, must be there for a kernel without NUMA, which has no {}",
        meminfo.display(),
        system.join("node").display()
    );
    assert_eq!(error.to_string(), expected);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("meminfo"), "MemTotal: 1048576 kB\nMemFree: 524288 kB\n").unwrap();
    let host = HostTopology::read(&HostRoot::of(root.path()).with_procfs(elsewhere.path())).unwrap();
    assert_eq!(host.pnodes()[0].memory_total, Bytes::gib(1));
    remove(root.path(), "cpu/online");
    assert_eq!(read(root.path()), Err(HostError::Missing { path: system.join("cpu/online") }));
}

#[test]
fn proc_is_beside_a_directory_called_sys_and_inside_any_other() {
    let procfs = |sysfs: &str| HostRoot::of(sysfs).procfs().display().to_string();
    assert_eq!(HostRoot::this().procfs(), Path::new("/proc"));
    assert_eq!(["/sys/", "/a/sys", "/a/b", "sys"].map(procfs), ["/proc", "/a/proc", "/a/b/proc", "proc"]);
}

#[test]
fn what_a_node_keeps_free_is_read_from_zoneinfo_where_it_is() {
    let root = written(&HostShape::new(3));
    let zoneinfo = "Node 0, zone  DMA32\n high 100\n managed 500000\n protection: (0, 0, 900, 900)\n\
                    Node 0, zone Normal\n high 4000\n managed 548576\n protection: (0, 0, 0, 0)\n\
                    Node 1, zone Normal\n high 262144\n managed 1048576\n protection: (0)\n";
    put(root.path(), "proc/zoneinfo", zoneinfo);
    let host = read(root.path()).unwrap();
    let kept: Vec<Bytes> = host.pnodes().iter().map(|pnode| pnode.memory_kept).collect();
    // A node that zoneinfo does not have is estimated.
    assert_eq!(kept, [Bytes(5000 * 4096), Bytes::gib(1), Bytes::mib(128 + 16)]);
    let available: Vec<Bytes> = host.pnodes().iter().map(crate::Pnode::available).collect();
    let all = Bytes::mib(3 * 1024 + 512);
    assert_eq!(available, kept.iter().map(|kept| all.saturating_sub(*kept)).collect::<Vec<_>>());
}

#[test]
fn kernels_without_lists_are_read_through_masks_links_and_directories() {
    let shape = HostShape::new(3).cpus(0, "0-1,32-33").cpus(1, "").cpus(2, "2-3").offline("3");
    let expected = Ok(shape.topology());
    let root = written(&shape);
    let at = root.path();
    // cpu/online: present, and what each CPU says of itself.
    remove(at, "cpu/online");
    put(at, "devices/system/cpu/present", "0-3,32-33\n");
    put(at, "devices/system/cpu/cpu3/online", "0\n");
    put(at, "devices/system/cpu/cpu33/online", "1\n");
    for (node, list) in [(0, "0-1,32-33"), (1, ""), (2, "2-3")] {
        put(at, &format!("devices/system/node/node{node}/cpulist"), list);
    }
    assert_eq!(read(at), expected);
    // present: the CPUs' directories.
    remove(at, "cpu/present");
    for cpu in [0, 1, 2, 32] {
        put(at, &format!("devices/system/cpu/cpu{cpu}/topology/core_id"), "0\n");
    }
    put(at, "devices/system/cpu/cpufreq/boost", "1\n");
    assert_eq!(read(at), expected);
    // cpulist: cpumap.
    for (node, mask) in [(0, "00000003,00000003\n"), (1, "00000000,00000000\n"), (2, "0,c\n")] {
        remove(at, &format!("node/node{node}/cpulist"));
        put(at, &format!("devices/system/node/node{node}/cpumap"), mask);
    }
    assert_eq!(read(at), expected);
    // cpumap: the nodes' links to CPUs, which may lead nowhere in a copy.
    for (node, cpus) in [(0, vec![0, 1, 32, 33]), (1, vec![]), (2, vec![2, 3])] {
        remove(at, &format!("node/node{node}/cpumap"));
        for cpu in cpus {
            let link = at.join(format!("devices/system/node/node{node}/cpu{cpu}"));
            std::os::unix::fs::symlink(format!("../../cpu/cpu{cpu}"), link).unwrap();
        }
    }
    assert_eq!(read(at), expected);
    // node/online: the nodes' directories, as far as they are possible.
    remove(at, "node/online");
    put(at, "devices/system/node/node2x/cpulist", "");
    assert_eq!(read(at), expected);
    put(at, "devices/system/node/possible", "0-7\n");
    assert_eq!(read(at), expected);
    put(at, "devices/system/node/node8/cpulist", "");
    assert_eq!(read(at), expected);
    // Nothing says which CPUs are online: those that the nodes have.
    fs::remove_dir_all(at.join("devices/system/cpu")).unwrap();
    remove(at, "node/node2/cpu3");
    assert_eq!(read(at), expected);
    for (node, cpu) in [(0, 0), (0, 1), (0, 32), (0, 33), (2, 2)] {
        remove(at, &format!("node/node{node}/cpu{cpu}"));
    }
    let cpulist = at.join("devices/system/node/node0/cpulist");
    assert_eq!(read(at), Err(HostError::Missing { path: cpulist }));
}

#[test]
fn what_older_files_say_wrongly_is_refused_with_path_value_and_rule() {
    let said = |change: &dyn Fn(&Path)| {
        let root = written(&HostShape::new(2));
        remove(root.path(), "cpu/online");
        remove(root.path(), "node/node1/cpulist");
        put(root.path(), "devices/system/cpu/present", "0-3");
        put(root.path(), "devices/system/node/node1/cpumap", "c");
        assert_eq!(read(root.path()), Ok(HostShape::new(2).topology()));
        change(root.path());
        let error = read(root.path()).unwrap_err().to_string();
        error.replace(root.path().join("devices/system/").to_str().unwrap(), "")
    };
    let with =
        |file: &str, content: &str| said(&|root| put(root, &format!("devices/system/{file}"), content));
    assert_eq!(with("cpu/cpu2/online", "2"), "cpu/cpu2/online: `2` must be 0 or 1");
    assert_eq!(with("cpu/present", "0-8192"), "cpu/present: `0-8192` must name at most 8192 CPUs");
    assert_eq!(with("node/node1/cpumap", "0xc"), "node/node1/cpumap: `0xc` is not a mask of CPUs");
    assert_eq!(with("node/node1/cpumap", "2"), "node/node1: `cpu1` is on another node already");
    let impossible = said(&|root| {
        remove(root, "node/online");
        put(root, "devices/system/node/possible", "4-5");
    });
    assert_eq!(impossible, "node/online: does not exist, must be there");
    let many = said(&|root| {
        remove(root, "node/online");
        (2..1030)
            .for_each(|node| fs::create_dir(root.join(format!("devices/system/node/node{node}"))).unwrap());
    });
    assert_eq!(many, "node/online: `0-1029` must name 1 to 1024 nodes");
    let entries = said(&|root| {
        remove(root, "cpu/present");
        (0..10_001).for_each(|at| fs::write(root.join(format!("devices/system/cpu/x{at}")), "").unwrap());
    });
    assert_eq!(entries, "cpu: `the directory` must not have more than 10000 entries");
}

/// What tar, hwloc-gather-topology and editors leave behind a text.
const ENDS: [&str; 5] = ["", "\n\n", " \t\r\n", "\0", "\n\0\0\0 \n"];

#[test]
fn files_may_end_in_blanks_and_nul_bytes_or_be_padded_to_a_page() {
    let shape = HostShape::new(2).attributes(0, figures(80, 1000)).device_memory(1);
    let zones = "Node 0, zone Normal\n high 1000\n managed 1048576\n protection: (0, 24)\n";
    let expected = {
        let root = written(&shape);
        put(root.path(), "proc/zoneinfo", zones);
        read(root.path()).unwrap()
    };
    let padded = |text: &str| format!("{text}{}", "\0".repeat(4096 - text.len()));
    let ends = ENDS.map(|end| move |text: &str| format!("{}{end}", text.trim_end()));
    let changes =
        ends.iter().map(|end| end as &dyn Fn(&str) -> String).chain([&padded as &dyn Fn(&str) -> String]);
    for change in changes {
        let root = written(&shape);
        put(root.path(), "proc/zoneinfo", zones);
        for file in files(root.path()) {
            fs::write(&file, change(&fs::read_to_string(&file).unwrap())).unwrap();
        }
        assert_eq!(read(root.path()).as_ref(), Ok(&expected), "{:?}", change("x"));
        let free = PnodeFree::read(&HostRoot::of(root.path()), PnodeId(0)).unwrap();
        assert_eq!(free.free, Bytes::gib(3));
        let root = without_numa();
        let plain = read(root.path());
        for file in files(root.path()) {
            fs::write(&file, change(&fs::read_to_string(&file).unwrap())).unwrap();
        }
        assert_eq!(read(root.path()), plain, "{:?}", change("x"));
    }
    // Elsewhere a NUL byte is no blank.
    let root = written(&shape);
    put(root.path(), "devices/system/node/online", "0\0,1");
    assert!(read(root.path()).unwrap_err().to_string().ends_with("`0 ,1` is not a list of nodes"));
}

#[test]
fn a_pipe_in_the_place_of_any_file_is_refused_and_not_waited_for() {
    let shape = HostShape::new(1).attributes(0, figures(80, 1000));
    let tree = || {
        let root = written(&shape);
        put(root.path(), "proc/zoneinfo", "");
        root
    };
    let root = tree();
    let names: Vec<PathBuf> =
        files(root.path()).iter().map(|file| file.strip_prefix(root.path()).unwrap().to_owned()).collect();
    let mut refused = 0;
    for name in &names {
        let root = tree();
        let path = root.path().join(name);
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        if let Err(error) = read(root.path()) {
            let expected = format!("{}: `something else` must be a regular file", path.display());
            assert_eq!(error.to_string(), expected);
            refused += 1;
        }
        let _ = PnodeFree::read(&HostRoot::of(root.path()), PnodeId(0));
    }
    // `cpu/offline` is not read.
    assert_eq!(refused, names.len() - 1);
}

/// Files that are read of one tree or another.
const FILES: [&str; 20] = [
    "devices/system/cpu/online",
    "devices/system/cpu/present",
    "devices/system/cpu/cpu1/online",
    "devices/system/node/online",
    "devices/system/node/possible",
    "devices/system/node/has_memory",
    "devices/system/node/has_normal_memory",
    "devices/system/node/node0/cpulist",
    "devices/system/node/node0/cpumap",
    "devices/system/node/node1/cpumap",
    "devices/system/node/node0/meminfo",
    "devices/system/node/node1/distance",
    "devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
    "devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
    "devices/system/node/node0/access0/initiators/read_latency",
    "devices/system/node/node0/access0/initiators/write_bandwidth",
    "devices/virtual/memory_tiering/memory_tier4/nodelist",
    "kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages",
    "proc/meminfo",
    "proc/zoneinfo",
];

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        "[0-9, \n-]{0,40}\0{0,9}".prop_map(String::into_bytes),
        "[0-9a-f]{0,9}(,[0-9a-f]{1,8}){0,9}\n".prop_map(String::into_bytes),
        "((Node 0 )?(MemTotal|MemFree|Active\\(file\\)): {0,8}[0-9]{0,21} (kB)?\n){0,6}"
            .prop_map(String::into_bytes),
        "(Node [0-3], zone (DMA|Normal)\n|  (high|boost|managed|count:) {1,9}[0-9]{1,20}\n|protection: \\([0-9, ]{0,30}\\)\n){0,12}"
            .prop_map(String::into_bytes),
        Just(b"18446744073709551615\n".to_vec()),
        Just(b"0-99999".to_vec()),
        Just(vec![0; 4096]),
        Just(vec![0; 70_000]),
    ]
}

proptest! {
    #[test]
    fn any_content_of_any_files_is_an_answer_not_a_panic(
        contents in proptest::collection::vec((0..FILES.len(), proptest::option::of(content())), 1..4),
        numa in any::<bool>(),
    ) {
        let root = match numa {
            true => written(&HostShape::new(2).attributes(0, figures(80, 1000))),
            false => without_numa(),
        };
        for (file, content) in contents {
            let path = root.path().join(FILES[file]);
            match content {
                // Files that are not there are the older kernels'.
                Some(content) => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, content).unwrap();
                }
                None => drop(fs::remove_file(path)),
            }
        }
        if let Ok(host) = read(root.path()) {
            for pnode in host.pnodes() {
                assert!(pnode.available() <= pnode.memory_total);
                assert!(pnode.memory_kept <= pnode.memory_total);
            }
            assert_eq!(host.distances().nodes(), host.pnodes().len());
            let _ = Plan::new(&VmSpec::default(), &host);
        }
        let _ = PnodeFree::read(&HostRoot::of(root.path()), PnodeId(0));
    }
}
