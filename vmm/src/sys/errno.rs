//! A refusal by the host: which call, for what, how long, and the errno. Whether to go on is the caller's decision.

use crate::diagnosis::of_call;
use resources::{Bytes, Diagnosis, ErrorKind, NodeSet};
use std::fmt;

/// What a refused call was about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Where {
    /// The pnodes concerned.
    pub nodes: Option<NodeSet>,
    /// The length concerned.
    pub length: Option<Bytes>,
    /// Whose: `vnode 1`, `vCPU 3`, a path.
    pub subject: Option<Box<str>>,
    /// The field of what was asked for that is to blame, such as `vnodes[1].memory`.
    pub field: Option<Box<str>>,
}

/// A system or KVM call that failed.
#[derive(Debug, thiserror::Error)]
pub struct HostError {
    /// The call as the manual names it.
    pub call: &'static str,
    /// What it was about.
    pub at: Where,
    /// The errno.
    #[source]
    pub source: std::io::Error,
    /// What the user may do about it.
    pub hint: Option<Box<str>>,
}

impl HostError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        let found = match (self.call, self.errno()) {
            // A CPU that went offline, or out of this process's cpuset, since the host was read.
            ("sched_setaffinity", libc::EINVAL) => Diagnosis::new(ErrorKind::Invalid, "no_such_cpu"),
            // The system has no room for another thread, and nobody knows until when.
            ("clone", libc::EAGAIN) => Diagnosis::new(ErrorKind::NoRoom, "no_threads"),
            // Of a pool that has no page left (madvise(2)).
            ("madvise(MADV_POPULATE_WRITE)", libc::EFAULT) => Diagnosis::new(ErrorKind::NoRoom, "no_memory"),
            _ => of_call(&self.source),
        };
        Diagnosis { field: self.at.field.as_deref().map(str::to_owned), ..found }
    }

    /// The last OS error of `call`.
    pub fn last(call: &'static str) -> Self {
        Self::new(call, std::io::Error::last_os_error())
    }

    /// An error that a wrapper gave.
    pub fn new(call: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self { call, at: Where::default(), source: source.into(), hint: None }
    }

    /// An error of a KVM call.
    pub fn kvm(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::new(call, std::io::Error::from_raw_os_error(error.errno()))
    }

    /// Adds whose it was.
    pub fn of(mut self, subject: impl fmt::Display) -> Self {
        self.at.subject = Some(subject.to_string().into());
        self
    }

    /// Adds the field of what was asked for that is to blame.
    pub fn because_of(mut self, field: impl fmt::Display) -> Self {
        self.at.field = Some(field.to_string().into());
        self
    }

    /// Adds the nodes.
    pub fn on(mut self, nodes: &NodeSet) -> Self {
        self.at.nodes = Some(nodes.clone());
        self
    }

    /// Adds the length.
    pub fn length(mut self, length: Bytes) -> Self {
        self.at.length = Some(length);
        self
    }

    /// Adds what the user may do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint: String = hint.into();
        self.hint = Some(hint.into());
        self
    }

    /// The errno, 0 where there is none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call)?;
        if let Some(subject) = &self.at.subject {
            write!(f, " for {subject}")?;
        }
        if let Some(length) = self.at.length {
            write!(f, " ({length})")?;
        }
        if let Some(nodes) = &self.at.nodes {
            write!(f, " on node {nodes}")?;
        }
        write!(f, ": {}", self.source)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}
