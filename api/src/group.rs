//! Groups of this host, as they are typed: by name or number.

use nix::unistd::Group;

/// The number of a group; `None` if there is none of that name.
pub fn id(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| Some(Group::from_name(name).ok()??.gid.as_raw()))
}
