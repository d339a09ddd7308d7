//! The guest a test asks for, and what Linux in it must then say.

use std::collections::BTreeMap;

use crate::rangelist;

/// One vnode of a test's guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vnode {
    /// 0 for a vnode with CPUs only.
    pub(crate) mib: u64,
    /// Empty for a vnode with memory only; ascending.
    pub(crate) vcpus: Vec<u32>,
    /// Where it shall lie; empty leaves that to numavisor.
    pub(crate) pnodes: Vec<u32>,
    /// More keys, as they stand after a comma: `policy=preferred`.
    pub(crate) extra: String,
}

/// A test's guest. Give vnodes different sizes: without names on the mappings their sizes tell them apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuestSpec {
    pub(crate) vnodes: Vec<Vnode>,
    /// From, to, distance, in the order of the command line.
    pub(crate) distances: Vec<(u32, u32, u32)>,
}

impl Vnode {
    /// A vnode with memory and CPUs on one pnode.
    pub(crate) fn on(pnode: u32, mib: u64, vcpus: &[u32]) -> Self {
        Self { mib, vcpus: vcpus.to_vec(), pnodes: vec![pnode], extra: String::new() }
    }

    /// The same with more keys.
    pub(crate) fn with(mut self, extra: &str) -> Self {
        self.extra = extra.to_owned();
        self
    }

    fn flag(&self, id: usize) -> String {
        let mut flag = format!("id={id}");
        if self.mib > 0 {
            flag.push_str(&format!(",memory={}M", self.mib));
        }
        if !self.vcpus.is_empty() {
            flag.push_str(&format!(",vcpus=[{}]", rangelist::format(&self.vcpus)));
        }
        match self.pnodes.as_slice() {
            [] => {}
            [pnode] => flag.push_str(&format!(",pnode={pnode}")),
            many => flag.push_str(&format!(",pnode=[{}]", rangelist::format(many))),
        }
        if !self.extra.is_empty() {
            flag.push_str(&format!(",{}", self.extra));
        }
        flag
    }
}

impl GuestSpec {
    /// A guest of these vnodes with default distances.
    pub(crate) fn new(vnodes: Vec<Vnode>) -> Self {
        Self { vnodes, distances: Vec::new() }
    }

    /// The same with `--distance` flags.
    pub(crate) fn distances(mut self, distances: &[(u32, u32, u32)]) -> Self {
        self.distances = distances.to_vec();
        self
    }

    /// The flags that ask for it.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        for (id, vnode) in self.vnodes.iter().enumerate() {
            flags.extend(["--numa".to_owned(), vnode.flag(id)]);
        }
        for (from, to, value) in &self.distances {
            flags.extend(["--distance".to_owned(), format!("{from}:{to}={value}")]);
        }
        flags
    }

    /// Vnodes in the order of Linux's node numbers: it meets processors before it meets memory.
    pub(crate) fn in_linux_order(&self) -> Vec<usize> {
        let all = || 0..self.vnodes.len();
        let has_cpus = |&vnode: &usize| !self.vnodes[vnode].vcpus.is_empty();
        all().filter(has_cpus).chain(all().filter(|vnode| !has_cpus(vnode))).collect()
    }

    /// The distance matrix by the completion rule: explicit beats mirrored, mirrored beats default.
    pub(crate) fn matrix(&self) -> BTreeMap<(usize, usize), u32> {
        let count = self.vnodes.len();
        let mut given = BTreeMap::new();
        let mut mirrored = BTreeMap::new();
        for &(from, to, value) in &self.distances {
            given.insert((from as usize, to as usize), value);
            mirrored.entry((to as usize, from as usize)).or_insert(value);
        }
        let default = |from, to| if from == to { 10 } else { 20 };
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs
            .map(|pair| {
                let value = given.get(&pair).or(mirrored.get(&pair)).copied();
                (pair, value.unwrap_or(default(pair.0, pair.1)))
            })
            .collect()
    }

    /// All vCPUs.
    pub(crate) fn vcpu_count(&self) -> usize {
        self.vnodes.iter().map(|vnode| vnode.vcpus.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestSpec, Vnode};

    #[test]
    fn memory_only_vnodes_come_last_in_linux() {
        let spec =
            GuestSpec::new(vec![Vnode::on(0, 64, &[]), Vnode::on(0, 64, &[0]), Vnode::on(0, 64, &[1])]);
        assert_eq!(spec.in_linux_order(), [1, 2, 0]);
    }

    #[test]
    fn explicit_beats_mirrored_beats_default() {
        let vnodes = vec![Vnode::default(), Vnode::default(), Vnode::default()];
        let matrix = GuestSpec::new(vnodes).distances(&[(0, 1, 21), (1, 0, 31), (0, 2, 40)]).matrix();
        assert_eq!((matrix[&(0, 1)], matrix[&(1, 0)], matrix[&(2, 0)], matrix[&(1, 2)]), (21, 31, 40, 20));
    }

    #[test]
    fn a_vnode_is_written_as_one_flag() {
        let spec = GuestSpec::new(vec![
            Vnode { pnodes: vec![0, 1], ..Vnode::on(0, 64, &[0, 2]) }.with("policy=interleave"),
        ]);
        assert_eq!(spec.flags(), ["--numa", "id=0,memory=64M,vcpus=[0,2],pnode=[0-1],policy=interleave"]);
    }
}
