//! The flags that describe a VM, and how they win over a configuration file.

use crate::args::{count, distance, numa, on_reset};
use crate::exit::Failure;
use clap::Args;
use resources::spec::DistancesFrom;
use resources::{Bytes, OnReset, SerialSpec, VmSpec};
use std::path::PathBuf;

/// The flags that describe a VM.
#[derive(Debug, Default, Args)]
pub struct VmFlags {
    /// Kernel: a bzImage or an ELF file with a PVH entry
    #[arg(long, value_name = "PATH", help_heading = "Guest")]
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk
    #[arg(long, value_name = "PATH", help_heading = "Guest")]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line [default: "console=ttyS0 panic=-1"]
    #[arg(long, value_name = "STR", help_heading = "Guest", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// First serial port: stdio, none or file=PATH (output only, appended) [default: stdio]
    #[arg(long, value_name = "WHERE", help_heading = "Guest")]
    pub serial: Option<SerialSpec>,
    /// When the guest resets: exit (with status 4) or reboot [default: exit]
    #[arg(long, value_name = "DO", value_parser = on_reset, help_heading = "Guest")]
    pub on_reset: Option<OnReset>,
    /// Read the VM from a JSON file; flags given beside it win over its fields
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub config: Option<PathBuf>,
    /// vCPUs of the whole VM; those that no vnode names are shared out evenly [default: those named, or one per vnode]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true, help_heading = "Shape")]
    pub vcpus: Option<u32>,
    /// Memory of the whole VM; what no vnode names is shared out evenly [default: 512M]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Shape")]
    pub memory: Option<Bytes>,
    /// Number of vnodes to make, without describing them [default: 1]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true, help_heading = "Shape")]
    pub vnodes: Option<u32>,
    /// One vnode: id=N and any of memory, vcpus, pnode, policy, affinity, pages, prefault, latency, bandwidth
    #[arg(long, value_name = "id=N,KEY=VALUE,...", help_heading = "Shape")]
    pub numa: Vec<String>,
    /// SLIT distance from vnode F to vnode T, and back unless given too: 11 to 254, 255 is unreachable
    #[arg(long, value_name = "F:T=V", help_heading = "Shape")]
    pub distance: Vec<String>,
    /// Vnodes as far apart, and as fast, as the host nodes they lie on; distances given with --distance stay
    #[arg(long, value_name = "host", help_heading = "Shape")]
    pub distances: Option<DistancesFrom>,
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
        if let Some(serial) = &self.serial {
            spec.serial = serial.clone();
        }
        if let Some(on_reset) = self.on_reset {
            spec.on_reset = on_reset;
        }
        if !self.numa.is_empty() {
            spec.numa = list("--numa", &self.numa, numa::parse)?;
        }
        if !self.distance.is_empty() {
            spec.distances = list("--distance", &self.distance, distance::parse)?;
        }
        Ok(())
    }
}

/// Parses each value of a flag; an error says which one it was.
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
