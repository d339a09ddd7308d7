//! Starts this program again as the process that removes the sockets of a killed VMM. `vmm` has the implementation.

use crate::exit::Failure;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use vmm::Janitor;

/// What it is started as; no command of anybody's, so in no help.
const WORD: &str = "socket-janitor";

/// One that starts this program.
pub fn of_this_program() -> Janitor {
    Janitor::new(|| {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("numavisor").arg(WORD);
        command
    })
}

/// Whether this process is it. The command line's parser alone would be most of its memory.
pub fn is_meant() -> bool {
    let mut args = std::env::args_os().skip(1);
    args.next().as_deref() == Some(OsStr::new(WORD)) && args.next().is_none()
}

/// Is it, to the end of who started it.
pub fn run() -> ExitCode {
    match vmm::sweep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            Failure::input(format_args!("{WORD}: only for numavisor itself: {error}")).report(false)
        }
    }
}
