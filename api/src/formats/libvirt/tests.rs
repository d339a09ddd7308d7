//! Domains as in libvirt's documentation, and each error.

use super::{read, write};
use crate::formats::{Format, notes::Notes};
use resources::distance::DistanceSpec;
use resources::spec::Switch;
use resources::{Bytes, MemoryPolicy, OnReset, PageSize, SerialSpec, VmSpec, VmTopology};

fn domain(inner: &str) -> (VmSpec, Vec<String>) {
    crate::formats::read(Format::Libvirt, &format!("<domain>\n{inner}\n</domain>")).unwrap()
}

fn refused(inner: &str) -> String {
    crate::formats::read(Format::Libvirt, &format!("<domain>\n{inner}\n</domain>")).unwrap_err().to_string()
}

/// Two cells with two vCPUs each, and more inside the first and behind the second.
fn cells(inside: &str, after: &str) -> String {
    format!(
        "<vcpu>4</vcpu>\n<cpu><numa>\n<cell id='0' cpus='0-1' memory='1' unit='GiB'>{inside}</cell>\n\
         <cell id='1' cpus='2-3' memory='1048576'/>\n{after}</numa></cpu>"
    )
}

#[test]
fn cells_have_ids_units_lists_and_maybe_no_cpus() {
    let (spec, warnings) = domain(
        "<vcpu>5</vcpu><cpu><numa><cell id='2' cpus='0-4,^1-2' memory='524288'/>
         <cell id='0' cpus='1,2' memory='1' unit='G'/><cell id='1' memory='2048' unit='MiB'/></numa></cpu>",
    );
    let shape: Vec<_> = VmTopology::try_from(&spec)
        .unwrap()
        .vnodes()
        .iter()
        .map(|v| (v.memory, v.vcpus.to_string()))
        .collect();
    let expected = [(Bytes::gib(1), "1-2"), (Bytes::gib(2), ""), (Bytes::mib(512), "0,3-4")];
    assert_eq!(shape, expected.map(|(memory, list)| (memory, list.to_owned())));
    assert_eq!(warnings, Vec::<String>::new());
    let (spec, _) = domain("<cpu><numa><cell memory='2048' cpus='0'/><cell memory='4096'/></numa></cpu>");
    assert_eq!(spec.numa.iter().map(|v| v.id).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn distances_are_kept_as_given_and_completed_by_the_rule() {
    let (spec, _) =
        domain(&cells("<distances><sibling id='0' value='10'/><sibling id='1' value='21'/></distances>", ""));
    assert_eq!(spec.distances[1], DistanceSpec { from: 0, to: 1, value: 21 });
    let topology = VmTopology::try_from(&spec).unwrap();
    assert_eq!(topology.distances().get(1, 0).unwrap().get(), 21);
}

#[test]
fn interconnects_and_caches_are_hmat() {
    let cache = "<cache level='1' associativity='full' policy='writethrough'><size value='10' unit='KiB'/><line value='8' unit='B'/></cache>";
    let after = "<interconnects><latency initiator='0' target='0' type='access' value='5'/>
        <latency initiator='0' target='1' type='read' value='7'/><latency initiator='0' target='1' type='write' value='9'/>
        <latency initiator='0' target='1' cache='1' type='access' value='3'/>
        <bandwidth initiator='0' target='0' type='access' value='204800' unit='KiB'/></interconnects>";
    let (spec, warnings) = domain(&cells(cache, after));
    let json = serde_json::to_string(&(&spec.attributes, &spec.caches)).unwrap();
    let expected = r#"[[{"initiator":0,"target":0,"latency":5,"bandwidth":209715200},{"initiator":0,"target":1,"read_latency":7,"write_latency":9}],[{"vnode":0,"size":10240,"level":1,"associativity":"complex","policy":"write-through","line":8}]]"#;
    assert_eq!(json, expected);
    let line = "line 8: interconnects/latency/@cache is ignored: only values of memory are supported";
    assert_eq!(warnings, [line]);
}

#[test]
fn memory_lies_where_numatune_says_and_vcpus_run_where_cputune_says() {
    let tune = "<numatune><memory mode='interleave' nodeset='1-4,^3'/><memnode cellid='1' mode='preferred' nodeset='2'/></numatune>
        <cputune><vcpupin vcpu='0' cpuset='1-4,^2'/><vcpupin vcpu='2' cpuset='0,1'/><emulatorpin cpuset='1-3'/></cputune>";
    let text = cells("", "").replace("<vcpu>", "<vcpu cpuset='0-7,^6' current='2'>");
    let (spec, warnings) = domain(&format!("{text}{tune}"));
    let place = |id: usize| (spec.numa[id].pnode.clone().unwrap().to_string(), spec.numa[id].policy.unwrap());
    assert_eq!(place(0), ("1-2,4".into(), MemoryPolicy::Interleave));
    assert_eq!(place(1), ("2".into(), MemoryPolicy::Preferred));
    let pins: Vec<_> = spec.pins.iter().map(|pin| (pin.vcpus.to_string(), pin.cpus.to_string())).collect();
    let expected = [("0", "1,3-4"), ("1,3", "0-5,7"), ("2", "0-1")];
    assert_eq!(pins, expected.map(|(v, c)| (v.to_owned(), c.to_owned())));
    let expected = [
        "line 2: vcpu/@current is ignored: the guest boots with all vCPUs",
        "line 7: cputune/emulatorpin is ignored",
    ];
    assert_eq!(warnings, expected);
    let (spec, warnings) = domain(
        "<numatune><memory mode='restrictive' nodeset='1'/></numatune><vcpu placement='auto'>2</vcpu>",
    );
    assert_eq!(spec.numa[0].policy, Some(MemoryPolicy::Bind));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let (spec, _) = domain("<numatune><memory mode='strict' placement='auto'/></numatune>");
    assert_eq!(spec.numa[0].pnode, None);
}

#[test]
fn memory_is_shared_by_all_cells_or_by_some() {
    let shared = |cell: &str, all: &str| {
        let backing = format!("<memoryBacking><access mode='{all}'/></memoryBacking>");
        let cells = cells("", "").replacen("<cell ", &format!("<cell {cell} "), 1);
        let (spec, warnings) = domain(&format!("{cells}{backing}"));
        assert_eq!(warnings, Vec::<String>::new());
        spec.numa.iter().map(|vnode| vnode.shared.map(|Switch(on)| on)).collect::<Vec<_>>()
    };
    assert_eq!(shared("", "shared"), [Some(true); 2]);
    assert_eq!(shared("memAccess='private'", "shared"), [Some(false), Some(true)]);
    assert_eq!(shared("memAccess='shared'", "private"), [Some(true), Some(false)]);
}

#[test]
fn pages_are_given_to_all_or_to_some() {
    let backing = |inner: &str| {
        let (spec, warnings) = domain(&format!("{}<memoryBacking>{inner}</memoryBacking>", cells("", "")));
        (spec.numa.iter().map(|v| (v.pages, v.prefault)).collect::<Vec<_>>(), warnings)
    };
    let (two, one) = (Some(PageSize::Huge2M), Some(PageSize::Huge1G));
    let (pages, warnings) = backing("<hugepages/><locked/><nosharepages/><source type='memfd'/>");
    assert_eq!(pages, [(two, None), (two, None)]);
    let expected = [
        "line 6: memoryBacking/hugepages without a size are taken as 2M",
        "line 6: memoryBacking/locked is ignored",
    ];
    assert_eq!(warnings, expected);
    let (pages, _) = backing(
        "<hugepages><page size='1' unit='G' nodeset='0,^1'/><page size='2048'/></hugepages><allocation mode='immediate'/>",
    );
    assert_eq!(pages, [(one, Some(Switch(true))), (two, Some(Switch(true)))]);
}

#[test]
fn what_is_booted_and_where_the_serial_port_goes() {
    let (spec, warnings) = domain(
        "<memory unit='MiB'>512</memory><currentMemory unit='MiB'>256</currentMemory><os><type arch='x86_64' machine='pc'>hvm</type>
         <kernel>/k</kernel><initrd> /i </initrd><cmdline>a &amp; b</cmdline><boot dev='hd'/></os>
         <on_reboot>destroy</on_reboot>
         <devices><disk/><disk/><serial type='file'><source path='/log'/></serial><serial type='pty'/></devices>",
    );
    assert_eq!(spec.numa[0].memory, Some(Bytes::mib(512)));
    assert_eq!((spec.kernel.unwrap(), spec.initramfs.unwrap()), ("/k".into(), "/i".into()));
    assert_eq!((spec.cmdline.as_deref(), spec.on_reset), (Some("a & b"), OnReset::Exit));
    assert_eq!(spec.serial, SerialSpec::File("/log".into()));
    let expected = [
        "line 2: currentMemory is ignored: the guest boots with all 512M",
        "line 3: os/boot is ignored",
        "line 5: devices/disk is ignored",
        "line 5: devices/serial is ignored",
    ];
    assert_eq!(warnings, expected);
    let (spec, warnings) = domain("<name>x</name><features/><memory>1048576</memory>");
    assert_eq!((spec.on_reset, spec.serial), (OnReset::Reboot, SerialSpec::Stdio));
    assert_eq!(warnings, ["line 2: features is ignored"]);
}

#[test]
fn cells_count_where_the_sums_differ() {
    let (spec, warnings) =
        domain(&format!("<memory unit='GiB'>3</memory>{}", cells("", "").replace("<vcpu>4", "<vcpu>6")));
    assert_eq!(VmTopology::try_from(&spec).unwrap().memory(), Bytes::gib(2));
    assert_eq!(spec.numa[0].vcpus.clone().unwrap().to_string(), "0-1,4-5");
    let expected = [
        "line 2: memory is ignored: the cells have 2G, not 3G",
        "line 3: cpu/numa does not name the vCPUs 4-5: they are on cell 0",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn what_would_be_a_broken_guest_is_refused_with_line_and_rule() {
    let distance = |from: &str| cells(&format!("<distances>\n<sibling {from}/></distances>"), "");
    let latency = |what: &str| cells("", &format!("<interconnects>\n{what}</interconnects>"));
    let tune = |what: &str| format!("{}\n{what}", cells("", ""));
    let cases = [
        (
            distance("id='0' value='11'"),
            "line 5: distances/sibling/@value: 11 for vnode 0 to itself, must be 10",
        ),
        (
            distance("id='1' value='10'"),
            "line 5: distances/sibling/@value: 10 is not remote (0:1), must be 11 to 255",
        ),
        (
            distance("id='1' value='256'"),
            "line 5: distances/sibling/@value: 256 is not a distance, must be 10 to 255",
        ),
        (
            distance("id='1' value='9'"),
            "line 5: distances/sibling/@value: 9 is not a distance, must be 10 to 255",
        ),
        (
            distance("id='2' value='20'"),
            "line 5: distances/sibling/@id: cell 2 does not exist, cells are 0 to 1",
        ),
        (distance("id='1'"), "line 5: distances/sibling/@value: missing, must be given"),
        (
            "<cpu><numa><cell id='0' memory='2048'/><cell id='0' memory='2048'/></numa></cpu>".into(),
            "line 2: numa/cell/@id: 0 is given twice, ids must differ",
        ),
        (
            "<cpu><numa><cell id='0'/></numa></cpu>".into(),
            "line 2: numa/cell/@memory: missing, must be given",
        ),
        (
            "<cpu><numa><cell memory='1' unit='pages'/></numa></cpu>".into(),
            "line 2: numa/cell/@memory: unit `pages` is not one of b, KB, KiB, MB, MiB, GB, GiB, TB, TiB",
        ),
        (
            "<cpu><numa><cell memory='99999999999' unit='TiB'/></numa></cpu>".into(),
            "line 2: numa/cell/@memory: 99999999999 does not fit in 64 bits",
        ),
        (
            "<cpu><numa><cell memory='2048' cpus='0,x'/></numa></cpu>".into(),
            "line 2: numa/cell/@cpus: `0,x` is not a list; write numbers and ranges such as 0-3,8,^2",
        ),
        (
            "<vcpu>2</vcpu><cpu><numa><cell memory='2048' cpus='0-2'/></numa></cpu>".into(),
            "line 2: cpu/numa: vCPU 2 does not exist, vCPUs are 0 to 1",
        ),
        (
            cells("", "").replace("2-3", "1-3"),
            "vnodes[1].vcpus: vCPU 1 is already on vnode 0, a vCPU must be on exactly one vnode",
        ),
        ("<vcpu>0</vcpu>".into(), "line 2: vcpu: 0 vCPUs, must be 1 to 4096"),
        ("<vcpu current='3'>2</vcpu>".into(), "line 2: vcpu/@current: 3 are more than all, 2"),
        ("<memory>x</memory>".into(), "line 2: memory: `x` is not a whole number"),
        ("<os><type arch='aarch64'>hvm</type></os>".into(), "line 2: os/type/@arch: `aarch64` is not x86_64"),
        (
            tune("<numatune><memnode cellid='7' mode='strict' nodeset='0'/></numatune>"),
            "line 7: numatune/memnode/@cellid: cell 7 does not exist",
        ),
        (
            tune("<numatune><memory mode='near' nodeset='0'/></numatune>"),
            "line 7: numatune/memory/@mode: `near` is not one of strict, preferred, interleave, restrictive",
        ),
        (
            tune("<cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='0' cpuset='1'/></cputune>"),
            "line 7: cputune/vcpupin/@vcpu: vCPU 0 is pinned already, must be pinned once",
        ),
        (
            tune("<cputune><vcpupin vcpu='0'/></cputune>"),
            "line 7: cputune/vcpupin/@cpuset: contains no CPU, must contain at least one",
        ),
        (
            tune("<memoryBacking><hugepages><page size='16' unit='M'/></hugepages></memoryBacking>"),
            "line 7: hugepages/page/@size: 16M is not one of 4K, 2M, 1G",
        ),
        (
            latency("<latency initiator='0' target='0' type='fast' value='1'/>"),
            "line 7: interconnects/latency/@type: `fast` is not one of access, read, write",
        ),
        (
            latency("<latency initiator='0' target='9' type='read' value='1'/>"),
            "line 7: interconnects/latency/@target: cell 9 does not exist, cells are 0 to 1",
        ),
        (
            latency(&"<latency initiator='0' target='1' type='read' value='1'/>".repeat(2)),
            "line 7: interconnects/latency/@type: read of 0:1 is given twice, must be given once",
        ),
        (cells("<cache level='1'><size value='1'/></cache>", ""), "line 4: cell/cache: line is missing"),
        (
            cells(
                "<cache level='1' associativity='none' policy='lazy'><size value='1'/><line value='1'/></cache>",
                "",
            ),
            "line 4: cell/cache/@policy: `lazy` is not one of none, writeback, writethrough",
        ),
        (
            cells("<cache level='1' associativity='8'><size value='1'/><line value='1'/></cache>", ""),
            "line 4: cell/cache/@associativity: `8` is not one of none, direct, full",
        ),
        (
            cells("<cache level='1'><size value='1'/><line value='65536'/></cache>", ""),
            "line 4: cache/line/@value: 64K is more than 65535 bytes",
        ),
        (
            cells("<cache level='2'><size value='1'/><line value='1'/></cache>", ""),
            "caches[0]: level 2 of vnode 0 has no level 1 before it, levels must have no hole",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(&text), expected, "{text}");
    }
    let whole = |text| read(text, &mut Notes::default()).unwrap_err().to_string();
    assert_eq!(whole("\n<network/>"), "line 2: `network` is not a domain");
    assert!(whole("<domain>\n</network>").starts_with("line 2: not XML: "));
}

#[test]
fn texts_are_written_as_xml_has_them() {
    let spec = VmSpec { cmdline: Some("a<b> & 'c'".into()), ..VmSpec::default() };
    let text = write(&spec, &VmTopology::try_from(&spec).unwrap());
    assert!(text.contains("<cmdline>a&lt;b&gt; &amp; &apos;c&apos;</cmdline>"), "{text}");
}

#[test]
fn memory_devices_add_to_their_cells() {
    let device = |model: &str, node: &str| {
        format!(
            "<devices><memory model='{model}'><source><pagesize>4</pagesize></source><target><size unit='MiB'>512</size>{node}</target></memory></devices>"
        )
    };
    let with = |device: String| {
        let (spec, warnings) = domain(&format!("<memory unit='MiB'>2560</memory>{}{device}", cells("", "")));
        (spec.numa.iter().map(|vnode| vnode.memory.unwrap()).collect::<Vec<_>>(), warnings)
    };
    for model in ["dimm", "virtio-mem"] {
        let (sizes, warnings) = with(device(model, "<node>1</node>"));
        assert_eq!(sizes, [Bytes::gib(1), Bytes::mib(1536)]);
        assert_eq!(
            warnings,
            ["line 6: devices/memory: its 512M are part of cell 1", "line 6: memory/source is ignored"]
        );
    }
    let (sizes, warnings) = with(device("nvdimm", "<node>1</node>"));
    assert_eq!(sizes, [Bytes::gib(1); 2]);
    assert!(warnings.contains(&"line 6: devices/memory is ignored".to_owned()), "{warnings:?}");
    let refused = refused(&format!("{}{}", cells("", ""), device("dimm", "<node>2</node>")));
    assert_eq!(refused, "line 6: devices/memory: cell 2 does not exist");
    // Without cells the domain's memory has it already.
    let (spec, _) = domain(&format!("<memory unit='MiB'>1536</memory>{}", device("dimm", "")));
    assert_eq!(spec.numa[0].memory, Some(Bytes::mib(1536)));
}

#[test]
fn what_a_domain_keeps_of_its_past_is_left_out_and_what_is_of_nothing_refused() {
    let (spec, warnings) = domain(
        "<vcpu>2</vcpu><cputune><vcpupin vcpu='1' cpuset='1'/><vcpupin vcpu='4' cpuset='4'/></cputune>",
    );
    assert_eq!(spec.pins.len(), 1);
    assert_eq!(warnings, ["line 2: cputune/vcpupin of vCPU 4 is ignored: vCPUs are 0 to 1"]);
    let pages = |nodes: &str| {
        let pages = format!("<hugepages><page size='1' unit='G' nodeset='{nodes}'/></hugepages>");
        refused(&format!("<memoryBacking>{pages}</memoryBacking>{}", cells("", "")))
    };
    assert_eq!(pages("2"), "line 2: hugepages/page/@nodeset: cell 2 does not exist");
    assert_eq!(pages("0-3,5"), "line 2: hugepages/page/@nodeset: cell 2 does not exist");
}

#[test]
fn guests_of_32_bits_are_accepted_and_other_machines_refused() {
    for arch in ["i686", "i386"] {
        let (_, warnings) = domain(&format!("<os><type arch='{arch}'>hvm</type></os>"));
        assert_eq!(warnings, [format!("line 2: os/type/@arch {arch}: the guest's processor is x86_64")]);
    }
    assert!(refused("<os><type arch='aarch64'>hvm</type></os>").ends_with("`aarch64` is not x86_64"));
}

#[test]
fn options_past_libvirt_must_not_change_the_machine() {
    let line = |value: &str| format!("<commandline><arg value='-set'/><arg value='{value}'/></commandline>");
    assert_eq!(domain(&line("device.x.y=1")).1, ["line 2: commandline is ignored"]);
    for value in ["-m", "-smp", "--numa", "-readconfig", "-object", "pc-dimm,memdev=x"] {
        assert!(refused(&line(value)).contains("changes the machine"), "{value}");
    }
}

#[test]
fn sizes_of_any_kib_are_rounded_up() {
    let (spec, warnings) = domain("<memory>219100</memory>");
    assert_eq!(spec.numa[0].memory, Some(Bytes::mib(214)));
    assert_eq!(warnings, ["vnode 0: 219100K are rounded up to 214M, memory comes in steps of 2M"]);
}
