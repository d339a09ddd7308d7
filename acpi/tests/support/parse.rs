//! Reads tables back, from the specification and not from the encoder: offsets and numbers are written out here.
//! Panics at the first thing that is wrong; comparing with a platform is left to the tests.

/// Reads little-endian fields one after another.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at_checked(count).expect("the table goes on");
        self.0 = rest;
        head
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take(2).try_into().expect("two bytes"))
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    pub fn zeros(&mut self, count: usize) {
        assert!(self.take(count).iter().all(|&byte| byte == 0), "reserved bytes are not 0");
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Checks the header; returns what follows it.
pub fn body<'a>(table: &'a [u8], signature: &[u8; 4], revision: u8) -> Reader<'a> {
    assert_eq!(sum(table), 0, "checksum");
    let mut reader = Reader(table);
    assert_eq!(reader.take(4), signature);
    assert_eq!(usize::try_from(reader.u32()), Ok(table.len()), "length");
    assert_eq!(reader.u8(), revision);
    reader.u8();
    assert_eq!(reader.take(14), b"NUMAVINUMAVSOR");
    reader.take(12);
    reader
}

/// Checks both checksums and all else; returns the address of the XSDT.
pub fn rsdp(bytes: &[u8]) -> u64 {
    assert_eq!((sum(&bytes[..20]), sum(bytes), bytes.len()), (0, 0, 36));
    let mut reader = Reader(bytes);
    assert_eq!(reader.take(8), b"RSD PTR ");
    reader.u8();
    assert_eq!(reader.take(6), b"NUMAVI");
    assert_eq!((reader.u8(), reader.u32(), reader.u32()), (2, 0, 36));
    let xsdt = reader.u64();
    reader.u8();
    reader.zeros(3);
    xsdt
}

pub fn xsdt(table: &[u8]) -> Vec<u64> {
    let mut reader = body(table, b"XSDT", 1);
    let mut addresses = Vec::new();
    while !reader.is_empty() {
        addresses.push(reader.u64());
    }
    addresses
}

#[derive(Debug, PartialEq, Eq)]
pub struct Fadt {
    pub boot_arch: u16,
    pub flags: u32,
    pub reset: [u8; 12],
    pub reset_value: u8,
    pub dsdt: u64,
    pub sleep_control: [u8; 12],
    pub sleep_status: [u8; 12],
}

pub fn fadt(table: &[u8]) -> Fadt {
    let mut reader = body(table, b"FACP", 6);
    reader.zeros(9); // FACS, DSDT, reserved
    assert_eq!(reader.u8(), 4); // enterprise server
    reader.zeros(63); // all that hardware-reduced machines do not have
    let boot_arch = reader.u16();
    reader.zeros(1);
    let flags = reader.u32();
    let reset = reader.take(12).try_into().expect("12 bytes");
    let reset_value = reader.u8();
    reader.zeros(2);
    assert_eq!(reader.u8(), 5); // ACPI 6.5
    reader.zeros(8); // FACS
    let dsdt = reader.u64();
    reader.zeros(8 * 12);
    let sleep_control = reader.take(12).try_into().expect("12 bytes");
    let sleep_status = reader.take(12).try_into().expect("12 bytes");
    assert_eq!(reader.take(8), b"NUMAVSOR");
    assert!(reader.is_empty());
    Fadt { boot_arch, flags, reset, reset_value, dsdt, sleep_control, sleep_status }
}

#[derive(Debug, PartialEq, Eq)]
pub enum MadtEntry {
    LocalApic { uid: u8, id: u8, flags: u32 },
    IoApic { id: u8, address: u32, gsi_base: u32 },
    LocalApicNmi { uid: u8, flags: u16, lint: u8 },
    X2Apic { id: u32, flags: u32, uid: u32 },
    X2ApicNmi { flags: u16, uid: u32, lint: u8 },
}

/// The address of the local APIC and the entries; no flag may be set.
pub fn madt(table: &[u8]) -> (u32, Vec<MadtEntry>) {
    let mut reader = body(table, b"APIC", 6);
    let address = reader.u32();
    assert_eq!(reader.u32(), 0);
    let mut entries = Vec::new();
    while !reader.is_empty() {
        entries.push(match (reader.u8(), reader.u8()) {
            (0, 8) => MadtEntry::LocalApic { uid: reader.u8(), id: reader.u8(), flags: reader.u32() },
            (1, 12) => {
                let id = reader.u8();
                reader.zeros(1);
                MadtEntry::IoApic { id, address: reader.u32(), gsi_base: reader.u32() }
            }
            (4, 6) => MadtEntry::LocalApicNmi { uid: reader.u8(), flags: reader.u16(), lint: reader.u8() },
            (9, 16) => {
                reader.zeros(2);
                MadtEntry::X2Apic { id: reader.u32(), flags: reader.u32(), uid: reader.u32() }
            }
            (10, 12) => {
                let (flags, uid, lint) = (reader.u16(), reader.u32(), reader.u8());
                reader.zeros(3);
                MadtEntry::X2ApicNmi { flags, uid, lint }
            }
            other => panic!("unexpected type and length {other:?}"),
        });
    }
    (address, entries)
}

