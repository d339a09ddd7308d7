//! The grammar of `--numa`: `key=value` separated by commas, lists in brackets. What the values mean together is
//! decided by `resources`.

use crate::args::{count, ids, shortened};
use resources::{Bytes, VnodeSpec};
use std::fmt::{self, Display};
use std::str::FromStr;

/// The keys of `--numa`.
pub const KEYS: &str =
    "id, memory, vcpus, pnode, policy, affinity, pages, prefault, shared, latency, bandwidth, initiator";

/// Why a text does not describe a vnode; reads on after `--numa[1]`.
#[derive(Debug, PartialEq, Eq)]
pub struct NumaError {
    key: Option<String>,
    why: String,
}

impl Display for NumaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, ".{key}: {}", self.why),
            None => write!(f, ": {}", self.why),
        }
    }
}

/// An error about a key, or about the text as a whole.
pub fn refuse<T>(key: Option<&str>, why: impl Display) -> Result<T, NumaError> {
    Err(NumaError { key: key.map(shortened), why: why.to_string() })
}

/// Reads one `--numa`.
pub fn parse(text: &str) -> Result<VnodeSpec, NumaError> {
    let mut vnode = VnodeSpec::new(0);
    let mut id = None;
    let (parts, mut list) = (parts(text)?, None);
    for part in parts {
        let pair = key_value(part);
        let (key, value) = match (pair, list) {
            // `vcpus=0,2`: the list has a comma and no brackets.
            (Err(_), Some((key, value))) => {
                let (value, part) = (shortened(value), shortened(part));
                let rule = format!("a list with commas needs brackets: {key}=[{value},{part}]");
                return refuse(None, format_args!("`{part}` is not key=value; {rule}"));
            }
            (pair, _) => pair?,
        };
        list = matches!(key, "vcpus" | "pnode").then_some((key, value));
        match key {
            "id" => put(&mut id, key, value, count)?,
            "memory" => put(&mut vnode.memory, key, value, from_str)?,
            "vcpus" => put(&mut vnode.vcpus, key, value, ids)?,
            "pnode" => put(&mut vnode.pnode, key, value, ids)?,
            "policy" => put(&mut vnode.policy, key, value, from_str)?,
            "affinity" => put(&mut vnode.affinity, key, value, from_str)?,
            "pages" => put(&mut vnode.pages, key, value, from_str)?,
            "prefault" => put(&mut vnode.prefault, key, value, from_str)?,
            "shared" => put(&mut vnode.shared, key, value, from_str)?,
            "latency" => put(&mut vnode.latency, key, value, nanoseconds)?,
            "bandwidth" => put(&mut vnode.bandwidth, key, value, from_str::<Bytes>)?,
            "initiator" => put(&mut vnode.initiator, key, value, count)?,
            _ => return refuse(Some(key), format_args!("unknown key, must be one of {KEYS}")),
        }
    }
    match id {
        Some(id) => Ok(VnodeSpec { id, ..vnode }),
        None => refuse(Some("id"), "missing, every vnode needs one"),
    }
}

