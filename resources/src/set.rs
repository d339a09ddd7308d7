//! Sets of ids in the Linux list format (`0-3,8`), brackets allowed around it.

use crate::ids::{PcpuId, PnodeId, VcpuId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Largest id a list may name: far above any kernel's limits, small enough that `0-99999` costs nothing.
pub const MAX_ID: u32 = 99_999;

/// An ordered set of ids of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdSet<T>(BTreeSet<T>);

/// Host CPUs.
pub type CpuSet = IdSet<PcpuId>;
/// Host nodes.
pub type NodeSet = IdSet<PnodeId>;
/// Guest CPUs.
pub type VcpuSet = IdSet<VcpuId>;

impl<T> Default for IdSet<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Copy + Ord> IdSet<T> {
    /// The set with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; false when it was there.
    pub fn insert(&mut self, id: T) -> bool {
        self.0.insert(id)
    }

    /// Takes one out; false when it was not there.
    pub fn remove(&mut self, id: T) -> bool {
        self.0.remove(&id)
    }

    /// Whether it is there.
    pub fn contains(&self, id: T) -> bool {
        self.0.contains(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest.
    pub fn first(&self) -> Option<T> {
        self.0.first().copied()
    }

    /// The highest.
    pub fn last(&self) -> Option<T> {
        self.0.last().copied()
    }

    /// All, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + '_ {
        self.0.iter().copied()
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// What is here and not there.
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl<T: Copy + Ord> FromIterator<T> for IdSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl<T: Copy + Ord + Into<u32>> fmt::Display for IdSet<T> {
    /// The Linux list format: `0-3,8`; nothing for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        let mut ids = self.iter().map(Into::<u32>::into).peekable();
        while let Some(first) = ids.next() {
            let mut last = first;
            while ids.peek().is_some_and(|next| last.checked_add(1) == Some(*next)) {
                last = ids.next().unwrap_or(last);
            }
            if !out.is_empty() {
                out.push(',');
            }
            out.push_str(&if first == last { first.to_string() } else { format!("{first}-{last}") });
        }
        f.pad(&out)
    }
}

/// Why a text is not a list of ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSetError {
    /// Neither a number nor a range of numbers.
    #[error("`{0}` is not a list; write numbers and ranges such as 0-3,8")]
    Syntax(String),
    /// A range whose end lies before its start.
    #[error("range {first}-{last} runs backwards")]
    Backwards {
        /// Start as written.
        first: u32,
        /// End as written.
        last: u32,
    },
    /// An id past [`MAX_ID`].
    #[error("`{0}` is past the largest id, {MAX_ID}")]
    TooLarge(String),
}

impl<T: Copy + Ord + From<u32>> FromStr for IdSet<T> {
    type Err = ParseSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(40).collect::<String>();
        let inner = text.trim();
        let inner = match (inner.strip_prefix('['), inner.ends_with(']')) {
            (Some(rest), true) => rest.strip_suffix(']').unwrap_or(rest),
            (None, false) => inner,
            (Some(_), false) | (None, true) => return Err(ParseSetError::Syntax(shown())),
        };
        let mut ids = BTreeSet::new();
        if inner.trim().is_empty() {
            return Ok(Self(ids));
        }
        for part in inner.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_id(first.trim())?, parse_id(last.trim())?);
            if last < first {
                return Err(ParseSetError::Backwards { first, last });
            }
            ids.extend((first..=last).map(T::from));
        }
        Ok(Self(ids))
    }
}

fn parse_id(text: &str) -> Result<u32, ParseSetError> {
    let shown = || text.chars().take(40).collect::<String>();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseSetError::Syntax(shown()));
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(id),
        _ => Err(ParseSetError::TooLarge(shown())),
    }
}

impl<T: Copy + Ord + Into<u32>> Serialize for IdSet<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Copy + Ord + From<u32>> Deserialize<'de> for IdSet<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Copy + Ord + From<u32>> de::Visitor<'de> for Visitor<T> {
            type Value = IdSet<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, an array of numbers, or a list such as \"0-3,8\"")
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<IdSet<T>, E> {
                match u32::try_from(id) {
                    Ok(id) if id <= MAX_ID => Ok(IdSet(BTreeSet::from([T::from(id)]))),
                    _ => Err(E::custom(ParseSetError::TooLarge(id.to_string()))),
                }
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<IdSet<T>, E> {
                match u64::try_from(id) {
                    Ok(id) => self.visit_u64(id),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(id), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<IdSet<T>, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<IdSet<T>, A::Error> {
                let mut all = BTreeSet::new();
                while let Some(part) = seq.next_element::<IdSet<T>>()? {
                    all.extend(part.0);
                }
                Ok(IdSet(all))
            }
        }
        deserializer.deserialize_any(Visitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuSet, IdSet, ParseSetError};
    use crate::ids::PcpuId;
    use proptest::prelude::{any, proptest};

    fn set(ids: &[u32]) -> CpuSet {
        ids.iter().copied().map(PcpuId).collect()
    }

    #[test]
    fn lists_and_ranges_are_read_with_or_without_brackets() {
        assert_eq!("0-3,8".parse(), Ok(set(&[0, 1, 2, 3, 8])));
        assert_eq!("[0-1]".parse(), Ok(set(&[0, 1])));
        assert_eq!("".parse(), Ok(set(&[])));
        assert_eq!("[]".parse(), Ok(set(&[])));
        assert_eq!("7\n".parse(), Ok(set(&[7])));
    }

    #[test]
    fn bad_lists_are_refused_with_the_reason() {
        assert_eq!("3-1".parse::<CpuSet>(), Err(ParseSetError::Backwards { first: 3, last: 1 }));
        assert_eq!("0-4294967295".parse::<CpuSet>(), Err(ParseSetError::TooLarge("4294967295".into())));
        for text in ["a", "1,", ",", "1--2", "[1", "1]", "-1", "1-", "0x1"] {
            assert!(matches!(text.parse::<CpuSet>(), Err(ParseSetError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn json_takes_a_number_an_array_and_a_list() {
        assert_eq!(serde_json::from_str::<CpuSet>("3").unwrap(), set(&[3]));
        assert_eq!(serde_json::from_str::<CpuSet>("[0, \"2-3\"]").unwrap(), set(&[0, 2, 3]));
        assert_eq!(serde_json::from_str::<CpuSet>("\"0-1\"").unwrap(), set(&[0, 1]));
        assert!(serde_json::from_str::<CpuSet>("4294967296").is_err());
    }

    proptest! {
        #[test]
        fn display_reads_back(ids in proptest::collection::btree_set(0u32..200, 0..60)) {
            let set: CpuSet = ids.into_iter().map(PcpuId).collect();
            assert_eq!(set.to_string().parse::<CpuSet>(), Ok(set));
        }

        #[test]
        fn any_text_is_an_answer_not_a_panic(text in any::<String>()) {
            let _ = text.parse::<IdSet<PcpuId>>();
        }
    }
}
