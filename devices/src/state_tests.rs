//! Tests of sections.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{HexBytes, Section, Sections, State, StateError};

/// Version 1 had no `port`, and version 2 called it `door`; version 0 is forgotten.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lamp {
    on: bool,
    port: u8,
}

impl State for Lamp {
    const NAME: &'static str = "lamp";
    const VERSION: u32 = 3;

    fn upgrade(from: u32, mut state: Value) -> Option<Value> {
        let fields = state.as_object_mut()?;
        match from {
            1 => fields.insert("door".into(), json!(7)),
            2 => {
                let door = fields.remove("door")?;
                fields.insert("port".into(), door)
            }
            _ => return None,
        };
        Some(state)
    }
}

fn section(version: u32, state: Value) -> Section {
    Section { name: "lamp".into(), version, state }
}

#[test]
fn a_state_comes_back_as_it_was() {
    let lamp = Lamp { on: true, port: 9 };
    let section = Section::of(&lamp).unwrap();
    assert_eq!(
        serde_json::to_value(&section).unwrap(),
        json!({ "name": "lamp", "version": 3, "state": { "on": true, "port": 9 } })
    );
    assert_eq!(section.decode::<Lamp>(), Ok(lamp));
}

#[test]
fn older_versions_are_upgraded_step_by_step() {
    assert_eq!(section(2, json!({ "on": true, "door": 4 })).decode(), Ok(Lamp { on: true, port: 4 }));
    assert_eq!(section(1, json!({ "on": false })).decode(), Ok(Lamp { on: false, port: 7 }));
}

#[test]
fn newer_versions_and_forgotten_ones_are_refused() {
    for version in [0, 4, u32::MAX] {
        let error = section(version, json!({ "on": true, "port": 4 })).decode::<Lamp>().unwrap_err();
        assert_eq!(error, StateError::Version { section: "lamp".into(), found: version, known: 3 });
        assert_eq!(error.code(), "state_version");
    }
    let text = section(4, json!({})).decode::<Lamp>().unwrap_err().to_string();
    assert_eq!(text, "lamp: version 4 is not supported, must be 3, or older and still readable");
}

#[test]
fn what_does_not_have_the_fields_of_its_version_is_refused_with_the_field() {
    for (state, text) in [
        (json!({ "on": true, "port": 256 }), "lamp: port: invalid value: integer `256`, expected u8"),
        (json!({ "on": true }), "lamp: .: missing field `port`"),
        (
            json!({ "on": true, "port": 1, "hue": 2 }),
            "lamp: hue: unknown field `hue`, expected `on` or `port`",
        ),
    ] {
        assert_eq!(section(3, state).decode::<Lamp>().unwrap_err().to_string(), text);
    }
    let other = Section { name: "lump".into(), ..section(3, json!({})) };
    assert_eq!(other.decode::<Lamp>(), Err(StateError::Unknown { section: "lump".into() }));
}

#[test]
fn a_part_takes_each_of_its_sections_once() {
    let one = section(3, json!({ "on": true, "port": 4 }));
    let other = Section { name: "fan".into(), version: 1, state: json!({}) };
    let mut sections = Sections::new(vec![one.clone(), other.clone()]);
    assert_eq!(sections.take::<Lamp>(), Ok(Lamp { on: true, port: 4 }));
    assert_eq!(sections.take::<Lamp>(), Err(StateError::Missing { section: "lamp".into() }));
    assert_eq!(sections.take_last("fan"), Ok(other.clone()));
    assert_eq!(Sections::new(vec![]).take_last("fan"), Err(StateError::Missing { section: "fan".into() }));
    let left = Sections::new(vec![other, one.clone()]).finish();
    assert_eq!(left, Err(StateError::Unknown { section: "fan".into() }));
    let mut twice = Sections::new(vec![one.clone(), one]);
    twice.take::<Lamp>().unwrap();
    assert_eq!(twice.finish(), Err(StateError::Unknown { section: "lamp".into() }));
}

#[test]
fn bytes_that_are_no_pairs_of_digits_are_refused() {
    for text in ["\"a\"", "\"0G\"", "\"0A\"", "\"+1\"", "\"é\"", "[1]"] {
        assert!(serde_json::from_str::<HexBytes>(text).is_err(), "{text}");
    }
    assert_eq!(serde_json::to_string(&HexBytes(vec![0, 0xAB, 0xFF])).unwrap(), "\"00abff\"");
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let text = serde_json::to_string(&HexBytes(bytes.clone())).unwrap();
        prop_assert_eq!(serde_json::from_str::<HexBytes>(&text).unwrap().0, bytes);
    }
}
