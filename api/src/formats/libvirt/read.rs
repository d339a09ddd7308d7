//! The domain: memory, vCPUs, kernel, and unsupported elements.

use crate::formats::Refusal;
use crate::formats::libvirt::numa::{Cells, cells};
use crate::formats::libvirt::tune::{backing, numatune, pinning};
use crate::formats::libvirt::xml::{Element, parse};
use crate::formats::list::shown;
use crate::formats::notes::{LineIndex, Notes};
use resources::topology::MAX_VCPUS;
use resources::{Bytes, OnReset, SerialSpec, VcpuId, VcpuSet, VmSpec, VnodeSpec};

/// Reads a domain.
pub fn read(text: &str, notes: &mut Notes) -> Result<VmSpec, Refusal> {
    let document = parse(text)?;
    let lines = LineIndex::new(text);
    let domain = Element::root(&document, &lines);
    if domain.name() != "domain" {
        return Err(Refusal::at(domain.line(), format_args!("`{}` is not a domain", shown(domain.name()))));
    }
    let vcpus = vcpus(domain, notes)?;
    let mut spec = VmSpec { on_reset: OnReset::Reboot, ..VmSpec::default() };
    let mut cells = match domain.child("cpu") {
        Some(cpu) => self::cpu(cpu, vcpus, notes)?,
        None => None,
    };
    let memory = memory(domain, cells.as_ref(), notes)?;
    spec.numa = match &mut cells {
        Some(cells) => std::mem::take(&mut cells.vnodes),
        None => {
            vec![VnodeSpec { memory, vcpus: Some((0..vcpus).map(VcpuId).collect()), ..VnodeSpec::new(0) }]
        }
    };
    let has_cells = cells.is_some();
    if let Some(cells) = cells {
        (spec.distances, spec.attributes, spec.caches) = (cells.distances, cells.attributes, cells.caches);
    }
    for child in domain.children() {
        match child.name() {
            "name" | "uuid" | "genid" | "title" | "description" | "metadata" => {}
            "memory" | "currentMemory" | "vcpu" | "cpu" => {}
            "memoryBacking" => backing(child, &mut spec, notes)?,
            "numatune" => numatune(child, &mut spec, notes)?,
            "cputune" => {}
            "os" => os(child, &mut spec, notes)?,
            "on_reboot" => on_reboot(child, &mut spec, notes),
            "devices" => devices(child, has_cells, &mut spec, notes)?,
            "commandline" => command_line(child, notes)?,
            _ => child.left_out(notes),
        }
    }
    spec.pins = pinning(domain, vcpus, notes)?;
    Ok(spec)
}

/// How many vCPUs the domain can have: all of them start.
fn vcpus(domain: Element<'_>, notes: &mut Notes) -> Result<u32, Refusal> {
    let Some(vcpu) = domain.child("vcpu") else { return Ok(1) };
    let within = |count: u32| (1..=MAX_VCPUS).contains(&count);
    let count: u32 = crate::formats::list::number(vcpu.text()).map_err(|why| vcpu.refuse(why))?;
    if !within(count) {
        return Err(vcpu.refuse(format_args!("{count} vCPUs, must be 1 to {MAX_VCPUS}")));
    }
    if vcpu.attribute("current").is_some() {
        let current: u32 = vcpu.number("current")?;
        if current > count {
            return Err(
                vcpu.refuse_attribute("current", format_args!("{current} are more than all, {count}"))
            );
        }
        if current < count {
            vcpu.note("/@current is ignored: the guest boots with all vCPUs", notes);
        }
    }
    Ok(count)
}

/// The VM's memory, which is that of its cells where there are any.
fn memory(domain: Element<'_>, cells: Option<&Cells>, notes: &mut Notes) -> Result<Option<Bytes>, Refusal> {
    let of = |name: &str| domain.child(name).map(|element| Ok((element, element.text_size()?))).transpose();
    let (memory, current) = (of("memory")?, of("currentMemory")?);
    let sum = cells.map(Cells::memory);
    // libvirt's total has the memory devices in it.
    let devices = domain.child("devices").into_iter().flat_map(Element::children);
    let mut sum = sum;
    for device in devices.filter(|device| device.name() == "memory") {
        if let (Some(total), Some(plugged)) = (sum, MemoryDevice::read(device)?) {
            sum = Some(total.saturating_add(plugged.size));
        }
    }
    if let (Some((element, memory)), Some(sum)) = (memory, sum)
        && memory != sum
    {
        element.note(&format!(" is ignored: the cells have {sum}, not {memory}"), notes);
    }
    let total = sum.or(memory.map(|(_, memory)| memory));
    if let (Some((element, current)), Some(total)) = (current, total)
        && current < total
    {
        element.note(&format!(" is ignored: the guest boots with all {total}"), notes);
    }
    Ok(total)
}

fn cpu(cpu: Element<'_>, vcpus: u32, notes: &mut Notes) -> Result<Option<Cells>, Refusal> {
    if let Some(mode) = cpu.attribute("mode").filter(|mode| !["host-passthrough", "maximum"].contains(mode)) {
        cpu.note(&format!("/@mode {} is ignored: the guest has the host's CPU", shown(mode)), notes);
    }
    cpu.children().filter(|child| child.name() != "numa").for_each(|child| child.left_out(notes));
    let Some(numa) = cpu.child("numa") else { return Ok(None) };
    let mut cells = cells(numa, notes)?;
    let Some(cells) = &mut cells else { return Ok(None) };
    let all: VcpuSet = (0..vcpus).map(VcpuId).collect();
    let named = cells.vnodes.iter().filter_map(|v| v.vcpus.as_ref()).fold(VcpuSet::new(), |a, b| a.union(b));
    if let Some(beyond) = named.difference(&all).first() {
        let what = format!("vCPU {beyond} does not exist, vCPUs are 0 to {}", vcpus - 1);
        return Err(numa.refuse(what));
    }
    let homeless = all.difference(&named);
    if !homeless.is_empty() {
        numa.note(&format!(" does not name the vCPUs {homeless}: they are on cell 0"), notes);
        if let Some(first) = cells.vnodes.iter_mut().find(|vnode| vnode.id == 0) {
            first.vcpus = Some(first.vcpus.take().unwrap_or_default().union(&homeless));
        }
    }
    Ok(Some(std::mem::take(cells)))
}

