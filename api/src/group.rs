//! Groups of this host, given by name or number.

use crate::files;
use std::path::Path;

/// The groups of this machine. The C library is not asked for those of directory services: it loads modules for that,
/// which a static program cannot.
const GROUPS: &str = "/etc/group";
/// Most bytes of it.
const MAX_GROUPS: u64 = 4 << 20;

/// The number of a group; `None` if this machine has none of that name.
pub fn id(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| found(&files::read(Path::new(GROUPS), MAX_GROUPS).ok()?, name))
}

/// The third field of the line that begins with the name (group(5)).
fn found(groups: &str, name: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::{found, id};

    #[test]
    fn groups_have_numbers() {
        let groups = "root:x:0:\n\n# kvm:x:1:\nbroken\nkvm:x:104:a,b\nkvm:x:105:\n+nis::7:\nbad:x:y:\n";
        let numbers = ["root", "kvm", "broken", "bad", "", "none", "a"].map(|name| found(groups, name));
        assert_eq!(numbers, [Some(0), Some(104), None, None, None, None, None]);
        assert_eq!((id("12"), id("root"), id("no such group")), (Some(12), Some(0), None));
    }
}
