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
    /// Unix socket of the VM, before or after the command [default: $NUMAVISOR_SOCKET]
    #[arg(short = 's', long, global = true, value_name = "PATH")]
    pub api_socket: Option<PathBuf>,
    /// Print the response body (JSON) instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// Operation
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// Operation.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Show the VM and its state
    Info,
    /// Show the vnodes, where their memory is and where their vCPUs run
    Vnodes(VnodesArgs),
    /// Define the VM, with the flags of `run`
    Define(Box<VmFlags>),
    /// Boot the VM and wait until it is running
    Boot(BootArgs),
    /// Pause all vCPUs
    Pause,
    /// Resume all vCPUs
    Resume,
    /// Press the guest's power button
    Shutdown(ShutdownArgs),
    /// Reset the guest
    Reset,
    /// Stop the VM if it is running, and delete its definition
    Delete,
    /// Show the plan of the VM, or of a VM with the given `run` flags
    Plan(Box<VmFlags>),
    /// Show the host of the VM
    Host,
    /// Set the balloon target of a vnode: how much memory it keeps
    #[command(visible_alias = "set-memory")]
    MemSet(MemSetArgs),
    /// Reclaim memory of a pnode from the guest, and wait for completion
    Reclaim(ReclaimArgs),
    /// Give memory of a pnode back to the guest
    #[command(visible_alias = "return")]
    Give(GiveArgs),
    /// Show how much memory the guest has free on each vnode
    FreeMemory,
    /// Measure how much memory of each vnode the guest and its devices write
    DirtyRate(DirtyRateArgs),
    /// Move a vnode to other pnodes, and wait for completion
    Move(MoveArgs),
    /// Swap the pnodes of two vnodes, and wait for completion
    Swap(SwapArgs),
    /// Move all vnodes off a pnode to the best other pnodes, and wait for completion
    Evacuate(EvacuateArgs),
    /// Set the host CPUs that a vCPU may run on
    #[command(visible_alias = "set-affinity")]
    Affinity(AffinityArgs),
    /// Set the affinity of all vCPUs of a vnode, and their pnodes
    #[command(visible_alias = "set-vnode-affinity")]
    VnodeAffinity(VnodeAffinityArgs),
    /// Show the virtio devices and their counters
    Devices,
    /// Grow a disk, or notify the guest of its new size
    DiskResize(DiskResizeArgs),
    /// Take the link of a network interface up or down
    Link(LinkArgs),
    /// Show the jobs, or one of them
    Jobs(JobsArgs),
    /// Cancel a job
    Cancel(CancelArgs),
    /// Show past events and follow new ones
    Events(EventsArgs),
    /// Show vnodes, vCPUs and jobs, refreshed periodically
    Top(TopArgs),
    /// Print metrics in Prometheus format
    Metrics,
    /// Print the OpenAPI document
    Openapi,
}

impl CtlArgs {
    /// The socket: the flag, else the environment variable.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        let environment = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        self.api_socket.clone().or_else(|| environment().map(PathBuf::from)).ok_or_else(|| {
            Failure::input(format_args!(
                "--api-socket: missing, must be given unless {SOCKET_VARIABLE} is set; see numavisor ctl --help"
            ))
        })
    }
}

/// `ctl shutdown`.
#[derive(Debug, Args)]
pub struct ShutdownArgs {
    /// Wait up to SECONDS for the VM to end: the exit status is that of the VM, or 6 if it is still running
    #[arg(long, value_name = "SECONDS", value_parser = count)]
    pub timeout: Option<u32>,
}

/// `ctl vnodes`.
#[derive(Debug, Args)]
pub struct VnodesArgs {
    /// Show only this one
    #[arg(value_parser = count)]
    pub vnode: Option<u32>,
    /// Wait for a new measurement of the memory
    #[arg(long)]
    pub fresh: bool,
}

/// `ctl boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// Return immediately
    #[arg(long)]
    pub detach: bool,
}

/// `ctl mem-set`.
#[derive(Debug, Args)]
pub struct MemSetArgs {
    /// Vnode number
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// Memory that the vnode keeps
    pub size: Bytes,
    /// Return immediately
    #[arg(long)]
    pub detach: bool,
}

