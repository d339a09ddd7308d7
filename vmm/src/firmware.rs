//! The plan as ACPI wants to hear it: vnodes become proximity domains, guest CPUs processors, RAM ranges memory
//! affinities. Encoding is `acpi`'s work.

mod hmat;

use acpi::{
    IoApic, IoPort, Localities, MemoryAffinity, MmioWindow, PciHostBridge, Platform, Power, Processor,
    ProximityDomain, Serial, TableSet,
};
use devices::{COM1_IRQ, COM1_PORTS, IOAPIC_ID, POWER_PORTS, RESET_VALUE};
use resources::memory_map::{ACPI_TABLES, IO_APIC, LOCAL_APIC, RSDP};
use resources::{PciSegment, Plan, VnodeId};

/// The Generic Event Device's interrupt: ISA had its SCI there.
pub const EVENT_GSI: u8 = 9;

/// A machine's first instruction after a reset: F000:FFF0. Linux, where ACPI is hardware-reduced and there is no EFI,
/// goes there in real mode to reset the machine instead of using ACPI's reset register.
pub const RESET_VECTOR: u64 = 0xf_fff0;

/// 16-bit code for the reset vector that uses the reset register: `mov dx, port; mov al, value; out dx, al; cli; hlt`.
pub fn reset_code() -> [u8; 9] {
    let [low, high] = POWER_PORTS.reset.to_le_bytes();
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xfa, 0xf4, 0xcc]
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// Tables that cannot be told.
    #[error("ACPI tables: {0}")]
    Acpi(#[from] acpi::Error),
    /// A number that does not fit where ACPI wants it.
    #[error("ACPI tables: {0} does not fit")]
    Range(&'static str),
}

/// All tables of a VM, at their guest-physical addresses. The same plan gives the same bytes on any host.
pub fn tables(plan: &Plan) -> Result<TableSet, TablesError> {
    Ok(acpi::build(&platform(plan)?, ACPI_TABLES.0..RSDP.0, RSDP.0)?)
}

fn platform(plan: &Plan) -> Result<Platform, TablesError> {
    let topology = &plan.topology;
    let processors = topology.vcpus().map(|(vcpu, vnode)| Processor {
        uid: vcpu.0,
        apic_id: plan.cpus.apic_id(vcpu).0,
        domain: domain(vnode),
        present: true,
    });
    let memory = plan.memory_map.ram().iter().map(|range| MemoryAffinity {
        domain: domain(range.vnode),
        base: range.start.0,
        length: range.size.get(),
        hotpluggable: false,
    });
    let rows: Vec<Vec<u8>> =
        topology.distances().rows().iter().map(|row| row.iter().map(|d| d.get()).collect()).collect();
    Ok(Platform {
        processors: processors.collect(),
        memory: memory.collect(),
        slit: (topology.vnodes().len() > 1).then(|| Localities::new(&rows)).transpose()?,
        hmat: topology.has_hmat().then(|| hmat::performance(topology)),
        local_apic_address: u32::try_from(LOCAL_APIC.0)
            .map_err(|_| TablesError::Range("local APIC address"))?,
        io_apic: IoApic {
            id: IOAPIC_ID,
            address: u32::try_from(IO_APIC.0).map_err(|_| TablesError::Range("IO-APIC address"))?,
            gsi_base: 0,
        },
        serial: Some(Serial { io_base: IoPort(*COM1_PORTS.start()), irq: u32::from(COM1_IRQ) }),
        power: Power {
            sleep_control: IoPort(POWER_PORTS.sleep_control),
            sleep_status: IoPort(POWER_PORTS.sleep_status),
            reset: IoPort(POWER_PORTS.reset),
            reset_value: RESET_VALUE,
            event_status: IoPort(POWER_PORTS.event),
            event_gsi: u32::from(EVENT_GSI),
        },
        keyboard_controller: false,
        pci: plan.pci.segments().iter().map(host_bridge).collect::<Result<_, _>>()?,
    })
}

/// Linux takes a PCI device's node from its host bridge and from nowhere else, so every vnode has one.
fn host_bridge(segment: &PciSegment) -> Result<PciHostBridge, TablesError> {
    let low = |n: u64| u32::try_from(n).map_err(|_| TablesError::Range("32-bit PCI window"));
    let PciSegment { vnode, ecam, mmio32, mmio64 } = *segment;
    Ok(PciHostBridge {
        segment: u16::try_from(vnode.0).map_err(|_| TablesError::Range("PCI segment"))?,
        bus_first: 0,
        bus_last: 0,
        ecam_base: ecam.start.0,
        domain: domain(vnode),
        mmio32: Some(MmioWindow { base: low(mmio32.start.0)?, length: low(mmio32.size.get())? }),
        mmio64: Some(MmioWindow { base: mmio64.start.0, length: mmio64.size.get() }),
    })
}

fn domain(vnode: VnodeId) -> ProximityDomain {
    ProximityDomain(vnode.0)
}

#[cfg(test)]
mod tests {
    use resources::memory_map::{LEGACY_END, RSDP};

    const _: () = assert!(RSDP.0 + 36 <= super::RESET_VECTOR, "the RSDP reaches into the reset vector");

    #[test]
    fn the_reset_code_ends_with_the_first_mib() {
        assert!(super::RESET_VECTOR + super::reset_code().len() as u64 <= LEGACY_END.0);
    }

    #[test]
    fn tables_and_devices_mean_the_same_values() {
        assert_eq!(acpi::SLEEP_TYPE_S5, devices::SLEEP_TYPE_S5);
        assert_eq!(u64::from(acpi::EVENT_POWER_BUTTON), u64::from(devices::POWER_BUTTON_EVENT));
    }
}
