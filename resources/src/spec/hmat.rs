//! What is typed of HMAT beyond a vnode's own figures: pairs of vnodes, and caches in front of memory. What it means
//! is `topology`'s business.

use super::UnknownWord;
use crate::units::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};

/// Latency and bandwidth of one pair as typed. `latency` stands for reads and writes alike, and so for both
/// `read_latency` and `write_latency`; `bandwidth` likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AttributeSpec {
    /// The vnode whose vCPUs ask.
    pub initiator: u32,
    /// The vnode whose memory answers.
    pub target: u32,
    /// Nanoseconds of any access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<u32>,
    /// Nanoseconds of a read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_latency: Option<u32>,
    /// Nanoseconds of a write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_latency: Option<u32>,
    /// Bytes per second of any access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
    /// Bytes per second of reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bandwidth: Option<Bytes>,
    /// Bytes per second of writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bandwidth: Option<Bytes>,
}

impl AttributeSpec {
    /// A pair of which nothing was said yet.
    pub fn new(initiator: u32, target: u32) -> Self {
        Self {
            initiator,
            target,
            latency: None,
            read_latency: None,
            write_latency: None,
            bandwidth: None,
            read_bandwidth: None,
            write_bandwidth: None,
        }
    }
}

/// A cache in front of a vnode's memory as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CacheSpec {
    /// Whose memory.
    pub vnode: u32,
    /// How much it holds.
    pub size: Bytes,
    /// 1 to the number of caches of that vnode, at most 3.
    pub level: u8,
    /// How it finds its lines.
    #[serde(default)]
    pub associativity: CacheAssociativity,
    /// What it does with a write.
    #[serde(default)]
    pub policy: CacheWritePolicy,
    /// Bytes of a line; 0 when that is not told.
    #[serde(default)]
    pub line: u16,
}

words!(
    /// How a memory-side cache finds its lines.
    #[derive(Default)]
    CacheAssociativity {
        /// Not told.
        #[default]
        None = "none",
        /// One place per line.
        Direct = "direct",
        /// Anything else.
        Complex = "complex",
    } allowed "none, direct, complex"
);

words!(
    /// What a memory-side cache does with a write.
    #[derive(Default)]
    CacheWritePolicy {
        /// Not told.
        #[default]
        None = "none",
        /// Writes back.
        WriteBack = "write-back",
        /// Writes through.
        WriteThrough = "write-through",
    } allowed "none, write-back, write-through"
);
