//! MADT, the interrupt controllers: local APICs in processor order and the I/O APIC (ACPI 6.5, 5.2.12).
//! Leaves the processors' places to SRAT and their device objects to the DSDT.

use crate::error::Error;
use crate::platform::{Platform, Processor};
use crate::tables::encode;

const SIGNATURE: [u8; 4] = *b"APIC";
/// ACPI 6.5, table 5.19.
const REVISION: u8 = 6;
/// No flag: `PCAT_COMPAT` is clear, there is no dual 8259 (ACPI 6.5, table 5.20).
const FLAGS: u32 = 0;

/// Processor local APIC (ACPI 6.5, table 5.22).
const TYPE_LOCAL_APIC: u8 = 0;
const LENGTH_LOCAL_APIC: u8 = 8;
/// I/O APIC (ACPI 6.5, table 5.24).
const TYPE_IO_APIC: u8 = 1;
const LENGTH_IO_APIC: u8 = 12;
/// Local APIC NMI (ACPI 6.5, table 5.28).
const TYPE_LOCAL_APIC_NMI: u8 = 4;
const LENGTH_LOCAL_APIC_NMI: u8 = 6;
/// Processor local x2APIC (ACPI 6.5, table 5.34).
const TYPE_X2APIC: u8 = 9;
const LENGTH_X2APIC: u8 = 16;
/// Local x2APIC NMI (ACPI 6.5, table 5.35).
const TYPE_X2APIC_NMI: u8 = 10;
const LENGTH_X2APIC_NMI: u8 = 12;

/// ACPI 6.5, table 5.23.
const FLAG_ENABLED: u32 = 1;
/// ACPI 6.5, table 5.23.
const FLAG_ONLINE_CAPABLE: u32 = 1 << 1;

/// All processors (ACPI 6.5, table 5.28).
const EVERY_UID_8: u8 = 0xff;
/// All processors (ACPI 6.5, table 5.35).
const EVERY_UID_32: u32 = 0xffff_ffff;
/// Polarity and trigger as the bus has them (ACPI 6.5, table 5.26).
const CONFORMS_TO_BUS: u16 = 0;
/// NMI arrives at LINT1, as on every PC (Intel MP specification 1.4, 5.1).
const NMI_LINT: u8 = 1;

/// APIC ids from here on do not fit a local APIC entry: 255 is the broadcast id there (ACPI 6.5, 5.2.12.12).
const FIRST_X2APIC_ID: u32 = 255;

/// Whether an APIC id is told in x2APIC entries. Linux ignores x2APIC entries below 255 when there are local APIC
/// entries too, so the border is strict.
pub(crate) fn needs_x2apic_entry(apic_id: u32) -> bool {
    apic_id >= FIRST_X2APIC_ID
}

pub(crate) fn build(platform: &Platform) -> Result<Vec<u8>, Error> {
    let mut body = platform.local_apic_address.to_le_bytes().to_vec();
    body.extend_from_slice(&FLAGS.to_le_bytes());
    let kind = EntryKind::of(platform);
    for processor in &platform.processors {
        push_processor(&mut body, processor, kind);
    }
    body.extend_from_slice(&[TYPE_IO_APIC, LENGTH_IO_APIC, platform.io_apic.id, 0]);
    body.extend_from_slice(&platform.io_apic.address.to_le_bytes());
    body.extend_from_slice(&platform.io_apic.gsi_base.to_le_bytes());
    push_nmi(&mut body, platform, kind);
    encode(SIGNATURE, REVISION, &body)
}

/// Which entries tell the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    /// By APIC id, as the specification has it.
    ById,
    /// x2APIC entries for all. A local APIC entry has 8 bits for the uid; and Linux reads all local APIC entries
    /// before the others, so that its CPU numbers would not be in processor order. It takes x2APIC entries below
    /// 255 where there are no others.
    AllX2apic,
}

impl EntryKind {
    fn of(platform: &Platform) -> Self {
        let mut wide = false;
        for processor in &platform.processors {
            let narrow = !needs_x2apic_entry(processor.apic_id);
            if narrow && (wide || processor.uid >= u32::from(EVERY_UID_8)) {
                return Self::AllX2apic;
            }
            wide |= !narrow;
        }
        Self::ById
    }

    /// Uid and APIC id of a processor that is told in a local APIC entry.
    fn local_apic(self, processor: &Processor) -> Option<(u8, u8)> {
        match self {
            Self::ById if !needs_x2apic_entry(processor.apic_id) => {
                Some((u8::try_from(processor.uid).ok()?, u8::try_from(processor.apic_id).ok()?))
            }
            Self::ById | Self::AllX2apic => None,
        }
    }
}

fn push_processor(body: &mut Vec<u8>, processor: &Processor, kind: EntryKind) {
    let flags = if processor.present { FLAG_ENABLED } else { FLAG_ONLINE_CAPABLE };
    if let Some((uid, apic_id)) = kind.local_apic(processor) {
        body.extend_from_slice(&[TYPE_LOCAL_APIC, LENGTH_LOCAL_APIC, uid, apic_id]);
        body.extend_from_slice(&flags.to_le_bytes());
    } else {
        body.extend_from_slice(&[TYPE_X2APIC, LENGTH_X2APIC, 0, 0]);
        body.extend_from_slice(&processor.apic_id.to_le_bytes());
        body.extend_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&processor.uid.to_le_bytes());
    }
}

/// An entry of one kind does not reach the processors of the other.
fn push_nmi(body: &mut Vec<u8>, platform: &Platform, kind: EntryKind) {
    if platform.processors.iter().any(|processor| kind.local_apic(processor).is_some()) {
        body.extend_from_slice(&[TYPE_LOCAL_APIC_NMI, LENGTH_LOCAL_APIC_NMI, EVERY_UID_8]);
        body.extend_from_slice(&CONFORMS_TO_BUS.to_le_bytes());
        body.push(NMI_LINT);
    }
    if platform.processors.iter().any(|processor| kind.local_apic(processor).is_none()) {
        body.extend_from_slice(&[TYPE_X2APIC_NMI, LENGTH_X2APIC_NMI]);
        body.extend_from_slice(&CONFORMS_TO_BUS.to_le_bytes());
        body.extend_from_slice(&EVERY_UID_32.to_le_bytes());
        body.extend_from_slice(&[NMI_LINT, 0, 0, 0]);
    }
}
