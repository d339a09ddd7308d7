//! The flags that describe a VM, and how they override a configuration file.

use crate::args::{count, device, distance, hmat, numa, on_reset, pin};
use crate::exit::Failure;
use clap::Args;
use resources::spec::{AttributesFrom, DistancesFrom, Switch};
use resources::{Bytes, Fit, OnReset, PlacementPolicy, SerialSpec, VmSpec, VnodeCount};
use std::path::PathBuf;

/// The flags that describe a VM.
#[derive(Debug, Default, Args)]
pub struct VmFlags {
    /// Kernel: a bzImage or an ELF file with a PVH entry
    #[arg(short, long, value_name = "PATH", help_heading = "Guest")]
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk
    #[arg(long, value_name = "PATH", help_heading = "Guest")]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line [default: "console=ttyS0 panic=-1"]
    #[arg(long, value_name = "STR", help_heading = "Guest", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// First serial port: stdio, none or file=PATH (output only, appended) [default: stdio]
    #[arg(long, value_name = "DEST", help_heading = "Guest")]
    pub serial: Option<SerialSpec>,
    /// Action on a guest reset: exit (with status 4) or reboot [default: exit]
    #[arg(long, value_name = "ACTION", value_parser = on_reset, help_heading = "Guest")]
    pub on_reset: Option<OnReset>,
    /// Read the VM from a JSON file; other flags override its fields
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub config: Option<PathBuf>,
    /// Read the VM from a libvirt domain (XML); warns about what it ignores
    #[arg(long, value_name = "FILE", help_heading = "Guest", conflicts_with = "config")]
    pub from_libvirt: Option<PathBuf>,
    /// Read the VM from an xl configuration; warns about what it ignores
    #[arg(long, value_name = "FILE", help_heading = "Guest", conflicts_with_all = ["config", "from_libvirt"])]
    pub from_xl: Option<PathBuf>,
    /// Read the VM from a file with a QEMU command line; warns about what it ignores
    #[arg(long, value_name = "FILE", help_heading = "Guest", conflicts_with_all = ["config", "from_libvirt", "from_xl"])]
    pub from_qemu: Option<PathBuf>,
    /// Number of vCPUs of the VM; those not assigned with --numa are split evenly [default: those assigned, or one per vnode]
    #[arg(short = 'c', long, value_name = "N", value_parser = count, allow_negative_numbers = true, help_heading = "Topology")]
    pub vcpus: Option<u32>,
    /// Memory of the VM; what is not assigned with --numa is split evenly [default: 512M]
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Topology")]
    pub memory: Option<Bytes>,
    /// Number of equal vnodes, without --numa; auto: as many as the VM needs pnodes [default: 1]
    #[arg(long, value_name = "N|auto", value_parser = vnodes, allow_negative_numbers = true, help_heading = "Topology")]
    pub vnodes: Option<VnodeCount>,
    /// Describe a vnode: id=N and any of memory, vcpus, pnode, policy, affinity, pages, prefault, shared, latency,
    /// bandwidth, initiator; repeatable
    #[arg(long, value_name = "id=N,KEY=VALUE,...", help_heading = "Topology")]
    pub numa: Vec<String>,
    /// SLIT distance from vnode F to vnode T, and from T to F unless given: 11 to 254, or 255 for unreachable; repeatable
    #[arg(long, value_name = "F:T=V", help_heading = "Topology")]
    pub distance: Vec<String>,
    /// Take distances, latencies and bandwidths from the pnodes of the vnodes; --distance overrides
    #[arg(long, visible_alias = "distances-from", value_name = "host", help_heading = "Topology")]
    pub distances: Option<DistancesFrom>,
    /// HMAT latency and bandwidth from vCPUs of vnode I to memory of vnode T: latency=90ns,bandwidth=20G, each also with the prefix read- or write-; repeatable
    #[arg(long, value_name = "I:T,KEY=VALUE,...", help_heading = "Topology")]
    pub attribute: Vec<String>,
    /// Take latencies and bandwidths from the pnodes of the vnodes; --attribute overrides
    #[arg(long, visible_alias = "attributes-from", value_name = "host", help_heading = "Topology")]
    pub attributes: Option<AttributesFrom>,
    /// HMAT memory-side cache of a vnode: vnode=N,size=SIZE,level=1 and any of associativity, policy, line; repeatable
    #[arg(long, value_name = "vnode=N,KEY=VALUE,...", help_heading = "Topology")]
    pub memory_cache: Vec<String>,
    /// Disk, raw file or block device: path=PATH and any of format=raw, vnode, readonly, direct, queues, interrupts, serial; repeatable
    #[arg(long, value_name = "path=PATH,KEY=VALUE,...", help_heading = "Devices")]
    pub disk: Vec<String>,
    /// Network interface: tap=NAME, or fd=N and mac, and any of mac, mtu, queues, vnode, vhost; repeatable
    #[arg(long, value_name = "tap=NAME,KEY=VALUE,...", help_heading = "Devices")]
    pub net: Vec<String>,
    /// Vsock device: cid=N and any of socket (default: vhost-vsock), vnode
    #[arg(long, value_name = "cid=N,socket=PATH", help_heading = "Devices")]
    pub vsock: Option<String>,
    /// Virtio console (hvc0): socket=PATH for a client, or file=PATH for output only, and vnode
    #[arg(long, value_name = "socket=PATH|file=PATH", help_heading = "Devices")]
    pub console: Option<String>,
    /// Add an entropy device (virtio-rng)
    #[arg(long, help_heading = "Devices")]
    pub rng: bool,
    /// Return free pages that the guest reports to the host
    #[arg(long, help_heading = "Devices")]
    pub free_page_reporting: bool,
    /// Pin vCPUs to host CPUs: 0-1=4-7, 2=node:1,^9; repeatable
    #[arg(long, value_name = "VCPUS=CPUS", help_heading = "Topology")]
    pub pin: Vec<String>,
    /// How to choose pnodes for vnodes without pnode=: auto, first-fit, best-fit or worst-fit [default: auto]
    #[arg(long, value_name = "RULE", help_heading = "Placement")]
    pub placement: Option<PlacementPolicy>,
    /// What to do if a vnode fits on no pnode: strict fails, prefer spreads it or shares CPUs [default: prefer]
    #[arg(long, value_name = "MODE", help_heading = "Placement")]
    pub fit: Option<Fit>,
    /// Also choose pnodes with device memory, such as CXL or a GPU
    #[arg(long, help_heading = "Placement")]
    pub device_memory: bool,
}

