//! Refuses a platform that cannot be told, before any byte is made.
//! Rules about one table's own words are beside that table.

use crate::error::Error;
use crate::platform::{
    MAX_PROCESSORS, MAX_PROXIMITY_DOMAINS, MemoryAffinity, PciHostBridge, Platform, Processor,
    ProximityDomain,
};
use crate::{dsdt, hmat, srat};
use std::collections::BTreeSet;

/// x2APIC's broadcast id (Intel SDM volume 3, 11.12.9).
const BROADCAST_APIC_ID: u32 = 0xffff_ffff;
/// Registers of a 16550.
const SERIAL_PORTS: u16 = 8;

pub(crate) fn platform(platform: &Platform) -> Result<(), Error> {
    processors(&platform.processors)?;
    domains(platform)?;
    let ranges = memory(&platform.memory)?;
    localities(platform)?;
    if let Some(performance) = &platform.hmat {
        let processors: BTreeSet<_> = platform.processors.iter().map(|processor| processor.domain).collect();
        let memory: BTreeSet<_> = platform.memory.iter().map(|range| range.domain).collect();
        hmat::check(performance, |domain| processors.contains(&domain), |domain| memory.contains(&domain))?;
    }
    if let Some(serial) = platform.serial
        && serial.io_base.0.checked_add(SERIAL_PORTS - 1).is_none()
    {
        return Err(Error::SerialPort { io_base: serial.io_base.0 });
    }
    bridges(&platform.pci, ranges)
}

fn processors(processors: &[Processor]) -> Result<(), Error> {
    if processors.is_empty() || processors.len() > MAX_PROCESSORS {
        return Err(Error::ProcessorCount { count: processors.len() });
    }
    let (mut uids, mut apic_ids) = (BTreeSet::new(), BTreeSet::new());
    for (index, processor) in processors.iter().enumerate() {
        let Processor { uid, apic_id, .. } = *processor;
        if apic_id == BROADCAST_APIC_ID {
            return Err(Error::BroadcastApicId { index, apic_id });
        }
        if !uids.insert(uid) {
            return Err(Error::DuplicateUid { uid });
        }
        if !apic_ids.insert(apic_id) {
            return Err(Error::DuplicateApicId { apic_id });
        }
    }
    Ok(())
}

fn domains(platform: &Platform) -> Result<(), Error> {
    let processors = platform.processors.iter().enumerate().map(|(i, cpu)| ("processors", i, cpu.domain));
    let memory = platform.memory.iter().enumerate().map(|(i, range)| ("memory", i, range.domain));
    let bridges = platform.pci.iter().enumerate().map(|(i, bridge)| ("pci", i, bridge.domain));
    match processors.chain(memory).chain(bridges).find(|(_, _, domain)| domain.0 >= MAX_PROXIMITY_DOMAINS) {
        Some((list, index, domain)) => Err(Error::DomainTooLarge { list, index, domain }),
        None => Ok(()),
    }
}

/// Linux drops the whole configuration for an overlap, so there is none.
fn memory(memory: &[MemoryAffinity]) -> Result<Vec<(u64, u64)>, Error> {
    let mut ranges = Vec::with_capacity(memory.len());
    for (index, &MemoryAffinity { base, length, .. }) in memory.iter().enumerate() {
        if length == 0 {
            return Err(Error::EmptyMemory { index, base });
        }
        let last = base.checked_add(length - 1).ok_or(Error::MemoryTooLong { index, base, length })?;
        ranges.push((base, last));
    }
    match overlap(&mut ranges) {
        Some((first, second)) => Err(Error::MemoryOverlap { first, second }),
        None => Ok(ranges),
    }
}

/// The bases of two ranges, given as first and last byte, that share a byte.
fn overlap(ranges: &mut [(u64, u64)]) -> Option<(u64, u64)> {
    ranges.sort_unstable();
    ranges.windows(2).find(|pair| pair[0].1 >= pair[1].0).map(|pair| (pair[0].0, pair[1].0))
}

fn localities(platform: &Platform) -> Result<(), Error> {
    let Some(slit) = &platform.slit else { return Ok(()) };
    let count = slit.count();
    let domains = srat::domains(platform);
    let bridges = platform.pci.iter().map(|bridge| bridge.domain);
    match domains.into_iter().chain(bridges).find(|&ProximityDomain(domain)| domain >= count) {
        Some(domain) => Err(Error::DomainWithoutDistances { domain, count }),
        None => Ok(()),
    }
}

/// Besides each other, bridges must not take what `ranges`, the memory, already has.
fn bridges(bridges: &[PciHostBridge], mut ranges: Vec<(u64, u64)>) -> Result<(), Error> {
    if bridges.len() > dsdt::MAX_BRIDGES {
        return Err(Error::BridgeCount { count: bridges.len(), max: dsdt::MAX_BRIDGES });
    }
    for (second, bridge) in bridges.iter().enumerate() {
        let shares = |earlier: &PciHostBridge| {
            earlier.segment == bridge.segment
                && earlier.bus_first <= bridge.bus_last
                && bridge.bus_first <= earlier.bus_last
        };
        ranges.extend(bridge_ranges(second, bridge)?);
        if let Some(first) = bridges[..second].iter().position(shares) {
            return Err(Error::BridgeOverlap { first, second, segment: bridge.segment });
        }
    }
    match overlap(&mut ranges) {
        Some((first, second)) => Err(Error::BridgeRangeOverlap { first, second }),
        None => Ok(()),
    }
}

/// First and last byte of all that a bridge takes of the address space.
fn bridge_ranges(index: usize, bridge: &PciHostBridge) -> Result<Vec<(u64, u64)>, Error> {
    let PciHostBridge { bus_first, bus_last, ecam_base, .. } = *bridge;
    if bus_first > bus_last {
        return Err(Error::BridgeBuses { index, first: bus_first, last: bus_last });
    }
    let ecam = dsdt::ecam_range(bridge).ok_or(Error::BridgeEcam { index, base: ecam_base })?;
    let mut ranges = vec![ecam];
    if let Some(window) = bridge.mmio32 {
        let base = u64::from(window.base);
        let last = window.length.checked_sub(1).and_then(|rest| window.base.checked_add(rest));
        ranges.push((base, u64::from(last.ok_or(Error::BridgeWindow { index, base })?)));
    }
    if let Some(window) = bridge.mmio64 {
        let base = window.base;
        let last = window.length.checked_sub(1).and_then(|rest| base.checked_add(rest));
        ranges.push((base, last.ok_or(Error::BridgeWindow { index, base })?));
    }
    Ok(ranges)
}
