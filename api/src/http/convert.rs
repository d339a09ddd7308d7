//! Converts `vmm`'s types to wire types.

use crate::http::wire;
use resources::{Bytes, MemoryPolicy, NodeSet, Plan, PnodeId, VnodeId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vmm::balloon::{HostShort, Phase, ReclaimKind, ReclaimPart, ReclaimState, ReclaimView, VnodeMemory};
use vmm::{DeviceView, Exit, JobView, VmView};

/// The unit of balloons (virtio 1.3, 5.5.6).
const BALLOON_PAGE: u64 = 4096;

/// A measurement of one vnode.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Time of the measurement.
    pub at: Instant,
    /// The result.
    pub residency: vmm::Residency,
}

/// A job.
pub fn job(view: &JobView) -> wire::Job {
    let (state, outcome, error) = match &view.state {
        vmm::JobState::Running => (wire::JobState::Running, None, None),
        vmm::JobState::Done(outcome) => (wire::JobState::Done, Some(outcome), None),
        vmm::JobState::Cancelled(outcome) => (wire::JobState::Cancelled, Some(outcome), None),
        vmm::JobState::Failed(error, outcome) => {
            (wire::JobState::Failed, Some(outcome), Some(error.to_string()))
        }
    };
    let left = outcome.iter().flat_map(|outcome| &outcome.left);
    wire::Job {
        id: view.id.0,
        vnode: view.vnode.0,
        from: view.from.pnodes.clone(),
        to: view.to.pnodes.clone(),
        state,
        total: view.total.get(),
        scanned: view.seen.get(),
        moved: view.moved.get(),
        left: left.map(|(errno, bytes)| wire::LeftBehind { errno: *errno, bytes: bytes.get() }).collect(),
        error,
        shortfalls: view.to.shortfalls.iter().map(ToString::to_string).collect(),
        elapsed_ms: u64::try_from(view.elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// A virtio device.
pub fn device(view: &DeviceView) -> wire::Device {
    let counters = &view.counters;
    wire::Device {
        name: view.name.clone(),
        vnode: view.vnode.0,
        counters: wire::DeviceCounters {
            activations: counters.activations.get(),
            resets: counters.resets.get(),
            refused_features: counters.refused_features.get(),
            failed_activations: counters.failed_activations.get(),
            queue_faults: counters.queue_faults.get(),
            ignored_accesses: counters.ignored_accesses.get(),
            slow_notifications: counters.slow_notifications.get(),
            host_failures: counters.host_failures.get(),
        },
        figures: view.figures.iter().map(|figure| (figure.key(), figure.value)).collect(),
    }
}

/// A balloon.
pub fn balloon(memory: &VnodeMemory) -> wire::Balloon {
    let pages = |pages: u32| u64::from(pages) * BALLOON_PAGE;
    let outcome = memory.outcome.map(|outcome| wire::BalloonOutcome {
        stop: outcome.stop.code().to_owned(),
        exact: outcome.exact,
        requested: pages(outcome.wanted),
        reached: pages(outcome.reached),
        elapsed_ms: u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
        rate: rate(pages(outcome.reached.abs_diff(outcome.from)), outcome.took),
    });
    wire::Balloon {
        floor: memory.floor.get(),
        on_node: memory.on_node.get(),
        off_node: memory.off_node.get(),
        returned: memory.returned.get(),
        request: memory.request,
        phase: match memory.phase {
            Phase::Idle => wire::BalloonPhase::Idle,
            Phase::Inflating => wire::BalloonPhase::Inflating,
            Phase::Deflating => wire::BalloonPhase::Deflating,
            Phase::Exhausted => wire::BalloonPhase::Exhausted,
            Phase::Unresponsive => wire::BalloonPhase::Unresponsive,
        },
        outcome,
        partial: memory.partial.get(),
        short: memory.short.get(),
        migrated: memory.device.migrations.saturating_mul(BALLOON_PAGE),
        reported: memory.reported.get(),
        guest: memory.device.guest.all().collect(),
    }
}

/// A vnode's memory for events.
pub fn balloon_event(memory: &VnodeMemory) -> serde_json::Value {
    let VnodeMemory { vnode, target, actual, released, .. } = memory;
    let balloon = balloon(memory);
    serde_json::json!({"vnode": vnode, "target": target, "actual": actual, "released": released, "balloon": balloon})
}

/// A guest that waits for memory that is claimed by other VMs.
pub fn host_short_event(short: &HostShort) -> serde_json::Value {
    let HostShort { vnode, pnode, bytes, at_boot } = short;
    serde_json::json!({"vnode": vnode, "pnode": pnode, "bytes": bytes, "at_boot": at_boot})
}

/// A disk whose storage on the host is full.
pub fn disk_full_event(full: &vmm::DiskFull) -> serde_json::Value {
    let vmm::DiskFull { disk, path, failed } = full;
    serde_json::json!({"disk": disk, "path": path.to_string_lossy(), "failed": failed})
}

/// Bytes a second; 0 for no time.
fn rate(bytes: u64, took: Duration) -> u64 {
    let rate = (u128::from(bytes) * 1_000_000).checked_div(took.as_micros()).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// A reclaim.
pub fn reclaim(view: &ReclaimView) -> wire::Reclaim {
    let (state, stop, error) = match &view.state {
        ReclaimState::Running => (wire::JobState::Running, None, None),
        ReclaimState::Ended(stop) => (wire::JobState::Done, Some(stop.code().to_owned()), None),
        ReclaimState::Failed(error) => (wire::JobState::Failed, None, Some(error.to_string())),
    };
    let part = |part: &ReclaimPart| wire::ReclaimPart {
        vnode: part.vnode.0,
        resident: part.there.get(),
        requested: part.asked.get(),
        ballooned: part.ballooned.get(),
        freed: part.freed.get(),
        elsewhere: part.elsewhere.get(),
        moved: part.moved.get(),
        released: part.released.get(),
        stop: part.stop.map(|stop| stop.code().to_owned()),
    };
    let free = |free: resources::PnodeFree| wire::PnodeFree {
        free: free.free.get(),
        on_cpu_lists: free.on_cpu_lists.get(),
        in_pools: free.in_pools.get(),
    };
    let (kind, reached) = match view.order.kind {
        ReclaimKind::Take => (wire::ReclaimKind::Reclaim, view.tally.freed()),
        ReclaimKind::Give => (wire::ReclaimKind::Give, view.tally.ballooned()),
    };
    wire::Reclaim {
        id: view.id,
        kind,
        pnode: view.order.pnode.0,
        requested: view.order.bytes.get(),
        exact: view.order.exact,
        state,
        stop,
        reached: reached.get(),
        elsewhere: view.tally.elsewhere().get(),
        released: view.tally.released().get(),
        parts: view.tally.parts.iter().map(part).collect(),
        before: view.before.map(free),
        after: view.after.map(free),
        error,
        elapsed_ms: u64::try_from(view.elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The same residency by pnode.
pub fn pnodes(vnodes: &[wire::Vnode]) -> Vec<wire::PnodeUse> {
    let mut pnodes: BTreeMap<u32, wire::PnodeUse> = BTreeMap::new();
    let all = vnodes.iter().flat_map(|vnode| Some((vnode, vnode.residency.as_ref()?)));
    for (vnode, on) in all.flat_map(|(vnode, residency)| residency.on.iter().map(move |on| (vnode, on))) {
        let here = pnodes.entry(on.pnode).or_default();
        here.vnodes.push(wire::OfVnode { vnode: vnode.id, bytes: on.bytes });
        let add = |sum: &mut u64| *sum = sum.saturating_add(on.bytes);
        if vnode.pnodes.contains(PnodeId(on.pnode)) {
            add(&mut here.hit);
            if vnode.policy == MemoryPolicy::Interleave {
                add(&mut here.interleave_hit);
            }
        } else {
            add(&mut here.miss);
            if let Some(wanted) = vnode.pnodes.first() {
                add(&mut pnodes.entry(wanted.0).or_default().foreign);
            }
        }
    }
    pnodes.into_iter().map(|(pnode, found)| wire::PnodeUse { pnode, ..found }).collect()
}

/// How a VM ended.
pub fn end(result: &Result<Exit, vmm::Error>) -> wire::End {
    let cause = match result {
        Ok(Exit::PowerOff) => wire::EndCause::PowerOff,
        Ok(Exit::Reset) => wire::EndCause::Reset,
        Ok(Exit::TripleFault { .. }) => wire::EndCause::TripleFault,
        Ok(Exit::Quit | Exit::Killed) => wire::EndCause::Killed,
        Err(_) => wire::EndCause::Failed,
    };
    let found = result.as_ref().err().map(vmm::Error::diagnosis);
    wire::End {
        cause,
        error: result.as_ref().map_or_else(|error| Some(error.to_string()), Exit::crash),
        code: found.as_ref().map(|found| found.code.to_owned()),
        kind: found.as_ref().map(|found| found.kind.name().to_owned()),
        field: found.and_then(|found| found.field),
    }
}

/// All vnodes, without the exits of their vCPUs. `ran_on` returns the CPU that a thread ran on last.
pub fn vnodes(
    plan: &Plan,
    view: &VmView,
    jobs: &[JobView],
    memory: &[VnodeMemory],
    samples: &BTreeMap<VnodeId, Sample>,
    counts: impl Fn(VnodeId) -> vmm::MoveCounts,
    ran_on: impl Fn(i32) -> Option<u32>,
) -> Vec<wire::Vnode> {
    let vnodes = plan.topology.vnodes().iter().zip(&view.placement.vnodes);
    let vcpu = |id| {
        let seen = view.vcpus.iter().find(|vcpu| vcpu.id == id);
        wire::Vcpu {
            id: id.0,
            thread: seen.map(|vcpu| vcpu.thread),
            affinity: seen.map(|vcpu| vcpu.affinity.clone()).unwrap_or_default(),
            cpu: seen.and_then(|vcpu| ran_on(vcpu.thread)),
            exits: None,
        }
    };
    let moving = |id| {
        let running = |job: &&JobView| job.vnode == id && matches!(job.state, vmm::JobState::Running);
        jobs.iter().find(running).map(|job| job.id.0)
    };
    let ballooned = |id| memory.iter().find(|memory| memory.vnode == id);
    let one = |(vnode, at): (&resources::Vnode, &resources::VnodePlacement)| wire::Vnode {
        id: vnode.id.0,
        // What has no balloon keeps all it has.
        memory: ballooned(vnode.id).map_or(vnode.memory, |memory| memory.memory).get(),
        target: ballooned(vnode.id).map_or(vnode.memory, |memory| memory.target).get(),
        actual: ballooned(vnode.id).map_or(vnode.memory, |memory| memory.actual).get(),
        released: ballooned(vnode.id).map_or(0, |memory| memory.released.get()),
        balloon: ballooned(vnode.id).map(balloon),
        policy: vnode.policy,
        pages: vnode.pages,
        affinity: at.affinity,
        pnodes: at.pnodes.clone(),
        parts: at
            .parts
            .iter()
            .map(|part| wire::OnPnode { pnode: part.pnode.0, bytes: part.size.get() })
            .collect(),
        cpu_pnodes: at.cpu_pnodes.clone(),
        residency: samples.get(&vnode.id).map(|sample| {
            let found = residency(vnode.id, sample, view, samples);
            let interleaved = vnode.policy == MemoryPolicy::Interleave;
            wire::Residency { interleave_hit: interleaved.then_some(found.local), ..found }
        }),
        vcpus: vnode.vcpus.iter().map(vcpu).collect(),
        job: moving(vnode.id),
        moves: moves(&counts(vnode.id)),
    };
    vnodes.map(one).collect()
}

fn moves(counts: &vmm::MoveCounts) -> wire::Moves {
    let vmm::MoveCounts { moved, left, done, cancelled, failed, by_pnode } = counts;
    let on = |(pnode, (moved, left)): (&PnodeId, &(Bytes, Bytes))| wire::MovesOnPnode {
        pnode: pnode.0,
        moved: moved.get(),
        left: left.get(),
    };
    wire::Moves {
        moved: moved.get(),
        left: left.get(),
        done: *done,
        cancelled: *cancelled,
        failed: *failed,
        pnodes: by_pnode.iter().map(on).collect(),
    }
}

fn residency(
    vnode: VnodeId,
    sample: &Sample,
    view: &VmView,
    samples: &BTreeMap<VnodeId, Sample>,
) -> wire::Residency {
    let none = NodeSet::new();
    let pnodes_of = |id: VnodeId| view.placement.vnodes.get(id.index()).map_or(&none, |at| &at.pnodes);
    let pnodes = pnodes_of(vnode);
    let misplaced = sample.residency.foreign(pnodes);
    let touched = sum(sample.residency.on.values());
    let others = samples.iter().filter(|(id, _)| **id != vnode).flat_map(|(id, other)| {
        let on = other.residency.on.iter();
        on.filter(move |(pnode, _)| pnodes.contains(**pnode) && !pnodes_of(*id).contains(**pnode))
    });
    wire::Residency {
        age_ms: u64::try_from(sample.at.elapsed().as_millis()).unwrap_or(u64::MAX),
        on: sample
            .residency
            .on
            .iter()
            .map(|(pnode, bytes)| wire::OnPnode { pnode: pnode.0, bytes: bytes.get() })
            .collect(),
        absent: sample.residency.absent.get(),
        unknown: sample.residency.unknown.get(),
        local: touched.saturating_sub(misplaced).get(),
        others_misplaced: sum(others.map(|(_, bytes)| bytes)).get(),
        misplaced: misplaced.get(),
        interleave_hit: None,
    }
}

fn sum<'a>(bytes: impl Iterator<Item = &'a Bytes>) -> Bytes {
    bytes.fold(Bytes::ZERO, |sum, bytes| sum.saturating_add(*bytes))
}