/// `ctl reclaim`.
#[derive(Debug, Args)]
pub struct ReclaimArgs {
    /// Pnode to reclaim from
    #[arg(long, value_name = "N", value_parser = count, required_unless_present_any = ["last", "cancel"])]
    pub pnode: Option<u32>,
    /// How much
    #[arg(required_unless_present_any = ["last", "cancel"])]
    pub size: Option<Bytes>,
    /// Take no page of another pnode
    #[arg(long)]
    pub exact: bool,
    /// Return immediately
    #[arg(long)]
    pub detach: bool,
    /// Show the status of the last reclaim
    #[arg(long, conflicts_with_all = ["pnode", "size", "exact", "detach", "cancel"])]
    pub last: bool,
    /// Cancel the running reclaim; memory reclaimed so far is kept
    #[arg(long, conflicts_with_all = ["pnode", "size", "exact", "detach"])]
    pub cancel: bool,
}

/// `ctl give`.
#[derive(Debug, Args)]
pub struct GiveArgs {
    /// Pnode of the memory
    #[arg(long, value_name = "N", value_parser = count)]
    pub pnode: u32,
    /// How much
    pub size: Bytes,
    /// Return immediately
    #[arg(long)]
    pub detach: bool,
}

/// `ctl dirty-rate`.
#[derive(Debug, Args)]
pub struct DirtyRateArgs {
    /// Milliseconds to measure, up to 10000
    #[arg(long, value_name = "N", value_parser = count, default_value = "1000")]
    pub milliseconds: u32,
}

/// `ctl move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Vnode number
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// Destination pnodes, as a list
    #[arg(long, value_name = "LIST", value_parser = ids::<PnodeId>)]
    pub pnode: NodeSet,
    /// Maximum bytes per second
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<Bytes>,
    /// Return immediately
    #[arg(long)]
    pub detach: bool,
}

/// `ctl swap`.
#[derive(Debug, Args)]
pub struct SwapArgs {
    /// First vnode
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// Second vnode
    #[arg(value_parser = count)]
    pub with: u32,
    /// Maximum bytes per second
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<Bytes>,
    /// Return immediately
    #[arg(long)]
    pub detach: bool,
}

/// `ctl evacuate`.
#[derive(Debug, Args)]
pub struct EvacuateArgs {
    /// Pnode to evacuate
    #[arg(long, value_name = "N", value_parser = count)]
    pub pnode: u32,
    /// Maximum bytes per second
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<Bytes>,
    /// Return immediately
    #[arg(long)]
    pub detach: bool,
}

/// `ctl affinity`.
#[derive(Debug, Args)]
pub struct AffinityArgs {
    /// vCPU number
    #[arg(value_parser = count)]
    pub vcpu: u32,
    /// Host CPUs, as a list
    #[arg(value_parser = ids::<PcpuId>)]
    pub cpus: CpuSet,
}

/// `ctl vnode-affinity`.
#[derive(Debug, Args)]
pub struct VnodeAffinityArgs {
    /// Vnode number
    #[arg(value_parser = count)]
    pub vnode: u32,
    /// hard, soft or none
    pub affinity: Affinity,
    /// Pnodes whose CPUs to use, as a list [default: those of the vnode]
    #[arg(long, value_name = "LIST", value_parser = ids::<PnodeId>)]
    pub pnode: Option<NodeSet>,
}

/// `ctl disk-resize`.
#[derive(Debug, Args)]
pub struct DiskResizeArgs {
    /// Disk number: 0 is the first --disk
    #[arg(value_parser = count)]
    pub disk: u32,
    /// New size; a disk cannot shrink [default: the current size of the file or device]
    pub size: Option<Bytes>,
}

/// `ctl link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// Interface number: 0 is the first --net
    #[arg(value_parser = count)]
    pub net: u32,
    /// State of the link
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
    /// Show only this one
    #[arg(value_parser = long_count)]
    pub job: Option<u64>,
}

/// `ctl cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Job number
    #[arg(value_parser = long_count)]
    pub job: u64,
}

/// `ctl events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only events after this ID
    #[arg(long, value_name = "ID", value_parser = long_count)]
    pub after: Option<u64>,
    /// Exit after the past events
    #[arg(long)]
    pub no_follow: bool,
}

/// `ctl top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between refreshes
    #[arg(long, value_name = "SECONDS", value_parser = count, default_value = "1")]
    pub interval: u32,
    /// Number of refreshes [default: until interrupted]
    #[arg(long, value_name = "N", value_parser = count)]
    pub count: Option<u32>,
}
