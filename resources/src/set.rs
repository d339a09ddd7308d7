//! Sets of ids in the Linux list format (`0-3,8`), with optional brackets.

use crate::ids::{PcpuId, PnodeId, VcpuId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, marker::PhantomData, str::FromStr};

/// Largest id a list may name: far above any kernel's limits, small enough that `0-99999` costs nothing.
pub const MAX_ID: u32 = 99_999;

/// An ordered set of ids of one kind. It is held as ranges, so that it is as small as its text, whatever that names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdSet<T> {
    /// First and last of each; ascending, with a gap before each but the first.
    ranges: Vec<(u32, u32)>,
    kind: PhantomData<T>,
}

/// Host CPUs.
pub type CpuSet = IdSet<PcpuId>;
/// Host nodes.
pub type NodeSet = IdSet<PnodeId>;
/// Guest CPUs.
pub type VcpuSet = IdSet<VcpuId>;

impl<T> Default for IdSet<T> {
    fn default() -> Self {
        Self { ranges: Vec::new(), kind: PhantomData }
    }
}

impl<T: Copy + From<u32> + Into<u32>> IdSet<T> {
    /// The set with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set with one id in it.
    pub fn one(id: T) -> Self {
        Self { ranges: vec![(id.into(), id.into())], kind: PhantomData }
    }

    /// All from `first` to `last`; none when it is reversed.
    pub fn range(first: T, last: T) -> Self {
        let (first, last) = (first.into(), last.into());
        Self { ranges: Vec::from_iter((first <= last).then_some((first, last))), kind: PhantomData }
    }

    /// First and last of each run of neighbours, ascending.
    pub fn runs(&self) -> impl Iterator<Item = (T, T)> + '_ {
        self.ranges.iter().map(|(first, last)| (T::from(*first), T::from(*last)))
    }

    /// A list as somebody typed it: whatever is named twice is a mistake in one of the places.
    pub fn typed(text: &str) -> Result<Self, ParseSetError> {
        Self::from_typed(ranges(text)?)
    }

    fn from_typed(mut ranges: Vec<(u32, u32)>) -> Result<Self, ParseSetError> {
        ranges.sort_unstable();
        let mut pairs = ranges.iter().zip(ranges.iter().skip(1));
        match pairs.find(|(before, next)| next.0 <= before.1) {
            Some((_, (twice, _))) => Err(ParseSetError::Twice(*twice)),
            None => Ok(Self::from_ranges(ranges)),
        }
    }

    /// Puts ranges in order and joins those that touch.
    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self { ranges: joined, kind: PhantomData }
    }

    /// Adds one; false when it was there.
    pub fn insert(&mut self, id: T) -> bool {
        let new = !self.contains(id);
        if new {
            *self = self.union(&Self::one(id));
        }
        new
    }

    /// Whether it is there.
    pub fn contains(&self, id: T) -> bool {
        let id = id.into();
        let after = self.ranges.partition_point(|(_, last)| *last < id);
        self.ranges.get(after).is_some_and(|(first, _)| *first <= id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(first, last)| (last - first) as usize + 1).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The lowest.
    pub fn first(&self) -> Option<T> {
        self.ranges.first().map(|(first, _)| T::from(*first))
    }

    /// The highest.
    pub fn last(&self) -> Option<T> {
        self.ranges.last().map(|(_, last)| T::from(*last))
    }

    /// All, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + Clone + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last).map(T::from)
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        let (mut here, mut there) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let (Some(a), Some(b)) = (here.peek(), there.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                both.push((first, last));
            }
            if a.1 < b.1 {
                here.next();
            } else {
                there.next();
            }
        }
        Self { ranges: both, kind: PhantomData }
    }

    /// Whether any is in both.
    pub fn meets(&self, other: &Self) -> bool {
        let (few, many) = if self.ranges.len() < other.ranges.len() { (self, other) } else { (other, self) };
        few.ranges.iter().any(|(first, last)| {
            let after = many.ranges.partition_point(|(_, end)| end < first);
            many.ranges.get(after).is_some_and(|(start, _)| start <= last)
        })
    }

    /// What is in any of several.
    pub fn of_all<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self
    where
        T: 'a,
    {
        Self::from_ranges(sets.into_iter().flat_map(|set| set.ranges.iter().copied()).collect())
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    /// What is here and not there.
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut cuts = other.ranges.iter().peekable();
        for &(mut first, last) in &self.ranges {
            while cuts.next_if(|cut| cut.1 < first).is_some() {}
            let mut left = true;
            while let Some(&&(cut_first, cut_last)) = cuts.peek().filter(|cut| cut.0 <= last) {
                if first < cut_first {
                    rest.push((first, cut_first - 1));
                }
                if cut_last >= last {
                    left = false;
                    break;
                }
                first = cut_last + 1;
                cuts.next();
            }
            if left {
                rest.push((first, last));
            }
        }
        Self { ranges: rest, kind: PhantomData }
    }
}

