//! HMAT values beyond those of a vnode, as given: pairs of vnodes, and memory-side caches. `topology` validates them.

use super::UnknownWord;
use crate::units::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};

/// Latency and bandwidth of a pair of vnodes, as given. `latency` is for reads and writes, and sets both
/// `read_latency` and `write_latency`; `bandwidth` likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AttributeSpec {
    /// The initiator: the vnode of the vCPUs.
    pub initiator: u32,
    /// The target: the vnode of the memory.
    pub target: u32,
    /// Access latency in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<u32>,
    /// Read latency in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_latency: Option<u32>,
    /// Write latency in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_latency: Option<u32>,
    /// Access bandwidth in bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
    /// Read bandwidth in bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bandwidth: Option<Bytes>,
    /// Write bandwidth in bytes per second.
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

/// A memory-side cache, as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CacheSpec {
    /// The vnode of the cached memory.
    pub vnode: u32,
    /// Size of the cache.
    pub size: Bytes,
    /// Level: 1 to the number of caches of the vnode, at most 3.
    pub level: u8,
    /// Associativity.
    #[serde(default)]
    pub associativity: CacheAssociativity,
    /// Write policy.
    #[serde(default)]
    pub policy: CacheWritePolicy,
    /// Line size in bytes; 0 if not specified.
    #[serde(default)]
    pub line: u16,
}

words!(
    /// The associativity of a memory-side cache.
    #[derive(Default)]
    CacheAssociativity {
        /// Not specified.
        #[default]
        None = "none",
        /// Direct mapped.
        Direct = "direct",
        /// Complex cache indexing.
        Complex = "complex",
    } allowed "none, direct, complex"
);

words!(
    /// The write policy of a memory-side cache.
    #[derive(Default)]
    CacheWritePolicy {
        /// Not specified.
        #[default]
        None = "none",
        /// Write-back.
        WriteBack = "write-back",
        /// Write-through.
        WriteThrough = "write-through",
    } allowed "none, write-back, write-through"
);
