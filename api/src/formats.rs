//! Configurations of other programs, read into a [`VmSpec`] and written from one. What a spec means is decided by
//! `resources`; docs/formats.md lists the supported settings.

mod libvirt;
mod list;
mod losses;
mod notes;
mod qemu;
#[cfg(test)]
mod tests;
mod xl;

use notes::Notes;
use resources::topology::MEMORY_UNIT;
use resources::{Bytes, PageSize, VmSpec, VmTopology};
use std::fmt;
use std::str::FromStr;

/// Most bytes of a description: libvirt's of 256 vnodes with all distances and attributes needs some 20 MiB, one that a
/// person wrote some KiB; the readers need a few dozen bytes of memory per byte.
pub const MAX_INPUT: u64 = 1 << 20;

/// Whose description it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A domain in libvirt's XML.
    Libvirt,
    /// A domain configuration of Xen's xl.
    Xl,
    /// A command line of QEMU.
    Qemu,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "libvirt" => Ok(Self::Libvirt),
            "xl" => Ok(Self::Xl),
            "qemu" => Ok(Self::Qemu),
            _ => {
                let word: String = word.chars().take(40).collect();
                Err(format!("`{word}` is not one of libvirt, xl, qemu"))
            }
        }
    }
}

/// Why a description cannot be read or written: where, and value and rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Counted from 1; `None` where no line alone is to blame.
    line: Option<usize>,
    what: String,
}

impl Refusal {
    fn at(line: usize, what: impl fmt::Display) -> Self {
        Self { line: Some(line), what: what.to_string() }
    }

    fn of(what: impl fmt::Display) -> Self {
        Self { line: None, what: what.to_string() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Reads a description. The spec is a machine; the warnings say what it does not have of the description.
pub fn read(format: Format, text: &str) -> Result<(VmSpec, Vec<String>), Refusal> {
    let mut notes = Notes::default();
    let mut spec = match format {
        Format::Libvirt => libvirt::read(text, &mut notes)?,
        Format::Xl => xl::read(text, &mut notes)?,
        Format::Qemu => qemu::read(text, &mut notes)?,
    };
    round_up(&mut spec, &mut notes);
    VmTopology::try_from(&spec).map_err(Refusal::of)?;
    Ok((spec, notes.lines()))
}

/// Other programs have sizes of any KiB; here memory comes in steps, and a guest never gets less than was asked for.
fn round_up(spec: &mut VmSpec, notes: &mut Notes) {
    let mut round = |what: &str, memory: &mut Bytes, unit: Bytes| {
        let Some(rounded) = memory.get().checked_next_multiple_of(unit.get()).map(Bytes) else { return };
        if rounded != *memory {
            notes
                .of(format!("{what}: {memory} are rounded up to {rounded}, memory comes in steps of {unit}"));
            *memory = rounded;
        }
    };
    if let Some(memory) = &mut spec.memory {
        round("the VM", memory, MEMORY_UNIT);
    }
    for vnode in &mut spec.numa {
        let unit = vnode.pages.and_then(PageSize::pool).unwrap_or(MEMORY_UNIT);
        if let Some(memory) = &mut vnode.memory {
            round(&format!("vnode {}", vnode.id), memory, unit);
        }
    }
}

/// Writes a description. The warnings say what it does not have of the spec.
pub fn write(format: Format, spec: &VmSpec) -> Result<(String, Vec<String>), Refusal> {
    let topology = VmTopology::try_from(spec).map_err(Refusal::of)?;
    let mut notes = Notes::default();
    losses::note(format, spec, &topology, &mut notes);
    let text = match format {
        Format::Libvirt => libvirt::write(spec, &topology),
        Format::Xl => xl::write(spec, &topology)?,
        Format::Qemu => qemu::write(spec, &topology)?,
    };
    Ok((text, notes.lines()))
}
