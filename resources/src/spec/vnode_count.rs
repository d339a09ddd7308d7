//! The number of vnodes to create: a number, or `auto`. `placement` resolves `auto`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// The number of vnodes to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VnodeCount {
    /// A fixed number.
    Exactly(u32),
    /// As many as the VM needs pnodes.
    Auto,
}

impl From<u32> for VnodeCount {
    fn from(count: u32) -> Self {
        Self::Exactly(count)
    }
}

impl fmt::Display for VnodeCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => count.fmt(f),
            Self::Auto => f.pad("auto"),
        }
    }
}

impl Serialize for VnodeCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exactly(count) => serializer.serialize_u32(*count),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for VnodeCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = VnodeCount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of vnodes or \"auto\"")
            }
            fn visit_u64<E: de::Error>(self, count: u64) -> Result<VnodeCount, E> {
                let count = u32::try_from(count);
                count.map(VnodeCount::Exactly).map_err(|_| E::custom("too many vnodes"))
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<VnodeCount, E> {
                match word {
                    "auto" => Ok(VnodeCount::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
