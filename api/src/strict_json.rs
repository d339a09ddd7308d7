//! JSON as people and programs write it to us: what is documented as an object is an object, no field is given twice, and
//! `null` is a field that was left out, everywhere the same. Which fields there are is the types' business.
//!
//! serde's derive reads a struct from an array as well, by the order of its fields, which would make that order part of the
//! format; and takes `null` for some fields only.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Error, Map, Number, Value};
use std::fmt;

/// Why a text is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not JSON.
    #[error("{0}")]
    Syntax(Error),
    /// It is, and says something else.
    #[error("{}{rule}", .field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default())]
    Schema {
        /// The path of the field; none for the document as a whole.
        field: Option<String>,
        /// What is wrong with it.
        rule: String,
    },
}

/// Reads a text that holds one JSON value.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, ReadError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let tree: Tree = located(serde_path_to_error::deserialize(&mut json))?;
    json.end().map_err(ReadError::Syntax)?;
    located(serde_path_to_error::deserialize(Strict(&tree.0)))
}

fn located<T>(result: Result<T, serde_path_to_error::Error<Error>>) -> Result<T, ReadError> {
    result.map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_syntax() || inner.is_eof() || inner.is_io() {
            return ReadError::Syntax(inner);
        }
        // Where in the text it is, the field says better.
        let (text, place) =
            (inner.to_string(), format!(" at line {} column {}", inner.line(), inner.column()));
        let rule = text.strip_suffix(&place).map(str::to_owned).unwrap_or(text);
        ReadError::Schema { field: Some(path).filter(|path| path != "."), rule }
    })
}

/// A JSON value whose objects have each name once.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Builder)
    }
}

struct Builder;

impl<'de> Visitor<'de> for Builder {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree(Value::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut array = Vec::new();
        while let Some(Tree(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Tree(Value::Array(array)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let Tree(value) = match object.contains_key(&name) {
                // In the place of the value, so that the path of the error ends in the name.
                true => entries.next_value_seed(GivenTwice)?,
                false => entries.next_value()?,
            };
            object.insert(name, value);
        }
        Ok(Tree(Value::Object(object)))
    }
}

struct GivenTwice;

impl<'de> DeserializeSeed<'de> for GivenTwice {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<Tree, D::Error> {
        Err(D::Error::custom("given twice, must be given once"))
    }
}

/// A value that is read as it is documented.
#[derive(Clone, Copy)]
struct Strict<'de>(&'de Value);

impl<'de> IntoDeserializer<'de, Error> for Strict<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Strict<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.iter().map(Strict));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(entries) => visit_entries(entries, visitor, |_| true),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            // One that is unknown is refused whatever its value.
            Value::Object(entries) => visit_entries(entries, visitor, |name| fields.contains(&name)),
            other => Err(Error::custom(format_args!("{} where an object belongs", kind(other)))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(_) => self.0.deserialize_enum(name, variants, visitor),
            other => Err(Error::custom(format_args!("{} where a word belongs", kind(other)))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// Visits the entries of an object, but for known ones that are `null`.
fn visit_entries<'de, V: Visitor<'de>>(
    entries: &'de Map<String, Value>,
    visitor: V,
    known: impl Fn(&str) -> bool,
) -> Result<V::Value, Error> {
    let given = entries.iter().filter(|(name, value)| !(value.is_null() && known(name)));
    let mut given = MapDeserializer::new(given.map(|(name, value)| (name.as_str(), Strict(value))));
    let value = visitor.visit_map(&mut given)?;
    given.end()?;
    Ok(value)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
