//! Remarks on a valid configuration: implicit settings that may surprise, and settings without effect.

use crate::ids::VnodeId;
use crate::spec::{MemoryPolicy, VmSpec, VnodeSpec};
use crate::topology::Vnode;
use crate::units::Bytes;
use serde::Serialize;
use std::fmt;

/// Something that may surprise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "note", rename_all = "kebab-case")]
pub enum Note {
    /// A vnode that names no memory gets none.
    NoMemoryLeft {
        /// Which.
        vnode: VnodeId,
        /// What the VM has.
        total: Bytes,
    },
    /// A vnode that names no vCPUs gets none.
    NoVcpusLeft {
        /// Which.
        vnode: VnodeId,
        /// How many the VM has.
        total: usize,
    },
    /// Something was said of memory that is not there, or of vCPUs.
    NoEffect {
        /// Of which vnode.
        vnode: VnodeId,
        /// What was said.
        field: &'static str,
        /// What the vnode does not have.
        without: &'static str,
    },
    /// Memory on one pnode is told to be dealt out over several.
    InterleavedOverOne {
        /// Of which vnode.
        vnode: VnodeId,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemoryLeft { vnode, total } => write!(
                f,
                "vnodes[{vnode}].memory: 0, as other vnodes have all memory of the VM ({total}); set memory=0 if this is intended"
            ),
            Self::NoVcpusLeft { vnode, total } => write!(
                f,
                "vnodes[{vnode}].vcpus: none, as other vnodes have all vCPUs of the VM ({total}); set vcpus=[] if this is intended"
            ),
            Self::NoEffect { vnode, field, without } => {
                write!(f, "vnodes[{vnode}].{field}: has no effect on a vnode without {without}")
            }
            Self::InterleavedOverOne { vnode } => {
                write!(f, "vnodes[{vnode}].policy: interleave has no effect on one pnode")
            }
        }
    }
}

/// The notes on vnodes that were described so and came to be such. `described` and `vnodes` are in order of ids.
pub fn notes(spec: &VmSpec, described: &[VnodeSpec], vnodes: &[Vnode]) -> Vec<Note> {
    let total = vnodes.iter().fold(Bytes::ZERO, |sum, vnode| sum.saturating_add(vnode.memory));
    let vcpus = vnodes.iter().map(|vnode| vnode.vcpus.len()).sum();
    let mut notes = Vec::new();
    for (typed, Vnode { id: vnode, memory, vcpus: own, .. }) in described.iter().zip(vnodes) {
        let vnode = *vnode;
        if *memory == Bytes::ZERO {
            if typed.memory.is_none() {
                notes.push(Note::NoMemoryLeft { vnode, total });
            }
            let said = [
                ("policy", typed.policy.is_some()),
                ("pages", typed.pages.is_some()),
                ("prefault", typed.prefault.is_some()),
                ("shared", typed.shared.is_some()),
            ];
            let said = said.into_iter().filter(|(_, said)| *said);
            notes.extend(said.map(|(field, _)| Note::NoEffect { vnode, field, without: "memory" }));
        }
        if own.is_empty() {
            if typed.vcpus.is_none() {
                notes.push(Note::NoVcpusLeft { vnode, total: vcpus });
            }
            if typed.affinity.is_some() {
                notes.push(Note::NoEffect { vnode, field: "affinity", without: "vCPUs" });
            }
        }
        let one = typed.pnode.as_ref().is_some_and(|pnodes| pnodes.len() == 1);
        if *memory > Bytes::ZERO && one && typed.policy == Some(MemoryPolicy::Interleave) {
            notes.push(Note::InterleavedOverOne { vnode });
        }
    }
    // `--vnodes` makes vnodes that say nothing: one note for each would be as many lines.
    if spec.numa.is_empty() {
        let mut seen = Vec::new();
        notes.retain(|note| {
            let kind = std::mem::discriminant(note);
            let new = !seen.contains(&kind);
            seen.push(kind);
            new
        });
    }
    notes
}

#[cfg(test)]
mod tests {
    use crate::spec::VmSpec;
    use crate::topology::VmTopology;

    fn notes(json: &str) -> Vec<String> {
        let spec: VmSpec = serde_json::from_str(json).unwrap();
        VmTopology::try_from(&spec).unwrap().notes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_nobody_said_and_what_has_no_effect_is_noted() {
        let no_memory = |vnode, total| {
            let why = format!(
                "as other vnodes have all memory of the VM ({total}); set memory=0 if this is intended"
            );
            format!("vnodes[{vnode}].memory: 0, {why}")
        };
        let no_vcpus = |vnode, total| {
            let why = format!(
                "as other vnodes have all vCPUs of the VM ({total}); set vcpus=[] if this is intended"
            );
            format!("vnodes[{vnode}].vcpus: none, {why}")
        };
        let cases = [
            (r#"{"vcpus": 2, "numa": [{"id": 0, "memory": "1G"}, {"id": 1}]}"#, vec![no_memory(1, "1G")]),
            (
                r#"{"vcpus": 2, "memory": "1G", "numa": [{"id": 1}, {"id": 0, "memory": "1G"}]}"#,
                vec![no_memory(1, "1G")],
            ),
            (
                r#"{"numa": [{"id": 0, "memory": "1G", "vcpus": "0-3"}, {"id": 1, "memory": "1G"}]}"#,
                vec![no_vcpus(1, 4)],
            ),
            (r#"{"vcpus": 1, "vnodes": 2}"#, vec![no_vcpus(1, 1)]),
            (r#"{"vcpus": 1, "vnodes": 9}"#, vec![no_vcpus(1, 1)]),
            (r#"{"vcpus": 3, "memory": "4M", "vnodes": 3}"#, vec![no_memory(2, "4M")]),
            (
                r#"{"numa": [{"id": 0, "memory": "1G", "vcpus": "0"}, {"id": 1, "memory": 0, "vcpus": "1", "pages": "2M", "policy": "bind", "prefault": "on"}]}"#,
                ["policy", "pages", "prefault"]
                    .map(|field| format!("vnodes[1].{field}: has no effect on a vnode without memory"))
                    .to_vec(),
            ),
            (
                r#"{"numa": [{"id": 0, "memory": "1G", "vcpus": []}, {"id": 1, "memory": "1G", "affinity": "hard"}, {"id": 2, "memory": "1G", "vcpus": [], "affinity": "hard"}]}"#,
                vec!["vnodes[2].affinity: has no effect on a vnode without vCPUs".to_owned()],
            ),
            (
                r#"{"numa": [{"id": 0, "pnode": 0, "policy": "interleave"}]}"#,
                vec!["vnodes[0].policy: interleave has no effect on one pnode".to_owned()],
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(notes(json), expected, "{json}");
        }
    }

    #[test]
    fn what_was_said_is_not_noted() {
        for json in [
            "{}",
            r#"{"vnodes": 4}"#,
            r#"{"vnodes": 4, "vcpus": 6, "memory": "1G"}"#,
            r#"{"numa": [{"id": 0, "memory": "1G", "vcpus": "0", "pnode": "0-1", "policy": "interleave"}, {"id": 1, "memory": 0, "vcpus": "1"}, {"id": 2, "memory": "1G", "vcpus": []}]}"#,
        ] {
            assert_eq!(notes(json), Vec::<String>::new(), "{json}");
        }
    }
}
