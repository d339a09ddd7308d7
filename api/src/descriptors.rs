//! The file descriptor limit of this process, which many hosts set low by default.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit to `wanted`, or as near to it as the host lets it.
pub fn make_room(wanted: u64) {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted => {
            if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard) {
                tracing::info!(%error, "cannot raise the file descriptor limit");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::info!(%error, "cannot read the file descriptor limit"),
    }
}
