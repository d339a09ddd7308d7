//! The first vCPU's registers at its first instruction. The others wait for INIT and SIPI, in KVM's hands.

use super::Entry;
use super::layout::{BOOT_PARAMS, GDT, PAGE_TABLES, START_INFO};
use crate::memory::GuestRam;
use crate::sys::HostError;
use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use resources::ApicId;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 2;
const PAGE_PRESENT_WRITABLE: u64 = 3;
const PAGE_HUGE: u64 = 1 << 7;
const TABLE: u64 = 4096;

/// Linux's `__BOOT_CS` and `__BOOT_DS` (`Documentation/arch/x86/boot.rst`); a task segment comes last.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// Access byte and flags of a segment descriptor.
#[derive(Clone, Copy)]
struct Descriptor {
    selector: u16,
    kind: u8,
    code_or_data: bool,
    long: bool,
    limit: u32,
}

impl Descriptor {
    fn segment(self) -> kvm_segment {
        let flat = self.limit > 0xffff;
        kvm_segment {
            base: 0,
            limit: self.limit,
            selector: self.selector,
            type_: self.kind,
            present: 1,
            dpl: 0,
            db: u8::from(flat && !self.long),
            s: u8::from(self.code_or_data),
            l: u8::from(self.long),
            g: u8::from(flat),
            ..Default::default()
        }
    }

    /// Intel SDM volume 3, 3.4.5.
    fn bytes(self) -> u64 {
        let segment = self.segment();
        let limit = u64::from(if segment.g == 1 { self.limit >> 12 } else { self.limit });
        let access = u64::from(segment.type_) | u64::from(segment.s) << 4 | 1 << 7;
        let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
        limit & 0xffff | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52
    }
}

/// `IA32_APIC_BASE` bit 10: x2APIC mode (Intel SDM volume 3, 11.12.1).
const APIC_BASE_X2APIC: u64 = 1 << 10;
/// The highest id that an APIC has outside x2APIC mode; 255 is everybody.
const XAPIC_ID_MAX: u32 = 254;

/// Writes descriptors and page tables and sets the registers.
///
/// With APIC ids above 254 the vCPU starts in x2APIC mode, as firmware would have it: Linux ignores the MADT entries
/// of such processors otherwise.
pub fn set_boot_registers(
    vcpu: &VcpuFd,
    entry: Entry,
    max_apic_id: ApicId,
    ram: &GuestRam,
) -> Result<(), HostError> {
    let long = matches!(entry, Entry::Linux64 { .. });
    let code = Descriptor { selector: CODE, kind: 0xb, code_or_data: true, long, limit: u32::MAX };
    let data = Descriptor { selector: DATA, kind: 0x3, code_or_data: true, long: false, limit: u32::MAX };
    let task = Descriptor { selector: TASK, kind: 0xb, code_or_data: false, long: false, limit: 0x67 };
    let memory = |error: GuestMemoryError| HostError::new("write guest memory", std::io::Error::other(error));
    let table = [0, 0, code.bytes(), data.bytes(), task.bytes()];
    for (index, descriptor) in (0..).zip(table) {
        ram.memory().write_obj(descriptor, GuestAddress(GDT.0 + index * 8)).map_err(memory)?;
    }

    let mut sregs = vcpu.get_sregs().map_err(HostError::kvm("KVM_GET_SREGS"))?;
    sregs.gdt.base = GDT.0;
    sregs.gdt.limit = u16::try_from(size_of_val(&table) - 1).unwrap_or(u16::MAX);
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = code.segment();
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data.segment();
    }
    sregs.tr = task.segment();
    if max_apic_id.0 > XAPIC_ID_MAX {
        sregs.apic_base |= APIC_BASE_X2APIC;
    }
    sregs.cr0 = CR0_PE | CR0_ET;
    let mut regs = kvm_regs { rflags: RFLAGS, ..Default::default() };
    match entry {
        Entry::Linux64 { rip } => {
            identity_map_first_gib(ram).map_err(memory)?;
            sregs.cr3 = PAGE_TABLES.0;
            sregs.cr4 = CR4_PAE;
            sregs.cr0 |= CR0_PG;
            sregs.efer = EFER_LME | EFER_LMA;
            regs.rip = rip;
            regs.rsi = BOOT_PARAMS.0;
        }
        Entry::Pvh { rip } => {
            regs.rip = rip;
            regs.rbx = START_INFO.0;
        }
    }
    vcpu.set_sregs(&sregs).map_err(HostError::kvm("KVM_SET_SREGS"))?;
    vcpu.set_regs(&regs).map_err(HostError::kvm("KVM_SET_REGS"))
}

fn identity_map_first_gib(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    let (top, middle, bottom) = (PAGE_TABLES.0, PAGE_TABLES.0 + TABLE, PAGE_TABLES.0 + 2 * TABLE);
    ram.memory().write_obj(middle | PAGE_PRESENT_WRITABLE, GuestAddress(top))?;
    ram.memory().write_obj(bottom | PAGE_PRESENT_WRITABLE, GuestAddress(middle))?;
    for index in 0..512_u64 {
        let entry = index << 21 | PAGE_HUGE | PAGE_PRESENT_WRITABLE;
        ram.memory().write_obj(entry, GuestAddress(bottom + index * 8))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CODE, DATA, Descriptor};

    #[test]
    fn flat_descriptors_are_those_of_the_boot_protocol() {
        let long = Descriptor { selector: CODE, kind: 0xb, code_or_data: true, long: true, limit: u32::MAX };
        assert_eq!(long.bytes(), 0x00af_9b00_0000_ffff);
        assert_eq!(Descriptor { long: false, ..long }.bytes(), 0x00cf_9b00_0000_ffff);
        let data = Descriptor { selector: DATA, kind: 3, code_or_data: true, long: false, limit: u32::MAX };
        assert_eq!(data.bytes(), 0x00cf_9300_0000_ffff);
    }
}
