//! Configurations as in xl.cfg(5), and each error.

use crate::formats::{self, Format};
use resources::{Bytes, MemoryPolicy, OnReset, SerialSpec, VmSpec, VmTopology};

fn config(text: &str) -> (VmSpec, Vec<String>) {
    formats::read(Format::Xl, text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn refused(text: &str) -> String {
    formats::read(Format::Xl, text).unwrap_err().to_string()
}

const TWO: &str = "vnuma = [ [ \"pnode=0\",\"size=512\",\"vcpus=0-1,4\",\"vdistances=10,20\" ],\n\
                   [ \"vdistances = 21 , 10\", \" vcpus = 2 - 3 \", \"size= 1024\", \"pnode =1\" ] ]\n";

fn pins(spec: &VmSpec) -> Vec<(String, String)> {
    spec.pins.iter().map(|pin| (pin.vcpus.to_string(), pin.cpus.to_string())).collect()
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn vnodes_are_positions_with_keys_in_any_order() {
    let (spec, warnings) = config(TWO);
    let topology = VmTopology::try_from(&spec).unwrap();
    let shape: Vec<_> = topology
        .vnodes()
        .iter()
        .map(|v| (v.memory, v.vcpus.to_string(), v.asked.clone().unwrap().to_string()))
        .collect();
    let expected = [(Bytes::mib(512), "0-1,4", "0"), (Bytes::mib(1024), "2-3", "1")];
    assert_eq!(shape, expected.map(|(memory, vcpus, pnode)| (memory, vcpus.to_owned(), pnode.to_owned())));
    assert_eq!(
        (topology.distances().get(0, 1).unwrap().get(), topology.distances().get(1, 0).unwrap().get()),
        (20, 21)
    );
    assert!(topology.vnodes().iter().all(|vnode| vnode.policy == MemoryPolicy::Bind));
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn what_the_guest_could_get_later_it_gets_at_once() {
    let (spec, warnings) = config("memory = 1024\nmaxmem = '2048'\nvcpus=0x2; maxvcpus=010");
    let topology = VmTopology::try_from(&spec).unwrap();
    assert_eq!((topology.memory(), topology.vcpu_count()), (Bytes::gib(2), 8));
    let expected = [
        "line 1: `memory` is ignored: the guest boots with all 2G, not with 1G",
        "line 3: `vcpus` is ignored: the guest boots with all 8 vCPUs, not with 2",
    ];
    assert_eq!(warnings, expected);
    let (spec, warnings) = config(&format!("{TWO}maxmem=1536\nmaxvcpus=5\nmemory=1024"));
    assert_eq!(VmTopology::try_from(&spec).unwrap().memory(), Bytes::mib(1536));
    assert_eq!(warnings, ["line 5: `memory` is ignored: the guest boots with all 1536M, not with 1G"]);
}

#[test]
fn cpus_are_pins_in_all_their_forms() {
    let (spec, _) = config(&format!("{TWO}cpus = \"0-3,5,^1\""));
    assert_eq!(pins(&spec), owned([("0-4", "0,2-3,5")]));
    let (spec, _) = config(&format!("{TWO}cpus = [\"2\", '3-8,^5', 4, 'all', 'nodes:0-3,^node:2']"));
    assert_eq!(pins(&spec), owned([("0", "2"), ("1", "3-4,6-8"), ("2", "4"), ("4", "nodes:0-3,^node:2")]));
    let (spec, _) = config(&format!("{TWO}cpus = 'all,^node:1'"));
    assert_eq!(pins(&spec), owned([("0-4", "all,^node:1")]));
    let (spec, warnings) = config(&format!("{TWO}cpus='all'\ncpus_soft='node:0'"));
    assert_eq!(spec.pins, []);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let (_, warnings) = config("vcpus=1\ncpus=['1','2']");
    assert_eq!(warnings, ["line 2: `cpus` has more lists than there are vCPUs, the rest is ignored"]);
}

#[test]
fn nodes_of_a_vm_without_vnodes_are_its_home() {
    for name in ["cpus", "cpus_soft"] {
        let (spec, warnings) = config(&format!("memory=512\nvcpus=2\n{name}='nodes:0-3,^node:2'"));
        assert_eq!(spec.numa[0].pnode.clone().unwrap().to_string(), "0-1,3");
        assert_eq!((spec.numa[0].policy, spec.pins.len()), (Some(MemoryPolicy::Preferred), 0));
        assert_eq!(warnings, Vec::<String>::new());
    }
}

#[test]
fn what_is_booted_and_where_the_serial_port_goes() {
    let (spec, warnings) = config(
        "name='x'\ntype=\"hvm\"\nkernel='/k'\nramdisk='/i'\nroot='/dev/xvda'\nextra='quiet'\nextra+=' debug'\n\
         on_reboot='destroy'\nserial='file:/log'\nvif=['bridge=xenbr0']\nmemory=512\nmemory=1024",
    );
    assert_eq!(spec.cmdline.as_deref(), Some("root=/dev/xvda quiet debug"));
    assert_eq!((spec.kernel, spec.initramfs), (Some("/k".into()), Some("/i".into())));
    assert_eq!((spec.on_reset, spec.serial), (OnReset::Exit, SerialSpec::File("/log".into())));
    assert_eq!(spec.numa[0].memory, Some(Bytes::gib(1)));
    let expected = ["line 10: `vif` is ignored", "line 12: `memory` is given twice, the last one counts"];
    assert_eq!(warnings, expected);
    let (spec, warnings) = config("cmdline='a'\nextra='b'\nserial='pty'\non_reboot='preserve'");
    assert_eq!((spec.cmdline.as_deref(), spec.on_reset), (Some("a"), OnReset::Exit));
    let expected = [
        "line 3: `serial` pty is ignored: the serial port is on standard input and output",
        "line 4: `on_reboot` is ignored: the VM ends",
    ];
    assert_eq!(warnings, expected);
    assert_eq!(config("").0.on_reset, OnReset::Reboot);
}

#[test]
fn what_xl_does_not_look_at_is_refused_with_line_and_rule() {
    let row = |row: &str| TWO.replace("21 , 10", row);
    let list = "is not a list of CPUs; write numbers, ranges, all, node:N, nodes:N-M, and ^ to exclude CPUs";
    let cases = [
        (row("21,11"), "line 2: vnuma[1].vdistances: 11 for vnode 1 to itself, must be 10".to_owned()),
        (row("10,10"), "line 2: vnuma[1].vdistances: 10 is not remote (1:0), must be 11 to 255".to_owned()),
        (row("256,10"), "line 2: vnuma[1].vdistances: 256 is not a distance, must be 10 to 255".to_owned()),
        (row("266,10"), "line 2: vnuma[1].vdistances: 266 is not a distance, must be 10 to 255".to_owned()),
        (row("9,10"), "line 2: vnuma[1].vdistances: 9 is not a distance, must be 10 to 255".to_owned()),
        (
            row("21,10,31"),
            "line 2: vnuma[1].vdistances: 3 distances, must be 2, one to each vnode".to_owned(),
        ),
        (row("21"), "line 2: vnuma[1].vdistances: 1 distances, must be 2, one to each vnode".to_owned()),
        (row("21,x"), "line 2: vnuma[1].vdistances: `x` is not a whole number".to_owned()),
        (
            format!("{TWO}maxmem=2048"),
            "line 3: maxmem: 2G but the vnodes have 1536M, must be equal or left out".to_owned(),
        ),
        (
            format!("{TWO}memory=2048"),
            "line 3: memory: 2G is more than the 1536M that the guest can have".to_owned(),
        ),
        (
            format!("{TWO}maxvcpus=6"),
            "line 1: vnuma: the vnodes have the vCPUs 0-4, must be 0 to 5".to_owned(),
        ),
        (format!("{TWO}vcpus=6"), "line 1: vnuma: the vnodes have the vCPUs 0-4, must be 0 to 5".to_owned()),
        (
            TWO.replace("2 - 3", "1-3"),
            "vnodes[1].vcpus: vCPU 1 is already on vnode 0, a vCPU must be on exactly one vnode".to_owned(),
        ),
        (TWO.replace("0-1,4", "0-1"), String::new()),
        (
            TWO.replace("2 - 3", "2-2"),
            "vcpus: vCPU 3 of 5 is on no vnode, a vCPU must be on exactly one vnode".to_owned(),
        ),
        (
            TWO.replace("\"size= 1024\",", ""),
            "line 2: vnuma[1].size: missing, every vnode needs one".to_owned(),
        ),
        (
            TWO.replace("size= 1024", "size=99999999999999"),
            "line 2: vnuma[1].size: 99999999999999 is too large".to_owned(),
        ),
        (
            TWO.replace("size= 1024", "mem=1024"),
            "line 2: vnuma[1].mem: unknown key, must be one of pnode, size, vcpus, vdistances".to_owned(),
        ),
        (
            TWO.replace("size= 1024", "pnode=1"),
            "line 2: vnuma[1].pnode: given twice, must be given once".to_owned(),
        ),
        (TWO.replace("pnode =1", "pnode"), "line 2: vnuma[1]: `pnode` is not KEY=VALUE".to_owned()),
        (TWO.replace("\"pnode =1\"", "1"), "line 2: vnuma[1]: must be a list of KEY=VALUE texts".to_owned()),
        ("vnuma='x'".into(), "line 1: vnuma: must be a list of lists".to_owned()),
        ("\nvnuma=['x']".into(), "line 2: vnuma[0]: must be a list of KEY=VALUE texts".to_owned()),
        (
            format!("vnuma=[{}]", "[],".repeat(257)),
            "line 1: vnuma: 257 vnodes, must be at most 256".to_owned(),
        ),
        ("vcpus=3\nmaxvcpus=2".into(), "line 1: vcpus: 3 are more than maxvcpus, which is 2".to_owned()),
        ("maxvcpus=5000".into(), "line 1: maxvcpus: 5000 vCPUs, must be 1 to 4096".to_owned()),
        (
            "memory=2048\nmaxmem=1024".into(),
            "line 1: memory: 2G is more than the 1G that the guest can have".to_owned(),
        ),
        ("memory='1G'".into(), "line 1: memory: `1G` is not a whole number".to_owned()),
        ("memory=0xg".into(), "line 1: memory: `0xg` is not a number".to_owned()),
        ("memory=[]".into(), "line 1: memory: must be a number".to_owned()),
        ("kernel=3".into(), "line 1: kernel: must be a text in quotes".to_owned()),
        ("extra='a'\nextra+=1".into(), "line 2: extra: += needs two texts or two lists".to_owned()),
        ("cpus='3-1'".into(), "line 1: cpus: range 3-1 is reversed".to_owned()),
        ("cpus='x'".into(), format!("line 1: cpus: `x` {list}")),
        ("cpus=[[1]]".into(), "line 1: cpus: must be a list of CPUs in quotes".to_owned()),
    ];
    for (text, expected) in cases.into_iter().filter(|(_, expected)| !expected.is_empty()) {
        assert_eq!(refused(&text), expected, "{text}");
    }
}

#[test]
fn xl_needs_a_pnode_for_each_of_several_vnodes() {
    let spec = VmSpec { vnodes: Some(2.into()), ..VmSpec::default() };
    let refused = formats::write(Format::Xl, &spec).unwrap_err().to_string();
    assert_eq!(refused, "vnodes[0].pnode: missing, xl needs one for every vnode");
    assert!(formats::write(Format::Xl, &VmSpec::default()).is_ok());
}

#[test]
fn vcpus_below_those_of_the_vnodes_are_those_online_at_first() {
    let vnuma = "vnuma=[['size=64','vcpus=0-1','pnode=0'],['size=64','vcpus=2-3','pnode=1']]";
    let (spec, warnings) = formats::read(Format::Xl, &format!("vcpus=2\n{vnuma}")).unwrap();
    let lists: Vec<String> = spec.numa.iter().map(|vnode| vnode.vcpus.clone().unwrap().to_string()).collect();
    assert_eq!(lists, ["0-1", "2-3"]);
    let note = "line 1: `vcpus` is ignored: the guest boots with all 4 vCPUs, not with 2";
    assert!(warnings.contains(&note.to_owned()), "{warnings:?}");
    assert!(refused(&format!("vcpus=5\n{vnuma}")).contains("the vnodes have the vCPUs 0-3, must be 0 to 4"));
    assert!(refused(&format!("vcpus=2\nmaxvcpus=3\n{vnuma}")).contains("must be 0 to 2"));
}
