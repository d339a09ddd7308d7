//! `-numa node`, `-numa cpu` and `-numa dist`; `-numa hmat-*` is in `hmat`.

use crate::formats::Refusal;
use crate::formats::list::{distance, ids};
use crate::formats::notes::Notes;
use crate::formats::qemu::backend::Backends;
use crate::formats::qemu::hmat::Hmat;
use crate::formats::qemu::options::Options;
use crate::formats::qemu::smp::{Place, Smp};
use resources::distance::DistanceSpec;
use resources::topology::MAX_VNODES;
use resources::{Bytes, VcpuId, VcpuSet, VmSpec, VnodeSpec};
use std::collections::{BTreeMap, BTreeSet};

/// What `-numa` said, before `-smp`, `-m` and the backends are known.
#[derive(Default)]
pub struct Numa {
    nodes: BTreeMap<u32, Node>,
    cpus: Vec<(u32, Place)>,
    distances: Vec<DistanceSpec>,
    /// The pairs of those.
    pairs: BTreeSet<(u32, u32)>,
    hmat: Hmat,
}

struct Node {
    line: usize,
    memory: Option<Bytes>,
    backend: Option<String>,
    cpus: VcpuSet,
    initiator: Option<u32>,
}

impl Numa {
    /// The backends that nodes name.
    pub fn backends(&self) -> impl Iterator<Item = &String> {
        self.nodes.values().filter_map(|node| node.backend.as_ref())
    }

    /// Reads one `-numa`.
    pub fn option(&mut self, mut options: Options, notes: &mut Notes) -> Result<(), Refusal> {
        options.plain_only()?;
        let kind = options.needed("type")?;
        match kind.as_str() {
            "node" => self.node(&mut options)?,
            "cpu" => {
                let node = self.id(&mut options, "node-id")?;
                let place = Place {
                    socket: options.number("socket-id")?,
                    die: options.number("die-id")?,
                    core: options.number("core-id")?,
                    thread: options.number("thread-id")?,
                };
                self.cpus.push((node, place));
            }
            "dist" => {
                let (from, to) = (self.id(&mut options, "src")?, self.id(&mut options, "dst")?);
                let value =
                    options.number("val")?.ok_or_else(|| options.refuse("val", "missing, must be given"))?;
                let value = distance(from, to, value).map_err(|why| options.refuse("val", why))?;
                if !self.pairs.insert((from, to)) {
                    let what = format!("{from}:{to} is given twice, must be given once");
                    return Err(options.refuse("dist", what));
                }
                self.distances.push(DistanceSpec { from, to, value });
            }
            "hmat-lb" => {
                let pair = (self.id(&mut options, "initiator")?, self.id(&mut options, "target")?);
                self.hmat.locality(pair, &mut options, notes)?;
            }
            "hmat-cache" => {
                let node = self.id(&mut options, "node-id")?;
                self.hmat.cache(node, &mut options)?;
            }
            _ => {
                let kind = crate::formats::list::shown(&kind);
                let what = format!("`{kind}` is not one of node, cpu, dist, hmat-lb, hmat-cache");
                return Err(options.refuse("type", what));
            }
        }
        options.leave_rest(notes);
        Ok(())
    }

    fn node(&mut self, options: &mut Options) -> Result<(), Refusal> {
        let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let id = options.number("nodeid")?.unwrap_or(next);
        if id >= MAX_VNODES {
            return Err(
                options.refuse("nodeid", format_args!("{id} is too large, must be below {MAX_VNODES}"))
            );
        }
        let cpus = ids(&options.all("cpus").join(",")).map_err(|why| options.refuse("cpus", why))?;
        let node = Node {
            line: options.line,
            memory: options.size("mem", 1 << 20)?,
            backend: options.take("memdev"),
            cpus,
            initiator: options.number("initiator")?,
        };
        if node.memory.is_some() && node.backend.is_some() {
            return Err(options.refuse("mem", "cannot be combined with memdev, use one of them"));
        }
        if self.nodes.insert(id, node).is_some() {
            return Err(options.refuse("nodeid", format_args!("{id} is given twice, ids must differ")));
        }
        Ok(())
    }

