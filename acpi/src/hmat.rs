//! HMAT, latencies, bandwidths and memory-side caches (ACPI 6.5, 5.2.29).
//! Where the figures come from, measured or given, is for others.

use crate::error::Error;
use crate::platform::ProximityDomain;
use crate::tables::encode;

const SIGNATURE: [u8; 4] = *b"HMAT";
/// Latencies count picoseconds from this revision on (ACPI 6.5, 5.2.29 and 5.2.29.4).
const REVISION: u8 = 2;

/// Memory proximity domain attributes (ACPI 6.5, 5.2.29.3).
const TYPE_ATTRIBUTES: u16 = 0;
const LENGTH_ATTRIBUTES: u32 = 40;
/// The processor proximity domain field is valid.
const FLAG_INITIATOR_VALID: u16 = 1;
/// System locality latency and bandwidth information (ACPI 6.5, 5.2.29.4): length without lists and entries.
const TYPE_LOCALITY: u16 = 1;
const LENGTH_LOCALITY: usize = 32;
/// Memory side cache information (ACPI 6.5, 5.2.29.5): length without SMBIOS handles.
const TYPE_CACHE: u16 = 2;
const LENGTH_CACHE: u32 = 32;

/// What an entry says when nothing is known, when there is no way, and the largest value (ACPI 6.5, 5.2.29.4).
const ENTRY_NOT_PROVIDED: u16 = 0;
const ENTRY_UNREACHABLE: u16 = 0xffff;
const ENTRY_MAX: u16 = 0xfffe;

/// Flags of the locality structure: the figures are of memory itself, not of a cache (ACPI 6.5, 5.2.29.4).
const HIERARCHY_MEMORY: u8 = 0;

/// Levels, this level and so on take four bits in the cache attributes (ACPI 6.5, 5.2.29.5).
const CACHE_LEVEL_MAX: u8 = 3;

/// What one initiator gets from one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Performance {
    /// Nothing is said.
    NotProvided,
    /// The initiator cannot reach the target.
    Unreachable,
    /// Picoseconds or MB/s, by the matrix' kind; not 0.
    Value(u64),
}

/// What the figures of a matrix are; latencies are in picoseconds, bandwidths in MB/s (ACPI 6.5, 5.2.29.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PerformanceKind {
    /// Where reading and writing are the same.
    AccessLatency,
    /// Reading alone.
    ReadLatency,
    /// Writing alone.
    WriteLatency,
    /// Where reading and writing are the same.
    AccessBandwidth,
    /// Reading alone.
    ReadBandwidth,
    /// Writing alone.
    WriteBandwidth,
}

impl PerformanceKind {
    /// Data type (ACPI 6.5, 5.2.29.4).
    fn code(self) -> u8 {
        match self {
            PerformanceKind::AccessLatency => 0,
            PerformanceKind::ReadLatency => 1,
            PerformanceKind::WriteLatency => 2,
            PerformanceKind::AccessBandwidth => 3,
            PerformanceKind::ReadBandwidth => 4,
            PerformanceKind::WriteBandwidth => 5,
        }
    }
}

/// Figures of one kind for every initiator and every target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerformanceMatrix {
    /// What they are.
    pub kind: PerformanceKind,
    /// `rows[initiator][target]`, in the order of the lists in [`MemoryPerformance`].
    pub rows: Vec<Vec<Performance>>,
}

/// A domain that has memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryAttachment {
    /// Where the memory is.
    pub memory: ProximityDomain,
    /// The domain whose processors the memory is attached to: usually the same one; none if it is nobody's.
    pub initiator: Option<ProximityDomain>,
}

/// How a cache finds its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Associativity {
    /// Not told.
    Unknown,
    /// One place per line.
    DirectMapped,
    /// Anything else.
    Complex,
}

/// What a cache does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePolicy {
    /// Not told.
    Unknown,
    /// Write back.
    WriteBack,
    /// Write through.
    WriteThrough,
}

/// A cache in front of a domain's memory (ACPI 6.5, 5.2.29.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySideCache {
    /// Whose memory.
    pub memory: ProximityDomain,
    /// Bytes.
    pub size: u64,
    /// How many caches are in front of that memory, 1 to 3.
    pub levels: u8,
    /// Which of them this is, 1 to `levels`.
    pub level: u8,
    /// How it finds its lines.
    pub associativity: Associativity,
    /// What it does with a write.
    pub write_policy: WritePolicy,
    /// Bytes.
    pub line_size: u16,
}

