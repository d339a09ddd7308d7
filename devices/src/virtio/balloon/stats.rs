//! What a guest says of its own memory (virtio 1.3, 5.5.6.3). Nothing here is believed for placement.

use std::collections::BTreeMap;

/// Bytes of one entry: a 16-bit tag and a 64-bit value.
const ENTRY_BYTES: usize = 10;
/// Most entries that are looked at; the specification and Linux 6.12 have 16 tags.
pub(super) const MAX_ENTRIES: usize = 64;
/// Bytes that hold them.
pub(super) const MAX_BYTES: usize = ENTRY_BYTES * MAX_ENTRIES;

/// Names of the tags (virtio 1.3, 5.5.6.4; from 10 on `linux/virtio_balloon.h` of 6.12).
const NAMES: [&str; 16] = [
    "swap-in",
    "swap-out",
    "major-faults",
    "minor-faults",
    "free-memory",
    "total-memory",
    "available-memory",
    "disk-caches",
    "hugetlb-allocations",
    "hugetlb-failures",
    "oom-kills",
    "alloc-stalls",
    "async-scans",
    "direct-scans",
    "async-reclaims",
    "direct-reclaims",
];

/// The last figures that the guest gave, by tag.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestStats {
    /// Every value by its tag, those without a name too.
    pub values: BTreeMap<u16, u64>,
}

impl GuestStats {
    /// Reads what the driver wrote; of a tag given twice the last value counts.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut values = BTreeMap::new();
        for entry in bytes.chunks_exact(ENTRY_BYTES).take(MAX_ENTRIES) {
            if let Some((tag, value)) = entry.split_first_chunk::<2>()
                && let Some(value) = value.first_chunk::<8>()
            {
                values.insert(u16::from_le_bytes(*tag), u64::from_le_bytes(*value));
            }
        }
        Self { values }
    }

    /// All values by name, or by the tag's number where it has none.
    pub fn all(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.values.iter().map(|(tag, value)| {
            let name =
                NAMES.get(usize::from(*tag)).map_or_else(|| tag.to_string(), |name| (*name).to_owned());
            (name, *value)
        })
    }

    /// The values whose tags have names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.values.iter().filter_map(|(tag, value)| Some((*NAMES.get(usize::from(*tag))?, *value)))
    }
}
