//! SRAT, which processor and which memory is in which proximity domain (ACPI 6.5, 5.2.16).
//! Says where things are; how far that is, is SLIT's and HMAT's business.

use crate::error::Error;
use crate::madt::needs_x2apic_entry;
use crate::platform::{MemoryAffinity, Platform, Processor, ProximityDomain};
use crate::tables::encode;
use std::collections::BTreeSet;

const SIGNATURE: [u8; 4] = *b"SRAT";
/// ACPI 6.5, table 5.55.
const REVISION: u8 = 3;
/// First reserved field: 1 for compatibility (ACPI 6.5, table 5.55).
const COMPATIBILITY: u32 = 1;

/// Processor local APIC affinity (ACPI 6.5, table 5.56).
const TYPE_LOCAL_APIC: u8 = 0;
const LENGTH_LOCAL_APIC: u8 = 16;
/// Memory affinity (ACPI 6.5, table 5.58).
const TYPE_MEMORY: u8 = 1;
const LENGTH_MEMORY: u8 = 40;
/// Processor local x2APIC affinity (ACPI 6.5, table 5.60).
const TYPE_X2APIC: u8 = 2;
const LENGTH_X2APIC: u8 = 24;

/// ACPI 6.5, tables 5.57 and 5.59.
const FLAG_ENABLED: u32 = 1;
/// ACPI 6.5, table 5.59.
const FLAG_HOT_PLUGGABLE: u32 = 1 << 1;

/// Entries by proximity domain ascending, in each the processors in their order and then the memory by address:
/// Linux numbers its nodes by first appearance.
pub(crate) fn build(platform: &Platform) -> Result<Vec<u8>, Error> {
    let mut body = COMPATIBILITY.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 8]);
    for domain in domains(platform) {
        for processor in platform.processors.iter().filter(|processor| processor.domain == domain) {
            push_processor(&mut body, processor);
        }
        let mut ranges: Vec<_> = platform.memory.iter().filter(|range| range.domain == domain).collect();
        ranges.sort_by_key(|range| range.base);
        for range in ranges {
            push_memory(&mut body, range);
        }
    }
    encode(SIGNATURE, REVISION, &body)
}

/// Every domain that has a processor or memory, ascending.
pub(crate) fn domains(platform: &Platform) -> BTreeSet<ProximityDomain> {
    let processors = platform.processors.iter().map(|processor| processor.domain);
    processors.chain(platform.memory.iter().map(|range| range.domain)).collect()
}

/// A processor that is not present yet has an enabled entry too: Linux keeps its node for the day it comes.
fn push_processor(body: &mut Vec<u8>, processor: &Processor) {
    let domain = processor.domain.0.to_le_bytes();
    match u8::try_from(processor.apic_id) {
        Ok(apic_id) if !needs_x2apic_entry(processor.apic_id) => {
            body.extend_from_slice(&[TYPE_LOCAL_APIC, LENGTH_LOCAL_APIC, domain[0], apic_id]);
            body.extend_from_slice(&FLAG_ENABLED.to_le_bytes());
            body.push(0); // local SAPIC EID
            body.extend_from_slice(&domain[1..]);
            body.extend_from_slice(&[0; 4]); // clock domain
        }
        _ => {
            body.extend_from_slice(&[TYPE_X2APIC, LENGTH_X2APIC, 0, 0]);
            body.extend_from_slice(&domain);
            body.extend_from_slice(&processor.apic_id.to_le_bytes());
            body.extend_from_slice(&FLAG_ENABLED.to_le_bytes());
            body.extend_from_slice(&[0; 8]); // clock domain, reserved
        }
    }
}

fn push_memory(body: &mut Vec<u8>, range: &MemoryAffinity) {
    let flags = if range.hotpluggable { FLAG_ENABLED | FLAG_HOT_PLUGGABLE } else { FLAG_ENABLED };
    body.extend_from_slice(&[TYPE_MEMORY, LENGTH_MEMORY]);
    body.extend_from_slice(&range.domain.0.to_le_bytes());
    body.extend_from_slice(&[0; 2]);
    body.extend_from_slice(&range.base.to_le_bytes());
    body.extend_from_slice(&range.length.to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&flags.to_le_bytes());
    body.extend_from_slice(&[0; 8]);
}
