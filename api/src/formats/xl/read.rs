//! The settings of xl.cfg(5). The guest boots with all vCPUs and all memory that it could get later.

use crate::formats::Refusal;
use crate::formats::list::{number, pins, shown};
use crate::formats::notes::Notes;
use crate::formats::xl::syntax::{Setting, Value, What, settings};
use crate::formats::xl::vnuma::{self, Vnuma, mebibytes};
use resources::topology::MAX_VCPUS;
use resources::{
    Bytes, CpuList, MemoryPolicy, NodeSet, OnReset, SerialSpec, VcpuId, VcpuSet, VmSpec, VnodeSpec,
};
use std::collections::BTreeMap;

/// Names that say nothing about the machine.
const SILENT: [&str; 4] = ["name", "uuid", "type", "builder"];

/// Reads a configuration.
pub fn read(text: &str, notes: &mut Notes) -> Result<VmSpec, Refusal> {
    let all = merged(settings(text)?, notes)?;
    let vnuma = match all.get("vnuma") {
        Some(value) => vnuma::read(value)?,
        None => None,
    };
    let memory = memory(&all, vnuma.as_ref(), notes)?;
    let vcpus = vcpus(&all, vnuma.as_ref(), notes)?;
    let mut spec =
        VmSpec { on_reset: on_reset(&all, notes)?, serial: serial(&all, notes)?, ..VmSpec::default() };
    spec.kernel = text_of(&all, "kernel")?.map(Into::into);
    spec.initramfs = text_of(&all, "ramdisk")?.map(Into::into);
    spec.cmdline = cmdline(&all)?;
    let homeless = vnuma.is_none();
    (spec.numa, spec.distances) = match vnuma {
        Some(vnuma) => (vnuma.vnodes, vnuma.distances),
        None => {
            let all = (0..vcpus.unwrap_or(1)).map(VcpuId).collect::<VcpuSet>();
            (vec![VnodeSpec { memory, vcpus: Some(all), ..VnodeSpec::new(0) }], Vec::new())
        }
    };
    affinity(&all, homeless, &mut spec, notes)?;
    for (name, value) in &all {
        if !KNOWN.contains(&name.as_str()) && !SILENT.contains(&name.as_str()) {
            notes.at(value.line, format!("`{}` is ignored", shown(name)));
        }
    }
    Ok(spec)
}

const KNOWN: [&str; 14] = [
    "vnuma",
    "memory",
    "maxmem",
    "vcpus",
    "maxvcpus",
    "cpus",
    "cpus_soft",
    "kernel",
    "ramdisk",
    "cmdline",
    "extra",
    "root",
    "on_reboot",
    "serial",
];

type Settings = BTreeMap<String, Value>;

/// The last value of each name, `+=` put to its end.
fn merged(settings: Vec<Setting>, notes: &mut Notes) -> Result<Settings, Refusal> {
    let mut all = Settings::new();
    for Setting { line, name, appends, value } in settings {
        match (all.get_mut(&name), appends) {
            (None, _) => {
                all.insert(name, value);
            }
            (Some(before), true) => match (&mut before.what, value.what) {
                (What::Text(before), What::Text(more)) => before.push_str(&more),
                (What::List(before), What::List(more)) => before.extend(more),
                _ => return Err(Refusal::at(line, format_args!("{name}: += needs two texts or two lists"))),
            },
            (Some(before), false) => {
                notes.at(line, format!("`{}` is given twice, the last one counts", shown(&name)));
                *before = value;
            }
        }
    }
    Ok(all)
}

fn text_of(all: &Settings, name: &str) -> Result<Option<String>, Refusal> {
    match all.get(name) {
        None => Ok(None),
        Some(Value { what: What::Text(text), .. }) => Ok(Some(text.clone())),
        Some(value) => Err(Refusal::at(value.line, format_args!("{name}: must be a text in quotes"))),
    }
}