/// Reads a value into its field, once.
pub fn put<T>(
    field: &mut Option<T>,
    key: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<(), NumaError> {
    match (parse(value), &field) {
        (_, Some(_)) => refuse(Some(key), "given twice, must be given once"),
        (Ok(value), None) => {
            *field = Some(value);
            Ok(())
        }
        (Err(why), None) => refuse(Some(key), why),
    }
}

/// Reads a value by its own grammar.
pub fn from_str<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads `90` or `90ns`.
pub fn nanoseconds(value: &str) -> Result<u32, String> {
    count(value.strip_suffix("ns").unwrap_or(value))
        .map_err(|why| format!("{why} (nanoseconds, such as 90ns)"))
}

/// A key and its value.
pub fn key_value(part: &str) -> Result<(&str, &str), NumaError> {
    match part.split_once('=') {
        Some(pair) => Ok(pair),
        None => refuse(None, format_args!("`{}` is not key=value", shortened(part))),
    }
}

/// The parts between commas that are not in brackets.
pub fn parts(text: &str) -> Result<Vec<&str>, NumaError> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, character) in text.char_indices() {
        match (character, inside) {
            ('[', false) => inside = true,
            (']', true) => inside = false,
            ('[', true) | (']', false) => return refuse(None, brackets(text)),
            (',', false) => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return refuse(None, brackets(text));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn brackets(text: &str) -> String {
    format!("`{}` has an unmatched bracket, write lists as [0-1,4]", shortened(text))
}

#[cfg(test)]
mod tests {
    use super::{parse, parts};
    use proptest::prelude::{any, proptest};
    use resources::spec::Switch;
    use resources::{Affinity, Bytes, MemoryPolicy, PageSize, VnodeSpec};

    #[test]
    fn every_key_is_read() {
        let text = "id=3,memory=512M,vcpus=[0-1,4],pnode=[0,2],policy=interleave,affinity=hard,pages=2M,prefault=on,\
                    shared=on,latency=90ns,bandwidth=20G,initiator=1";
        let vnode = VnodeSpec {
            id: 3,
            memory: Some(Bytes::mib(512)),
            vcpus: Some("0-1,4".parse().unwrap()),
            pnode: Some("0,2".parse().unwrap()),
            policy: Some(MemoryPolicy::Interleave),
            affinity: Some(Affinity::Hard),
            pages: Some(PageSize::Huge2M),
            prefault: Some(Switch(true)),
            shared: Some(Switch(true)),
            latency: Some(90),
            bandwidth: Some(Bytes::gib(20)),
            initiator: Some(1),
        };
        assert_eq!(parse(text), Ok(vnode));
        assert_eq!(parse("id=0"), Ok(VnodeSpec::new(0)));
        assert_eq!(parse("pnode=1,id=0,latency=7").unwrap().latency, Some(7));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text| format!("--numa[1]{}", parse(text).unwrap_err());
        let keys = "must be one of id, memory, vcpus, pnode, policy, affinity, pages, prefault, shared, latency, bandwidth, initiator";
        let cases = [
            ("", "--numa[1]: `` is not key=value".to_owned()),
            ("id", "--numa[1]: `id` is not key=value".to_owned()),
            ("id=0,", "--numa[1]: `` is not key=value".to_owned()),
            ("memory=1G", "--numa[1].id: missing, every vnode needs one".to_owned()),
            ("id=x", "--numa[1].id: `x` is not a whole number".to_owned()),
            ("id=4294967296", "--numa[1].id: 4294967296 is too large, must be at most 4294967295".to_owned()),
            ("id=0,mem=1G", format!("--numa[1].mem: unknown key, {keys}")),
            ("id=0,id=0", "--numa[1].id: given twice, must be given once".to_owned()),
            (
                "id=0,memory=1.5G",
                "--numa[1].memory: `1.5G` is not a size; write a whole number with an optional K, M, G or T, \
                 such as 512M"
                    .to_owned(),
            ),
            ("id=0,vcpus=[3-1]", "--numa[1].vcpus: range 3-1 is reversed".to_owned()),
            (
                "id=0,pnode=a",
                "--numa[1].pnode: `a` is not a list; write numbers and ranges such as 0-3,8".to_owned(),
            ),
            ("id=0,policy=strict", "--numa[1].policy: `strict` is not one of bind, preferred, interleave".to_owned()),
            ("id=0,prefault=yes", "--numa[1].prefault: `yes` is not one of on, off".to_owned()),
            (
                "id=0,latency=9us",
                "--numa[1].latency: `9us` is not a whole number (nanoseconds, such as 90ns)".to_owned(),
            ),
            (
                "id=0,vcpus=[0-1",
                "--numa[1]: `id=0,vcpus=[0-1` has an unmatched bracket, write lists as [0-1,4]".to_owned(),
            ),
            (
                "id=0,vcpus=0,2",
                "--numa[1]: `2` is not key=value; a list with commas needs brackets: vcpus=[0,2]".to_owned(),
            ),
            (
                "pnode=0-1,3,id=0",
                "--numa[1]: `3` is not key=value; a list with commas needs brackets: pnode=[0-1,3]".to_owned(),
            ),
            ("id=0,vcpus=0,memory=1G,2", "--numa[1]: `2` is not key=value".to_owned()),
            ("id=0,vcpus=[0-3,2]", "--numa[1].vcpus: 2 is given twice, must be given once".to_owned()),
            ("id=0,pnode=[1,1]", "--numa[1].pnode: 1 is given twice, must be given once".to_owned()),
        ];
        for (text, expected) in cases {
            assert_eq!(refused(text), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_not_a_panic(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn parts_and_commas_make_up_the_text(text in "[a-c=,\\[\\]]{0,20}") {
            if let Ok(all) = parts(&text) {
                assert_eq!(all.join(","), text);
            }
        }
    }
}
