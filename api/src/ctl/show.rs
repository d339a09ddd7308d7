//! Tables of the VM, its vnodes and its jobs.

use crate::http::wire::{
    Device, DirtyRate, End, EndCause, FreeMemory, Job, JobState, PnodeUse, Reclaim, Vm, Vnode,
};
use crate::show::{
    self,
    table::{Side, Table},
};
use resources::Bytes;
use std::collections::BTreeSet;

fn table(titles: &[(&str, Side)]) -> Table {
    Table::new(titles.iter().map(|(title, side)| ((*title).to_owned(), *side)))
}

/// Text, or a dash for none.
pub fn dash(text: impl ToString) -> String {
    let text = text.to_string();
    if text.is_empty() { "-".to_owned() } else { text }
}

fn human(bytes: u64) -> String {
    Bytes(bytes).human()
}

/// Why a VM ended, in the API's word.
pub fn cause_word(cause: EndCause) -> String {
    serde_json::to_string(&cause).unwrap_or_default().replace('"', "")
}

/// The VM.
pub fn vm(vm: &Vm) -> String {
    let kernel = vm.spec.kernel.as_ref().map(|kernel| kernel.display().to_string()).unwrap_or_default();
    let mut rows = vec![
        ("state", vm.state.name().to_owned()),
        ("memory", human(vm.memory)),
        ("vcpus", vm.vcpus.to_string()),
        ("vnodes", vm.vnodes.to_string()),
        ("kernel", dash(kernel)),
        ("pid", vm.pid.to_string()),
        ("version", vm.version.clone()),
    ];
    if let Some(End { cause, error, code, kind: _, field }) = &vm.end {
        rows.insert(1, ("ended by", cause_word(*cause)));
        rows.extend(error.clone().map(|error| ("error", error)));
        rows.extend(code.clone().map(|code| ("code", code)));
        rows.extend(field.clone().map(|field| ("field", field)));
    }
    rows.iter().map(|(name, value)| format!("{name:<9}{value}\n")).collect()
}

/// Devices: vnode, transport counters, and their own figures.
pub fn devices(devices: &[Device]) -> String {
    let right = |title| (title, Side::Right);
    let mut table = table(&[
        ("DEVICE", Side::Left),
        right("VNODE"),
        right("STARTS"),
        right("RESETS"),
        right("REFUSED"),
        right("FAULTS"),
        right("IGNORED"),
        right("SLOW"),
        right("FAILED"),
    ]);
    for Device { name, vnode, counters, figures: _ } in devices {
        let mut row = vec![name.clone(), vnode.to_string()];
        let failed = counters.failed_activations.saturating_add(counters.host_failures);
        row.extend(
            [
                counters.activations,
                counters.resets,
                counters.refused_features,
                counters.queue_faults,
                counters.ignored_accesses,
                counters.slow_notifications,
                failed,
            ]
            .map(|count| count.to_string()),
        );
        table.row(row);
    }
    format!("{}{}", table.text(), figures(devices))
}

/// Figures that are not 0.
fn figures(devices: &[Device]) -> String {
    let mut table = table(&[("DEVICE", Side::Left), ("FIGURE", Side::Left), ("VALUE", Side::Right)]);
    let mut any = false;
    for device in devices {
        for (name, value) in device.figures.iter().filter(|(_, value)| **value > 0) {
            table.row([device.name.clone(), name.clone(), value.to_string()]);
            any = true;
        }
    }
    if any { format!("\n{}", table.text()) } else { String::new() }
}

/// Vnodes: memory, residency and vCPUs.
pub fn vnodes(vnodes: &[Vnode]) -> String {
    let stays: String = vnodes.iter().filter_map(stays).collect();
    let bound: String = vnodes.iter().filter_map(bound).collect();
    let bound = if bound.is_empty() { bound } else { format!("\n{bound}") };
    format!("{}\n{}{bound}{stays}", memory(vnodes), vcpus(vnodes))
}

/// How a vnode is bound to several pnodes.
fn bound(vnode: &Vnode) -> Option<String> {
    let parts = vnode.parts.iter().map(|part| (part.pnode, Bytes(part.bytes)));
    (!vnode.parts.is_empty()).then(|| show::bound(vnode.id, parts))
}

/// What the guest gave and the host does not have.
fn stays(vnode: &Vnode) -> Option<String> {
    let partial = vnode.balloon.as_ref()?.partial;
    let (id, pages, partial) = (vnode.id, vnode.pages, (partial > 0).then(|| human(partial))?);
    Some(format!(
        "\nvnode {id}: {partial} in its balloon cannot be freed: the host frees pages of {pages} as a whole\n"
    ))
}

