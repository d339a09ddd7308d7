//! Command lines as in QEMU's documentation, and each error.

use crate::formats::{self, Format};
use resources::spec::Switch;
use resources::{Bytes, MemoryPolicy, OnReset, PageSize, SerialSpec, VmSpec, VmTopology};

fn line(text: &str) -> (VmSpec, Vec<String>) {
    formats::read(Format::Qemu, text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn refused(text: &str) -> String {
    formats::read(Format::Qemu, text).unwrap_err().to_string()
}

fn shape(spec: &VmSpec) -> Vec<(Bytes, String)> {
    VmTopology::try_from(spec).unwrap().vnodes().iter().map(|v| (v.memory, v.vcpus.to_string())).collect()
}

fn owned<const N: usize>(shape: [(u64, &str); N]) -> Vec<(Bytes, String)> {
    shape.iter().map(|(mib, list)| (Bytes::mib(*mib), (*list).to_owned())).collect()
}

const TWO: &str = "qemu-system-x86_64 -machine hmat=on -m 2G \\\n -object memory-backend-ram,size=1G,id=m0 \\\n \
    -object memory-backend-ram,size=1G,id=m1 -smp 2,sockets=2,maxcpus=2 \\\n \
    -numa node,nodeid=0,memdev=m0 -numa node,nodeid=1,memdev=m1,initiator=0 \\\n \
    -numa cpu,node-id=0,socket-id=0 -numa cpu,node-id=0,socket-id=1 \\\n";

#[test]
fn nodes_have_backends_places_and_figures() {
    let text = format!(
        "{TWO} -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=5 \
         -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-bandwidth,bandwidth=200M \
         -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=read-latency,latency=10 \
         -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=write-latency,latency=0 \
         -numa hmat-lb,initiator=0,target=1,hierarchy=first-level,data-type=access-latency,latency=1 \
         -numa hmat-cache,node-id=0,size=10K,level=1,associativity=direct,policy=write-back,line=8 \
         -numa dist,src=0,dst=1,val=21"
    );
    let (spec, warnings) = line(&text);
    assert_eq!(shape(&spec), owned([(1024, "0-1"), (1024, "")]));
    assert_eq!(spec.numa[1].initiator, Some(0));
    let json = serde_json::to_string(&(&spec.distances, &spec.attributes, &spec.caches)).unwrap();
    let expected = r#"[[{"from":0,"to":1,"value":21}],[{"initiator":0,"target":0,"latency":5,"bandwidth":209715200},{"initiator":0,"target":1,"read_latency":10}],[{"vnode":0,"size":10240,"level":1,"associativity":"direct","policy":"write-back","line":8}]]"#;
    assert_eq!(json, expected);
    assert_eq!(
        warnings,
        ["line 6: -numa hmat-lb hierarchy first-level is ignored: only values of memory are supported"]
    );
}

#[test]
fn cpus_are_named_shared_by_socket_or_left() {
    let (spec, _) = line("-m 64 -smp 6 -numa node,cpus=0-2,cpus=5,mem=32 -numa node,cpus=3-4,mem=32M");
    assert_eq!(shape(&spec), owned([(32, "0-2,5"), (32, "3-4")]));
    let (spec, warnings) = line("-m 64 -smp 4,sockets=2 -numa node -numa node");
    assert_eq!(shape(&spec), owned([(32, "0-1"), (32, "2-3")]));
    assert_eq!(warnings, Vec::<String>::new());
    let (spec, warnings) = line("-m 64 -smp 2,maxcpus=4 -numa node,cpus=0-2");
    assert_eq!(shape(&spec), owned([(64, "0-3")]));
    let expected = [
        "-numa does not name the CPUs 3: they are on the nodes of their sockets",
        "line 1: -smp cpus is ignored: the guest boots with all CPUs",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn backends_say_where_memory_lies_and_of_what_it_is() {
    let text = r#"-m 6G -smp 3 -object memory-backend-ram,id=a,size=2G,host-nodes=0-1,host-nodes=3,policy=interleave,prealloc=on
        -object '{"qom-type":"memory-backend-memfd","id":"b","size":2147483648,"hugetlb":true,"hugetlbsize":1073741824,"host-nodes":[2],"policy":"bind","share":true}'
        -object memory-backend-file,id=c,size=2G,mem-path=/dev/hugepages,host-nodes=1,policy=preferred,prealloc=off -object iothread,id=io
        -numa node,memdev=b,cpus=0 -numa node,memdev=a,cpus=1 -numa node,memdev=c,cpus=2"#;
    let (spec, warnings) = line(text);
    let place = |id: usize| {
        let vnode = &spec.numa[id];
        (vnode.pnode.clone().unwrap().to_string(), vnode.policy.unwrap(), vnode.pages, vnode.prefault)
    };
    assert_eq!(place(0), ("2".into(), MemoryPolicy::Bind, Some(PageSize::Huge1G), None));
    assert_eq!(place(1), ("0-1,3".into(), MemoryPolicy::Interleave, None, Some(Switch(true))));
    assert_eq!(place(2), ("1".into(), MemoryPolicy::Preferred, Some(PageSize::Huge2M), Some(Switch(false))));
    let expected =
        ["line 3: -object /dev/hugepages is taken as 2M pages", "line 3: -object iothread is ignored"];
    assert_eq!(warnings, expected);
    assert_eq!([0, 1, 2].map(|id| spec.numa[id].shared), [Some(Switch(true)), None, None]);
    let (spec, _) = line(
        "-m 1G -machine q35,memory-backend=a -object memory-backend-ram,id=a,size=1G,host-nodes=1,policy=bind",
    );
    assert_eq!(spec.numa[0].pnode.clone().unwrap().to_string(), "1");
    let (spec, warnings) = line("-m 1G -mem-path /dev/hugepages1G -mem-prealloc");
    assert_eq!((spec.numa[0].pages, spec.numa[0].prefault), (Some(PageSize::Huge1G), Some(Switch(true))));
    assert_eq!(warnings, ["line 1: -mem-path /dev/hugepages1G is taken as 1G pages"]);
}

#[test]
fn what_is_booted_and_what_is_left_out() {
    let (spec, warnings) = line(
        "numactl -m 0 /usr/bin/qemu-system-x86_64 -enable-kvm -nographic -cpu host -S --kernel /k -initrd /i -append 'a  b' \
         -no-reboot -serial file:/log -serial null -drive file=x disk.img -m 256,slots=2,maxmem=4G",
    );
    assert_eq!(
        (spec.kernel, spec.initramfs, spec.cmdline),
        (Some("/k".into()), Some("/i".into()), Some("a  b".into()))
    );
    assert_eq!((spec.on_reset, spec.serial), (OnReset::Exit, SerialSpec::File("/log".into())));
    assert_eq!(spec.numa[0].memory, Some(Bytes::mib(256)));
    let expected = [
        "`numactl -m 0` is ignored",
        "-cpu is ignored",
        "-S is ignored",
        "-serial null is ignored",
        "-drive is ignored",
        "`disk.img` is ignored",
        "-m slots is ignored",
        "-m maxmem is ignored",
    ];
    assert_eq!(warnings, expected.map(|what| format!("line 1: {what}")));
    let (spec, warnings) = line("qemu\0-m\x0064\0-append\0a b\0-action\0reboot=shutdown\0");
    assert_eq!((spec.cmdline.as_deref(), spec.on_reset, warnings.len()), (Some("a b"), OnReset::Exit, 0));
    let (spec, _) = line("");
    assert_eq!((spec.numa[0].memory, spec.on_reset), (Some(Bytes::mib(128)), OnReset::Reboot));
}

#[test]
fn what_qemu_would_not_start_is_refused_with_line_and_rule() {
    let numa = |what: &str| format!("{TWO} -numa {what}");
    let lb = "hmat-lb,initiator=0,target=1,hierarchy=memory";
    let kinds =
        "access-latency, read-latency, write-latency, access-bandwidth, read-bandwidth, write-bandwidth";
    let cases = [
        (
            numa("dist,src=0,dst=0,val=11"),
            "line 6: -numa val: 11 for vnode 0 to itself, must be 10".to_owned(),
        ),
        (
            numa("dist,src=0,dst=1,val=10"),
            "line 6: -numa val: 10 is not remote (0:1), must be 11 to 255".to_owned(),
        ),
        (
            numa("dist,src=0,dst=1,val=256"),
            "line 6: -numa val: 256 is not a distance, must be 10 to 255".to_owned(),
        ),
        (
            numa("dist,src=0,dst=2,val=20"),
            "line 6: -numa dst: node 2 is not there before this option".to_owned(),
        ),
        (numa("dist,src=0,val=20"), "line 6: -numa dst: missing, must be given".to_owned()),
        (numa("node,nodeid=1"), "line 6: -numa nodeid: 1 is given twice, ids must differ".to_owned()),
        (numa("node,nodeid=256"), "line 6: -numa nodeid: 256 is too large, must be below 256".to_owned()),
        (
            numa("node,memdev=m0,mem=1G"),
            "line 6: -numa mem: cannot be combined with memdev, use one of them".to_owned(),
        ),
        (numa("node,memdev=m9"), "line 6: -numa memdev: there is no `m9`".to_owned()),
        (numa("node,cpus=9"), "-numa cpus: CPU 9 does not exist, -smp has 0 to 1".to_owned()),
        (numa("node,cpus=1-0"), "line 6: -numa cpus: `1-0`: range 1-0 is reversed".to_owned()),
        (
            numa("cpu,node-id=0,socket-id=5"),
            "line 4: -numa cpu: there is no CPU at that place of -smp".to_owned(),
        ),
        (numa("node,nodeid=5"), "numa[2].id: 5 leaves a gap, ids must be 0 to 2".to_owned()),
        (
            numa("tree"),
            "line 6: -numa type: `tree` is not one of node, cpu, dist, hmat-lb, hmat-cache".to_owned(),
        ),
        (
            numa(&format!("{lb},data-type=speed")),
            format!("line 6: -numa data-type: `speed` is not one of {kinds}"),
        ),
        (
            numa(&format!("{lb},data-type=read-latency")),
            "line 6: -numa latency: missing, read-latency needs it".to_owned(),
        ),
        (
            numa("hmat-lb,initiator=0,target=1,hierarchy=disk,data-type=read-latency"),
            "line 6: -numa hierarchy: `disk` is not one of memory, first-level, second-level, third-level"
                .to_owned(),
        ),
        (
            numa(&format!(
                "{lb},data-type=read-latency,latency=1 -numa {lb},data-type=read-latency,latency=2"
            )),
            "line 6: -numa data-type: read-latency of 0:1 is given twice, must be given once".to_owned(),
        ),
        (
            numa("hmat-lb,initiator=1,target=0,hierarchy=memory,data-type=read-latency,latency=1"),
            "attributes[0]: vnode 1 has no vCPUs, an initiator must have some".to_owned(),
        ),
        (numa("hmat-cache,node-id=0,level=1"), "line 6: -numa size: missing, must be given".to_owned()),
        (numa("hmat-cache,node-id=0,size=1"), "line 6: -numa level: missing, must be given".to_owned()),
        (
            numa("hmat-cache,node-id=0,size=1,level=1,policy=x"),
            "line 6: -numa policy: `x` is not one of none, write-back, write-through".to_owned(),
        ),
        (
            numa("hmat-cache,node-id=0,size=1,level=1,associativity=x"),
            "line 6: -numa associativity: `x` is not one of none, direct, complex".to_owned(),
        ),
        (TWO.replace("2G", "3G"), "-m: 3G but the nodes have 2G, must be the same".to_owned()),
        ("-m x".into(), "line 1: -m size: `x` is not a size, such as 512M".to_owned()),
        ("-m".into(), "line 1: -m: a value is required".to_owned()),
        ("-object memory-backend-ram,id=a".into(), "line 1: -object size: missing, must be given".to_owned()),
        (
            "-object memory-backend-ram,id=a,size=1G,policy=far".into(),
            "line 1: -object policy: `far` is not one of default, bind, preferred, interleave".to_owned(),
        ),
        (
            "-object memory-backend-ram,id=a,size=1G,policy=bind".into(),
            "line 1: -object policy: needs host-nodes".to_owned(),
        ),
        (
            "-object memory-backend-ram,id=a,size=1G,host-nodes=1".into(),
            "line 1: -object host-nodes: needs a policy other than default".to_owned(),
        ),
        (
            "-object memory-backend-ram,id=a,size=1G,prealloc=maybe".into(),
            "line 1: -object prealloc: `maybe` is not one of on, off".to_owned(),
        ),
        (
            "-object memory-backend-memfd,id=a,size=1G,hugetlb=on,hugetlbsize=16M".into(),
            "line 1: -object hugetlbsize: 16M is not one of 2M, 1G".to_owned(),
        ),
        (
            "-object memory-backend-ram,id=a,size=1G -object memory-backend-ram,id=a,size=1G".into(),
            "line 1: -object id: `a` is given twice, ids must differ".to_owned(),
        ),
        ("-machine memory-backend=a".into(), "line 1: -machine memory-backend: there is no `a`".to_owned()),
        (
            "-m 2G -machine memory-backend=a -object memory-backend-ram,id=a,size=1G".into(),
            "-m: 2G but its memory backend has 1G, must be the same".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(&text), expected, "{text}");
    }
}

/// The memory and vCPUs of a line, and whether a warning has each of some texts.
fn told(text: &str, notes: &[&str]) -> Vec<(Bytes, String)> {
    let (spec, warnings) = line(text);
    for note in notes {
        assert!(warnings.iter().any(|warning| warning.contains(note)), "{note}: {warnings:?}");
    }
    shape(&spec)
}

#[test]
fn an_object_that_is_no_memory_may_hold_anything() {
    let text = r#"kvm -object '{"id":"t","limits":{},"x":[{"y":1}],"qom-type":"throttle-group"}' -m 64"#;
    assert_eq!(told(text, &["-object throttle-group is ignored"]), owned([(64, "0")]));
    let text = r#"-object '{"id":"t","size":{},"qom-type":"memory-backend-ram"}'"#;
    assert_eq!(refused(text), "line 1: -object: size is not a plain value");
    let refusal = refused("-m 64 \\\n -object {\"qom-type\":\"memory-backend-ram\",\"id\":\"a\"}");
    assert!(refusal.starts_with("line 2: -object: a JSON object without its quotes"), "{refusal}");
}

#[test]
fn memory_devices_add_to_their_nodes() {
    let text = "-m size=64,slots=4,maxmem=1G -smp 2 -numa node,cpus=0,mem=32 -numa node,cpus=1,mem=32
        -object memory-backend-ram,id=a,size=16M -device pc-dimm,id=d0,memdev=a,node=1
        -object memory-backend-ram,id=b,size=8M -device '{\"driver\":\"virtio-mem-pci\",\"memdev\":\"b\",\"node\":0}'
        -object memory-backend-file,id=n,size=4M,mem-path=/x -device nvdimm,memdev=n -device usb-tablet
        -object memory-backend-ram,id=lost,size=2M";
    let notes = [
        "-device pc-dimm `a`: its 16M are part of node 1",
        "-device virtio-mem-pci `b`: its 8M are part of node 0",
        "-device nvdimm is ignored",
        "-device is ignored",
        "-object `lost` is ignored: nothing uses its memory",
    ];
    assert_eq!(told(text, &notes), owned([(40, "0"), (48, "1")]));
    // Without nodes there is one.
    let dimm = "-object memory-backend-ram,id=a,size=16M -device pc-dimm,memdev=a";
    assert_eq!(told(&format!("-m 64 {dimm}"), &[]), owned([(80, "0")]));
    assert_eq!(refused("-device pc-dimm"), "line 1: -device memdev: missing, must be given");
    assert_eq!(refused("-device pc-dimm,memdev=a"), "line 1: -device pc-dimm memdev: there is no `a`");
    let beyond = refused(&format!("{dimm},node=3"));
    assert_eq!(beyond, "line 1: -device pc-dimm node: node 3 does not exist");
}

#[test]
fn an_option_given_twice_adds_its_keys() {
    assert_eq!(told("-m 4G -m slots=2,maxmem=8G -smp 4", &[]), owned([(4096, "0-3")]));
    assert_eq!(
        told("-smp 8 -m 2G -smp sockets=2 -numa node -numa node", &[]),
        owned([(1024, "0-3"), (1024, "4-7")])
    );
    assert_eq!(told("-m 4G -m 64", &[]), owned([(64, "0")]));
    let text = "-machine q35 -machine memory-backend=a -object memory-backend-ram,id=a,size=64M";
    assert_eq!(told(text, &[]), owned([(64, "0")]));
}

#[test]
fn a_machine_that_stands_elsewhere_is_not_made_smaller() {
    for (text, why) in [
        ("A=(-smp 4 -m 4096)\nqemu-system-x86_64 -S", "`A=(-smp` comes before the program"),
        ("args=(\n -enable-kvm -m 4096 )\nqemu-system-x86_64 x", "`-enable-kvm` comes before the program"),
        ("qemu-system-x86_64 \"${args[@]}\"", "`${args[@]}`: a shell expands this"),
        ("qemu-system-x86_64 -S $OPTIONS -m 64", "`$OPTIONS`: a shell expands this"),
        ("qemu-system-x86_64 `cat options`", "`"),
        ("qemu -nographic -readconfig vm.conf", "-readconfig: may contain memory, CPUs and nodes"),
        ("qemu -preconfig", "-preconfig: CPUs and nodes may be set by QMP"),
        ("qemu -set object.ram.size=8G", "-set object.ram.size=8G: changes the machine"),
        ("qemu-system-aarch64 -m 64", "qemu-system-aarch64: the guest must be x86_64"),
    ] {
        let refused = refused(text);
        assert!(refused.starts_with("line ") && refused.contains(why), "{refused}");
    }
    assert_eq!(
        told("numactl -m 0 -- qemu-system-x86_64 -m 64", &["`numactl -m 0 --` is ignored"]),
        owned([(64, "0")])
    );
    assert_eq!(told("qemu-system-i386 -m 64", &["x86_64, not i386"]), owned([(64, "0")]));
}

#[test]
fn cpus_of_old_machine_types_are_in_sockets() {
    let nodes = "-m 64 -smp 4 -numa node,mem=32 -numa node,mem=32";
    let by_socket = ["0,2", "1,3"].map(|list| (32, list));
    for kind in [
        "pc-i440fx-2.12,accel=kvm",
        "pc-q35-6.1",
        "type=pc-q35-rhel8.2.0",
        "pc-i440fx-5.2+pve0",
        "pc-1.3",
        "pc-i440fx-focal",
    ] {
        assert_eq!(told(&format!("-machine {kind} {nodes}"), &[]), owned(by_socket), "{kind}");
    }
    for kind in
        ["pc", "q35", "pc-q35-6.2", "pc-i440fx-10.0", "pc-q35-rhel9.0.0", "pc-i440fx-jammy", "microvm"]
    {
        assert_eq!(told(&format!("-M {kind} {nodes}"), &[]), owned([(32, "0-3"), (32, "")]), "{kind}");
    }
}

#[test]
fn sizes_of_any_kib_are_rounded_up() {
    let notes = ["vnode 0: 219100K are rounded up to 214M, memory comes in steps of 2M"];
    assert_eq!(told("-m 219100k", &notes), owned([(214, "0")]));
    let text = "-m 3G -object memory-backend-file,id=a,size=1536M,mem-path=/hugepages1G -numa node,memdev=a -numa node,mem=1536M";
    assert_eq!(told(text, &["vnode 0: 1536M are rounded up to 2G"])[0].0, Bytes::gib(2));
}

#[test]
fn packages_are_written_where_qemu_has_such() {
    let written = |text: &str| formats::write(Format::Qemu, &line(text).0).unwrap();
    let (text, warnings) = written("-m 64 -smp 4 -numa node,mem=32,cpus=0-1 -numa node,mem=32,cpus=2-3");
    assert!(text.contains("cpus=4,sockets=2,cores=2,threads=1"), "{text}");
    assert!(!warnings.iter().any(|warning| warning.contains("package")), "{warnings:?}");
    let (text, warnings) = written("-m 64 -smp 4 -numa node,mem=32,cpus=0-2 -numa node,mem=32,cpus=3");
    assert!(text.contains("cpus=4,sockets=1,cores=4,threads=1"), "{text}");
    assert!(
        warnings.iter().any(|warning| warning.contains("a package per vnode is ignored")),
        "{warnings:?}"
    );
}
