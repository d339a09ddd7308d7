//! The command line: flags as typed, and errors as one line. What a `--numa` or `--distance` says is in the modules
//! of their grammars; what it means is `resources`' business.

mod config;
mod device;
mod distance;
mod help;
mod hmat;
mod numa;
mod pin;
mod refuse;
mod vm;

use crate::exit::Failure;
use crate::log::Verbosity;
use crate::look::SYSFS;
use clap::{Args, Parser, Subcommand};
use resources::OnReset;
use std::path::PathBuf;

pub use refuse::parse;
pub use vm::VmFlags;

/// Everything typed.
#[derive(Debug, Parser)]
#[command(name = "numavisor", version, about = help::ABOUT, after_help = help::SHORT, after_long_help = help::LONG)]
#[command(arg_required_else_help = false, subcommand_required = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Least important messages shown on standard error: error, warn, info, debug [default: warn]
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", hide_default_value = true)]
    pub log: Verbosity,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a VM and stay until it ends; its serial port is on standard input and output
    #[command(after_long_help = help::VM)]
    Run(RunArgs),
    /// Decide everything about a VM, touch nothing, and print what would be done
    #[command(after_long_help = help::VM)]
    Plan(PlanArgs),
    /// Print the nodes, CPUs, memory, huge pages and distances of this host
    #[command(after_long_help = help::HOST)]
    Host(HostArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub vm: VmFlags,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub vm: VmFlags,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Write the guest's ACPI tables to DIR/RSDP.dat, DIR/SRAT.dat and so on, made if missing; `iasl -d` reads them
    #[arg(long, value_name = "DIR")]
    pub acpi_dir: Option<PathBuf>,
    /// Plan for the host that this sysfs tree shows
    #[arg(long, value_name = "ROOT", default_value = SYSFS)]
    pub sysfs: PathBuf,
}

/// `host`.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Show the host of this sysfs tree
    #[arg(long, value_name = "ROOT", default_value = SYSFS)]
    pub sysfs: PathBuf,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// A whole number, or why it is not.
fn count(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(count) if digits => Ok(count),
        Err(_) if digits => Err(format!("{} is too large, must be at most {}", shortened(text), u32::MAX)),
        _ => Err(format!("`{}` is not a whole number", shortened(text))),
    }
}

/// Enough of a text to know it again.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A word of `--on-reset`.
fn on_reset(word: &str) -> Result<OnReset, String> {
    word.parse().map_err(|error: resources::spec::UnknownWord| error.to_string())
}

impl VmFlags {
    /// What the flags and the file of `--config` say together.
    pub fn spec(&self) -> Result<resources::VmSpec, Failure> {
        let mut spec = match &self.config {
            Some(path) => config::read(path)?,
            None => resources::VmSpec::default(),
        };
        self.put_into(&mut spec)?;
        Ok(spec)
    }
}
