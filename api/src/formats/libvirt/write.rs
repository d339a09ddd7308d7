//! A VM as a libvirt domain. `losses` reports what cannot be expressed.

use resources::spec::{CacheAssociativity, CacheWritePolicy};
use resources::{
    Distance, MemoryPolicy, MemorySideCache, OnReset, PageSize, SerialSpec, VmSpec, VmTopology, Vnode,
};
use std::fmt::Write as _;

/// Lines at a depth.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn put(&mut self, depth: usize, line: &str) {
        self.0.push_str(&"  ".repeat(depth));
        self.0.push_str(line);
        self.0.push('\n');
    }
}

/// Writes the domain.
pub fn write(spec: &VmSpec, topology: &VmTopology) -> String {
    let mut out = Lines::default();
    out.put(0, "<domain type='kvm'>");
    out.put(1, "<name>numavisor</name>");
    out.put(1, &format!("<memory unit='KiB'>{}</memory>", topology.memory().get() >> 10));
    out.put(1, &format!("<vcpu placement='static'>{}</vcpu>", topology.vcpu_count()));
    backing(topology, &mut out);
    numatune(topology, &mut out);
    cputune(topology, &mut out);
    out.put(1, "<os>");
    out.put(2, "<type arch='x86_64'>hvm</type>");
    let path = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    let boot = [
        ("kernel", spec.kernel.as_ref().map(path)),
        ("initrd", spec.initramfs.as_ref().map(path)),
        ("cmdline", spec.cmdline.clone()),
    ];
    for (name, value) in boot.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        out.put(2, &format!("<{name}>{}</{name}>", escaped(&value)));
    }
    out.put(1, "</os>");
    cpu(topology, &mut out);
    let on_reboot = match spec.on_reset {
        OnReset::Exit => "destroy",
        OnReset::Reboot => "restart",
    };
    out.put(1, &format!("<on_reboot>{on_reboot}</on_reboot>"));
    out.put(1, "<devices>");
    out.put(
        2,
        &match &spec.serial {
            SerialSpec::Stdio => "<serial type='stdio'/>".to_owned(),
            SerialSpec::None => "<serial type='null'/>".to_owned(),
            SerialSpec::File(path) => {
                let path = escaped(&path.to_string_lossy());
                format!("<serial type='file'><source path='{path}' append='on'/></serial>")
            }
        },
    );
    out.put(1, "</devices>");
    out.put(0, "</domain>");
    out.0
}

/// What `<allocation>` says of all vnodes, which is nothing where they do as their pages do; `None` if they differ
/// otherwise.
pub fn allocation(topology: &VmTopology) -> Option<Option<&'static str>> {
    let with_memory = || topology.vnodes().iter().filter(|vnode| vnode.memory.get() > 0);
    if with_memory().all(|vnode| vnode.prefault == vnode.pages.pool().is_some()) {
        Some(None)
    } else if with_memory().all(|vnode| vnode.prefault) {
        Some(Some("immediate"))
    } else if with_memory().all(|vnode| !vnode.prefault) {
        Some(Some("ondemand"))
    } else {
        None
    }
}

fn backing(topology: &VmTopology, out: &mut Lines) {
    let page = |vnode: &Vnode| match vnode.pages {
        PageSize::Thp => None,
        PageSize::Small => Some((4, vnode.id)),
        PageSize::Huge2M => Some((2 << 10, vnode.id)),
        PageSize::Huge1G => Some((1 << 20, vnode.id)),
    };
    let pages: Vec<_> = topology.vnodes().iter().filter_map(page).collect();
    let allocation = allocation(topology).flatten();
    let shared = topology.vnodes().iter().any(|vnode| vnode.shared);
    if pages.is_empty() && allocation.is_none() && !shared {
        return;
    }
    out.put(1, "<memoryBacking>");
    if !pages.is_empty() {
        out.put(2, "<hugepages>");
        for (size, vnode) in pages {
            out.put(3, &format!("<page size='{size}' unit='KiB' nodeset='{vnode}'/>"));
        }
        out.put(2, "</hugepages>");
    }
    if shared {
        // Which of them are is said at each cell.
        out.put(2, "<source type='memfd'/>");
    }
    if let Some(mode) = allocation {
        out.put(2, &format!("<allocation mode='{mode}'/>"));
    }
    out.put(1, "</memoryBacking>");
}

fn numatune(topology: &VmTopology, out: &mut Lines) {
    let placed: Vec<_> =
        topology.vnodes().iter().filter_map(|v| Some((v.id, v.policy, v.asked.as_ref()?))).collect();
    if placed.is_empty() {
        return;
    }
    out.put(1, "<numatune>");
    for (id, policy, nodes) in placed {
        let mode = match policy {
            MemoryPolicy::Bind => "strict",
            MemoryPolicy::Preferred => "preferred",
            MemoryPolicy::Interleave => "interleave",
        };
        out.put(2, &format!("<memnode cellid='{id}' mode='{mode}' nodeset='{nodes}'/>"));
    }
    out.put(1, "</numatune>");
}

