//! clap's errors as one line with field, value and rule, and status 2; help and version as clap prints them.

use crate::args::Cli;
use crate::exit::{Failure, Status};
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::{CommandFactory, Parser};
use std::error::Error as _;

/// Reads the command line. Ends the process when help or the version is asked for.
pub fn parse() -> Result<Cli, Failure> {
    Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ => Failure::new(Status::Input, line(&error)),
    })
}

/// The error in one line.
pub(super) fn line(error: &Error) -> String {
    let argument = text(error, ContextKind::InvalidArg).unwrap_or_default();
    // `--memory <SIZE>`: the flag is enough; `<SHELL>` and `[VNODE]` are their names.
    let flag =
        argument.split([' ', '<', '>', '[', ']', '=']).find(|word| !word.is_empty()).unwrap_or("arguments");
    // A flag that may be repeated is shown with dots.
    let flag = flag.trim_end_matches("...");
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::ValueValidation => match error.source() {
            Some(why) => format!("{flag}: {why}"),
            None => format!("{flag}: `{value}` is not allowed"),
        },
        ErrorKind::InvalidValue if value.is_empty() => format!("{flag}: a value is required"),
        ErrorKind::InvalidValue => {
            let allowed = text(error, ContextKind::ValidValue).unwrap_or_default();
            format!("{flag}: `{value}` is not one of {allowed}")
        }
        ErrorKind::ArgumentConflict => match text(error, ContextKind::PriorArg) {
            Some(other) if !other.starts_with(flag) => {
                let other = other.split([' ', '<']).next().unwrap_or_default();
                format!("{flag}: cannot be combined with {other}, use one of them")
            }
            _ => format!("{flag}: given twice, must be given once"),
        },
        ErrorKind::UnknownArgument => match text(error, ContextKind::SuggestedArg) {
            Some(near) => {
                format!("{argument}: unknown argument, {near} is the nearest; see numavisor --help")
            }
            None => format!("{argument}: unknown argument; see numavisor --help"),
        },
        ErrorKind::InvalidSubcommand => {
            let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("{word}: unknown command, must be one of {}", commands(error))
        }
        ErrorKind::MissingSubcommand => {
            format!("a command is missing, must be one of {}", commands(error))
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{argument}: missing, must be given; see numavisor --help")
        }
        ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues => {
            format!("{flag}: `{}` is not allowed, the flag takes no value", value.escape_default())
        }
        ErrorKind::InvalidUtf8 => "arguments: one is not UTF-8, must be".to_owned(),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            format!("{}; see numavisor --help", first.trim_start_matches("error: "))
        }
    }
}