impl<T: Copy + From<u32> + Into<u32>> FromIterator<T> for IdSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(ids: I) -> Self {
        Self::from_ranges(ids.into_iter().map(|id| (id.into(), id.into())).collect())
    }
}

impl<T> fmt::Display for IdSet<T> {
    /// The Linux list format: `0-3,8`; nothing for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |&(first, last): &(u32, u32)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        f.pad(&self.ranges.iter().map(range).collect::<Vec<_>>().join(","))
    }
}

/// Why a text is not a list of ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSetError {
    /// Neither a number nor a range of numbers.
    #[error("`{0}` is not a list; write numbers and ranges such as 0-3,8")]
    Syntax(String),
    /// A range whose end is before its start.
    #[error("range {first}-{last} is reversed")]
    Backwards {
        /// Start as written.
        first: u32,
        /// End as written.
        last: u32,
    },
    /// An id past [`MAX_ID`].
    #[error("`{0}` is too large, must be at most {MAX_ID}")]
    TooLarge(String),
    /// An id that is in two parts of a list that was typed.
    #[error("{0} is given twice, must be given once")]
    Twice(u32),
}

impl<T: Copy + From<u32> + Into<u32>> FromStr for IdSet<T> {
    type Err = ParseSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        ranges(text).map(Self::from_ranges)
    }
}

/// The parts of a list, as they are written.
fn ranges(text: &str) -> Result<Vec<(u32, u32)>, ParseSetError> {
    let shown = || text.chars().take(40).collect::<String>();
    let inner = text.trim();
    let inner = match (inner.strip_prefix('['), inner.ends_with(']')) {
        (Some(rest), true) => rest.strip_suffix(']').unwrap_or(rest),
        (None, false) => inner,
        (Some(_), false) | (None, true) => return Err(ParseSetError::Syntax(shown())),
    };
    let mut ranges = Vec::new();
    if inner.trim().is_empty() {
        return Ok(ranges);
    }
    for part in inner.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let wrong = || if part.trim().is_empty() { shown() } else { part.trim().chars().take(40).collect() };
        let id = |text: &str| parse_id(text.trim()).unwrap_or_else(|| Err(ParseSetError::Syntax(wrong())));
        let (first, last) = (id(first)?, id(last)?);
        if last < first {
            return Err(ParseSetError::Backwards { first, last });
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

/// An id; `None` for what is not a number.
fn parse_id(text: &str) -> Option<Result<u32, ParseSetError>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(id),
        _ => Err(ParseSetError::TooLarge(text.chars().take(40).collect())),
    })
}

