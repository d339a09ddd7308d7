//! The frozen API, `openapi/v1.json`: the current document may have more, and never less. Additions go there by hand,
//! once they are meant to stay.

use serde_json::Value;
use std::collections::BTreeSet;

const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/v1.json");
const SCHEMA: &str = "#/components/schemas/";

/// What a program of the older document would stumble over.
fn incompatible(frozen: &Value, now: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (path, methods) in entries(&frozen["paths"]) {
        for (method, operation) in entries(methods) {
            operations(operation, &now["paths"][path][method], &format!("{method} {path}"), &mut found);
        }
    }
    let asked = reachable(frozen, |operation| &operation["requestBody"]);
    let answered = reachable(frozen, |operation| &operation["responses"]);
    for (name, schema) in entries(&frozen["components"]["schemas"]) {
        let now = &now["components"]["schemas"][name];
        compare(schema, now, name, asked.contains(name), answered.contains(name), &mut found);
    }
    found
}

fn operations(frozen: &Value, now: &Value, at: &str, found: &mut Vec<String>) {
    if now.is_null() {
        return found.push(format!("{at} is gone"));
    }
    if frozen["operationId"] != now["operationId"] {
        found.push(format!("{at} has another operationId"));
    }
    let name = |parameter: &Value| (parameter["in"].clone(), parameter["name"].clone());
    for parameter in list(&frozen["parameters"]) {
        match list(&now["parameters"]).find(|other| name(other) == name(parameter)) {
            Some(other) => compare(&parameter["schema"], &other["schema"], at, true, false, found),
            None => found.push(format!("{at}: parameter {} is gone", parameter["name"])),
        }
    }
    for parameter in list(&now["parameters"]).filter(|parameter| parameter["required"] == true) {
        let old = list(&frozen["parameters"]).find(|other| name(other) == name(parameter));
        if old.is_none_or(|old| old["required"] != true) {
            found.push(format!("{at}: parameter {} must be given now", parameter["name"]));
        }
    }
    let (was, is) = (&frozen["requestBody"], &now["requestBody"]);
    if was["required"] != true && is["required"] == true {
        found.push(format!("{at} needs a body now"));
    }
    for (media, content) in entries(&was["content"]) {
        compare(&content["schema"], &is["content"][media]["schema"], at, true, false, found);
    }
    for (status, answer) in entries(&frozen["responses"]) {
        let is = &now["responses"][status];
        if is.is_null() {
            found.push(format!("{at} does not answer {status} any more"));
        }
        for (media, content) in entries(&answer["content"]) {
            compare(&content["schema"], &is["content"][media]["schema"], at, false, true, found);
        }
    }
}

/// Of a schema that bodies have (`asked`), nothing more may be needed; of one that answers have, nothing less is there.
fn compare(frozen: &Value, now: &Value, at: &str, asked: bool, answered: bool, found: &mut Vec<String>) {
    if !frozen.is_null() && now.is_null() {
        return found.push(format!("{at} is gone"));
    }
    for key in ["type", "format", "$ref", "const", "pattern"] {
        if frozen[key] != now[key] {
            found.push(format!("{at}: its {key} was {}, and is {}", frozen[key], now[key]));
        }
    }
    let names = |schema: &Value, key| list(&schema[key]).map(ToString::to_string).collect::<BTreeSet<_>>();
    let (was, is) = (names(frozen, "required"), names(now, "required"));
    if asked {
        is.difference(&was).for_each(|name| found.push(format!("{at}.{name} must be given now")));
    }
    if answered {
        was.difference(&is).for_each(|name| found.push(format!("{at}.{name} may be missing now")));
    }
    let gone = |name: &String| found.push(format!("{at} is never {name} any more"));
    names(frozen, "enum").difference(&names(now, "enum")).for_each(gone);
    for (name, property) in entries(&frozen["properties"]) {
        compare(property, &now["properties"][name], &format!("{at}.{name}"), asked, answered, found);
    }
    for key in ["items", "additionalProperties"] {
        if frozen[key].is_object() {
            compare(&frozen[key], &now[key], &format!("{at}[]"), asked, answered, found);
        }
    }
    for key in ["oneOf", "allOf", "anyOf"] {
        for (number, choice) in list(&frozen[key]).enumerate() {
            let fits = |now: &Value| {
                let mut differs = Vec::new();
                compare(choice, now, at, asked, answered, &mut differs);
                differs.is_empty()
            };
            if !list(&now[key]).any(fits) {
                found.push(format!("{at}: {key} {number} is gone or has changed"));
            }
        }
    }
}

/// Names of the schemas that a part of operations leads to.
fn reachable(document: &Value, part: impl Fn(&Value) -> &Value) -> BTreeSet<String> {
    let operations = entries(&document["paths"]).flat_map(|(_, methods)| entries(methods));
    let mut left: Vec<String> = operations.flat_map(|(_, operation)| references(part(operation))).collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = left.pop() {
        left.extend(
            references(&document["components"]["schemas"][&name]).filter(|next| !seen.contains(next)),
        );
        seen.insert(name);
    }
    seen
}

fn references(value: &Value) -> impl Iterator<Item = String> + use<> {
    let mut found = Vec::new();
    match value {
        Value::Object(object) => {
            let name = object.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(SCHEMA));
            found.extend(name.map(str::to_owned));
            object.values().for_each(|value| found.extend(references(value)));
        }
        Value::Array(array) => array.iter().for_each(|value| found.extend(references(value))),
        _ => {}
    }
    found.into_iter()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[test]
fn nothing_that_programs_know_is_gone_or_has_changed() {
    let frozen: Value = serde_json::from_str(&std::fs::read_to_string(FROZEN).unwrap()).unwrap();
    let now: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    assert_eq!(incompatible(&frozen, &now), Vec::<String>::new(), "programs of openapi/v1.json would break");
}

#[test]
fn what_would_break_a_program_is_found_and_what_is_new_is_not() {
    let now: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut other = now.clone();
        change(&mut other);
        (incompatible(&now, &other).len(), incompatible(&other, &now).len())
    };
    let remove = |document: &mut Value, at: &str, name: &str| {
        assert!(
            document.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(name).is_some(),
            "{at}/{name}"
        );
    };
    assert_eq!(changed(&|_| ()), (0, 0));
    assert_eq!(changed(&|document| remove(document, "/paths", "/v1/events")), (1, 0));
    assert_eq!(changed(&|document| remove(document, "/components/schemas", "Vnodes")), (1, 0));
    assert_eq!(
        changed(&|document| remove(document, "/components/schemas/VnodeSpec/properties", "pages")),
        (1, 0)
    );
    let kind = |document: &mut Value| {
        document["components"]["schemas"]["Bytes"]["oneOf"][0]["type"] = "string".into()
    };
    assert_eq!(changed(&kind), (1, 1));
    let needed = |document: &mut Value| {
        let required = &mut document["components"]["schemas"]["VnodeSpec"]["required"];
        required.as_array_mut().unwrap().push("pages".into());
    };
    assert_eq!(changed(&needed).0, 1, "a body needs more");
    let missing =
        |document: &mut Value| document["components"]["schemas"]["Vnodes"]["required"] = Value::Null;
    assert_eq!(changed(&missing), (2, 0), "an answer has less");
}
