//! A VM as a QEMU command line, one option per line. `losses` reports what cannot be expressed.

use crate::formats::Refusal;
use resources::spec::{CacheAssociativity, CacheWritePolicy};
use resources::{
    Bytes, Distance, MemoryPolicy, NodeSet, OnReset, PairAttributes, SerialSpec, VcpuId, VmSpec, VmTopology,
    Vnode,
};

/// Writes the command line.
pub fn write(spec: &VmSpec, topology: &VmTopology) -> Result<String, Refusal> {
    let mut out: Vec<(&str, String)> = Vec::new();
    let hmat = if topology.has_hmat() { ",hmat=on" } else { "" };
    let cpus = topology.vcpu_count();
    out.push(("-machine", format!("q35,accel=kvm{hmat}")));
    let (sockets, cores) = packages(topology).unwrap_or((1, cpus));
    out.push(("-smp", format!("cpus={cpus},sockets={sockets},cores={cores},threads=1")));
    out.push(("-m", format!("size={}M", topology.memory().get() >> 20)));
    for vnode in topology.vnodes() {
        if vnode.memory > Bytes::ZERO {
            out.push(("-object", backend(vnode)));
        }
        out.push(("-numa", node(vnode, topology.has_hmat())));
    }
    let remote = |d: &Distance| *d != Distance::LOCAL && *d != Distance::REMOTE;
    let rows = topology.distances().rows();
    if rows.iter().flatten().any(remote) {
        let cells = rows
            .iter()
            .enumerate()
            .flat_map(|(from, row)| row.iter().enumerate().map(move |(to, d)| (from, to, d)));
        out.extend(cells.filter(|(from, to, _)| from != to).map(|(from, to, distance)| {
            ("-numa", format!("dist,src={from},dst={to},val={}", distance.get()))
        }));
    }
    out.extend(localities(topology).into_iter().map(|text| ("-numa", text)));
    out.extend(caches(topology).into_iter().map(|text| ("-numa", text)));
    let path = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    out.extend(spec.kernel.as_ref().map(|kernel| ("-kernel", path(kernel))));
    out.extend(spec.initramfs.as_ref().map(|initramfs| ("-initrd", path(initramfs))));
    out.extend(spec.cmdline.as_ref().map(|cmdline| ("-append", cmdline.clone())));
    let serial = match &spec.serial {
        SerialSpec::Stdio => "stdio".to_owned(),
        SerialSpec::None => "null".to_owned(),
        SerialSpec::File(path) => format!("file:{}", path.display()),
    };
    out.push(("-serial", serial));
    let mut lines = vec!["qemu-system-x86_64 -nodefaults -display none".to_owned()];
    for (option, value) in out {
        let value = shlex::try_quote(&value)
            .map_err(|_| Refusal::of(format_args!("{option}: has a NUL, must not have one")))?;
        lines.push(format!("  {option} {value}"));
    }
    match spec.on_reset {
        OnReset::Exit => lines.push("  -no-reboot".to_owned()),
        OnReset::Reboot => {}
    }
    Ok(lines.join(" \\\n") + "\n")
}

/// A package per vnode, as the guest has it here: how many, and the vCPUs of each. QEMU has no packages of different
/// sizes, and numbers the CPUs of one in a row.
pub fn packages(topology: &VmTopology) -> Option<(usize, usize)> {
    let with_cpus: Vec<&Vnode> = topology.vnodes().iter().filter(|vnode| !vnode.vcpus.is_empty()).collect();
    let cores = with_cpus.first()?.vcpus.len();
    let mut next = 0;
    for vnode in &with_cpus {
        let end = next + u32::try_from(cores).ok()?;
        if vnode.vcpus != (next..end).map(VcpuId).collect() {
            return None;
        }
        next = end;
    }
    Some((with_cpus.len(), cores))
}