fn cputune(topology: &VmTopology, out: &mut Lines) {
    let pins: Vec<_> = topology.pins().iter().filter_map(|(v, list)| Some((v, list.cpus()?))).collect();
    if pins.is_empty() {
        return;
    }
    out.put(1, "<cputune>");
    for (vcpu, cpus) in pins {
        out.put(2, &format!("<vcpupin vcpu='{vcpu}' cpuset='{cpus}'/>"));
    }
    out.put(1, "</cputune>");
}

fn cpu(topology: &VmTopology, out: &mut Lines) {
    out.put(1, "<cpu mode='host-passthrough'>");
    out.put(2, "<numa>");
    let remote = |d: &Distance| *d != Distance::LOCAL && *d != Distance::REMOTE;
    let distances = topology.distances().rows().iter().flatten().any(remote);
    for vnode in topology.vnodes() {
        cell(vnode, topology, distances, out);
    }
    interconnects(topology, out);
    out.put(2, "</numa>");
    out.put(1, "</cpu>");
}

fn cell(vnode: &Vnode, topology: &VmTopology, distances: bool, out: &mut Lines) {
    let cpus = match vnode.vcpus.is_empty() {
        true => String::new(),
        false => format!(" cpus='{}'", vnode.vcpus),
    };
    let access = if vnode.shared { " memAccess='shared'" } else { "" };
    let head =
        format!("cell id='{}'{cpus} memory='{}' unit='KiB'{access}", vnode.id, vnode.memory.get() >> 10);
    let caches: Vec<_> = topology.caches().iter().filter(|cache| cache.vnode == vnode.id).collect();
    if !distances && caches.is_empty() {
        out.put(3, &format!("<{head}/>"));
        return;
    }
    out.put(3, &format!("<{head}>"));
    if distances {
        out.put(4, "<distances>");
        for (to, distance) in topology.distances().rows()[vnode.id.index()].iter().enumerate() {
            out.put(5, &format!("<sibling id='{to}' value='{}'/>", distance.get()));
        }
        out.put(4, "</distances>");
    }
    caches.into_iter().for_each(|one| cache(one, out));
    out.put(3, "</cell>");
}

fn cache(cache: &MemorySideCache, out: &mut Lines) {
    let associativity = match cache.associativity {
        CacheAssociativity::None => "none",
        CacheAssociativity::Direct => "direct",
        CacheAssociativity::Complex => "full",
    };
    let policy = match cache.policy {
        CacheWritePolicy::None => "none",
        CacheWritePolicy::WriteBack => "writeback",
        CacheWritePolicy::WriteThrough => "writethrough",
    };
    let level = cache.level;
    out.put(4, &format!("<cache level='{level}' associativity='{associativity}' policy='{policy}'>"));
    out.put(5, &format!("<size value='{}' unit='B'/>", cache.size.get()));
    out.put(5, &format!("<line value='{}' unit='B'/>", cache.line));
    out.put(4, "</cache>");
}

fn interconnects(topology: &VmTopology, out: &mut Lines) {
    let Some(attributes) = topology.attributes() else { return };
    out.put(3, "<interconnects>");
    let count = topology.vnodes().len();
    for (initiator, target) in (0..count).flat_map(|i| (0..count).map(move |t| (i, t))) {
        let Some(known) = attributes.get(initiator, target) else { continue };
        let mut put = |name: &str, read: Option<u64>, write: Option<u64>, unit: &str| {
            let kinds = match (read, write) {
                (read, write) if read == write => vec![("access", read)],
                (read, write) => vec![("read", read), ("write", write)],
            };
            for (kind, value) in kinds.into_iter().filter_map(|(kind, value)| Some((kind, value?))) {
                let mut line = format!("<{name} initiator='{initiator}' target='{target}'");
                // Writing to a String cannot fail.
                let _ = write!(line, " type='{kind}' value='{value}'{unit}/>");
                out.put(4, &line);
            }
        };
        put("latency", known.read_latency_ns.map(u64::from), known.write_latency_ns.map(u64::from), "");
        let kib = |mib: Option<u32>| mib.map(|mib| u64::from(mib) << 10);
        put("bandwidth", kib(known.read_bandwidth_mib), kib(known.write_bandwidth_mib), " unit='KiB'");
    }
    out.put(3, "</interconnects>");
}

/// A text as XML has it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\r' | '\t' => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
            _ => escaped.push(c),
        }
    }
    escaped
}