#[derive(Debug, PartialEq, Eq)]
pub enum SratEntry {
    LocalApic { domain: u32, id: u8 },
    Memory { domain: u32, base: u64, length: u64, hotpluggable: bool },
    X2Apic { domain: u32, id: u32 },
}

/// The entries, all of which must be enabled.
pub fn srat(table: &[u8]) -> Vec<SratEntry> {
    let mut reader = body(table, b"SRAT", 3);
    assert_eq!(reader.u32(), 1);
    reader.zeros(8);
    let mut entries = Vec::new();
    while !reader.is_empty() {
        entries.push(match (reader.u8(), reader.u8()) {
            (0, 16) => {
                let (low, id) = (reader.u8(), reader.u8());
                assert_eq!(reader.u32(), 1);
                reader.zeros(1);
                let high = reader.take(3);
                reader.zeros(4);
                SratEntry::LocalApic { domain: u32::from_le_bytes([low, high[0], high[1], high[2]]), id }
            }
            (1, 40) => {
                let domain = reader.u32();
                reader.zeros(2);
                let (base, length) = (reader.u64(), reader.u64());
                reader.zeros(4);
                let flags = reader.u32();
                assert_eq!(flags & !2, 1);
                reader.zeros(8);
                SratEntry::Memory { domain, base, length, hotpluggable: flags == 3 }
            }
            (2, 24) => {
                reader.zeros(2);
                let (domain, id) = (reader.u32(), reader.u32());
                assert_eq!(reader.u32(), 1);
                reader.zeros(8);
                SratEntry::X2Apic { domain, id }
            }
            other => panic!("unexpected type and length {other:?}"),
        });
    }
    entries
}

/// Rows of distances.
pub fn slit(table: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = body(table, b"SLIT", 1);
    let count = usize::try_from(reader.u64()).expect("small");
    let rows = (0..count).map(|_| reader.take(count).to_vec()).collect();
    assert!(reader.is_empty());
    rows
}

#[derive(Debug, PartialEq, Eq)]
pub enum HmatEntry {
    Memory { flags: u16, initiator: u32, memory: u32 },
    Locality { data_type: u8, unit: u64, initiators: Vec<u32>, targets: Vec<u32>, entries: Vec<u16> },
    Cache { memory: u32, size: u64, attributes: u32 },
}

pub fn hmat(table: &[u8]) -> Vec<HmatEntry> {
    let mut reader = body(table, b"HMAT", 2);
    reader.zeros(4);
    let mut structures = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u16();
        reader.zeros(2);
        let length = usize::try_from(reader.u32()).expect("small");
        let mut reader = Reader(reader.take(length - 8));
        structures.push(match kind {
            0 => {
                let flags = reader.u16();
                reader.zeros(2);
                let (initiator, memory) = (reader.u32(), reader.u32());
                reader.zeros(20);
                HmatEntry::Memory { flags, initiator, memory }
            }
            1 => hmat_locality(&mut reader),
            2 => {
                let memory = reader.u32();
                reader.zeros(4);
                let (size, attributes) = (reader.u64(), reader.u32());
                reader.zeros(4);
                HmatEntry::Cache { memory, size, attributes }
            }
            other => panic!("unexpected type {other}"),
        });
        assert!(reader.is_empty(), "the structure is longer than what it holds");
    }
    structures
}

fn hmat_locality(reader: &mut Reader) -> HmatEntry {
    reader.zeros(1);
    let data_type = reader.u8();
    reader.zeros(2);
    let (initiators, targets) = (reader.u32(), reader.u32());
    reader.zeros(4);
    let unit = reader.u64();
    let initiators: Vec<u32> = (0..initiators).map(|_| reader.u32()).collect();
    let targets: Vec<u32> = (0..targets).map(|_| reader.u32()).collect();
    let entries = (0..initiators.len() * targets.len()).map(|_| reader.u16()).collect();
    HmatEntry::Locality { data_type, unit, initiators, targets, entries }
}

/// Base, segment, first and last bus.
pub fn mcfg(table: &[u8]) -> Vec<(u64, u16, u8, u8)> {
    let mut reader = body(table, b"MCFG", 1);
    reader.zeros(8);
    let mut segments = Vec::new();
    while !reader.is_empty() {
        segments.push((reader.u64(), reader.u16(), reader.u8(), reader.u8()));
        reader.zeros(4);
    }
    segments
}
