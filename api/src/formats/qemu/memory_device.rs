//! `-device` options that add memory to a node: DIMMs and virtio-mem. The reader ignores all other devices.

use crate::formats::Refusal;
use crate::formats::list::shown;
use crate::formats::notes::Notes;
use crate::formats::qemu::backend::Backends;
use crate::formats::qemu::options::Options;
use resources::{Bytes, VnodeSpec};
use std::collections::BTreeSet;

/// Devices whose memory is ordinary memory of a node, with the key of their backend.
const MEMORY: [&str; 3] = ["pc-dimm", "virtio-mem", "virtio-mem-pci"];
/// Devices with a backend whose content is not ordinary memory.
const NOT_MEMORY: [&str; 4] = ["nvdimm", "virtio-pmem", "virtio-pmem-pci", "cxl-type3"];

/// A device with memory.
pub struct MemoryDevice {
    line: usize,
    kind: String,
    backend: String,
    node: u32,
}

impl MemoryDevice {
    /// Reads a `-device`; none if it has no memory for a node. `used` gets the backends it names.
    pub fn read(
        mut options: Options,
        used: &mut BTreeSet<String>,
        notes: &mut Notes,
    ) -> Result<Option<Self>, Refusal> {
        let kind = options.needed("driver")?;
        if NOT_MEMORY.contains(&kind.as_str()) {
            used.extend(
                ["memdev", "persistent-memdev", "volatile-memdev"].iter().flat_map(|key| options.all(key)),
            );
            notes.at(options.line, format!("-device {kind} is ignored: its memory is not the guest's RAM"));
            return Ok(None);
        }
        if !MEMORY.contains(&kind.as_str()) {
            notes.at(options.line, "-device is ignored");
            return Ok(None);
        }
        options.plain_only()?;
        let backend = options.needed("memdev")?;
        let node = options.number("node")?.unwrap_or(0);
        used.insert(backend.clone());
        Ok(Some(Self { line: options.line, kind, backend, node }))
    }

    /// Adds its memory to its node, which has it from the start.
    pub fn give(
        &self,
        vnodes: &mut [VnodeSpec],
        backends: &Backends,
        notes: &mut Notes,
    ) -> Result<(), Refusal> {
        let Self { line, kind, backend: id, node } = self;
        let Some(backend) = backends.get(id) else {
            return Err(Refusal::at(
                *line,
                format_args!("-device {kind} memdev: there is no `{}`", shown(id)),
            ));
        };
        let Some(vnode) = vnodes.iter_mut().find(|vnode| vnode.id == *node) else {
            return Err(Refusal::at(*line, format_args!("-device {kind} node: node {node} does not exist")));
        };
        let size = backend.size;
        let before = vnode.memory.unwrap_or(Bytes::ZERO);
        if before == Bytes::ZERO {
            backend.give(vnode);
        } else {
            if !backend.is_like(vnode) {
                let what = format!("-device {kind}: its memory has the host nodes and pages of node {node}");
                notes.at(*line, what);
            }
            vnode.memory = Some(before.saturating_add(size));
        }
        notes.at(*line, format!("-device {kind} `{}`: its {size} are part of node {node}", shown(id)));
        Ok(())
    }
}
