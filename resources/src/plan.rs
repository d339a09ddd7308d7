//! Everything decided about a VM before anything is touched.

mod vnodes;

use crate::cpu_topology::CpuTopology;
use crate::devices::{DeviceError, VmDevices};
use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::host::HostTopology;
use crate::ids::{PnodeId, VnodeId};
use crate::ledger::Ledger;
use crate::memory_map::MemoryMap;
use crate::pci_map::PciMap;
use crate::placement::{Effort, Placement, PlacementError, Workspace};
use crate::spec::{VmSpec, VnodeCount};
use crate::topology::{SpecError, VmTopology};
use crate::units::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;

/// The virtual topology, its placement on this host, and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The virtual topology.
    pub topology: VmTopology,
    /// Where it lies.
    pub placement: Placement,
    /// Where each vnode's RAM lies in guest-physical addresses.
    pub memory_map: MemoryMap,
    /// Where each vnode's PCI segment lies.
    #[serde(skip)]
    pub pci: PciMap,
    /// The devices.
    pub devices: VmDevices,
    /// The APIC id of each vCPU.
    #[serde(skip)]
    pub cpus: CpuTopology,
    /// Whether the host's kernel has nodes and memory policies.
    #[serde(skip)]
    pub host_has_numa: bool,
    /// What placing it took.
    #[serde(skip)]
    pub effort: Effort,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The configuration is invalid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A device configuration is invalid.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The host cannot hold it.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The host does not have the requested HMAT values.
    #[error(
        "attributes_from: sysfs has no latency and bandwidth of pnode {pnode}, must have them for attributes=host"
    )]
    NoAttributes {
        /// Where memory of the VM lies.
        pnode: PnodeId,
    },
}

impl PlanError {
    /// The stable error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spec(error) => error.code(),
            Self::Device(_) => "device",
            Self::Placement(error) => error.code(),
            Self::NoAttributes { .. } => "no_attributes",
        }
    }

    /// The kind of error, its code and its field.
    pub fn diagnosis(&self) -> Diagnosis {
        let kind = match self {
            Self::Spec(_) | Self::Device(_) => ErrorKind::Invalid,
            Self::Placement(error) => error.kind(),
            Self::NoAttributes { .. } => ErrorKind::Unsupported,
        };
        Diagnosis::new(kind, self.code()).at_start_of(&self.to_string())
    }
}

impl Plan {
    /// Validates `spec`, places it on `host` as if no other VM lived there, and lays out its addresses.
    pub fn new(spec: &VmSpec, host: &HostTopology) -> Result<Self, PlanError> {
        Self::beside(spec, host, &Ledger::new())
    }

    /// Validates `spec`, places it on `host` beside the VMs of `ledger` and lays out its addresses.
    pub fn beside(spec: &VmSpec, host: &HostTopology, ledger: &Ledger) -> Result<Self, PlanError> {
        let workspace = Workspace::default();
        let (topology, placement) = match spec.vnodes {
            Some(VnodeCount::Auto) if spec.numa.is_empty() => {
                vnodes::as_needed(spec, host, ledger, &workspace)?
            }
            Some(VnodeCount::Auto | VnodeCount::Exactly(_)) | None => {
                let topology = VmTopology::try_from(spec)?;
                // Mistakes in what was typed come before what the host has no room for.
                VmDevices::of(spec, &topology)?;
                let placement = vnodes::place(spec, &topology, host, ledger, &workspace)?;
                (topology, placement)
            }
        };
        let devices = VmDevices::of(spec, &topology)?;
        if topology.mirrors_attributes()
            && let Some(pnode) = host.without_attributes(&topology, &placement)
        {
            return Err(PlanError::NoAttributes { pnode });
        }
        let mirrors = topology.mirrors_distances() || topology.mirrors_attributes();
        let topology = if mirrors { host.mirrored(topology, &placement) } else { topology };
        let memory_map = MemoryMap::new(&topology);
        let pci = PciMap::new(&topology, &memory_map);
        let cpus = CpuTopology::new(&topology);
        let (host_has_numa, effort) = (host.has_numa(), workspace.effort());
        Ok(Self { topology, placement, memory_map, pci, devices, cpus, host_has_numa, effort })
    }
}

impl Plan {
    /// The same VM with less memory, by vnode, laid out anew.
    #[must_use]
    pub fn without(&self, left_out: &BTreeMap<VnodeId, Bytes>) -> Self {
        let topology = self.topology.clone().without(left_out);
        let memory_map = MemoryMap::new(&topology);
        let pci = PciMap::new(&topology, &memory_map);
        Self { topology, memory_map, pci, ..self.clone() }
    }
}

#[cfg(test)]
mod tests;
