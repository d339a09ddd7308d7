//! Looks at the host: sysfs, and for the real one also what this process's cpuset leaves of it.

use crate::exit::{Failure, Status};
use crate::files;
use resources::{CpuSet, HostTopology, NodeSet};
use std::path::Path;

/// Where the kernel shows this host.
pub const SYSFS: &str = "/sys";
const SELF_STATUS: &str = "/proc/self/status";
/// Most bytes of `/proc/self/status`: some 1.5 KiB, and two masks of 1,024 nodes and 8,192 CPUs.
const MAX_STATUS: u64 = 64 << 10;

/// The host that a sysfs tree shows, less what this process may not use when it is the real one.
pub fn host(sysfs: &Path) -> Result<HostTopology, Failure> {
    let host = HostTopology::read(sysfs).map_err(|error| Failure::new(Status::Host, error))?;
    if sysfs != Path::new(SYSFS) {
        return Ok(host);
    }
    let status = files::read(Path::new(SELF_STATUS), MAX_STATUS)
        .map_err(|error| Failure::new(Status::Host, format_args!("{SELF_STATUS}: {error}")))?;
    match allowed(&status) {
        Some((cpus, nodes)) => Ok(host.restricted_to(&cpus, &nodes)),
        None => Ok(host),
    }
}

/// The CPUs and nodes that `/proc/self/status` allows; kernels without cpusets do not say.
fn allowed(status: &str) -> Option<(CpuSet, NodeSet)> {
    let list = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Some((list("Cpus_allowed_list")?.parse().ok()?, list("Mems_allowed_list")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn the_cpuset_of_a_process_is_read_from_its_status() {
        let status =
            "Name:\tnumavisor\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8\nMems_allowed_list:\t1\n";
        let (cpus, nodes) = allowed(status).unwrap();
        assert_eq!((cpus.to_string(), nodes.to_string()), ("0-3,8".into(), "1".into()));
        assert_eq!(allowed("Name:\tnumavisor\n"), None);
    }
}
