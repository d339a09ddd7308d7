//! The smallest kernels, for tests: a few bytes of code in an ELF file with a PVH entry. Real kernels are the lab's.

/// A 64-bit ELF file with one segment, `code` at 1 MiB, entered there in 32-bit mode if it has the PVH note.
pub fn pvh_elf(code: &[u8], note: bool) -> Vec<u8> {
    const LOAD: u64 = 0x10_0000;
    let mut note_bytes = Vec::new();
    for word in [4_u32, 4, 18] {
        note_bytes.extend(word.to_le_bytes());
    }
    note_bytes.extend(b"Xen\0");
    note_bytes.extend(&LOAD.to_le_bytes()[..4]);
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