impl<T> Serialize for IdSet<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Copy + From<u32> + Into<u32>> Deserialize<'de> for IdSet<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Copy + From<u32> + Into<u32>> de::Visitor<'de> for Visitor<T> {
            type Value = IdSet<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, an array of numbers, or a list such as \"0-3,8\"")
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<IdSet<T>, E> {
                match u32::try_from(id) {
                    Ok(id) if id <= MAX_ID => Ok(IdSet::one(T::from(id))),
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
                IdSet::typed(text).map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<IdSet<T>, A::Error> {
                let mut ranges = Vec::new();
                while let Some(part) = seq.next_element::<IdSet<T>>()? {
                    ranges.extend(part.ranges);
                }
                IdSet::from_typed(ranges).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
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
        for (text, shown) in [("-1", "-1"), ("3,1-x", "1-x"), ("1,", "1,"), ("2,0x1", "0x1")] {
            assert_eq!(text.parse::<CpuSet>(), Err(ParseSetError::Syntax(shown.to_owned())));
        }
    }

    #[test]
    fn a_text_that_names_much_costs_little() {
        let text = vec!["0-99999"; 100_000].join(",");
        let set: CpuSet = text.parse().unwrap();
        assert_eq!((set.len(), set.ranges.len()), (100_000, 1));
    }

    #[test]
    fn json_takes_a_number_an_array_and_a_list() {
        assert_eq!(serde_json::from_str::<CpuSet>("3").unwrap(), set(&[3]));
        assert_eq!(serde_json::from_str::<CpuSet>("[0, \"2-3\"]").unwrap(), set(&[0, 2, 3]));
        assert_eq!(serde_json::from_str::<CpuSet>("\"0-1\"").unwrap(), set(&[0, 1]));
        assert!(serde_json::from_str::<CpuSet>("4294967296").is_err());
    }

    #[test]
    fn what_is_typed_names_nothing_twice() {
        let twice = |id| Err(ParseSetError::Twice(id));
        for (text, expected) in [("0-3,2", twice(2)), ("1,0,1", twice(1)), ("4-8,0-4", twice(4))] {
            assert_eq!(CpuSet::typed(text), expected, "{text}");
            assert!(text.parse::<CpuSet>().is_ok(), "what a kernel says counts as it is: {text}");
            let refused = serde_json::from_str::<CpuSet>(&format!("\"{text}\"")).unwrap_err().to_string();
            assert!(refused.contains("is given twice, must be given once"), "{refused}");
        }
        assert_eq!(CpuSet::typed("[0-3,4,6]"), Ok(set(&[0, 1, 2, 3, 4, 6])));
        assert!(serde_json::from_str::<CpuSet>("[0, 1, 1]").is_err());
        assert!(serde_json::from_str::<CpuSet>("[0, \"0-2\"]").is_err());
    }

    proptest! {
        #[test]
        fn operations_agree_with_those_of_plain_sets(
            a in proptest::collection::btree_set(0u32..40, 0..30),
            b in proptest::collection::btree_set(0u32..40, 0..30),
        ) {
            let (left, right): (CpuSet, CpuSet) =
                (a.iter().copied().map(PcpuId).collect(), b.iter().copied().map(PcpuId).collect());
            let plain = |set: CpuSet| set.iter().map(|id| id.0).collect::<Vec<_>>();
            assert_eq!(plain(left.union(&right)), a.union(&b).copied().collect::<Vec<_>>());
            assert_eq!(plain(left.intersection(&right)), a.intersection(&b).copied().collect::<Vec<_>>());
            assert_eq!(plain(left.difference(&right)), a.difference(&b).copied().collect::<Vec<_>>());
            assert_eq!(left.difference(&right).union(&left.intersection(&right)), left);
            assert_eq!((left.len(), left.is_empty()), (a.len(), a.is_empty()));
            assert_eq!((left.meets(&right), right.meets(&left)), (!a.is_disjoint(&b), !a.is_disjoint(&b)));
            assert_eq!(CpuSet::of_all([&left, &right, &left]), left.union(&right));
            assert_eq!(left.first().map(|id| id.0), a.first().copied());
            assert_eq!(left.last().map(|id| id.0), a.last().copied());
            for id in 0..41 {
                assert_eq!(left.contains(PcpuId(id)), a.contains(&id));
            }
        }

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
