//! The command line: flags, and errors as one line. The grammars of `--numa`, `--distance` and others are in
//! submodules; what the values mean is decided by `resources`.

mod claims;
mod config;
mod ctl;
mod device;
mod distance;
mod help;
mod hmat;
#[cfg(test)]
mod mistakes_tests;
mod numa;
mod pin;
mod refuse;
mod socket;
mod stop;
mod vm;

use crate::commands::import;
use crate::exit::Failure;
use crate::formats::Format;
use crate::log::Verbosity;
use crate::look::SYSFS;
use clap::{Args, Parser, Subcommand};
use resources::{HostRoot, IdSet, OnReset};
use std::path::PathBuf;

pub use claims::{ClaimingFlags, ClaimsFlags};
pub use ctl::{CtlArgs, CtlCommand, LinkState, MemSetArgs, MoveArgs, TopArgs};
pub use refuse::parse;
pub use socket::SocketFlags;
pub use stop::StopFlags;
pub use vm::VmFlags;

/// Everything typed.
#[derive(Debug, Parser)]
#[command(name = "numavisor", version = VERSION, about = help::ABOUT, after_help = help::SHORT, after_long_help = help::LONG)]
#[command(arg_required_else_help = false, subcommand_required = true)]
pub struct Cli {
    /// Log level on standard error: error, warn, info, debug [default: warn]
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", hide_default_value = true)]
    pub log: Verbosity,
    /// Log more: -v is --log info, -vv is --log debug
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with_all = ["log", "quiet"])]
    pub verbose: u8,
    /// Log errors only, same as --log error
    #[arg(short, long, global = true, conflicts_with = "log")]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The least important messages that are shown.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::ERROR,
            (false, 0) => self.log,
            (false, 1) => Verbosity::INFO,
            (false, _) => Verbosity::DEBUG,
        }
    }
}

/// The version, and the commit where it was known when this was built.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("NUMAVISOR_COMMIT"));

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a VM and wait until it ends; its serial port is connected to standard input and output
    #[command(after_long_help = help::VM)]
    Run(RunArgs),
    /// Serve the HTTP API on a socket; clients define and boot the VM
    #[command(after_long_help = help::SERVE)]
    Serve(ServeArgs),
    /// Print what `run` would do, without changing anything
    #[command(after_long_help = help::VM)]
    Plan(PlanArgs),
    /// Print the nodes, CPUs, memory, huge pages and distances of this host
    #[command(after_long_help = help::HOST)]
    Host(HostArgs),
    /// Convert a libvirt, xl or QEMU configuration and print it as JSON
    #[command(after_long_help = help::IMPORT)]
    Import(ImportArgs),
    /// Convert a VM to a libvirt, xl or QEMU configuration and print it
    #[command(after_long_help = help::VM)]
    Export(ExportArgs),
    /// Control a running VM over its API socket
    #[command(after_long_help = help::CTL)]
    Ctl(CtlArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),
    /// Print a manual page, or write the manual pages of all commands
    Man(ManArgs),
}

impl Command {
    /// Whether to report a failure as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Serve(args) => args.json,
            Self::Plan(args) => args.json,
            Self::Host(args) => args.json,
            Self::Ctl(args) => args.json,
            Self::Import(_) | Self::Export(_) | Self::Completions(_) | Self::Man(_) => false,
        }
    }
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub vm: VmFlags,
    #[command(flatten)]
    pub stop: StopFlags,
    #[command(flatten)]
    pub host: ForceFlags,
    #[command(flatten)]
    pub claims: ClaimingFlags,
    #[command(flatten)]
    pub socket: SocketFlags,
    /// Report a failure as one line of JSON on standard error: code, kind, detail, field, exit_status
    #[arg(long)]
    pub json: bool,
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub stop: StopFlags,
    #[command(flatten)]
    pub host: ForceFlags,
    #[command(flatten)]
    pub claims: ClaimingFlags,
    #[command(flatten)]
    pub socket: SocketFlags,
    /// Report a failure as one line of JSON on standard error: code, kind, detail, field, exit_status
    #[arg(long)]
    pub json: bool,
}

