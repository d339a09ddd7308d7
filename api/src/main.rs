//! The `numavisor` command: reads what was typed, has it decided by `resources` and done by `vmm`, and says how it
//! went. No decision about a VM is made here.
#![forbid(unsafe_code)]

mod addresses;
mod args;
mod claims;
mod commands;
mod ctl;
mod descriptors;
mod exit;
mod files;
mod formats;
mod group;
mod http;
mod log;
mod look;
mod progress;
mod show;
mod socket_cleanup;
mod start;
mod statuses;
mod strict_json;

use args::{Cli, Command};
use exit::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let code = match socket_cleanup::is_meant() {
        true => socket_cleanup::run(),
        false => match args::parse() {
            Ok(cli) => {
                let json = cli.command.wants_json();
                run(cli).unwrap_or_else(|failure| failure.report(json))
            }
            // What was typed makes no sense, but for this perhaps.
            Err(failure) => failure.report(std::env::args_os().any(|argument| argument == "--json")),
        },
    };
    log::finish();
    code
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    log::start(cli.verbosity());
    match cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Ctl(args) => commands::ctl::run(args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Host(args) => commands::host::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Completions(args) => commands::generate::completions(&args),
        Command::Man(args) => commands::generate::man(&args),
    }
}
