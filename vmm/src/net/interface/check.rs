//! Whether a tap could be opened by its name, from what sysfs says of it: attaching to it is noticed on its other side.
//! Opening it is left to the module above.

use super::hint;
use crate::sys::HostError;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

const TUN: &str = "/dev/net/tun";
/// The interfaces of this process's network namespace.
const INTERFACES: &str = "/sys/class/net";
/// CAP_NET_ADMIN (`linux/capability.h`).
const NET_ADMIN: u32 = 12;
/// `linux/if_tun.h`.
const IFF_TAP: u32 = 0x2;
const IFF_MULTI_QUEUE: u32 = 0x100;

/// Why the interface would be refused, in the words of opening it.
pub fn by_name(name: &str, queues: u16) -> Result<(), HostError> {
    // Opened without naming an interface it is nobody's.
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN)
        .map_err(|error| hint(HostError::new("open", error).of(TUN), false, queues))?;
    let directory = Path::new(INTERFACES).join(name);
    let existed = directory.exists();
    let errno = match existed {
        true => refusal(&Seen::read(&directory), queues, &Rights::of_this_process()),
        false => (!Rights::of_this_process().net_admin).then_some(libc::EPERM),
    };
    match errno {
        None => Ok(()),
        Some(errno) => {
            let error = HostError::new("TUNSETIFF", io::Error::from_raw_os_error(errno)).of(name);
            Err(hint(error, existed, queues))
        }
    }
}

/// What sysfs says of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// None for what is neither tun nor tap.
    flags: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
    /// Somebody is attached: a tap has a carrier then, if it is up.
    carrier: bool,
}

impl Seen {
    fn read(directory: &Path) -> Self {
        let text = |file: &str| fs::read_to_string(directory.join(file)).ok();
        let id = |file: &str| text(file)?.trim().parse().ok();
        let flags = text("tun_flags");
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
        let carrier = text("carrier").is_some_and(|text| text.trim() == "1");
        Self { flags, owner: id("owner"), group: id("group"), carrier }
    }
}

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rights {
    net_admin: bool,
    user: u32,
    groups: Vec<u32>,
}

impl Rights {
    fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let groups = nix::unistd::getgroups().unwrap_or_default();
        let groups = groups.into_iter().chain([nix::unistd::getegid()]).map(|group| group.as_raw());
        Self {
            net_admin: effective(&status).is_some_and(|all| all >> NET_ADMIN & 1 == 1),
            user: nix::unistd::geteuid().as_raw(),
            groups: groups.collect(),
        }
    }
}

/// The effective capabilities, as `/proc/self/status` has them.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The errno of attaching (Linux, `tun_set_iff` and `tun_not_capable` in `drivers/net/tun.c`).
fn refusal(seen: &Seen, queues: u16, rights: &Rights) -> Option<i32> {
    let Some(flags) = seen.flags.filter(|flags| flags & IFF_TAP != 0) else { return Some(libc::EINVAL) };
    let multi_queue = flags & IFF_MULTI_QUEUE != 0;
    if queues > 1 && !multi_queue {
        return Some(libc::EINVAL);
    }
    let others = seen.owner.is_some_and(|owner| owner != rights.user)
        || seen.group.is_some_and(|group| !rights.groups.contains(&group));
    if others && !rights.net_admin {
        return Some(libc::EPERM);
    }
    (seen.carrier && !multi_queue).then_some(libc::EBUSY)
}

#[cfg(test)]
mod tests {
    use super::{IFF_MULTI_QUEUE, IFF_TAP, Rights, Seen, effective, refusal};

    const TAP: Seen = Seen { flags: Some(IFF_TAP), owner: None, group: None, carrier: false };

    #[test]
    fn an_interface_is_refused_as_the_kernel_would() {
        let user = Rights { net_admin: false, user: 1000, groups: vec![1000, 27] };
        let root = Rights { net_admin: true, user: 0, groups: vec![0] };
        let several = Seen { flags: Some(IFF_TAP | IFF_MULTI_QUEUE), ..TAP };
        let cases = [
            (TAP, 1, &user, None),
            (TAP, 2, &user, Some(libc::EINVAL)),
            (several, 2, &user, None),
            (Seen { flags: None, ..TAP }, 1, &root, Some(libc::EINVAL)),
            (Seen { flags: Some(1), ..TAP }, 1, &root, Some(libc::EINVAL)),
            (Seen { owner: Some(1000), group: Some(27), ..TAP }, 1, &user, None),
            (Seen { owner: Some(1001), ..TAP }, 1, &user, Some(libc::EPERM)),
            (Seen { owner: Some(1000), group: Some(5), ..TAP }, 1, &user, Some(libc::EPERM)),
            (Seen { owner: Some(1001), ..TAP }, 1, &root, None),
            (Seen { carrier: true, ..TAP }, 1, &root, Some(libc::EBUSY)),
            (Seen { carrier: true, ..several }, 1, &root, None),
        ];
        for (seen, queues, rights, errno) in cases {
            assert_eq!(refusal(&seen, queues, rights), errno, "{seen:?} {queues} {rights:?}");
        }
    }

    #[test]
    fn sysfs_is_read_and_what_is_not_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let none = Seen { flags: None, ..TAP };
        assert_eq!(Seen::read(directory.path()), none);
        for (file, text) in
            [("tun_flags", "0x5102\n"), ("owner", "-1\n"), ("group", "27\n"), ("carrier", "1\n")]
        {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let seen = Seen { flags: Some(0x5102), owner: None, group: Some(27), carrier: true };
        assert_eq!(Seen::read(directory.path()), seen);
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000001000\n"), Some(1 << 12));
        assert_eq!(effective(""), None);
    }
}
