//! Which sources of a socket device have changed since its thread was last told. What they are is the worker's to say.

use std::collections::BTreeSet;
use std::os::fd::RawFd;

use crate::virtio::{Interest, Source, SourceChange};

/// Changes that the thread does not know of.
#[derive(Debug, Default)]
pub(super) struct Unreported {
    /// Descriptor and token of each source that is gone.
    removed: Vec<(RawFd, u32)>,
    /// Tokens of those whose interest may be another.
    changed: BTreeSet<u32>,
}

impl Unreported {
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.changed.is_empty()
    }

    /// The interest in a source has changed.
    pub fn changed(&mut self, token: u32) {
        self.changed.insert(token);
    }

    /// A source is gone, and its descriptor is about to be closed.
    pub fn removed(&mut self, fd: RawFd, token: u32) {
        self.changed.remove(&token);
        self.removed.push((fd, token));
    }

    /// Appends all changes, closed descriptors first: their numbers may be those of others by now. `now` gives the descriptor
    /// of a source that is there, and what to wait for.
    pub fn take(
        &mut self,
        changes: &mut Vec<SourceChange>,
        mut now: impl FnMut(u32) -> Option<(RawFd, Option<Interest>)>,
    ) {
        changes.extend(self.removed.drain(..).map(|(fd, token)| SourceChange::Removed { fd, token }));
        while let Some(token) = self.changed.pop_first() {
            changes.extend(now(token).map(|(fd, interest)| match interest {
                Some(interest) => SourceChange::Set(Source { fd, token, interest }),
                None => SourceChange::Removed { fd, token },
            }));
        }
    }
}