    /// A node that was named before.
    fn id(&self, options: &mut Options, key: &str) -> Result<u32, Refusal> {
        let id = options.number(key)?.ok_or_else(|| options.refuse(key, "missing, must be given"))?;
        match self.nodes.contains_key(&id) {
            true => Ok(id),
            false => Err(options.refuse(key, format_args!("node {id} is not there before this option"))),
        }
    }

    /// The vnodes and what is between them. Without nodes there is one, of which nothing is known here.
    pub fn finish(
        mut self,
        spec: &mut VmSpec,
        memory: Bytes,
        smp: &Smp,
        backends: &Backends,
        notes: &mut Notes,
    ) -> Result<(), Refusal> {
        let all: VcpuSet = (0..smp.cpus()).map(VcpuId).collect();
        if self.nodes.is_empty() {
            spec.numa = vec![VnodeSpec { memory: Some(memory), vcpus: Some(all), ..VnodeSpec::new(0) }];
            return Ok(());
        }
        self.give_cpus(smp, &all, notes)?;
        for (id, node) in &self.nodes {
            let mut vnode =
                VnodeSpec { vcpus: Some(node.cpus.clone()), memory: node.memory, ..VnodeSpec::new(*id) };
            vnode.initiator = node.initiator.filter(|initiator| initiator != id);
            if let Some(backend) = &node.backend {
                let Some(backend) = backends.get(backend) else {
                    let backend = crate::formats::list::shown(backend);
                    return Err(Refusal::at(
                        node.line,
                        format_args!("-numa memdev: there is no `{backend}`"),
                    ));
                };
                backend.give(&mut vnode);
            }
            spec.numa.push(vnode);
        }
        let named: Vec<Bytes> = spec.numa.iter().filter_map(|vnode| vnode.memory).collect();
        if named.is_empty() {
            spec.memory = Some(memory);
        } else {
            let sum = named.into_iter().fold(Bytes::ZERO, Bytes::saturating_add);
            if sum != memory {
                return Err(Refusal::of(format_args!(
                    "-m: {memory} but the nodes have {sum}, must be the same"
                )));
            }
            // The others have none.
            spec.numa.iter_mut().for_each(|vnode| _ = vnode.memory.get_or_insert_default());
        }
        spec.distances = self.distances;
        (spec.attributes, spec.caches) = self.hmat.finish();
        Ok(())
    }

    fn give_cpus(&mut self, smp: &Smp, all: &VcpuSet, notes: &mut Notes) -> Result<(), Refusal> {
        for (node, place) in &self.cpus {
            let cpus = smp.at(place);
            if let Some(node) = self.nodes.get_mut(node) {
                if cpus.is_empty() {
                    return Err(Refusal::at(node.line, "-numa cpu: there is no CPU at that place of -smp"));
                }
                node.cpus = node.cpus.union(&cpus);
            }
        }
        let named = self.nodes.values().fold(VcpuSet::new(), |named, node| named.union(&node.cpus));
        if let Some(beyond) = named.difference(all).first() {
            let what = format!("-numa cpus: CPU {beyond} does not exist, -smp has 0 to {}", smp.cpus() - 1);
            return Err(Refusal::of(what));
        }
        let rest = all.difference(&named);
        if rest.is_empty() {
            return Ok(());
        }
        if !named.is_empty() {
            notes.of(format!("-numa does not name the CPUs {rest}: they are on the nodes of their sockets"));
        }
        let ids: Vec<u32> = self.nodes.keys().copied().collect();
        for cpu in rest.iter() {
            let place = smp.default_node(cpu.0, u32::try_from(ids.len()).unwrap_or(1));
            if let Some(node) = ids.get(place as usize).and_then(|id| self.nodes.get_mut(id)) {
                node.cpus.insert(cpu);
            }
        }
        Ok(())
    }
}
