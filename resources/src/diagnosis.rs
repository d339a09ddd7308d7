//! What kind of failure an error is: whose it is to mend, and whether trying again can help. Statuses of HTTP and of the
//! process are made from it in `api`; every error enum sorts its own variants.

use std::fmt;

/// What kind of failure an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The request cannot be read: broken JSON, a number in a path that is none.
    Malformed,
    /// What was asked for breaks a rule, or names a file that cannot be used.
    Invalid,
    /// What the request names by number does not exist.
    NotFound,
    /// Nothing of the sort exists yet: no VM, no reclaim.
    Absent,
    /// The VM is not in a state for it, or another request is under way.
    Conflict,
    /// A file, an address or an interface that somebody else has.
    InUse,
    /// This process may not do it.
    Forbidden,
    /// This host, its kernel or its hardware cannot do it.
    Unsupported,
    /// Memory, huge pages, space or descriptors are not enough.
    NoRoom,
    /// It will probably work a moment later.
    Transient,
    /// The host refused for another reason.
    Host,
    /// A mistake of this program.
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

    /// The stable word.
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

    /// The kind of a word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of an error beside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// The stable name of the problem. A code has one kind.
    pub code: &'static str,
    /// The path of the field that is to blame, such as `disks[0].path`; none where no field is.
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

    /// Names the field that an error's text begins with, if it does: `field: value and rule`.
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
