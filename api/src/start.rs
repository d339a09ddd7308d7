//! From a configuration to a VM that is ready to run: reads the host, plans, and hands over to `vmm`. Commands and
//! the command queue run it and handle its end.

use crate::addresses;
use crate::claims::{ClaimsAt, explain};
use crate::descriptors;
use crate::exit::Failure;
use crate::look::{self, LookError};
use resources::{Claim, Diagnosis, ErrorKind, HostTopology, Ledger, Plan, PlanError, VmSpec, still_fits};
use std::time::Duration;
use vmm::claims::{ClaimsError, Planner};

/// The command line of a kernel when none is given: messages on the first serial port, and a panic ends in a reset
/// (so in status 4, or in a reboot) where it would hang otherwise.
const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";

/// Why there is no VM.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing to run.
    #[error("kernel: missing, must be a bzImage or an ELF kernel with a PVH entry")]
    NoKernel,
    /// The host could not be looked at.
    #[error(transparent)]
    Look(#[from] LookError),
    /// It is not a machine, or the host has no room.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Claims could not be read or made.
    #[error("{}", explain(.0))]
    Claims(#[from] ClaimsError),
    /// Payload, tables or KVM.
    #[error(transparent)]
    Vm(Box<vmm::Error>),
}

impl From<vmm::Error> for StartError {
    fn from(error: vmm::Error) -> Self {
        Self::Vm(Box::new(error))
    }
}

impl StartError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::NoKernel => Diagnosis::new(ErrorKind::Invalid, "no_kernel").at("kernel"),
            Self::Look(error) => error.diagnosis.clone(),
            Self::Plan(error) => error.diagnosis(),
            Self::Claims(error) => error.diagnosis(),
            Self::Vm(error) => error.diagnosis(),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let found = error.diagnosis();
        match error {
            StartError::NoKernel => {
                Self::of(found, "--kernel: missing, run needs a bzImage or an ELF kernel with a PVH entry")
            }
            StartError::Look(_) | StartError::Plan(_) | StartError::Claims(_) | StartError::Vm(_) => {
                Self::of(found, error)
            }
        }
    }
}

/// Why a plan could not be carried out on this host now; or why the limits of KVM are not known, if that is all.
/// `force_host` is [`vmm::Options`]'.
pub fn check(plan: &Plan, spec: &VmSpec, force_host: bool) -> Result<Option<vmm::HostError>, StartError> {
    Ok(vmm::check(plan, payload(spec), &spec.serial, force_host)?)
}

/// The payload of a VM, if it has one.
fn payload(spec: &VmSpec) -> Option<vmm::Payload> {
    Some(vmm::Payload {
        kernel: spec.kernel.clone()?,
        initramfs: spec.initramfs.clone(),
        cmdline: spec.cmdline.clone().unwrap_or_else(|| DEFAULT_CMDLINE.to_owned()),
    })
}

/// Options for starting a VM: observers, signals, claims.
#[derive(Default)]
pub struct StartOptions {
    /// Notified of the progress of start-up.
    pub progress: Option<Box<dyn vmm::Progress>>,
    /// Notified of every change.
    pub observer: Option<Box<dyn vmm::Observer>>,
    /// Handles the end signals.
    pub signals: vmm::Signals,
    /// How long the guest may take to power off after the first of those.
    pub shutdown_timeout: Option<Duration>,
    /// The claims directory.
    pub claims: ClaimsAt,
    /// Socket cleanup, if this process is killed.
    pub cleanup: vmm::Janitor,
    /// Starts Linux also where KVM has no hardware virtualization.
    pub force_host: bool,
}

/// A VM that is planned for this host.
struct OnThisHost<'a>(&'a VmSpec);

impl OnThisHost<'_> {
    fn look() -> Result<HostTopology, StartError> {
        Ok(look::this_host()?)
    }
}

impl Planner for OnThisHost<'_> {
    type Plan = Plan;
    type Error = StartError;

    fn plan(&mut self, others: &Ledger) -> Result<Plan, StartError> {
        Ok(Plan::beside(self.0, &Self::look()?, others)?)
    }

    fn claim<'a>(&self, plan: &'a Plan) -> &'a Claim {
        &plan.placement.claim
    }

    fn still_fits(&mut self, plan: &Plan, others: &Ledger, changed: bool) -> Result<bool, StartError> {
        Ok(still_fits(&plan.placement.claim, &Self::look()?, others, changed))
    }
}

/// More than a VM and an API need: notification, interrupt and host side of each queue, eventfds of each vCPU.
fn descriptors_of(plan: &Plan) -> u64 {
    let disks = plan.devices.disks.iter().map(|disk| u64::from(disk.queues));
    let nets = plan.devices.nets.iter().map(|net| 2 * u64::from(net.queues) + 1);
    let queues: u64 = disks.chain(nets).sum();
    2048 + 4 * queues + 16 * (plan.topology.vcpu_count() + plan.topology.vnodes().len()) as u64
}

/// Plans for this host, and checks and prepares everything that can be refused without touching memory.
pub fn prepare(spec: VmSpec, options: StartOptions) -> Result<vmm::Vm, StartError> {
    let payload = payload(&spec).ok_or(StartError::NoKernel)?;
    let spec = addresses::given(spec);
    let (plan, claim) = options.claims.reserve(&mut OnThisHost(&spec))?;
    for note in plan.topology.notes() {
        tracing::warn!("{note}");
    }
    for vnode in &plan.placement.vnodes {
        for shortfall in &vnode.shortfalls {
            tracing::warn!("vnode {}: {shortfall}", vnode.vnode);
        }
    }
    descriptors::make_room(descriptors_of(&plan));
    let StartOptions { progress, observer, signals, shutdown_timeout, claims: _, cleanup, force_host } =
        options;
    let options = vmm::Options {
        serial: spec.serial,
        on_reset: spec.on_reset,
        progress,
        observer,
        signals,
        shutdown_timeout,
        claim,
        janitor: cleanup,
        force_host,
    };
    Ok(vmm::Vm::new(plan, payload, options)?)
}
