//! The grammars of `--attribute` and `--memory-cache`. What the values mean together is decided by `resources`.

use crate::args::numa::{NumaError, from_str, key_value, nanoseconds, parts, put, refuse};
use crate::args::{count, number, shortened};
use resources::{AttributeSpec, Bytes, CacheSpec};

pub const ATTRIBUTE_KEYS: &str =
    "latency, read-latency, write-latency, bandwidth, read-bandwidth, write-bandwidth";
pub const CACHE_KEYS: &str = "vnode, size, level, associativity, policy, line";

/// Reads one `--attribute`: `0:1,latency=90ns,bandwidth=20G`.
pub fn attribute(text: &str) -> Result<AttributeSpec, NumaError> {
    let (pair, rest) = text.split_once(',').unwrap_or((text, ""));
    let Some((initiator, target)) = pair.split_once(':') else {
        return refuse(
            None,
            format_args!("`{}` is not I:T,KEY=VALUE, such as 0:1,latency=90ns", shortened(text)),
        );
    };
    let vnode = |text| count(text).or_else(|why| refuse(None, why));
    let mut spec = AttributeSpec::new(vnode(initiator)?, vnode(target)?);
    for part in parts(rest)?.into_iter().filter(|_| !rest.is_empty()) {
        let (key, value) = key_value(part)?;
        match key {
            "latency" => put(&mut spec.latency, key, value, nanoseconds)?,
            "read-latency" => put(&mut spec.read_latency, key, value, nanoseconds)?,
            "write-latency" => put(&mut spec.write_latency, key, value, nanoseconds)?,
            "bandwidth" => put(&mut spec.bandwidth, key, value, from_str::<Bytes>)?,
            "read-bandwidth" => put(&mut spec.read_bandwidth, key, value, from_str::<Bytes>)?,
            "write-bandwidth" => put(&mut spec.write_bandwidth, key, value, from_str::<Bytes>)?,
            _ => return refuse(Some(key), format_args!("unknown key, must be one of {ATTRIBUTE_KEYS}")),
        }
    }
    Ok(spec)
}

/// Reads one `--memory-cache`: `vnode=0,size=1G,level=1,associativity=direct,policy=write-back,line=64`.
pub fn cache(text: &str) -> Result<CacheSpec, NumaError> {
    let (mut vnode, mut size, mut level) = (None, None, None);
    let (mut associativity, mut policy, mut line) = (None, None, None);
    for part in parts(text)? {
        let (key, value) = key_value(part)?;
        match key {
            "vnode" => put(&mut vnode, key, value, count)?,
            "size" => put(&mut size, key, value, from_str::<Bytes>)?,
            "level" => put(&mut level, key, value, |level| number(level, u8::MAX.into()))?,
            "associativity" => put(&mut associativity, key, value, from_str)?,
            "policy" => put(&mut policy, key, value, from_str)?,
            "line" => put(&mut line, key, value, |line| number(line, u16::MAX.into()))?,
            _ => return refuse(Some(key), format_args!("unknown key, must be one of {CACHE_KEYS}")),
        }
    }
    Ok(CacheSpec {
        vnode: needed("vnode", vnode)?,
        size: needed("size", size)?,
        level: needed("level", level)?,
        associativity: associativity.unwrap_or_default(),
        policy: policy.unwrap_or_default(),
        line: line.unwrap_or_default(),
    })
}

fn needed<T>(key: &str, value: Option<T>) -> Result<T, NumaError> {
    value.map_or_else(|| refuse(Some(key), "missing, every cache needs one"), Ok)
}

#[cfg(test)]
mod tests {
    use super::{attribute, cache};
    use resources::spec::{CacheAssociativity, CacheWritePolicy};
    use resources::{AttributeSpec, Bytes, CacheSpec};

    #[test]
    fn pairs_and_caches_are_read() {
        let text = "0:12,read-latency=90ns,write-latency=95,bandwidth=20G";
        let expected = AttributeSpec {
            read_latency: Some(90),
            write_latency: Some(95),
            bandwidth: Some(Bytes::gib(20)),
            ..AttributeSpec::new(0, 12)
        };
        assert_eq!(attribute(text), Ok(expected));
        let expected = CacheSpec {
            vnode: 1,
            size: Bytes(10 << 10),
            level: 2,
            associativity: CacheAssociativity::Complex,
            policy: CacheWritePolicy::WriteThrough,
            line: 64,
        };
        let text = "vnode=1,size=10K,level=2,associativity=complex,policy=write-through,line=64";
        assert_eq!(cache(text), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text| format!("--attribute[0]{}", attribute(text).unwrap_err());
        assert_eq!(refused("0-1"), "--attribute[0]: `0-1` is not I:T,KEY=VALUE, such as 0:1,latency=90ns");
        assert_eq!(refused("0:x"), "--attribute[0]: `x` is not a whole number");
        assert_eq!(refused("0:1,latency"), "--attribute[0]: `latency` is not key=value");
        let keys = "latency, read-latency, write-latency, bandwidth, read-bandwidth, write-bandwidth";
        assert_eq!(
            refused("0:1,delay=9"),
            format!("--attribute[0].delay: unknown key, must be one of {keys}")
        );
        let refused = |text| format!("--memory-cache[0]{}", cache(text).unwrap_err());
        assert_eq!(refused("size=1G,level=1"), "--memory-cache[0].vnode: missing, every cache needs one");
        assert_eq!(
            refused("vnode=0,level=300"),
            "--memory-cache[0].level: 300 is too large, must be at most 255"
        );
        assert_eq!(
            refused("vnode=0,policy=lazy"),
            "--memory-cache[0].policy: `lazy` is not one of none, write-back, write-through"
        );
        assert_eq!(
            refused("vnode=0,ways=8"),
            "--memory-cache[0].ways: unknown key, must be one of vnode, size, level, associativity, policy, line"
        );
    }
}