fn os(os: Element<'_>, spec: &mut VmSpec, notes: &mut Notes) -> Result<(), Refusal> {
    for child in os.children() {
        match child.name() {
            "type" => {
                let arch = child.attribute("arch").unwrap_or("x86_64");
                if ["i386", "i486", "i586", "i686"].contains(&arch) {
                    child.note(&format!("/@arch {arch}: the guest's processor is x86_64"), notes);
                } else if arch != "x86_64" {
                    let what = format!("`{}` is not x86_64", shown(arch));
                    return Err(child.refuse_attribute("arch", what));
                }
                if child.text() != "hvm" {
                    child.left_out(notes);
                }
            }
            "kernel" => spec.kernel = Some(child.text().into()),
            "initrd" => spec.initramfs = Some(child.text().into()),
            "cmdline" => spec.cmdline = Some(child.text().to_owned()),
            _ => child.left_out(notes),
        }
    }
    Ok(())
}

fn on_reboot(element: Element<'_>, spec: &mut VmSpec, notes: &mut Notes) {
    spec.on_reset = match element.text() {
        "restart" => OnReset::Reboot,
        "destroy" => OnReset::Exit,
        _ => {
            element.note(" is ignored: the VM ends", notes);
            OnReset::Exit
        }
    };
}

/// Memory that is plugged into a cell.
struct MemoryDevice {
    size: Bytes,
    cell: u32,
}

impl MemoryDevice {
    /// Reads a `<memory>`; none if its content is not RAM.
    fn read(device: Element<'_>) -> Result<Option<Self>, Refusal> {
        if !["dimm", "virtio-mem"].contains(&device.needed("model")?) {
            return Ok(None);
        }
        let missing = |name: &str| device.refuse(format_args!("{name} is missing"));
        let target = device.child("target").ok_or_else(|| missing("target"))?;
        let size = target.child("size").ok_or_else(|| missing("target/size"))?.text_size()?;
        let cell = match target.child("node") {
            Some(node) => crate::formats::list::number(node.text()).map_err(|why| node.refuse(why))?,
            None => 0,
        };
        Ok(Some(Self { size, cell }))
    }

    /// Adds it to its cell, which has it from the start. Without cells the domain's memory has it already.
    fn give(self, device: Element<'_>, spec: &mut VmSpec, notes: &mut Notes) -> Result<(), Refusal> {
        let Self { size, cell } = self;
        let Some(vnode) = spec.numa.iter_mut().find(|vnode| vnode.id == cell) else {
            return Err(device.refuse(format_args!("cell {cell} does not exist")));
        };
        vnode.memory = Some(vnode.memory.unwrap_or_default().saturating_add(size));
        device.note(&format!(": its {size} are part of cell {cell}"), notes);
        if let Some(source) = device.child("source") {
            source.left_out(notes);
        }
        Ok(())
    }
}

/// Options given to QEMU past libvirt: those that change the machine must not get lost.
fn command_line(list: Element<'_>, notes: &mut Notes) -> Result<(), Refusal> {
    const MACHINE: [&str; 6] = ["m", "smp", "numa", "readconfig", "object", "machine"];
    const MEMORY: [&str; 2] = ["pc-dimm", "virtio-mem"];
    for argument in list.children().filter(|child| child.name() == "arg") {
        let value = argument.attribute("value").unwrap_or_default();
        let name = value.strip_prefix("--").or_else(|| value.strip_prefix('-')).unwrap_or_default();
        if MACHINE.contains(&name) || MEMORY.iter().any(|device| value.contains(device)) {
            let what =
                format!("{}: changes the machine, must be said in the domain's own words", shown(value));
            return Err(argument.refuse_attribute("value", what));
        }
    }
    list.left_out(notes);
    Ok(())
}

/// The first serial port, and memory; a console is usually the same again.
fn devices(
    devices: Element<'_>,
    has_cells: bool,
    spec: &mut VmSpec,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let mut first = true;
    for child in devices.children() {
        if child.name() == "memory" {
            match MemoryDevice::read(child)? {
                Some(device) if has_cells => device.give(child, spec, notes)?,
                Some(_) => {}
                None => child.left_out(notes),
            }
            continue;
        }
        match (child.name(), child.attribute("type"), child.child("source").and_then(|s| s.attribute("path")))
        {
            ("emulator" | "console", ..) => {}
            ("serial", Some("stdio"), _) if first => spec.serial = SerialSpec::Stdio,
            ("serial", Some("null"), _) if first => spec.serial = SerialSpec::None,
            ("serial", Some("file"), Some(path)) if first => spec.serial = SerialSpec::File(path.into()),
            ("serial", ..) if first => {
                child.note(" is ignored: the serial port is on standard input and output", notes);
            }
            _ => child.left_out(notes),
        }
        first &= child.name() != "serial";
    }
    Ok(())
}
