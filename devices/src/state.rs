//! How the state of devices is saved and restored: plain types, each in a section with a name and a version of its own.
//! Where sections are kept, and in which file, is left to `vmm`.
//!
//! Each part has the same verbs. `hold` finishes what is in flight and starts nothing more, `resume` goes on. `save` gives
//! the state of a part that is held, `restore` puts a part into a state. A state is what a guest could find out, no
//! more: counters, log limits, descriptors and what the host chose (paths, addresses, identities) are not in it.
//! `reset` is `restore` of the state at power-on.
//!
//! A state may come from a file, so nothing of it is believed: `restore` refuses what the part could not have got into,
//! and then has changed nothing, or has left the part as at power-on. See `docs/state.md`.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use thiserror::Error;

/// The state of one kind of part.
pub trait State: Serialize + DeserializeOwned {
    /// The name of its section.
    const NAME: &'static str;

    /// Grows by one with every change of the type that an older program could not read, or would read wrongly.
    const VERSION: u32;

    /// Makes a state of version `from` one of the next version; `None` if states of that version cannot be read any more.
    /// Only called with versions below [`VERSION`](Self::VERSION).
    #[must_use]
    fn upgrade(from: u32, state: Value) -> Option<Value> {
        let _ = (from, state);
        None
    }
}

/// Why a part cannot be saved or restored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateError {
    /// A part that needs the section finds none.
    #[error("{section}: the section is missing")]
    Missing {
        /// Its name.
        section: String,
    },
    /// Nothing takes the section, or it is there twice.
    #[error("{section}: unknown or duplicate section")]
    Unknown {
        /// Its name.
        section: String,
    },
    /// Another version of this program wrote it.
    #[error("{section}: version {found} is not supported, must be {known}, or older and still readable")]
    Version {
        /// The section's name.
        section: String,
        /// The version found.
        found: u32,
        /// The version that is written.
        known: u32,
    },
    /// It does not have the fields of its version.
    #[error("{section}: {field}: {reason}")]
    Decode {
        /// The section's name.
        section: String,
        /// Where in it.
        field: String,
        /// What is wrong there.
        reason: String,
    },
    /// A value that the part cannot have.
    #[error("{section}: {field}: {value}, {rule}")]
    Value {
        /// The section's name.
        section: &'static str,
        /// Which field.
        field: String,
        /// What it says.
        value: String,
        /// What it may be.
        rule: &'static str,
    },
    /// The part is not held.
    #[error("{part}: it runs, and must be held first")]
    Running {
        /// Which one.
        part: String,
    },
    /// The host refused something that the state needs.
    #[error("{part}: {call}: {reason}")]
    Host {
        /// Whose state.
        part: String,
        /// What was asked of the host.
        call: &'static str,
        /// Why not.
        reason: String,
    },
}

impl StateError {
    /// A name for the error that does not change between versions.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "state_section_missing",
            Self::Unknown { .. } => "state_section_unknown",
            Self::Version { .. } => "state_version",
            Self::Decode { .. } => "state_malformed",
            Self::Value { .. } => "state_value",
            Self::Running { .. } => "state_running",
            Self::Host { .. } => "state_host",
        }
    }

    /// `field` of a state of type `S` has a `value` that breaks `rule`.
    pub(crate) fn value<S: State>(
        field: impl Into<String>,
        value: impl fmt::Display,
        rule: &'static str,
    ) -> Self {
        Self::Value { section: S::NAME, field: field.into(), value: value.to_string(), rule }
    }
}

/// Refuses a value of a state unless it is `good`.
pub(crate) fn ensure<S: State>(
    good: bool,
    field: impl Into<String>,
    value: impl fmt::Display,
    rule: &'static str,
) -> Result<(), StateError> {
    if good { Ok(()) } else { Err(StateError::value::<S>(field, value, rule)) }
}

/// A state as it is kept: not looked into until the part that it is for decodes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// What it is the state of: [`State::NAME`].
    pub name: String,
    /// [`State::VERSION`] of the program that wrote it.
    pub version: u32,
    /// The state.
    pub state: Value,
}

impl Section {
    /// The section of a state.
    ///
    /// # Errors
    /// [`StateError::Decode`] if JSON has no words for it, which is so for no type here.
    pub fn of<S: State>(state: &S) -> Result<Self, StateError> {
        let name = S::NAME.to_owned();
        match serde_json::to_value(state) {
            Ok(state) => Ok(Self { name, version: S::VERSION, state }),
            Err(error) => {
                Err(StateError::Decode { section: name, field: ".".to_owned(), reason: error.to_string() })
            }
        }
    }

    /// The state in it. That its values make sense is for the part to see.
    ///
    /// # Errors
    /// [`StateError::Unknown`] for a section of another name, [`StateError::Version`] for a newer version or one that cannot
    /// be read any more, [`StateError::Decode`] for other fields than those of its version.
    pub fn decode<S: State>(self) -> Result<S, StateError> {
        let Self { name, version, mut state } = self;
        if name != S::NAME {
            return Err(StateError::Unknown { section: name });
        }
        let unsupported = || StateError::Version { section: name.clone(), found: version, known: S::VERSION };
        if version > S::VERSION {
            return Err(unsupported());
        }
        for from in version..S::VERSION {
            state = S::upgrade(from, state).ok_or_else(unsupported)?;
        }
        serde_path_to_error::deserialize(state).map_err(|error| StateError::Decode {
            section: name.clone(),
            field: error.path().to_string(),
            reason: error.inner().to_string(),
        })
    }
}

/// The sections of a part that has several, taken out one by one.
#[derive(Debug)]
pub struct Sections(Vec<Section>);

impl Sections {
    /// To be taken out.
    #[must_use]
    pub fn new(sections: Vec<Section>) -> Self {
        Self(sections)
    }

    /// Takes the section of state `S` and decodes it.
    ///
    /// # Errors
    /// [`StateError::Missing`], and those of [`Section::decode`].
    pub fn take<S: State>(&mut self) -> Result<S, StateError> {
        self.take_named(S::NAME)?.decode()
    }

    /// The last one that is left.
    ///
    /// # Errors
    /// [`StateError::Missing`] with `name` if none is left, [`StateError::Unknown`] if there are more.
    pub fn take_last(mut self, name: &str) -> Result<Section, StateError> {
        let last = self.0.pop().ok_or_else(|| StateError::Missing { section: name.to_owned() })?;
        self.finish().map(|()| last)
    }

    /// All have been taken.
    ///
    /// # Errors
    /// [`StateError::Unknown`] with the first that nobody took.
    pub fn finish(self) -> Result<(), StateError> {
        match self.0.into_iter().next() {
            Some(left) => Err(StateError::Unknown { section: left.name }),
            None => Ok(()),
        }
    }

    fn take_named(&mut self, name: &str) -> Result<Section, StateError> {
        let at = self.0.iter().position(|section| section.name == name);
        let at = at.ok_or_else(|| StateError::Missing { section: name.to_owned() })?;
        Ok(self.0.remove(at))
    }
}

/// Bytes, written as pairs of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HexBytes(pub Vec<u8>);

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
        let text: String = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const RULE: &str = "bytes must be pairs of the digits 0 to 9 and a to f";
        let text = String::deserialize(deserializer)?;
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        let bytes: Option<Vec<u8>> = bytes.collect();
        bytes.filter(|_| rest.is_empty()).map(Self).ok_or_else(|| D::Error::custom(RULE))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
