//! Reads the host: its files, and for the real host also the cpuset of this process.

use crate::exit::Failure;
use crate::files;
use resources::{CpuSet, Diagnosis, ErrorKind, HostRoot, HostTopology, NodeSet};
use std::path::Path;

/// Where the kernel shows this host.
pub const SYSFS: &str = "/sys";
const SELF_STATUS: &str = "/proc/self/status";
/// Most bytes of `/proc/self/status`: some 1.5 KiB, and two masks of 1,024 nodes and 8,192 CPUs.
const MAX_STATUS: u64 = 64 << 10;

/// Why a host cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LookError {
    /// In one line.
    pub text: String,
    /// What is known beside it.
    pub diagnosis: Diagnosis,
}

impl From<LookError> for Failure {
    fn from(error: LookError) -> Self {
        Self::of(error.diagnosis.clone(), error)
    }
}

/// The host of this process.
pub fn this_host() -> Result<HostTopology, LookError> {
    host(&HostRoot::this())
}

/// The host that these files show, less what this process may not use when it is the real one.
pub fn host(root: &HostRoot) -> Result<HostTopology, LookError> {
    let host = HostTopology::read(root)
        .map_err(|error| LookError { text: error.to_string(), diagnosis: error.diagnosis() })?;
    if !is_this(root) {
        return Ok(host);
    }
    let status = files::read(Path::new(SELF_STATUS), MAX_STATUS).map_err(|error| LookError {
        text: format!("{SELF_STATUS}: {error}"),
        diagnosis: Diagnosis::new(ErrorKind::Host, "host_file_unreadable"),
    })?;
    let (cpus, nodes) = allowed(&status);
    let cpus = cpus.unwrap_or_else(|| host.cpus());
    let nodes = nodes.unwrap_or_else(|| host.ids());
    Ok(host.restricted_to(&cpus, &nodes))
}

/// Whether these are the files of the host that this process runs on.
pub fn is_this(root: &HostRoot) -> bool {
    root.sysfs() == Path::new(SYSFS)
}

/// The CPUs and nodes that `/proc/self/status` allows; kernels without cpusets say nothing of nodes.
fn allowed(status: &str) -> (Option<CpuSet>, Option<NodeSet>) {
    let list = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let cpus = list("Cpus_allowed_list").and_then(|list| list.parse().ok());
    (cpus, list("Mems_allowed_list").and_then(|list| list.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn the_cpuset_of_a_process_is_read_from_its_status() {
        let status =
            "Name:\tnumavisor\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8\nMems_allowed_list:\t1\n";
        let (cpus, nodes) = (Some("0-3,8".parse().unwrap()), Some("1".parse().unwrap()));
        assert_eq!(allowed(status), (cpus.clone(), nodes));
        assert_eq!(allowed("Cpus_allowed_list:\t0-3,8\n"), (cpus, None), "a kernel without cpusets");
        assert_eq!(allowed("Name:\tnumavisor\n"), (None, None));
    }
}
