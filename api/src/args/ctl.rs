//! The commands of `ctl`: one per operation of the API.

use crate::args::{VmFlags, count, ids, long_count};
use crate::exit::Failure;
use clap::{Args, Subcommand};
use resources::{Affinity, Bytes, CpuSet, NodeSet, PcpuId, PnodeId};
use std::path::PathBuf;

/// Names the socket where nothing is typed.
pub const SOCKET_VARIABLE: &str = "NUMAVISOR_SOCKET";

/// `ctl`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct CtlArgs {
    /// The unix socket of the VM, before or after the command [default: what NUMAVISOR_SOCKET says]
    #[arg(short = 's', long, global = true, value_name = "PATH")]
    pub api_socket: Option<PathBuf>,
    /// Print the answer as it came instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// What to ask
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What to ask.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Show the VM and its state
    Info,
    /// Show the vnodes, where their memory lies and where their vCPUs run
    Vnodes(VnodesArgs),
    /// Define the VM, with the flags of `run`
    Define(Box<VmFlags>),
    /// Start the VM, and wait until it runs
    Boot(BootArgs),
    /// Pause all vCPUs
    Pause,
    /// Resume all vCPUs
    Resume,
    /// Press the guest's power button
    Shutdown(ShutdownArgs),
    /// Reset the guest; it starts again
    Reset,
    /// End the VM if it runs, and forget it
    Delete,
    /// Show what was decided for the VM, or with the flags of `run` what would be
    Plan(Box<VmFlags>),
    /// Show the host that the VM is on
    Host,
    /// Set how much of its memory a vnode keeps
    #[command(visible_alias = "set-memory")]
    MemSet(MemSetArgs),
    /// Get memory back from a pnode, and wait for completion
    Reclaim(ReclaimArgs),
    /// Give memory of a pnode back to the guest
    #[command(visible_alias = "return")]
    Give(GiveArgs),
    /// Ask the guest how much it has free of each vnode
    FreeMemory,
    /// Measure how much memory of each vnode is written by the guest and its devices
    DirtyRate(DirtyRateArgs),
    /// Move a vnode to other pnodes, and wait until it is there
    Move(MoveArgs),
    /// Move two vnodes into each other's places, and wait until they are there
    Swap(SwapArgs),
    /// Move everything that is on a pnode to the best other places, and wait until it is there
    Evacuate(EvacuateArgs),
    /// Set where a vCPU may run
    #[command(visible_alias = "set-affinity")]
    Affinity(AffinityArgs),
    /// Set how the vCPUs of a vnode are held, and on which pnodes
    #[command(visible_alias = "set-vnode-affinity")]
    VnodeAffinity(VnodeAffinityArgs),
    /// Show the virtio devices and what they count
    Devices,
    /// Make a disk longer, or tell the guest how long it has become
    DiskResize(DiskResizeArgs),
    /// Take the link of a network interface up or down
    Link(LinkArgs),
    /// Show the jobs, or one of them
    Jobs(JobsArgs),
    /// Ask a job to end
    Cancel(CancelArgs),
    /// Show what happened, and what happens from now on
    Events(EventsArgs),
    /// Show vnodes, vCPUs and jobs, again and again
    Top(TopArgs),
    /// Print the figures for Prometheus
    Metrics,
    /// Print the OpenAPI document
    Openapi,
}

impl CtlArgs {
    /// The socket: what was typed, else what the environment says.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        let environment = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        self.api_socket.clone().or_else(|| environment().map(PathBuf::from)).ok_or_else(|| {
            Failure::input(format_args!(
                "--api-socket: missing, must be given, or {SOCKET_VARIABLE} be set; see numavisor ctl --help"
            ))
        })
    }
}

/// `ctl shutdown`.
#[derive(Debug, Args)]
pub struct ShutdownArgs {
    /// Wait so many seconds for the VM to end: the status is that of its end, or 6 if it still runs then
    #[arg(long, value_name = "SECONDS", value_parser = count)]
    pub timeout: Option<u32>,
}

/// `ctl vnodes`.
#[derive(Debug, Args)]
pub struct VnodesArgs {
    /// Only this one
    #[arg(value_parser = count)]
    pub vnode: Option<u32>,
    /// Wait for a measurement of the memory that begins now
    #[arg(long)]
    pub fresh: bool,
}

/// `ctl boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// Do not wait until it runs
    #[arg(long)]
    pub detach: bool,
}

/// `ctl mem-set`.
#[derive(Debug, Args)]
pub struct MemSetArgs {
    /// Which vnode
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// What it should keep
    pub size: Bytes,
    /// Do not wait until the guest has done it
    #[arg(long)]
    pub detach: bool,
}