fn backend(vnode: &Vnode) -> String {
    let kind = match vnode.pages.pool() {
        Some(size) => format!("memory-backend-memfd,hugetlb=on,hugetlbsize={}M", size.get() >> 20),
        None if vnode.shared => "memory-backend-memfd".to_owned(),
        None => "memory-backend-ram".to_owned(),
    };
    let mut text = format!("{kind},id=ram{},size={}M", vnode.id, vnode.memory.get() >> 20);
    if let Some(nodes) = &vnode.asked {
        for (first, last) in NodeSet::runs(nodes) {
            match first == last {
                true => text += &format!(",host-nodes={first}"),
                false => text += &format!(",host-nodes={first}-{last}"),
            }
        }
        text += match vnode.policy {
            MemoryPolicy::Bind => ",policy=bind",
            MemoryPolicy::Preferred => ",policy=preferred",
            MemoryPolicy::Interleave => ",policy=interleave",
        };
    }
    if vnode.shared {
        text += ",share=on";
    }
    text + if vnode.prefault { ",prealloc=on" } else { ",prealloc=off" }
}

fn node(vnode: &Vnode, hmat: bool) -> String {
    let mut text = format!("node,nodeid={}", vnode.id);
    if vnode.memory > Bytes::ZERO {
        text += &format!(",memdev=ram{}", vnode.id);
    }
    for (first, last) in vnode.vcpus.runs() {
        match first == last {
            true => text += &format!(",cpus={first}"),
            false => text += &format!(",cpus={first}-{last}"),
        }
    }
    match vnode.initiator.filter(|_| hmat) {
        Some(initiator) => text + &format!(",initiator={initiator}"),
        None => text,
    }
}

fn localities(topology: &VmTopology) -> Vec<String> {
    let Some(attributes) = topology.attributes() else { return Vec::new() };
    let count = topology.vnodes().len();
    let mut out = Vec::new();
    for (initiator, target) in (0..count).flat_map(|i| (0..count).map(move |t| (i, t))) {
        let Some(known) = attributes.get(initiator, target) else { continue };
        for (kind, value) in figures(&known) {
            out.push(format!(
                "hmat-lb,initiator={initiator},target={target},hierarchy=memory,data-type={kind},{value}"
            ));
        }
    }
    out
}

fn figures(known: &PairAttributes) -> Vec<(&'static str, String)> {
    let latency = |ns: Option<u32>| ns.map(|ns| format!("latency={ns}"));
    let bandwidth = |mib: Option<u32>| mib.map(|mib| format!("bandwidth={mib}M"));
    let either = |kinds: [&'static str; 3], read: Option<String>, write: Option<String>| {
        let all = match read == write {
            true => vec![(kinds[0], read)],
            false => vec![(kinds[1], read), (kinds[2], write)],
        };
        all.into_iter().filter_map(|(kind, value)| Some((kind, value?))).collect::<Vec<_>>()
    };
    let mut all = either(
        ["access-latency", "read-latency", "write-latency"],
        latency(known.read_latency_ns),
        latency(known.write_latency_ns),
    );
    all.extend(either(
        ["access-bandwidth", "read-bandwidth", "write-bandwidth"],
        bandwidth(known.read_bandwidth_mib),
        bandwidth(known.write_bandwidth_mib),
    ));
    all
}

fn caches(topology: &VmTopology) -> Vec<String> {
    let text = |cache: &resources::MemorySideCache| {
        let associativity = match cache.associativity {
            CacheAssociativity::None => "none",
            CacheAssociativity::Direct => "direct",
            CacheAssociativity::Complex => "complex",
        };
        let policy = match cache.policy {
            CacheWritePolicy::None => "none",
            CacheWritePolicy::WriteBack => "write-back",
            CacheWritePolicy::WriteThrough => "write-through",
        };
        let (vnode, size, level, line) = (cache.vnode, cache.size.get(), cache.level, cache.line);
        format!(
            "hmat-cache,node-id={vnode},size={size},level={level},associativity={associativity},policy={policy},line={line}"
        )
    };
    topology.caches().iter().map(text).collect()
}
