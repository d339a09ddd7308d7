//! `numavisor completions` and `numavisor man`: generated from the flags, for packagers.

use crate::args::{Cli, CompletionsArgs, ManArgs};
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

/// Prints a manual page, or writes them all.
pub fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    if let Some(directory) = &args.dir {
        return match clap_mangen::generate_to(command, directory) {
            Ok(()) => Ok(Status::Done.into()),
            Err(error) => Err(Failure::input(format_args!("--dir: {}: {error}", directory.display()))),
        };
    }
    // Gives the commands below it their full names; a page about help would say nothing.
    command =
        command.disable_help_subcommand(true).mut_subcommand("ctl", |ctl| ctl.disable_help_subcommand(true));
    command.build();
    let mut of = &command;
    for name in &args.of {
        of = of.find_subcommand(name).ok_or_else(|| {
            let known: Vec<&str> = of.get_subcommands().map(clap::Command::get_name).collect();
            let rule = if known.is_empty() {
                "it has no commands".to_owned()
            } else {
                format!("must be one of {}", known.join(", "))
            };
            Failure::input(format_args!(
                "`{}`: not a command of {}, {rule}",
                name.escape_default(),
                of.get_bin_name().unwrap_or("numavisor")
            ))
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(of.clone())
        .render(&mut page)
        .map_err(|error| Failure::new(Status::Internal, format_args!("man: {error}")))?;
    print(page)
}

fn print(bytes: Vec<u8>) -> Result<ExitCode, Failure> {
    files::print(&String::from_utf8_lossy(&bytes))
}