/// A value of `--vnodes`.
fn vnodes(text: &str) -> Result<VnodeCount, String> {
    match text {
        "auto" => Ok(VnodeCount::Auto),
        _ => count(text).map(VnodeCount::Exactly).map_err(|why| format!("{why}, and not auto")),
    }
}

impl VmFlags {
    /// Overwrites what the flags name; lists are replaced as a whole.
    pub fn put_into(&self, spec: &mut VmSpec) -> Result<(), Failure> {
        fn put<T: Clone>(field: &mut Option<T>, flag: Option<&T>) {
            if let Some(value) = flag {
                *field = Some(value.clone());
            }
        }
        put(&mut spec.kernel, self.kernel.as_ref());
        put(&mut spec.initramfs, self.initramfs.as_ref());
        put(&mut spec.cmdline, self.cmdline.as_ref());
        put(&mut spec.vcpus, self.vcpus.as_ref());
        put(&mut spec.memory, self.memory.as_ref());
        put(&mut spec.vnodes, self.vnodes.as_ref());
        put(&mut spec.distances_from, self.distances.as_ref());
        put(&mut spec.attributes_from, self.attributes.as_ref());
        if let Some(serial) = &self.serial {
            spec.serial = serial.clone();
        }
        if let Some(on_reset) = self.on_reset {
            spec.on_reset = on_reset;
        }
        if let Some(placement) = self.placement {
            spec.placement = placement;
        }
        if let Some(fit) = self.fit {
            spec.fit = fit;
        }
        if self.device_memory {
            spec.device_memory = Some(Switch(true));
        }
        if !self.numa.is_empty() {
            spec.numa = list("--numa", &self.numa, numa::parse)?;
        }
        if !self.distance.is_empty() {
            spec.distances = list("--distance", &self.distance, distance::parse)?;
        }
        if !self.attribute.is_empty() {
            spec.attributes = list("--attribute", &self.attribute, hmat::attribute)?;
        }
        if !self.memory_cache.is_empty() {
            spec.caches = list("--memory-cache", &self.memory_cache, hmat::cache)?;
        }
        if !self.pin.is_empty() {
            spec.pins = list("--pin", &self.pin, pin::parse)?;
        }
        if !self.disk.is_empty() {
            spec.disks = list("--disk", &self.disk, device::disk)?;
        }
        if !self.net.is_empty() {
            spec.nets = list("--net", &self.net, device::net)?;
        }
        if let Some(vsock) = &self.vsock {
            let vsock = device::vsock(vsock);
            spec.vsock = Some(vsock.map_err(|error| Failure::input(format_args!("--vsock{error}")))?);
        }
        if let Some(console) = &self.console {
            let console = device::console(console);
            spec.console = Some(console.map_err(|error| Failure::input(format_args!("--console{error}")))?);
        }
        if self.rng {
            spec.rng = Some(Switch(true));
        }
        if self.free_page_reporting {
            spec.free_page_reporting = Some(Switch(true));
        }
        Ok(())
    }
}

/// Parses each value of a flag; an error has its index.
fn list<T, E: std::fmt::Display>(
    flag: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Failure> {
    let parsed = texts.iter().enumerate().map(|(index, text)| {
        parse(text).map_err(|error| Failure::input(format_args!("{flag}[{index}]{error}")))
    });
    parsed.collect()
}