/// All that HMAT tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPerformance {
    /// Domains with memory, each at most once.
    pub attachments: Vec<MemoryAttachment>,
    /// Domains with processors, the rows of every matrix.
    pub initiators: Vec<ProximityDomain>,
    /// Domains with memory, the columns of every matrix.
    pub targets: Vec<ProximityDomain>,
    /// Each kind at most once.
    pub matrices: Vec<PerformanceMatrix>,
    /// Caches in front of memory.
    pub caches: Vec<MemorySideCache>,
}

pub(crate) fn build(performance: &MemoryPerformance) -> Result<Vec<u8>, Error> {
    let mut body = vec![0; 4];
    for attachment in &performance.attachments {
        push_attachment(&mut body, attachment);
    }
    for matrix in &performance.matrices {
        push_matrix(&mut body, performance, matrix)?;
    }
    for cache in &performance.caches {
        push_cache(&mut body, cache);
    }
    encode(SIGNATURE, REVISION, &body)
}

fn push_attachment(body: &mut Vec<u8>, attachment: &MemoryAttachment) {
    let (flags, initiator) = match attachment.initiator {
        Some(initiator) => (FLAG_INITIATOR_VALID, initiator.0),
        None => (0, 0),
    };
    push_head(body, TYPE_ATTRIBUTES, LENGTH_ATTRIBUTES);
    body.extend_from_slice(&flags.to_le_bytes());
    body.extend_from_slice(&[0; 2]);
    body.extend_from_slice(&initiator.to_le_bytes());
    body.extend_from_slice(&attachment.memory.0.to_le_bytes());
    body.extend_from_slice(&[0; 20]);
}

fn push_matrix(
    body: &mut Vec<u8>,
    performance: &MemoryPerformance,
    matrix: &PerformanceMatrix,
) -> Result<(), Error> {
    let (initiators, targets) = (&performance.initiators, &performance.targets);
    let too_long = || Error::TableTooLong { signature: "HMAT".into(), length: usize::MAX };
    let length =
        LENGTH_LOCALITY + 4 * (initiators.len() + targets.len()) + 2 * initiators.len() * targets.len();
    let length = u32::try_from(length).map_err(|_| too_long())?;
    let entries = || matrix.rows.iter().flatten().copied();
    let unit = base_unit(entries());
    push_head(body, TYPE_LOCALITY, length);
    body.extend_from_slice(&[HIERARCHY_MEMORY, matrix.kind.code(), 0, 0]); // no minimum transfer size
    for list in [initiators, targets] {
        body.extend_from_slice(&u32::try_from(list.len()).map_err(|_| too_long())?.to_le_bytes());
    }
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&unit.to_le_bytes());
    for domain in initiators.iter().chain(targets) {
        body.extend_from_slice(&domain.0.to_le_bytes());
    }
    for entry in entries() {
        body.extend_from_slice(&encode_entry(entry, unit).to_le_bytes());
    }
    Ok(())
}

fn push_cache(body: &mut Vec<u8>, cache: &MemorySideCache) {
    let associativity = match cache.associativity {
        Associativity::Unknown => 0,
        Associativity::DirectMapped => 1,
        Associativity::Complex => 2,
    };
    let write_policy = match cache.write_policy {
        WritePolicy::Unknown => 0,
        WritePolicy::WriteBack => 1,
        WritePolicy::WriteThrough => 2,
    };
    let attributes = u32::from(cache.levels)
        | u32::from(cache.level) << 4
        | associativity << 8
        | write_policy << 12
        | u32::from(cache.line_size) << 16;
    push_head(body, TYPE_CACHE, LENGTH_CACHE);
    body.extend_from_slice(&cache.memory.0.to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&cache.size.to_le_bytes());
    body.extend_from_slice(&attributes.to_le_bytes());
    body.extend_from_slice(&[0; 4]); // reserved, no SMBIOS handles
}

fn push_head(body: &mut Vec<u8>, kind: u16, length: u32) {
    body.extend_from_slice(&kind.to_le_bytes());
    body.extend_from_slice(&[0; 2]);
    body.extend_from_slice(&length.to_le_bytes());
}

/// The least power of ten by which the largest value, divided and rounded, fits an entry: no other power of ten
/// loses less, and figures given in round nanoseconds or GB/s stay exact longest.
fn base_unit(entries: impl Iterator<Item = Performance>) -> u64 {
    let largest = entries.filter_map(value).max().unwrap_or(0);
    let mut unit: u64 = 1;
    while divide_rounded(largest, unit) > u64::from(ENTRY_MAX) {
        let Some(next) = unit.checked_mul(10) else { break };
        unit = next;
    }
    unit
}

fn value(entry: Performance) -> Option<u64> {
    match entry {
        Performance::NotProvided | Performance::Unreachable => None,
        Performance::Value(value) => Some(value),
    }
}

