//! The limit of this process's file descriptors, which many hosts set low at first.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit to `wanted`, or as near to it as the host lets it.
pub fn make_room(wanted: u64) {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted => {
            if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard) {
                tracing::info!(%error, "descriptor limit not raised");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::info!(%error, "descriptor limit not known"),
    }
}
