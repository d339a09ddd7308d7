//! The kind of an error: who can fix it, and whether a retry can help. `api` maps kinds to HTTP and exit statuses;
//! every error enum classifies its own variants.

use std::fmt;

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The request is malformed: invalid JSON, or an invalid number in a path.
    Malformed,
    /// A field violates a rule, or names an unusable file.
    Invalid,
    /// The object named in the request does not exist.
    NotFound,
    /// There is no VM, or no reclaim yet.
    Absent,
    /// The VM is in the wrong state, or another request is in progress.
    Conflict,
    /// A file, an address or an interface is in use by another process.
    InUse,
    /// This process lacks the permission.
    Forbidden,
    /// Not supported by the host's kernel or hardware.
    Unsupported,
    /// Not enough memory, huge pages, disk space or descriptors.
    NoRoom,
    /// A temporary failure; try again.
    Transient,
    /// Another host error.
    Host,
    /// A bug in this program.
    Internal,
}

impl ErrorKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Invalid,
        Self::NotFound,
        Self::Absent,
        Self::Conflict,
        Self::InUse,
        Self::Forbidden,
        Self::Unsupported,
        Self::NoRoom,
        Self::Transient,
        Self::Host,
        Self::Internal,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Absent => "absent",
            Self::Conflict => "conflict",
            Self::InUse => "in_use",
            Self::Forbidden => "forbidden",
            Self::Unsupported => "unsupported",
            Self::NoRoom => "no_room",
            Self::Transient => "transient",
            Self::Host => "host",
            Self::Internal => "internal",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The classification of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The kind.
    pub kind: ErrorKind,
    /// The stable error code. A code has one kind.
    pub code: &'static str,
    /// The path of the offending field, such as `disks[0].path`, if any.
    pub field: Option<String>,
}

impl Diagnosis {
    /// Without a field.
    pub fn new(kind: ErrorKind, code: &'static str) -> Self {
        Self { kind, code, field: None }
    }

    /// Names the field.
    #[must_use]
    pub fn at(self, field: impl fmt::Display) -> Self {
        Self { field: Some(field.to_string()), ..self }
    }

    /// Takes the field from an error text of the form `field: value and rule`.
    #[must_use]
    pub fn at_start_of(self, text: &str) -> Self {
        match field_and_rule(text) {
            Some((field, _)) => self.at(field),
            None => self,
        }
    }
}

/// The two parts of a text like `vnodes[1].memory: 1G do not fit`.
pub fn field_and_rule(text: &str) -> Option<(&str, &str)> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.[]".contains(c);
    let is_path =
        |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(allowed);
    text.split_once(": ").filter(|(field, _)| is_path(field))
}

#[cfg(test)]
mod tests {
    use super::{ErrorKind, field_and_rule};

    #[test]
    fn a_text_names_its_field_or_none() {
        let text = "vnodes[1].distances[0]: 10 is not remote, must be 11 to 255";
        let parts = ("vnodes[1].distances[0]", "10 is not remote, must be 11 to 255");
        assert_eq!(field_and_rule(text), Some(parts));
        for text in ["KVM_RUN for vCPU 0: no", "no colon", ": x", "1: x", "open /dev/kvm: no"] {
            assert_eq!(field_and_rule(text), None, "{text}");
        }
    }

    #[test]
    fn each_kind_has_a_word_of_its_own() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(ErrorKind::from_name("Invalid"), None);
    }
}
