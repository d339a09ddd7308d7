//! Image formats that are not raw, told by their first bytes. A guest sees a raw disk as it is, so an image of another
//! format would look like garbage to it and be destroyed by the first write.

/// How much of the beginning is enough to tell.
pub const SNIFF_BYTES: usize = 512;

/// First bytes, where they are, and whose.
const MAGICS: [(usize, &[u8], &str); 9] = [
    (0, b"QFI\xFB", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    // Dynamic and differencing disks; a fixed one is raw but for its last sector.
    (0, b"conectix", "vhd"),
    (64, &0xBEDA_107F_u32.to_le_bytes(), "vdi"),
    (0, b"WithouFreSpacExt", "parallels"),
];

/// The format that the beginning of a disk says it has, if not raw.
pub fn foreign_format(beginning: &[u8]) -> Option<&'static str> {
    MAGICS
        .iter()
        .find(|(offset, magic, _)| beginning.get(*offset..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|(_, _, format)| *format)
}

#[cfg(test)]
mod tests {
    use super::{MAGICS, foreign_format};

    #[test]
    fn every_format_is_told_by_its_magic_where_it_belongs() {
        for (offset, magic, format) in MAGICS {
            let mut beginning = vec![0; offset];
            beginning.extend_from_slice(magic);
            assert_eq!(foreign_format(&beginning), Some(format));
            beginning.insert(0, 0);
            assert_eq!(foreign_format(&beginning), None, "{format} one byte further");
            beginning.remove(0);
            beginning.pop();
            assert_eq!(foreign_format(&beginning), None, "{format} cut short");
        }
    }

    #[test]
    fn raw_disks_have_no_format() {
        let mut boot_sector = [0; 512];
        boot_sector[510..].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(foreign_format(&boot_sector), None);
        assert_eq!(foreign_format(&[]), None);
    }
}