/// A row per vnode, a column per pnode that holds any memory.
pub fn memory(vnodes: &[Vnode]) -> String {
    let held = vnodes.iter().flat_map(|vnode| &vnode.residency).flat_map(|residency| &residency.on);
    let pnodes: BTreeSet<u32> = held.map(|on| on.pnode).collect();
    let mut header = vec![("VNODE".to_owned(), Side::Right), ("PNODES".to_owned(), Side::Left)];
    header.push(("POLICY".to_owned(), Side::Left));
    header.extend(["MEMORY", "TARGET", "ACTUAL", "RELEASED"].map(|title| (title.to_owned(), Side::Right)));
    header.extend(pnodes.iter().map(|pnode| (format!("ON {pnode}"), Side::Right)));
    header.extend(["ABSENT", "LOCAL", "MISPLACED", "OTHERS"].map(|title| (title.to_owned(), Side::Right)));
    header.extend(["MOVED", "LEFT", "FAILED", "JOB"].map(|title| (title.to_owned(), Side::Right)));
    let mut table = Table::new(header);
    for vnode in vnodes {
        let mut row = vec![vnode.id.to_string(), vnode.pnodes.to_string(), vnode.policy.to_string()];
        row.extend([vnode.memory, vnode.target, vnode.actual, vnode.released].map(human));
        let residency = vnode.residency.as_ref();
        row.extend(pnodes.iter().map(|pnode| {
            let on = residency.and_then(|residency| residency.on.iter().find(|on| on.pnode == *pnode));
            on.map_or("-".to_owned(), |on| human(on.bytes))
        }));
        row.extend(match residency {
            Some(found) => [found.absent, found.local, found.misplaced, found.others_misplaced].map(human),
            None => ["-", "-", "-", "-"].map(str::to_owned),
        });
        row.extend([human(vnode.moves.moved), human(vnode.moves.left), vnode.moves.failed.to_string()]);
        row.push(dash(vnode.job.map(|job| job.to_string()).unwrap_or_default()));
        table.row(row);
    }
    table.text()
}

/// Where vCPUs run.
pub fn vcpus(vnodes: &[Vnode]) -> String {
    let mut table = table(&[
        ("VCPU", Side::Right),
        ("VNODE", Side::Right),
        ("THREAD", Side::Right),
        ("CPU", Side::Right),
        ("AFFINITY", Side::Left),
    ]);
    for vnode in vnodes {
        for vcpu in &vnode.vcpus {
            table.row([
                vcpu.id.to_string(),
                vnode.id.to_string(),
                dash(vcpu.thread.map(|thread| thread.to_string()).unwrap_or_default()),
                dash(vcpu.cpu.map(|cpu| cpu.to_string()).unwrap_or_default()),
                dash(&vcpu.affinity),
            ]);
        }
    }
    table.text()
}

/// A row per pnode: whose memory it holds.
pub fn pnodes(pnodes: &[PnodeUse]) -> String {
    let right = |title| (title, Side::Right);
    let mut table = table(&[
        right("PNODE"),
        right("HOLDS"),
        right("HIT"),
        right("MISS"),
        right("FOREIGN"),
        right("INTERLEAVED"),
        ("OF VNODES", Side::Left),
    ]);
    for pnode in pnodes {
        let each: Vec<String> =
            pnode.vnodes.iter().map(|of| format!("{} ({})", of.vnode, human(of.bytes))).collect();
        let sum = pnode.vnodes.iter().fold(0_u64, |sum, of| sum.saturating_add(of.bytes));
        let sizes = [sum, pnode.hit, pnode.miss, pnode.foreign, pnode.interleave_hit].map(human);
        table.row(std::iter::once(pnode.pnode.to_string()).chain(sizes).chain([dash(each.join(", "))]));
    }
    table.text()
}

/// A row per vnode: the guest's free memory.
pub fn free_memory(free: &FreeMemory) -> String {
    let mut table = table(&[("VNODE", Side::Right), ("FREE", Side::Right)]);
    for of in &free.vnodes {
        table.row([of.vnode.to_string(), human(of.bytes)]);
    }
    table.text()
}

/// A row per vnode: bytes written, and the rate per second.
pub fn dirty_rate(rate: &DirtyRate) -> String {
    let columns = ["VNODE", "WRITTEN", "GUEST", "DEVICES", "PER SECOND"].map(|name| (name, Side::Right));
    let mut table = table(&columns);
    for of in &rate.vnodes {
        let per_second = of.bytes.saturating_mul(1000) / u64::from(rate.milliseconds.max(1));
        let sizes = [of.bytes, of.guest, of.devices, per_second].map(human);
        table.row(std::iter::once(of.vnode.to_string()).chain(sizes));
    }
    table.text()
}