/// The commands there are, and where to read about them: those of `ctl` if it was about them.
fn commands(error: &Error) -> String {
    let usage = text(error, ContextKind::Usage).unwrap_or_default();
    let cli = Cli::command();
    let ctl = cli.find_subcommand("ctl").filter(|_| usage.contains("numavisor ctl"));
    let names = ctl.unwrap_or(&cli).get_subcommands().map(|command| command.get_name());
    let names: Vec<&str> = names.collect();
    let help = if ctl.is_some() { "numavisor ctl --help" } else { "numavisor --help" };
    format!("{}; see {help}", names.join(", "))
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::line;
    use crate::args::Cli;
    use clap::{CommandFactory, Parser};

    fn refused(args: &str) -> String {
        line(&Cli::try_parse_from(std::iter::once("numavisor").chain(args.split(' '))).unwrap_err())
    }

    #[test]
    fn the_flags_make_sense_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documentation_names_every_flag() {
        let page = include_str!("../../../docs/cli.md");
        for command in Cli::command().get_subcommands() {
            assert!(page.contains(&format!("`{}", command.get_name())), "{}", command.get_name());
            let deep = command.get_subcommands().inspect(|deep| {
                assert!(page.contains(&format!("`{}", deep.get_name())), "{}", deep.get_name());
            });
            for command in deep.chain(std::iter::once(command)) {
                for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
                    assert!(flag == "help" || page.contains(&format!("--{flag}")), "--{flag}");
                }
            }
        }
    }

    #[test]
    fn each_mistake_is_one_line() {
        let commands = "must be one of run, serve, plan, host, import, export, ctl, completions, man; see numavisor --help";
        let cases = [
            ("plan --vcpus x", "--vcpus: `x` is not a whole number".to_owned()),
            ("plan --vcpus -1", "--vcpus: `-1` is not a whole number".to_owned()),
            (
                "plan --memory 1.5G",
                "--memory: `1.5G` is not a size; write a whole number with an optional K, M, G or T, such as 512M"
                    .to_owned(),
            ),
            ("plan --memory", "--memory: a value is required".to_owned()),
            ("plan --memory 1G --memory 2G", "--memory: given twice, must be given once".to_owned()),
            ("plan --memroy 1G", "--memroy: unknown argument, --memory is the nearest; see numavisor --help".to_owned()),
            (
                "plan --config a --from-xl b",
                "--config: cannot be combined with --from-xl, use one of them".to_owned(),
            ),
            ("import --from vmx a", "--from: `vmx` is not one of libvirt, xl, qemu".to_owned()),
            ("export", "--to <FORMAT>: missing, must be given; see numavisor --help".to_owned()),
            ("plan extra", "extra: unknown argument; see numavisor --help".to_owned()),
            ("frobnicate", format!("frobnicate: unknown command, {commands}")),
            ("--log info", format!("a command is missing, {commands}")),
            (
                "ctl --api-socket x frob",
                "frob: unknown command, must be one of info, vnodes, define, boot, pause, resume, shutdown, reset, \
                 delete, plan, host, mem-set, reclaim, give, free-memory, dirty-rate, move, swap, evacuate, affinity, vnode-affinity, devices, disk-resize, link, jobs, cancel, events, top, metrics, openapi; \
                 see numavisor ctl --help"
                    .to_owned(),
            ),
            ("serve --api-socket x --api-socket-mode 888", "--api-socket-mode: `888` is not a mode, must be octal digits such as 660".to_owned()),
            ("plan --log loud", "--log: `loud` is not one of error, warn, info, debug".to_owned()),
            ("plan --distances far", "--distances: `far` is not one of host".to_owned()),
            ("plan --vnodes some", "--vnodes: `some` is not a whole number, and not auto".to_owned()),
            (
                "plan --placement tight",
                "--placement: `tight` is not one of auto, first-fit, best-fit, worst-fit".to_owned(),
            ),
            ("plan --fit loose", "--fit: `loose` is not one of strict, prefer".to_owned()),
            ("run --on-reset halt", "--on-reset: `halt` is not one of exit, reboot".to_owned()),
            ("run --serial tty", "--serial: `tty` is not one of stdio, none, file=PATH".to_owned()),
            ("completions", "<SHELL>: missing, must be given; see numavisor --help".to_owned()),
            ("completions foo", "SHELL: `foo` is not one of bash, elvish, fish, powershell, zsh".to_owned()),
            ("run --rng=on", "--rng: `on` is not allowed, the flag takes no value".to_owned()),
            ("plan -v --quiet", "--verbose: cannot be combined with --quiet, use one of them".to_owned()),
            ("ctl vnodes x", "VNODE: `x` is not a whole number".to_owned()),
            ("ctl jobs -s x 1.5", "JOB: `1.5` is not a whole number".to_owned()),
            (
                "ctl cancel 99999999999999999999",
                "JOB: 99999999999999999999 is too large, must be at most 18446744073709551615".to_owned(),
            ),
            ("ctl move 0 --pnode 1,1", "--pnode: 1 is given twice, must be given once".to_owned()),
            ("run --shutdown-timeout 1s", "--shutdown-timeout: `1s` is not a whole number".to_owned()),
            ("help frobnicate", format!("frobnicate: unknown command, {commands}")),
        ];
        for (args, expected) in cases {
            assert_eq!(refused(args), expected, "{args}");
        }
    }
}
