//! Accepted and rejected inputs, and the position of errors.

use super::{ReadError, read};
use crate::http::wire::{MoveRequest, SwapRequest};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use resources::VmSpec;
use serde_json::{Value, json};

/// A machine in which every struct that people write occurs, and every field of each.
fn whole() -> Value {
    json!({
        "kernel": "k", "initramfs": "i", "cmdline": "c", "vcpus": 4, "memory": "1G", "vnodes": 2,
        "numa": [{
            "id": 0, "memory": "512M", "vcpus": "0-1", "pnode": 0, "policy": "bind", "affinity": "soft",
            "pages": "thp", "prefault": true, "latency": 90, "bandwidth": "20G", "initiator": 0,
        }],
        "distances": [{"from": 0, "to": 1, "value": 21}],
        "distances_from": "host",
        "attributes": [{"initiator": 0, "target": 1, "latency": 90, "bandwidth": "1G"}],
        "attributes_from": "host",
        "caches": [{"vnode": 0, "size": "1M", "level": 1}],
        "pins": [{"vcpus": "0", "cpus": "0"}],
        "disks": [{"path": "d", "vnode": 0, "format": "raw", "readonly": "on", "queues": 1, "interrupts": "queue"}],
        "nets": [{"tap": "t", "mac": "52:54:00:00:00:01", "mtu": 1500, "queues": 1, "vnode": 0, "vhost": false}],
        "vsock": {"cid": 3, "socket": "s", "vnode": 0},
        "console": {"socket": "s", "vnode": 0},
        "rng": true, "free_page_reporting": "on", "serial": "none", "on_reset": "reboot",
        "placement": "auto", "fit": "strict", "device_memory": false,
    })
}

fn spec(value: &Value) -> Result<VmSpec, ReadError> {
    read(value.to_string().as_bytes())
}

/// The paths of all objects of a value, and of all fields in them.
fn paths(value: &Value, at: &str, objects: &mut Vec<String>, fields: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            objects.push(at.to_owned());
            for (name, value) in entries {
                fields.push(format!("{at}/{name}"));
                paths(value, &format!("{at}/{name}"), objects, fields);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                paths(item, &format!("{at}/{index}"), objects, fields);
            }
        }
        _ => {}
    }
}

/// As our errors write it.
fn shown(pointer: &str) -> String {
    let mut text = String::new();
    for part in pointer.split('/').skip(1) {
        match part.parse::<usize>() {
            Ok(index) => text.push_str(&format!("[{index}]")),
            Err(_) if text.is_empty() => text.push_str(part),
            Err(_) => text.push_str(&format!(".{part}")),
        }
    }
    text
}

#[test]
fn an_array_in_the_place_of_any_object_is_refused_by_its_path() {
    let (mut objects, mut fields) = (Vec::new(), Vec::new());
    paths(&whole(), "", &mut objects, &mut fields);
    assert!(spec(&whole()).is_ok() && objects.len() == 10, "{objects:?}");
    for object in objects {
        let mut other = whole();
        let place = other.pointer_mut(&object).unwrap();
        *place = Value::Array(place.as_object().unwrap().values().cloned().collect());
        let Err(ReadError::Schema { field, rule }) = spec(&other) else { panic!("{object} was taken") };
        assert_eq!(field.unwrap_or_default(), shown(&object));
        assert_eq!(rule, "an array where an object belongs");
    }
    let refused = read::<VmSpec>(b"[]").unwrap_err().to_string();
    assert_eq!(refused, "an array where an object belongs");
    assert!(read::<MoveRequest>(br#"["0", null]"#).is_err());
    assert_eq!(read::<SwapRequest>(br#"{"vnodes": [0, 1]}"#).unwrap().vnodes, [0, 1]);
    for vnodes in ["[0]", "[0, 1, 2]", "{}"] {
        assert!(read::<SwapRequest>(format!(r#"{{"vnodes": {vnodes}}}"#).as_bytes()).is_err(), "{vnodes}");
    }
}

#[test]
fn null_is_a_field_that_was_left_out_everywhere() {
    let (mut objects, mut fields) = (Vec::new(), Vec::new());
    paths(&whole(), "", &mut objects, &mut fields);
    for field in fields {
        let (mut null, mut without) = (whole(), whole());
        *null.pointer_mut(&field).unwrap() = Value::Null;
        let (parent, name) = field.rsplit_once('/').unwrap();
        without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        let text = |read: Result<VmSpec, ReadError>| read.map_err(|error| error.to_string());
        assert_eq!(text(spec(&null)), text(spec(&without)), "{field}");
    }
    assert!(spec(&Value::Null).is_err());
    assert!(spec(&json!({"numa": [null]})).is_err());
    let unknown = spec(&json!({"kernal": null})).unwrap_err().to_string();
    assert!(unknown.starts_with("kernal: unknown field `kernal`"), "{unknown}");
}

#[test]
fn a_field_given_twice_is_refused_by_its_path_and_no_place_in_the_text_is_told() {
    let cases = [
        (r#"{"vcpus": 1, "vcpus": 2}"#, "vcpus: given twice, must be given once"),
        (r#"{"vcpus": null, "vcpus": 2}"#, "vcpus: given twice, must be given once"),
        (r#"{"numa": [{"id": 0}, {"id": 1, "id": 1}]}"#, "numa[1].id: given twice, must be given once"),
        (r#"{"vcpus": "two"}"#, r#"vcpus: invalid type: string "two", expected u32"#),
        (r#"{"vsock": {}}"#, "vsock: missing field `cid`"),
        (
            r#"{"numa": [{"id": 0, "policy": 7}]}"#,
            "numa[0].policy: invalid type: integer `7`, expected a string",
        ),
        (
            r#"{"disks": [{"path": "p", "format": {"raw": 1}}]}"#,
            "disks[0].format: invalid type: map, expected a string",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(read::<VmSpec>(text.as_bytes()).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn depth_is_bounded_and_what_follows_is_refused() {
    let deep = "[".repeat(100_000);
    assert!(matches!(read::<VmSpec>(deep.as_bytes()), Err(ReadError::Syntax(_))));
    for text in ["", "{", "{} {}", "{},", "nul", r#"{"memory": 1e999}"#] {
        assert!(matches!(read::<VmSpec>(text.as_bytes()), Err(ReadError::Syntax(_))), "{text}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec!["0", "1", "512M", "0-1", "on", "bind", "raw", "host", "none", "x"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..5).prop_map(Value::from),
        word.prop_map(Value::from),
    ];
    let names =
        vec!["id", "vcpus", "memory", "numa", "disks", "path", "vsock", "cid", "kernel", "pins", "cpus"];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let entries = prop::collection::hash_map(prop::sample::select(names.clone()), inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::from),
            entries
                .prop_map(|entries| entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    })
}

proptest! {
    /// Whatever is read here serde reads alike, unless there is a `null`, which serde does not take everywhere.
    #[test]
    fn what_is_read_is_what_serde_reads(value in any_value()) {
        if let Ok(read) = spec(&value) {
            let again: VmSpec = serde_json::from_value(without_null(value)).unwrap();
            assert_eq!(read, again);
        }
    }
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let given = entries.into_iter().filter(|(_, value)| !value.is_null());
            given.map(|(name, value)| (name, without_null(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_null).collect(),
        other => other,
    }
}
