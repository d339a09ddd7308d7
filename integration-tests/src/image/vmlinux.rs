//! Takes the ELF kernel out of a bzImage: what a PVH boot is tested with.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const SETUP_SECTORS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Each block of the legacy frame holds at most this much when unpacked.
const LZ4_BLOCK: usize = 8 << 20;

/// The ELF file that `bzimage` carries compressed. Offsets as in `Documentation/arch/x86/boot.rst`.
pub(crate) fn extract(bzimage: &[u8]) -> Result<Vec<u8>> {
    ensure!(bzimage.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS"), "not a bzImage: no HdrS");
    let sectors = match bzimage[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(bzimage, PAYLOAD_OFFSET)?;
    // The payload ends with its unpacked length, which the decompressors do not know.
    let end = start + word(bzimage, PAYLOAD_LENGTH)? - 4;
    let payload = bzimage.get(start..end).context("the payload reaches past the end of the bzImage")?;
    let elf = unpack(payload)?;
    ensure!(elf.starts_with(b"\x7fELF"), "the bzImage's payload is no ELF file");
    Ok(elf)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => unpack_lz4(payload),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => unpack_with("zstd", payload),
        [0xfd, b'7', b'z', ..] => unpack_with("xz", payload),
        [0x1f, 0x8b, ..] => unpack_with("gzip", payload),
        _ => bail!(
            "the kernel is compressed in a way this tool does not know: {:02x?}",
            &payload[..4.min(payload.len())]
        ),
    }
}

fn unpack_lz4(payload: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    let mut at = LZ4_LEGACY.len();
    while at + 4 <= payload.len() {
        let length = word(payload, at)?;
        let block = payload.get(at + 4..at + 4 + length).context("an LZ4 block reaches past the end")?;
        let mut bytes = vec![0; LZ4_BLOCK];
        let count = lz4_flex::block::decompress_into(block, &mut bytes)?;
        unpacked.extend_from_slice(&bytes[..count]);
        at += 4 + length;
    }
    Ok(unpacked)
}

fn unpack_with(tool: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let mut input = tempfile::NamedTempFile::new()?;
    input.write_all(payload)?;
    let output = Command::new(tool)
        .arg("-dc")
        .stdin(Stdio::from(input.reopen()?))
        .output()
        .with_context(|| format!("running {tool}"))?;
    // What follows the packed data makes some tools complain; the ELF check decides.
    Ok(output.stdout)
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..at + 4).context("the file is too short")?;
    Ok(u32::from_le_bytes(word.try_into()?) as usize)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_without_the_boot_header_is_refused() {
        assert!(super::extract(&[0; 4096]).is_err());
    }
}
