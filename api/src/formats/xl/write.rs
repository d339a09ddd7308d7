//! A VM as xl.cfg(5). `losses` reports what cannot be expressed.

use crate::formats::Refusal;
use resources::{Bytes, OnReset, SerialSpec, VcpuId, VmSpec, VmTopology, Vnode};

/// Writes the configuration. Refuses vnodes without a pnode if there are several: xl has to be told.
pub fn write(spec: &VmSpec, topology: &VmTopology) -> Result<String, Refusal> {
    let mib = |bytes: Bytes| bytes.get() >> 20;
    let mut lines = vec![
        "name = \"numavisor\"".to_owned(),
        "type = \"pvh\"".to_owned(),
        format!("memory = {}", mib(topology.memory())),
        format!("maxmem = {}", mib(topology.memory())),
        format!("vcpus = {}", topology.vcpu_count()),
        format!("maxvcpus = {}", topology.vcpu_count()),
    ];
    let mut text = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("{name} = {}", quoted(&value))));
    };
    let path = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    text("kernel", spec.kernel.as_ref().map(path));
    text("ramdisk", spec.initramfs.as_ref().map(path));
    text("cmdline", spec.cmdline.clone());
    let on_reboot = match spec.on_reset {
        OnReset::Exit => "destroy",
        OnReset::Reboot => "restart",
    };
    text("on_reboot", Some(on_reboot.to_owned()));
    text(
        "serial",
        match &spec.serial {
            SerialSpec::Stdio => None,
            SerialSpec::None => Some("null".to_owned()),
            SerialSpec::File(path) => Some(format!("file:{}", path.display())),
        },
    );
    if topology.vnodes().len() > 1 || topology.vnodes().iter().any(|vnode| vnode.asked.is_some()) {
        let nodes = topology.vnodes().iter().map(|vnode| node(vnode, topology));
        lines.push(format!("vnuma = [\n{}]", nodes.collect::<Result<String, _>>()?));
    }
    if let Some(last) = topology.pins().keys().last() {
        let list = |vcpu| topology.pins().get(&VcpuId(vcpu)).map_or("all".to_owned(), ToString::to_string);
        let lists: Vec<String> = (0..=last.0).map(|vcpu| quoted(&list(vcpu))).collect();
        lines.push(format!("cpus = [ {} ]", lists.join(", ")));
    }
    Ok(lines.join("\n") + "\n")
}

fn node(vnode: &Vnode, topology: &VmTopology) -> Result<String, Refusal> {
    let id = vnode.id;
    let Some(pnode) = vnode.asked.as_ref().and_then(resources::NodeSet::first) else {
        return Err(Refusal::of(format_args!("vnodes[{id}].pnode: missing, xl needs one for every vnode")));
    };
    let row = topology.distances().rows()[id.index()].iter().map(|distance| distance.get().to_string());
    let row = row.collect::<Vec<_>>().join(",");
    let (size, vcpus) = (vnode.memory.get() >> 20, &vnode.vcpus);
    Ok(format!("  [ \"pnode={pnode}\", \"size={size}\", \"vcpus={vcpus}\", \"vdistances={row}\" ],\n"))
}

/// A text in quotes.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            _ => quoted.push(c),
        }
    }
    quoted + "\""
}
