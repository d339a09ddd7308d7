//! SLIT, the relative distances between localities (ACPI 6.5, 5.2.17).
//! Completing partial distances is for others; here every pair has one.

use crate::error::Error;
use crate::platform::{MAX_PROXIMITY_DOMAINS, ProximityDomain};
use crate::tables::encode;

const SIGNATURE: [u8; 4] = *b"SLIT";
/// ACPI 6.5, 5.2.17.
const REVISION: u8 = 1;

/// Distances between all pairs of localities, which are the proximity domains 0 to n - 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Localities {
    count: u32,
    /// Row by row: from, then to.
    distances: Vec<u8>,
}

impl Localities {
    /// A locality's distance to itself (ACPI 6.5, 5.2.17).
    pub const LOCAL: u8 = 10;
    /// There is no way from one to the other (ACPI 6.5, 5.2.17).
    pub const UNREACHABLE: u8 = 255;

    /// Takes a square matrix, row by row: `rows[from][to]`. 10 on the diagonal, 11 to 255 elsewhere: Linux throws
    /// the whole table away for a remote distance of 10 or less.
    pub fn new(rows: &[Vec<u8>]) -> Result<Localities, Error> {
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        if count == 0 || count > MAX_PROXIMITY_DOMAINS {
            return Err(Error::LocalityCount { count: rows.len() });
        }
        let mut distances = Vec::with_capacity(rows.len() * rows.len());
        for (from, row) in rows.iter().enumerate() {
            if row.len() != rows.len() {
                return Err(Error::LocalityRowLength { row: from, length: row.len(), expected: rows.len() });
            }
            for (to, &distance) in row.iter().enumerate() {
                if (distance == Self::LOCAL) != (from == to) || distance < Self::LOCAL {
                    return Err(Error::LocalityDistance { from, to, distance });
                }
            }
            distances.extend_from_slice(row);
        }
        Ok(Localities { count, distances })
    }

    /// How many localities there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The distance, or `None` if either is not a locality of this matrix.
    pub fn distance(&self, from: ProximityDomain, to: ProximityDomain) -> Option<u8> {
        if from.0 >= self.count || to.0 >= self.count {
            return None;
        }
        let index = u64::from(from.0) * u64::from(self.count) + u64::from(to.0);
        self.distances.get(usize::try_from(index).ok()?).copied()
    }
}

/// The table, or `None` with a single locality: there is nothing to tell then.
pub(crate) fn build(localities: &Localities) -> Result<Option<Vec<u8>>, Error> {
    if localities.count < 2 {
        return Ok(None);
    }
    let mut body = u64::from(localities.count).to_le_bytes().to_vec();
    body.extend_from_slice(&localities.distances);
    encode(SIGNATURE, REVISION, &body).map(Some)
}