/// A number, in quotes or not.
fn number_of(all: &Settings, name: &str) -> Result<Option<(usize, u64)>, Refusal> {
    let Some(value) = all.get(name) else { return Ok(None) };
    let about = |why: String| Refusal::at(value.line, format_args!("{name}: {why}"));
    let text = match &value.what {
        What::Text(text) | What::Number(text) => text.trim(),
        What::List(_) => return Err(about("must be a number".into())),
    };
    let radix = |digits: &str, radix| {
        u64::from_str_radix(digits, radix).map_err(|_| about(format!("`{}` is not a number", shown(text))))
    };
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => radix(digits, 16)?,
        _ if text.len() > 1 && text.starts_with('0') => radix(text, 8)?,
        _ => number(text).map_err(about)?,
    };
    Ok(Some((value.line, parsed)))
}

/// The VM's memory, which is that of its vnodes where there are any.
fn memory(all: &Settings, vnuma: Option<&Vnuma>, notes: &mut Notes) -> Result<Option<Bytes>, Refusal> {
    let size = |name| -> Result<Option<(usize, Bytes)>, Refusal> {
        let Some((line, mib)) = number_of(all, name)? else { return Ok(None) };
        let size = mebibytes(&mib.to_string());
        size.map(|size| Some((line, size))).map_err(|why| Refusal::at(line, format_args!("{name}: {why}")))
    };
    let (memory, most) = (size("memory")?, size("maxmem")?);
    let sum = vnuma.map(Vnuma::memory);
    if let (Some((line, most)), Some(sum)) = (most, sum)
        && most != sum
    {
        let what = format!("maxmem: {most} but the vnodes have {sum}, must be equal or left out");
        return Err(Refusal::at(line, what));
    }
    let most = sum.or(most.map(|(_, most)| most));
    match (memory, most) {
        (Some((line, memory)), Some(most)) if memory > most => {
            let what = format!("memory: {memory} is more than the {most} that the guest can have");
            Err(Refusal::at(line, what))
        }
        (Some((line, memory)), Some(most)) if memory < most => {
            notes
                .at(line, format!("`memory` is ignored: the guest boots with all {most}, not with {memory}"));
            Ok(Some(most))
        }
        (memory, most) => Ok(most.or(memory.map(|(_, memory)| memory))),
    }
}

/// How many vCPUs; `None` when nothing is said of them.
fn vcpus(all: &Settings, vnuma: Option<&Vnuma>, notes: &mut Notes) -> Result<Option<u32>, Refusal> {
    let count = |name| -> Result<Option<(usize, u32)>, Refusal> {
        match number_of(all, name)? {
            None => Ok(None),
            Some((line, n)) => match u32::try_from(n).ok().filter(|n| (1..=MAX_VCPUS).contains(n)) {
                Some(n) => Ok(Some((line, n))),
                None => Err(Refusal::at(line, format_args!("{name}: {n} vCPUs, must be 1 to {MAX_VCPUS}"))),
            },
        }
    };
    let (online, most) = (count("vcpus")?, count("maxvcpus")?);
    let total = match (online, most) {
        (Some((line, online)), Some((_, most))) if online > most => {
            return Err(Refusal::at(
                line,
                format_args!("vcpus: {online} are more than maxvcpus, which is {most}"),
            ));
        }
        (Some((line, online)), Some((_, most))) if online < most => {
            notes.at(
                line,
                format!("`vcpus` is ignored: the guest boots with all {most} vCPUs, not with {online}"),
            );
            Some(most)
        }
        // Without maxvcpus the vnodes say how many there can be.
        (Some((line, online)), None) => match vnuma.map(|vnuma| vnuma.vcpus().len()) {
            Some(all) if (online as usize) < all => {
                notes.at(
                    line,
                    format!("`vcpus` is ignored: the guest boots with all {all} vCPUs, not with {online}"),
                );
                u32::try_from(all).ok()
            }
            _ => Some(online),
        },
        (_, most) => most.map(|(_, count)| count),
    };
    if let (Some(vnuma), Some(total)) = (vnuma, total) {
        let named = vnuma.vcpus();
        if named.len() != total as usize || named.last() != Some(VcpuId(total - 1)) {
            let what = format!("vnuma: the vnodes have the vCPUs {named}, must be 0 to {}", total - 1);
            return Err(Refusal::at(vnuma.line, what));
        }
    }
    Ok(total)
}

