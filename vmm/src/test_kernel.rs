//! The smallest kernels, for tests: a few bytes of code in an ELF file with a PVH entry. Real kernels are the lab's.

/// A 64-bit ELF file with one segment, `code` at 1 MiB, entered there in 32-bit mode if it has the PVH note.
pub fn pvh_elf(code: &[u8], note: bool) -> Vec<u8> {
    elf(code, pvh_note(), note)
}

/// The same with an entry, and with the note that Linux has.
pub fn linux_elf(code: &[u8]) -> Vec<u8> {
    // LINUX_ELFNOTE_LTO_INFO (Linux, `include/linux/elfnote-lto.h`).
    let mut notes = Vec::new();
    for word in [6_u32, 4, 0x101] {
        notes.extend(word.to_le_bytes());
    }
    notes.extend(b"Linux\0\0\0\0\0\0\0");
    notes.extend(pvh_note());
    elf(code, notes, true)
}

/// A bzImage as far as its headers go.
pub fn bzimage() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x236] = 1;
    bytes[0x1f1] = 3;
    bytes[0x1f4..0x1f8].copy_from_slice(&((8192 - 2048_u32) / 16).to_le_bytes());
    // A command line of 2,047 bytes.
    bytes[0x238..0x23c].copy_from_slice(&0x7ff_u32.to_le_bytes());
    bytes
}

const LOAD: u64 = 0x10_0000;

fn pvh_note() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(&LOAD.to_le_bytes()[..4]);
    note
}

fn elf(code: &[u8], note_bytes: Vec<u8>, note: bool) -> Vec<u8> {
    let note_offset = 64 + 2 * 56_u64;
    let code_offset = note_offset + note_bytes.len() as u64;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [LOAD, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, if note { 2 } else { 1 }, 0, 64, 0, 0, 0, 0, 0]);
    let mut header = |kind: u32, offset: u64, address: u64, size: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for word in [offset, address, address, size, size, 4] {
            file.extend(word.to_le_bytes());
        }
    };
    header(1, code_offset, LOAD, code.len() as u64);
    header(4, note_offset, 0, note_bytes.len() as u64);
    file.extend(note_bytes);
    file.extend(code);
    file
}

/// Where [`spin_on_all_vcpus`] counts those that spin, in 16 bits.
pub const SPINNING: u32 = 0x3000;

/// 32-bit code that starts all other vCPUs and never ends; each counts itself, then jumps to itself for ever.
pub fn spin_on_all_vcpus() -> Vec<u8> {
    const START: u32 = 0x8000;
    const ICR: u32 = 0xfee0_0300;
    // 16-bit: lock inc word [SPINNING]; jmp $
    const ANOTHER: [u32; 2] = [0x0006_fff0 | (SPINNING & 0xff) << 24, SPINNING >> 8 & 0xff | 0x00fe_eb00];
    // Intel SDM volume 3, 11.6.1: INIT, then SIPI with START's page, to all but this one.
    let writes =
        [(START, ANOTHER[0]), (START + 4, ANOTHER[1]), (ICR, 0xc_4500), (ICR, 0xc_4600 | START >> 12)];
    let mut code = Vec::new();
    for (address, value) in writes {
        code.extend([0xc7, 0x05]); // mov dword [address], value
        code.extend(address.to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    code.extend([0x66, 0xf0, 0xff, 0x05]); // lock inc word [SPINNING]
    code.extend(SPINNING.to_le_bytes());
    code.extend([0xeb, 0xfe]);
    code
}

/// 32-bit code: `mov dx, port; mov al, byte; out dx, al` for each pair, then halt for ever.
pub fn outs(writes: &[(u16, u8)]) -> Vec<u8> {
    let mut code = Vec::new();
    for (port, byte) in writes {
        code.extend([0x66, 0xba]);
        code.extend(port.to_le_bytes());
        code.extend([0xb0, *byte, 0xee]);
    }
    code.extend([0xf4, 0xeb, 0xfd]);
    code
}
