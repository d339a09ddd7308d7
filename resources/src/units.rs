//! Sizes with their unit. Addresses are in `memory_map`.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};

/// An amount of memory in bytes. Text form: a number with an optional `K`, `M`, `G` or `T`, powers of 1024; `KiB`, `MiB`,
/// `GiB` and `TiB` are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No memory.
    pub const ZERO: Self = Self(0);

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is a whole multiple of `unit`.
    pub const fn is_multiple_of(self, unit: Self) -> bool {
        self.0.is_multiple_of(unit.0)
    }

    /// The sum, or `None` past 2^64.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, not below zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, stopping at 2^64 - 1.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// For people: at most one decimal, in the largest unit that keeps the number above 1 (`1.5G`).
    pub fn human(self) -> String {
        let unit = UNITS.into_iter().find(|&(_, shift)| self.0 >> shift > 0);
        unit.map_or_else(|| self.0.to_string(), |unit| self.tenths(unit))
    }

    /// For people: in the unit that `other` is displayed in, so that the two can be compared at a glance.
    pub fn human_beside(self, other: Self) -> String {
        let unit = UNITS.into_iter().find(|&(_, shift)| other.0 != 0 && other.0.is_multiple_of(1 << shift));
        unit.filter(|&(_, shift)| self.0 >> shift > 0).map_or_else(|| self.human(), |unit| self.tenths(unit))
    }

    /// At most one decimal, rounded down.
    fn tenths(self, (unit, shift): (&str, u32)) -> String {
        let whole = self.0 >> shift;
        let tenth = ((self.0 >> (shift - 10)) & 1023) * 10 / 1024;
        if tenth == 0 { format!("{whole}{unit}") } else { format!("{whole}.{tenth}{unit}") }
    }
}

/// Largest first: name and power of two.
const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

impl fmt::Display for Bytes {
    /// The exact amount in the largest unit that divides it (`512M`, `1025K`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return f.pad(&format!("{}{unit}", self.0 >> shift));
            }
        }
        f.pad(&self.0.to_string())
    }
}

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// Not a number followed by at most one unit.
    #[error("`{0}` is not a size; write a whole number with an optional K, M, G or T, such as 512M")]
    Syntax(String),
    /// A size, but past 2^64 bytes.
    #[error("`{0}` does not fit in 64 bits")]
    TooLarge(String),
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `MiB` says no more than `M`; `MB` says less, as it may be a power of 1000.
        let short = match text.strip_suffix("iB") {
            Some(short) if short.ends_with(['K', 'M', 'G', 'T']) => short,
            Some(_) | None => text,
        };
        let (digits, shift) = match short.as_bytes().last() {
            Some(b'K' | b'k') => (&short[..short.len() - 1], 10),
            Some(b'M' | b'm') => (&short[..short.len() - 1], 20),
            Some(b'G' | b'g') => (&short[..short.len() - 1], 30),
            Some(b'T' | b't') => (&short[..short.len() - 1], 40),
            _ => (short, 0),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseBytesError::Syntax(text.chars().take(40).collect()));
        }
        let too_large = || ParseBytesError::TooLarge(text.chars().take(40).collect());
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(too_large)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or a size such as \"512M\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Bytes, E> {
                Ok(Bytes(n))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Bytes, E> {
                u64::try_from(n).map(Bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;
    use proptest::prelude::{any, proptest};

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!("512M".parse(), Ok(Bytes::mib(512)));
        assert_eq!("2g".parse(), Ok(Bytes::gib(2)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
        for (long, short) in [("1KiB", "1K"), ("512MiB", "512M"), ("2GiB", "2G"), ("3TiB", "3T")] {
            assert_eq!(long.parse::<Bytes>(), short.parse::<Bytes>());
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "+1",
            "1.5G",
            "1MB",
            "1iB",
            "MiB",
            "1mib",
            "0x10",
            " 1",
            "1 M",
            "99999999999999999999",
            "16777216T",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn json_takes_numbers_and_texts() {
        assert_eq!(serde_json::from_str::<Bytes>("1024").unwrap(), Bytes(1024));
        assert_eq!(serde_json::from_str::<Bytes>("\"1K\"").unwrap(), Bytes(1024));
        assert!(serde_json::from_str::<Bytes>("-1").is_err());
        assert!(serde_json::from_str::<Bytes>("1.5").is_err());
    }

    #[test]
    fn people_see_short_numbers() {
        assert_eq!(Bytes(1536 << 20).human(), "1.5G");
        assert_eq!(Bytes(512 << 20).human(), "512M");
        assert_eq!(Bytes(100).human(), "100");
        assert_eq!(Bytes((2764 << 20) + 4096).human_beside(Bytes::mib(3086)), "2764M");
        assert_eq!(Bytes::mib(2560).human_beside(Bytes::gib(3)), "2.5G");
        assert_eq!(Bytes(0).human_beside(Bytes::gib(3)), "0");
    }

    proptest! {
        #[test]
        fn display_reads_back(n in any::<u64>()) {
            assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
        }
    }
}