/// What to do on a host that cannot do it.
#[derive(Debug, Default, Args)]
pub struct ForceFlags {
    /// Try to boot Linux even if KVM has no hardware virtualization (kvm_pvm); it usually fails
    #[arg(long, help_heading = "Guest")]
    pub force_host: bool,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub vm: VmFlags,
    #[command(flatten)]
    pub host: ForceFlags,
    #[command(flatten)]
    pub claims: ClaimsFlags,
    /// Print JSON instead of tables, and report a failure as one line of JSON on standard error
    #[arg(long)]
    pub json: bool,
    /// Write the guest's ACPI tables to DIR/RSDP.dat, DIR/SRAT.dat and so on, for `iasl -d`; creates DIR if needed
    #[arg(long, value_name = "DIR")]
    pub acpi_dir: Option<PathBuf>,
    #[command(flatten)]
    pub tree: TreeFlags,
}

/// `host`.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Also list the claims of running VMs, and the totals per pnode
    #[arg(long)]
    pub claims: bool,
    #[command(flatten)]
    pub directory: ClaimsFlags,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub tree: TreeFlags,
}

/// Where the files of the host are.
#[derive(Debug, Args)]
pub struct TreeFlags {
    /// Read this sysfs tree, such as one copied from another machine
    #[arg(long, value_name = "ROOT", default_value = SYSFS)]
    pub sysfs: PathBuf,
    /// Read zoneinfo and meminfo from this /proc [default: `proc` next to a ROOT named `sys`, else inside ROOT]
    #[arg(long, value_name = "ROOT")]
    pub procfs: Option<PathBuf>,
}

impl TreeFlags {
    /// Where they are.
    pub fn root(&self) -> HostRoot {
        let root = HostRoot::of(&self.sysfs);
        match &self.procfs {
            Some(procfs) => root.with_procfs(procfs),
            None => root,
        }
    }
}

/// `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Input format: libvirt (domain XML), xl (xl.cfg) or qemu (command line)
    #[arg(long, value_name = "FORMAT")]
    pub from: Format,
    /// Input file; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Write to FILE instead of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Output format: libvirt, xl or qemu
    #[arg(long, value_name = "FORMAT")]
    pub to: Format,
    #[command(flatten)]
    pub vm: VmFlags,
    /// Write to FILE instead of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Command, such as `run` or `ctl move` [default: the program itself]
    pub of: Vec<String>,
    /// Write one page per command into this directory, such as `numavisor-run.1`
    #[arg(long, value_name = "DIR", conflicts_with = "of")]
    pub dir: Option<PathBuf>,
}

/// A whole number, or why it is not.
fn count(text: &str) -> Result<u32, String> {
    number(text, u32::MAX.into())
}

/// A whole number of up to 64 bits, or why it is not.
fn long_count(text: &str) -> Result<u64, String> {
    number(text, u64::MAX)
}

/// A whole number up to `most`, which fits the type.
fn number<T: TryFrom<u64>>(text: &str, most: u64) -> Result<T, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{}` is not a whole number", shortened(text)));
    }
    let small = text.parse::<u64>().ok().filter(|number| *number <= most);
    small
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("{} is too large, must be at most {most}", shortened(text)))
}

/// A list of ids as typed, each named once.
fn ids<T: Copy + From<u32> + Into<u32>>(text: &str) -> Result<IdSet<T>, String> {
    IdSet::typed(text).map_err(|error| error.to_string())
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
    /// The flags on top of the file of `--config` or of another program.
    pub fn spec(&self) -> Result<resources::VmSpec, Failure> {
        let others = [
            (Format::Libvirt, "--from-libvirt", &self.from_libvirt),
            (Format::Xl, "--from-xl", &self.from_xl),
            (Format::Qemu, "--from-qemu", &self.from_qemu),
        ];
        let other = others.into_iter().find_map(|(format, flag, path)| Some((format, flag, path.as_ref()?)));
        let mut spec = match (&self.config, other) {
            (Some(path), _) => config::read(path)?,
            (None, Some((format, flag, path))) => import::read(format, flag, path)?,
            (None, None) => resources::VmSpec::default(),
        };
        self.put_into(&mut spec)?;
        Ok(spec)
    }
}
