//! The plan as ACPI wants to hear it: vnodes become proximity domains, guest CPUs processors, RAM ranges memory
//! affinities. Encoding is `acpi`'s work.

mod hmat;

use acpi::{
    IoApic, IoPort, Localities, MemoryAffinity, MmioWindow, PciHostBridge, Platform, Power, Processor,
    ProximityDomain, Serial, TableSet,
};
use devices::{COM1_IRQ, COM1_PORTS, IOAPIC_ID, POWER_PORTS, RESET_VALUE};
use resources::memory_map::{IO_APIC, LOCAL_APIC, RSDP};
use resources::{Bytes, PciSegment, Plan, RamRange, VnodeId};

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
    /// No vnode has room for them below 3 GiB.
    #[error("memory: the ACPI tables need {0} in one vnode between 1 MiB and 3 GiB, give a vnode more")]
    NoRoom(Bytes),
}

/// What firmware leaves in memory for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// All tables, inside `range`, and the RSDP, at [`RSDP`].
    pub tables: TableSet,
    /// Memory of a vnode that holds the tables and nothing else.
    pub range: RamRange,
}

/// All tables of a VM, at their guest-physical addresses. The same topology gives the same bytes on any host.
pub fn tables(plan: &Plan) -> Result<Firmware, TablesError> {
    let platform = platform(plan)?;
    let size = Bytes(acpi::length(&platform)?);
    let range = plan.memory_map.place_tables(size).ok_or(TablesError::NoRoom(size))?;
    let tables = acpi::build(&platform, range.start.0..range.end().0, RSDP.0)?;
    Ok(Firmware { tables, range })
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
    use super::{Firmware, tables};
    use resources::memory_map::{LEGACY_END, RSDP};
    use resources::test_host::HostShape;
    use resources::{AttributeSpec, Bytes, Plan, VmSpec, VnodeSpec};

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

    fn plan(numa: Vec<VnodeSpec>, attributes: Vec<AttributeSpec>) -> Plan {
        let host = HostShape::new(1).memory(0, Bytes::gib(64)).topology();
        Plan::new(&VmSpec { numa, attributes, ..VmSpec::default() }, &host).unwrap()
    }

    /// Each table inside the range and after the one before it, the checksums right, the range hardly larger.
    fn check(plan: &Plan, firmware: &Firmware) {
        let Firmware { tables, range } = firmware;
        let mut end = range.start.0;
        for table in &tables.tables {
            assert!(table.address >= end && table.address - end < 16, "{:?}", table.signature);
            assert_eq!(table.bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            assert_eq!(table.bytes[4..8], u32::try_from(table.bytes.len()).unwrap().to_le_bytes());
            end = table.address + table.bytes.len() as u64;
        }
        assert!(end <= range.end().0 && range.end().0 - end < 4096);
        let owner = plan.memory_map.of(range.vnode).find(|ram| ram.end() == range.end());
        assert!(owner.is_some_and(|ram| ram.start <= range.start));
    }

    #[test]
    fn as_many_vnodes_as_there_may_be_have_all_figures_of_every_pair() {
        let vnode = |id: u32| VnodeSpec {
            memory: Some(Bytes::mib(64)),
            vcpus: Some(id.to_string().parse().unwrap()),
            latency: Some(80),
            bandwidth: Some(Bytes::gib(20)),
            ..VnodeSpec::new(id)
        };
        // Writes of one pair that differ from reads: then all of them are told apart.
        let pair = AttributeSpec {
            write_latency: Some(90),
            write_bandwidth: Some(Bytes::gib(5)),
            ..AttributeSpec::new(7, 200)
        };
        let plan = plan((0..256).map(vnode).collect(), vec![pair]);
        let firmware = tables(&plan).unwrap();
        check(&plan, &firmware);
        let hmat = &firmware.tables.get(b"HMAT").unwrap().bytes;
        // Header and reserved, an attachment for each vnode, and four matrices (ACPI 6.5, tables 5.146 and 5.148).
        assert_eq!(hmat.len(), 40 + 256 * 40 + 4 * (32 + 4 * 512 + 2 * 256 * 256));
        assert!(firmware.range.size > Bytes(512 << 10), "{firmware:?}", firmware = firmware.range);
    }

    #[test]
    fn as_many_vcpus_as_there_may_be_have_tables() {
        for vnodes in [1, 256] {
            let each = 4096 / vnodes;
            let vnode = |id: u32| VnodeSpec {
                memory: Some(Bytes::mib(64)),
                vcpus: Some(format!("{}-{}", id * each, id * each + each - 1).parse().unwrap()),
                ..VnodeSpec::new(id)
            };
            let plan = plan((0..vnodes).map(vnode).collect(), Vec::new());
            let firmware = tables(&plan).unwrap();
            check(&plan, &firmware);
            assert!(firmware.tables.get(b"SRAT").unwrap().bytes.len() > 4096 * 16);
        }
    }
}