/// `ctl reclaim`.
#[derive(Debug, Args)]
pub struct ReclaimArgs {
    /// From which pnode
    #[arg(long, value_name = "N", value_parser = count, required_unless_present_any = ["last", "cancel"])]
    pub pnode: Option<u32>,
    /// How much
    #[arg(required_unless_present_any = ["last", "cancel"])]
    pub size: Option<Bytes>,
    /// Not a page of another pnode
    #[arg(long)]
    pub exact: bool,
    /// Do not wait for completion
    #[arg(long)]
    pub detach: bool,
    /// Show the status of the last one
    #[arg(long, conflicts_with_all = ["pnode", "size", "exact", "detach", "cancel"])]
    pub last: bool,
    /// Cancel the one under way; memory reclaimed so far is kept
    #[arg(long, conflicts_with_all = ["pnode", "size", "exact", "detach"])]
    pub cancel: bool,
}

/// `ctl give`.
#[derive(Debug, Args)]
pub struct GiveArgs {
    /// On which pnode
    #[arg(long, value_name = "N", value_parser = count)]
    pub pnode: u32,
    /// How much
    pub size: Bytes,
    /// Do not wait until the guest has taken it
    #[arg(long)]
    pub detach: bool,
}

/// `ctl dirty-rate`.
#[derive(Debug, Args)]
pub struct DirtyRateArgs {
    /// How long to measure, up to 10000
    #[arg(long, value_name = "N", value_parser = count, default_value = "1000")]
    pub milliseconds: u32,
}

/// `ctl move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Which vnode
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// Where to, as a list
    #[arg(long, value_name = "LIST", value_parser = ids::<PnodeId>)]
    pub pnode: NodeSet,
    /// Bytes per second at most
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<Bytes>,
    /// Do not wait until it is there
    #[arg(long)]
    pub detach: bool,
}

/// `ctl swap`.
#[derive(Debug, Args)]
pub struct SwapArgs {
    /// One vnode
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// The other
    #[arg(value_parser = count)]
    pub with: u32,
    /// Bytes per second at most
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<Bytes>,
    /// Do not wait until they are there
    #[arg(long)]
    pub detach: bool,
}

/// `ctl evacuate`.
#[derive(Debug, Args)]
pub struct EvacuateArgs {
    /// Which pnode
    #[arg(long, value_name = "N", value_parser = count)]
    pub pnode: u32,
    /// Bytes per second at most
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<Bytes>,
    /// Do not wait until it is done
    #[arg(long)]
    pub detach: bool,
}

/// `ctl affinity`.
#[derive(Debug, Args)]
pub struct AffinityArgs {
    /// Which vCPU
    #[arg(value_parser = count)]
    pub vcpu: u32,
    /// Host CPUs, as a list
    #[arg(value_parser = ids::<PcpuId>)]
    pub cpus: CpuSet,
}

/// `ctl vnode-affinity`.
#[derive(Debug, Args)]
pub struct VnodeAffinityArgs {
    /// Which vnode
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// hard, soft or none
    pub affinity: Affinity,
    /// The pnodes whose CPUs they get, as a list [default: those of the vnode]
    #[arg(long, value_name = "LIST", value_parser = ids::<PnodeId>)]
    pub pnode: Option<NodeSet>,
}

/// `ctl disk-resize`.
#[derive(Debug, Args)]
pub struct DiskResizeArgs {
    /// Which disk, from 0 in the order in which they were given
    #[arg(value_parser = count)]
    pub disk: u32,
    /// How long it shall be, no less than it is [default: tell the guest how long it is now]
    pub size: Option<Bytes>,
}

/// `ctl link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// Which interface, from 0 in the order in which they were given
    #[arg(value_parser = count)]
    pub net: u32,
    /// Its state
    pub state: LinkState,
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LinkState {
    /// Frames pass
    Up,
    /// Frames are dropped both ways
    Down,
}

/// `ctl jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Only this one
    #[arg(value_parser = long_count)]
    pub job: Option<u64>,
}

/// `ctl cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Which job
    #[arg(value_parser = long_count)]
    pub job: u64,
}

/// `ctl events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only those after this number
    #[arg(long, value_name = "ID", value_parser = long_count)]
    pub after: Option<u64>,
    /// End when those that happened are shown
    #[arg(long)]
    pub no_follow: bool,
}

/// `ctl top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", value_parser = count, default_value = "1")]
    pub interval: u32,
    /// Looks before it ends [default: until interrupted]
    #[arg(long, value_name = "N", value_parser = count)]
    pub count: Option<u32>,
}