/// The status of a reclaim or give, with a row per vnode.
pub fn reclaim(reclaim: &Reclaim) -> String {
    let mut table = table(&[
        ("VNODE", Side::Right),
        ("RESIDENT", Side::Right),
        ("REQUESTED", Side::Right),
        ("BALLOONED", Side::Right),
        ("FREED", Side::Right),
        ("ELSEWHERE", Side::Right),
        ("MOVED", Side::Right),
        ("RELEASED", Side::Right),
        ("STOP", Side::Left),
    ]);
    for part in &reclaim.parts {
        let sizes = [
            part.resident,
            part.requested,
            part.ballooned,
            part.freed,
            part.elsewhere,
            part.moved,
            part.released,
        ];
        let stop = dash(part.stop.as_deref().unwrap_or_default());
        table.row(std::iter::once(part.vnode.to_string()).chain(sizes.map(human)).chain([stop]));
    }
    let free = |free: &crate::http::wire::PnodeFree| {
        human(free.free.saturating_add(free.on_cpu_lists).saturating_add(free.in_pools))
    };
    let [before, after] =
        [&reclaim.before, &reclaim.after].map(|at| at.as_ref().map_or("-".to_owned(), free));
    let whole = |part: &&crate::http::wire::ReclaimPart| part.stop.as_deref() == Some("whole_pages");
    let whole = reclaim.parts.iter().filter(whole).map(|part| {
        format!(
            "\nvnode {}: huge pages are freed as a whole, and its guest cannot give a whole page\n",
            part.vnode
        )
    });
    format!(
        "pnode {}: {} of {}, {} elsewhere, {}, {}.{:03} s; free {before} before, {after} now\n\n{}{}",
        reclaim.pnode,
        human(reclaim.reached),
        human(reclaim.requested),
        human(reclaim.elsewhere),
        reclaim.stop.as_deref().unwrap_or(state(reclaim.state)),
        reclaim.elapsed_ms / 1000,
        reclaim.elapsed_ms % 1000,
        table.text(),
        whole.collect::<String>()
    )
}

/// Jobs.
pub fn jobs(jobs: &[Job]) -> String {
    let mut table = table(&[
        ("JOB", Side::Right),
        ("VNODE", Side::Right),
        ("FROM", Side::Left),
        ("TO", Side::Left),
        ("STATE", Side::Left),
        ("SCANNED", Side::Right),
        ("MOVED", Side::Right),
        ("LEFT", Side::Right),
        ("SECONDS", Side::Right),
        ("ERROR", Side::Left),
    ]);
    for job in jobs {
        let percent = job.scanned.saturating_mul(100).checked_div(job.total).unwrap_or(100);
        table.row([
            job.id.to_string(),
            job.vnode.to_string(),
            job.from.to_string(),
            job.to.to_string(),
            state(job.state).to_owned(),
            format!("{percent}%"),
            human(job.moved),
            human(job.left.iter().map(|left| left.bytes).sum()),
            format!("{}.{:03}", job.elapsed_ms / 1000, job.elapsed_ms % 1000),
            dash(job.error.as_deref().unwrap_or_default()),
        ]);
    }
    let shortfalls = |job: &Job| {
        let (id, vnode) = (job.id, job.vnode);
        let line = move |shortfall: &String| format!("job {id}, vnode {vnode}: {shortfall}\n");
        job.shortfalls.iter().map(line).collect::<String>()
    };
    format!("{}{}", table.text(), jobs.iter().map(shortfalls).collect::<String>())
}

/// The state of a job.
pub fn state(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
        JobState::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::{Device, devices};
    use crate::http::wire::DeviceCounters;
    use std::collections::BTreeMap;

    fn device(name: &str, figures: &[(&str, u64)]) -> Device {
        let counters = DeviceCounters {
            activations: 1,
            resets: 2,
            refused_features: 0,
            failed_activations: 0,
            queue_faults: 0,
            ignored_accesses: 3,
            slow_notifications: 0,
            host_failures: 0,
        };
        let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value));
        Device { name: name.to_owned(), vnode: 1, counters, figures: BTreeMap::from_iter(figures) }
    }

    #[test]
    fn figures_of_devices_that_are_not_0_are_listed_below_their_counters() {
        let counters = "DEVICE  VNODE  STARTS  RESETS  REFUSED  FAULTS  IGNORED  SLOW  FAILED\n\
                        lamp0       1       1       2        0       0        3     0       0\n";
        let without = [device("lamp0", &[("switches", 0)])];
        assert_eq!(devices(&without), counters);
        let with = [device("lamp0", &[("switches", 0), ("watts", 60), ("lit", 1)])];
        let figures = "\nDEVICE  FIGURE  VALUE\nlamp0   lit         1\nlamp0   watts      60\n";
        assert_eq!(devices(&with), format!("{counters}{figures}"));
    }
}