/// Rounded to the nearest; never to one of the two entries that mean something else.
fn encode_entry(entry: Performance, unit: u64) -> u16 {
    match entry {
        Performance::NotProvided => ENTRY_NOT_PROVIDED,
        Performance::Unreachable => ENTRY_UNREACHABLE,
        Performance::Value(value) => {
            u16::try_from(divide_rounded(value, unit)).unwrap_or(ENTRY_MAX).clamp(1, ENTRY_MAX)
        }
    }
}

fn divide_rounded(value: u64, unit: u64) -> u64 {
    let rest = value % unit;
    value / unit + u64::from(rest != 0 && rest >= unit - rest)
}

/// Refuses what cannot be told. `processors` and `memory` say which domains have any.
pub(crate) fn check(
    performance: &MemoryPerformance,
    processors: impl Fn(ProximityDomain) -> bool,
    memory: impl Fn(ProximityDomain) -> bool,
) -> Result<(), Error> {
    let attached = performance.attachments.iter().map(|attachment| attachment.memory);
    let attaching = performance.attachments.iter().filter_map(|attachment| attachment.initiator);
    let cached = performance.caches.iter().map(|cache| cache.memory);
    for domain in performance.initiators.iter().copied().chain(attaching) {
        if !processors(domain) {
            return Err(Error::HmatInitiator { domain });
        }
    }
    for domain in performance.targets.iter().copied().chain(attached.clone()).chain(cached) {
        if !memory(domain) {
            return Err(Error::HmatTarget { domain });
        }
    }
    check_unique("attachments", attached.collect())?;
    check_unique("initiators", performance.initiators.clone())?;
    check_unique("targets", performance.targets.clone())?;
    for (index, matrix) in performance.matrices.iter().enumerate() {
        if performance.matrices[..index].iter().any(|earlier| earlier.kind == matrix.kind) {
            return Err(Error::HmatKindTwice { kind: matrix.kind });
        }
        check_matrix(performance, matrix)?;
    }
    for (index, cache) in performance.caches.iter().enumerate() {
        if !(1..=CACHE_LEVEL_MAX).contains(&cache.levels) || !(1..=cache.levels).contains(&cache.level) {
            return Err(Error::HmatCacheLevel { index, level: cache.level, levels: cache.levels });
        }
    }
    Ok(())
}

fn check_unique(list: &'static str, mut domains: Vec<ProximityDomain>) -> Result<(), Error> {
    domains.sort_unstable();
    match domains.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::HmatDomainTwice { list, domain: pair[0] }),
        None => Ok(()),
    }
}

fn check_matrix(performance: &MemoryPerformance, matrix: &PerformanceMatrix) -> Result<(), Error> {
    let (rows, columns) = (performance.initiators.len(), performance.targets.len());
    let square = matrix.rows.len() == rows && matrix.rows.iter().all(|row| row.len() == columns);
    if rows == 0 || columns == 0 || !square {
        return Err(Error::HmatMatrixSize { kind: matrix.kind, rows, columns });
    }
    if matrix.rows.iter().flatten().any(|&entry| entry == Performance::Value(0)) {
        return Err(Error::HmatZero { kind: matrix.kind });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_of(largest: u64) -> u64 {
        base_unit([Performance::Value(1), Performance::Value(largest), Performance::Unreachable].into_iter())
    }

    #[test]
    fn base_unit_is_the_least_power_of_ten_that_fits() {
        assert_eq!(unit_of(1), 1);
        assert_eq!(unit_of(65_534), 1);
        assert_eq!(unit_of(65_535), 10);
        assert_eq!(unit_of(655_344), 10);
        assert_eq!(unit_of(655_345), 100, "655345 / 10 rounds up to 65535, which means unreachable");
        assert_eq!(unit_of(u64::MAX), 1_000_000_000_000_000);
        assert_eq!(base_unit([Performance::NotProvided, Performance::Unreachable].into_iter()), 1);
    }

    #[test]
    fn a_value_never_becomes_an_entry_that_means_something_else() {
        assert_eq!(encode_entry(Performance::Value(1), 1_000_000), 1);
        assert_eq!(encode_entry(Performance::Value(u64::MAX), 1), 0xfffe);
        assert_eq!(encode_entry(Performance::NotProvided, 1), 0);
        assert_eq!(encode_entry(Performance::Unreachable, 1), 0xffff);
    }

    #[test]
    fn division_rounds_half_up() {
        let rounded: Vec<u64> = [14, 15, 16, 20, 24, 25].map(|value| divide_rounded(value, 10)).to_vec();
        assert_eq!(rounded, [1, 2, 2, 2, 2, 3]);
        assert_eq!(divide_rounded(u64::MAX, 1), u64::MAX);
    }
}