fn cmdline(all: &Settings) -> Result<Option<String>, Refusal> {
    if let Some(cmdline) = text_of(all, "cmdline")? {
        return Ok(Some(cmdline));
    }
    let root = text_of(all, "root")?.map(|root| format!("root={root}"));
    Ok(match (root, text_of(all, "extra")?) {
        (Some(root), Some(extra)) => Some(format!("{root} {extra}")),
        (root, extra) => root.or(extra),
    })
}

fn on_reset(all: &Settings, notes: &mut Notes) -> Result<OnReset, Refusal> {
    let word = text_of(all, "on_reboot")?;
    Ok(match word.as_deref() {
        None | Some("restart") => OnReset::Reboot,
        Some("destroy") => OnReset::Exit,
        Some(_) => {
            notes.at(all["on_reboot"].line, "`on_reboot` is ignored: the VM ends");
            OnReset::Exit
        }
    })
}

fn serial(all: &Settings, notes: &mut Notes) -> Result<SerialSpec, Refusal> {
    let Some(Value { what: What::Text(word), line }) = all.get("serial") else {
        if let Some(value) = all.get("serial") {
            notes.at(value.line, "`serial` is ignored: only one text is known");
        }
        return Ok(SerialSpec::default());
    };
    Ok(match (word.as_str(), word.strip_prefix("file:")) {
        ("stdio", _) => SerialSpec::Stdio,
        ("null" | "none", _) => SerialSpec::None,
        (_, Some(path)) if !path.is_empty() => SerialSpec::File(path.into()),
        _ => {
            notes.at(
                *line,
                format!(
                    "`serial` {} is ignored: the serial port is on standard input and output",
                    shown(word)
                ),
            );
            SerialSpec::default()
        }
    })
}

/// Pins become pins. A list of nodes for all vCPUs of a VM without vnodes is where Xen would put its memory as well.
fn affinity(all: &Settings, homeless: bool, spec: &mut VmSpec, notes: &mut Notes) -> Result<(), Refusal> {
    let vcpus: VcpuSet =
        spec.numa.iter().filter_map(|v| v.vcpus.clone()).flat_map(|v| v.iter().collect::<Vec<_>>()).collect();
    let mut home = |nodes: NodeSet| {
        spec.numa[0].pnode = Some(nodes);
        spec.numa[0].policy = Some(MemoryPolicy::Preferred);
    };
    let mut settled = false;
    let mut pinned = BTreeMap::new();
    match all.get("cpus") {
        None => {}
        Some(value @ Value { what: What::List(lists), .. }) => {
            if lists.len() > vcpus.len() {
                notes.at(value.line, "`cpus` has more lists than there are vCPUs, the rest is ignored");
            }
            for (vcpu, list) in vcpus.iter().zip(lists) {
                pinned.insert(vcpu.0, cpu_list("cpus", list)?);
            }
        }
        Some(value) => {
            let list = cpu_list("cpus", value)?;
            match list.nodes().filter(|_| homeless) {
                Some(nodes) => {
                    home(nodes);
                    settled = true;
                }
                None => pinned.extend(vcpus.iter().map(|vcpu| (vcpu.0, list.clone()))),
            }
        }
    }
    if let Some(value) = all.get("cpus_soft") {
        let list = match &value.what {
            What::List(_) => None,
            What::Text(_) | What::Number(_) => Some(cpu_list("cpus_soft", value)?),
        };
        match list.as_ref().and_then(CpuList::nodes).filter(|_| homeless && !settled) {
            Some(nodes) => home(nodes),
            None if list.as_ref().is_some_and(CpuList::is_all) => {}
            None => notes.at(
                value.line,
                "`cpus_soft` is ignored: Linux has no such preference, vCPUs run on the CPUs of their pnodes",
            ),
        }
    }
    pinned.retain(|_, list| !list.is_all());
    spec.pins = pins(&pinned);
    Ok(())
}

fn cpu_list(name: &str, value: &Value) -> Result<CpuList, Refusal> {
    match &value.what {
        What::Text(text) | What::Number(text) => {
            text.parse().map_err(|why| Refusal::at(value.line, format_args!("{name}: {why}")))
        }
        What::List(_) => {
            Err(Refusal::at(value.line, format_args!("{name}: must be a list of CPUs in quotes")))
        }
    }
}
