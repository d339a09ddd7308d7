//! Fields of documents as words. Documents come from this program or from another version of it, over HTTP: what is not
//! there is a dash, and what is more is left out.

use crate::show::or_dash;
use resources::Bytes;
use serde_json::Value;

/// A field as a word.
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => or_dash(text),
        other => other.to_string(),
    }
}

/// Bytes as they are typed.
pub fn exact(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |bytes| Bytes(bytes).to_string())
}

/// Bytes for people.
pub fn size(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |bytes| Bytes(bytes).human())
}

/// The entries of a list; none where there is no list.
pub fn list<'a>(document: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + Clone {
    document[field].as_array().into_iter().flatten()
}

/// The `id` of each entry of a list.
pub fn ids(document: &Value, field: &str) -> Vec<String> {
    list(document, field).map(|each| word(&each["id"])).collect()
}
