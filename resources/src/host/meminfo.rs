//! `meminfo` of a node, or of a machine without NUMA in `/proc`. `host` decides how much of it is available.

use crate::host::HostError;
use crate::host::files::refused;
use crate::units::Bytes;
use std::path::Path;

/// The lines that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meminfo {
    /// `MemTotal`.
    pub total: Bytes,
    /// `MemFree`.
    pub free: Bytes,
    active_file: Bytes,
    inactive_file: Bytes,
    slab_reclaimable: Bytes,
}

impl Meminfo {
    /// Out of the text of the file at `path`.
    pub fn of(path: &Path, text: &str) -> Result<Self, HostError> {
        let mut found = Self::default();
        let (mut has_total, mut has_free) = (false, false);
        for line in text.lines() {
            // `Node 0 MemTotal:        4679456 kB`, or without a node.
            let Some((key, amount)) = line.split_once(':') else { continue };
            let field = match key.split_whitespace().last() {
                Some("MemTotal") => {
                    has_total = true;
                    &mut found.total
                }
                Some("MemFree") => {
                    has_free = true;
                    &mut found.free
                }
                Some("Active(file)") => &mut found.active_file,
                Some("Inactive(file)") => &mut found.inactive_file,
                Some("SReclaimable") => &mut found.slab_reclaimable,
                Some(_) | None => continue,
            };
            let kib = amount.trim().strip_suffix("kB").and_then(|n| n.trim().parse::<u64>().ok());
            let bytes = kib.and_then(|kib| kib.checked_mul(1024)).map(Bytes);
            *field = bytes.ok_or_else(|| refused(path, line.trim(), "is not a number of kB"))?;
        }
        match (has_total, has_free) {
            (true, true) => Ok(found),
            (true, false) | (false, true) | (false, false) => {
                Err(refused(path, "the file", "must have lines MemTotal and MemFree"))
            }
        }
    }

    /// What the kernel gives up when asked for more.
    pub fn reclaimable(&self) -> Bytes {
        let cache = self.active_file.saturating_add(self.inactive_file);
        cache.saturating_add(Bytes(self.slab_reclaimable.get() / 2))
    }
}
