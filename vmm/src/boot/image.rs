//! What a kernel file is: enough of its headers to know whether it can boot and where it wants to lie.
//! Copying it into the guest is `linux`'s and `pvh`'s work, with the loaders of `linux-loader`.

use std::io::{Read, Seek, SeekFrom};

/// A kernel that can be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelImage {
    /// Linux's own format.
    BzImage(BzImage),
    /// ELF with a PVH entry.
    Elf(Elf),
}

/// What a bzImage says of itself (Linux, `Documentation/arch/x86/boot.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BzImage {
    /// Length of the part that is loaded.
    pub size: u64,
    /// Where it runs after unpacking.
    pub preferred_address: u64,
    /// How much it needs from there.
    pub init_size: u64,
    /// Highest last byte of an initramfs.
    pub initramfs_max: u64,
    /// Longest command line, without the NUL.
    pub cmdline_max: u64,
}

/// What an ELF kernel says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elf {
    /// Lowest physical address of a segment.
    pub start: u64,
    /// First byte after the highest.
    pub end: u64,
    /// The 32-bit PVH entry.
    pub entry: u64,
    /// It says that it is Linux.
    pub linux: bool,
}

/// Why a file is not a kernel.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither format.
    #[error("not a kernel, must be a bzImage or an ELF file with a PVH entry")]
    NotAKernel,
    /// A header ends early or contradicts itself.
    #[error("damaged {0} header")]
    Damaged(&'static str),
    /// The file is shorter than its header says.
    #[error("truncated: the header says {promised} bytes, the file has {length}")]
    CutShort {
        /// By the header.
        promised: u64,
        /// In the file.
        length: u64,
    },
    /// A bzImage without the 64-bit entry.
    #[error(
        "a 32-bit or very old bzImage, must have a 64-bit entry point (boot protocol 2.12, XLF_KERNEL_64)"
    )]
    No64BitEntry,
    /// An ELF file without the note.
    #[error(
        "an ELF file without a PVH entry, must carry the note XEN_ELFNOTE_PHYS32_ENTRY (Linux: CONFIG_PVH)"
    )]
    NoPvhEntry,
    /// Not for this machine.
    #[error("an ELF file for another machine, must be 64-bit x86-64")]
    OtherMachine,
    /// Cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

const SETUP_HEADER_END: usize = 0x268;
const ELF_HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Kernels have four or five; a hostile file could claim 65,535.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Linux's own notes are under 1 KiB.
const MAX_NOTES: u64 = 64 << 10;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;
/// Xen `public/elfnote.h`: 32-bit physical entry.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Linux `include/linux/elfnote-lto.h` and `build-salt.h`: each kernel since 4.19 has notes of this name.
const LINUX_NOTE: &[u8] = b"Linux\0";
/// Xen `public/elfnote.h`: the name of the guest's system.
const XEN_ELFNOTE_GUEST_OS: u32 = 6;

impl KernelImage {
    /// Reads the headers.
    pub fn inspect(file: &mut (impl Read + Seek)) -> Result<Self, ImageError> {
        let length = file.seek(SeekFrom::End(0))?;
        let mut head = [0; SETUP_HEADER_END];
        let readable = usize::try_from(length).unwrap_or(usize::MAX).min(SETUP_HEADER_END);
        file.rewind()?;
        file.read_exact(&mut head[..readable])?;
        if head.starts_with(b"\x7fELF") {
            inspect_elf(file, length, &head[..readable]).map(Self::Elf)
        } else if readable == head.len() && head[0x202..0x206] == *b"HdrS" {
            inspect_bzimage(length, &head).map(Self::BzImage)
        } else {
            Err(ImageError::NotAKernel)
        }
    }
}

