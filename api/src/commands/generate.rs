//! `numavisor completions` and `numavisor man`: what packagers want, made from the flags themselves.

use crate::args::{Cli, CompletionsArgs};
use crate::exit::{Failure, Status};
use crate::files;
use clap::CommandFactory;
use std::process::ExitCode;

/// Prints a completion script.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "numavisor", &mut script);
    print(script)
}

/// Prints the manual page.
pub fn man() -> Result<ExitCode, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .map_err(|error| Failure::new(Status::Internal, format_args!("man: {error}")))?;
    print(page)
}

fn print(bytes: Vec<u8>) -> Result<ExitCode, Failure> {
    files::print(&String::from_utf8_lossy(&bytes))
}
