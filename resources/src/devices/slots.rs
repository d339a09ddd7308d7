//! The slots of a vnode's PCI segment: whether all its devices have one. The parent module validates single devices.

use super::{DeviceError, VmDevices, refuse};
use crate::ids::VnodeId;
use crate::topology::VmTopology;
use crate::units::Bytes;
use std::collections::BTreeMap;

/// Functions of a segment beside its host bridge (PCI Local Bus 3.0, 3.2.2.3.2: 32 devices on a bus).
pub const MAX_DEVICES_OF_VNODE: usize = 31;

impl VmDevices {
    /// Whether the segment of each vnode has slots for its devices and the balloon of its memory.
    pub fn fit_slots(&self, topology: &VmTopology) -> Result<(), DeviceError> {
        let mut used: BTreeMap<VnodeId, usize> = BTreeMap::new();
        for vnode in topology.vnodes().iter().filter(|vnode| vnode.memory > Bytes::ZERO) {
            used.insert(vnode.id, 1);
        }
        if let Some(vnode) = self.rng {
            *used.entry(vnode).or_default() += 1;
        }
        let disks = self.disks.iter().enumerate().map(|(i, disk)| (format!("disks[{i}]"), disk.vnode));
        let nets = self.nets.iter().enumerate().map(|(i, net)| (format!("nets[{i}]"), net.vnode));
        let vsock = self.vsock.iter().map(|vsock| ("vsock".to_owned(), vsock.vnode));
        let console = self.console.iter().map(|console| ("console".to_owned(), console.vnode));
        for (field, vnode) in disks.chain(nets).chain(vsock).chain(console) {
            let used = used.entry(vnode).or_default();
            *used += 1;
            if *used > MAX_DEVICES_OF_VNODE {
                let rule = format!(
                    "has {MAX_DEVICES_OF_VNODE} devices already, with its balloon and the entropy device, \
                     must have no more; put it on another vnode"
                );
                return refuse(format!("{field}.vnode"), vnode, rule);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::{ConsoleSpec, DiskSpec, Switch, VmSpec};
    use crate::test_host::HostShape;
    use crate::{Bytes, Plan, VnodeCount};

    fn refused(spec: &VmSpec) -> Option<String> {
        let spec = VmSpec { memory: Some(Bytes::mib(128)), ..spec.clone() };
        Plan::new(&spec, &HostShape::new(1).topology()).err().map(|error| error.to_string())
    }

    fn disks(count: usize, vnode: u32) -> Vec<DiskSpec> {
        let disk = |n| DiskSpec {
            path: format!("disk{vnode}-{n}").into(),
            vnode: Some(vnode),
            ..DiskSpec::default()
        };
        (0..count).map(disk).collect()
    }

    #[test]
    fn a_segment_has_thirty_one_slots_and_the_balloon_has_one_of_them() {
        let full = "vnode: 0 has 31 devices already, with its balloon and the entropy device, must have no more; \
                    put it on another vnode";
        let with = |count| VmSpec { disks: disks(count, 0), ..VmSpec::default() };
        assert_eq!(refused(&with(30)), None);
        assert_eq!(refused(&with(31)), Some(format!("disks[30].{full}")));
        let rng = VmSpec { rng: Some(Switch(true)), ..with(30) };
        assert_eq!(refused(&rng), Some(format!("disks[29].{full}")));
        let console = ConsoleSpec { file: Some("c".into()), ..ConsoleSpec::default() };
        assert_eq!(refused(&VmSpec { console: Some(console), ..with(30) }), Some(format!("console.{full}")));
        let two = VmSpec {
            vnodes: Some(VnodeCount::Exactly(2)),
            disks: [disks(30, 0), disks(30, 1)].concat(),
            ..VmSpec::default()
        };
        assert_eq!(refused(&two), None);
    }
}