fn inspect_bzimage(length: u64, head: &[u8]) -> Result<BzImage, ImageError> {
    const LOADED_HIGH: u8 = 1;
    const XLF_KERNEL_64: u16 = 1;
    let (version, xloadflags) = (u16_at(head, 0x206), u16_at(head, 0x236));
    if head[0x211] & LOADED_HIGH == 0 || version < 0x020c || xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ImageError::No64BitEntry);
    }
    let setup_sectors = if head[0x1f1] == 0 { 4 } else { u64::from(head[0x1f1]) };
    let size = length.checked_sub((setup_sectors + 1) * 512).filter(|size| *size > 0);
    let size = size.ok_or(ImageError::Damaged("bzImage"))?;
    // In paragraphs of 16 bytes, the last of which need not be whole.
    let promised = u64::from(u32_at(head, 0x1f4)) * 16;
    if size + 16 <= promised {
        return Err(ImageError::CutShort { promised: promised + length - size, length });
    }
    Ok(BzImage {
        size,
        preferred_address: u64_at(head, 0x258),
        init_size: u64::from(u32_at(head, 0x260)),
        initramfs_max: u64::from(u32_at(head, 0x22c)),
        cmdline_max: u64::from(u32_at(head, 0x238)),
    })
}

fn inspect_elf(file: &mut (impl Read + Seek), length: u64, head: &[u8]) -> Result<Elf, ImageError> {
    let damaged = || ImageError::Damaged("ELF");
    if head.len() < ELF_HEADER_SIZE {
        return Err(damaged());
    }
    if head[4] != 2 || head[5] != 1 || u16_at(head, 18) != EM_X86_64 {
        return Err(ImageError::OtherMachine);
    }
    let (table, entry_size, count) = (u64_at(head, 32), u16_at(head, 54), u16_at(head, 56));
    if usize::from(entry_size) != PROGRAM_HEADER_SIZE || count > MAX_PROGRAM_HEADERS {
        return Err(damaged());
    }
    let mut headers = vec![0; PROGRAM_HEADER_SIZE * usize::from(count)];
    if table.checked_add(headers.len() as u64).is_none_or(|end| end > length) {
        return Err(damaged());
    }
    file.seek(SeekFrom::Start(table))?;
    file.read_exact(&mut headers)?;
    let (mut start, mut end, mut notes) = (u64::MAX, 0, Notes::default());
    for header in headers.chunks_exact(PROGRAM_HEADER_SIZE) {
        let (offset, address) = (u64_at(header, 8), u64_at(header, 24));
        let (file_size, memory_size) = (u64_at(header, 32), u64_at(header, 40));
        if offset.checked_add(file_size).is_none_or(|end| end > length) {
            return Err(damaged());
        }
        match u32_at(header, 0) {
            PT_LOAD if memory_size > 0 => {
                if file_size > memory_size {
                    return Err(damaged());
                }
                start = start.min(address);
                end = end.max(address.checked_add(memory_size).ok_or_else(damaged)?);
            }
            PT_NOTE => notes.read(file, offset, file_size.min(MAX_NOTES))?,
            _ => {}
        }
    }
    if end == 0 {
        return Err(damaged());
    }
    Ok(Elf { start, end, entry: notes.pvh_entry.ok_or(ImageError::NoPvhEntry)?, linux: notes.linux })
}

/// What the notes of an ELF kernel say.
#[derive(Default)]
struct Notes {
    pvh_entry: Option<u64>,
    linux: bool,
}

impl Notes {
    fn read(&mut self, file: &mut (impl Read + Seek), offset: u64, size: u64) -> Result<(), std::io::Error> {
        let mut notes = Vec::new();
        file.seek(SeekFrom::Start(offset))?;
        file.take(size).read_to_end(&mut notes)?;
        let mut rest = notes.as_slice();
        while rest.len() >= 12 {
            let (name_size, value_size, kind) = (u32_at(rest, 0), u32_at(rest, 4), u32_at(rest, 8));
            let value_start = 12 + (name_size as usize).next_multiple_of(4);
            let next = value_start.saturating_add((value_size as usize).next_multiple_of(4));
            let name = rest.get(12..12 + name_size as usize);
            let value = rest.get(value_start..value_start + value_size as usize);
            let (Some(name), Some(value)) = (name, value) else { break };
            self.take(name, kind, value);
            rest = rest.get(next..).unwrap_or(&[]);
        }
        Ok(())
    }

    /// Of several entries the first counts.
    fn take(&mut self, name: &[u8], kind: u32, value: &[u8]) {
        match (name, kind, value.len()) {
            (LINUX_NOTE, ..) => self.linux = true,
            (b"Xen\0", XEN_ELFNOTE_GUEST_OS, _) => self.linux |= value == b"linux\0",
            (b"Xen\0", XEN_ELFNOTE_PHYS32_ENTRY, 4) if self.pvh_entry.is_none() => {
                self.pvh_entry = Some(u64::from(u32_at(value, 0)));
            }
            (b"Xen\0", XEN_ELFNOTE_PHYS32_ENTRY, 8) if self.pvh_entry.is_none() => {
                self.pvh_entry = Some(u64_at(value, 0));
            }
            _ => {}
        }
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::{Elf, ImageError, KernelImage};
    use crate::test_kernel;
    use proptest::prelude::{any, proptest};
    use std::io::Cursor;

    fn inspect(bytes: Vec<u8>) -> Result<KernelImage, ImageError> {
        KernelImage::inspect(&mut Cursor::new(bytes))
    }

    #[test]
    fn a_pvh_elf_is_known_by_its_note() {
        let image = inspect(test_kernel::pvh_elf(&[0x90; 16], true)).unwrap();
        let (start, end, entry) = (0x10_0000, 0x10_0010, 0x10_0000);
        assert_eq!(image, KernelImage::Elf(Elf { start, end, entry, linux: false }));
        assert!(matches!(inspect(test_kernel::pvh_elf(&[0x90], false)), Err(ImageError::NoPvhEntry)));
    }

    #[test]
    fn an_elf_kernel_is_linux_by_its_note() {
        let linux = |bytes| match inspect(bytes).unwrap() {
            KernelImage::Elf(elf) => (elf.linux, elf.entry),
            KernelImage::BzImage(image) => panic!("{image:?}"),
        };
        assert_eq!(linux(test_kernel::linux_elf(&[0x90; 16])), (true, 0x10_0000));
        assert_eq!(linux(test_kernel::pvh_elf(&[0x90; 16], true)), (false, 0x10_0000));
    }

    #[test]
    fn what_is_not_a_kernel_is_refused() {
        for bytes in [vec![], vec![0; 10], vec![0; 4096], b"#!/bin/sh".to_vec()] {
            assert!(matches!(inspect(bytes), Err(ImageError::NotAKernel)));
        }
        assert!(matches!(inspect(b"\x7fELF".to_vec()), Err(ImageError::Damaged("ELF"))));
        let mut other = test_kernel::pvh_elf(&[0x90], true);
        other[18] = 183;
        assert!(matches!(inspect(other), Err(ImageError::OtherMachine)));
    }

    #[test]
    fn an_old_bzimage_is_refused() {
        let mut bytes = vec![0; 8192];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(matches!(inspect(bytes), Err(ImageError::No64BitEntry)));
    }

    #[test]
    fn a_bzimage_that_was_cut_short_is_refused() {
        let mut bytes = test_kernel::bzimage();
        assert!(matches!(inspect(bytes.clone()), Ok(KernelImage::BzImage(image)) if image.size == 6144));
        bytes.truncate(8192 - 16);
        let error = inspect(bytes).unwrap_err().to_string();
        assert_eq!(error, "truncated: the header says 8192 bytes, the file has 8176");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_not_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1500), elf: bool) {
            if elf && bytes.len() > 64 {
                let mut image = test_kernel::pvh_elf(&[0x90; 64], true);
                for (to, from) in image[64..].iter_mut().zip(&bytes) { *to ^= from; }
                let _ = inspect(image);
            } else if bytes.len() > 0x260 {
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
            }
            let _ = inspect(bytes);
        }
    }
}
