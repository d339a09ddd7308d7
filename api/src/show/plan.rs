//! A plan for people.

use crate::show::table::{Side, Table};
use crate::show::{devices, matrix, or_dash};
use resources::{
    Affinity, ApicId, Bytes, CpuSet, IdSet, PairAttributes, Plan, Shortfall, Vnode, VnodePlacement,
};

/// APIC ids above it need x2APIC mode, and tables and interrupts treat them differently (ACPI 6.5, 5.2.12.12).
const LAST_XAPIC_ID: ApicId = ApicId(254);

/// Who lies where and why, the guest's addresses, the distances it is told, and what is not as wished.
pub fn text(plan: &Plan) -> String {
    let mut parts = vec![summary(plan), vnodes(plan)];
    parts.extend(decision(plan));
    parts.extend([addresses(plan), distances(plan)]);
    parts.extend(figures(plan));
    parts.extend(caches(plan));
    parts.extend(devices::text(plan));
    parts.extend(shortfalls(plan));
    parts.join("\n")
}

fn summary(plan: &Plan) -> String {
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let topology = &plan.topology;
    let vnodes = counted(topology.vnodes().len(), "vnode");
    format!("{vnodes}, {}, {} memory\n", counted(topology.vcpu_count(), "vCPU"), topology.memory())
}

fn vnodes(plan: &Plan) -> String {
    let apic_ids_matter = plan.cpus.max_apic_id() > LAST_XAPIC_ID;
    let mut header = vec![("VNODE", Side::Right), ("MEMORY", Side::Right), ("VCPUS", Side::Left)];
    if apic_ids_matter {
        header.push(("APIC IDS", Side::Left));
    }
    header.extend(
        ["PNODES", "POLICY", "PAGES", "PREFAULT", "CPUS", "AFFINITY", "WHY"].map(|title| (title, Side::Left)),
    );
    let mut table = Table::new(header.into_iter().map(|(title, side)| (title.to_owned(), side)));
    for (vnode, at) in plan.topology.vnodes().iter().zip(&plan.placement.vnodes) {
        let mut row = vec![vnode.id.to_string(), vnode.memory.to_string(), or_dash(&vnode.vcpus)];
        if apic_ids_matter {
            let ids: IdSet<ApicId> = vnode.vcpus.iter().map(|vcpu| plan.cpus.apic_id(vcpu)).collect();
            row.push(or_dash(ids));
        }
        row.push(at.pnodes.to_string());
        row.extend(memory(vnode));
        row.push(cpus(vnode, at));
        row.push(if vnode.vcpus.is_empty() { "-".to_owned() } else { vnode.affinity.to_string() });
        row.push(at.why.to_string());
        table.row(row);
    }
    table.text()
}

fn memory(vnode: &Vnode) -> [String; 3] {
    let prefault = if vnode.prefault { "on" } else { "off" };
    match vnode.memory {
        Bytes::ZERO => ["-", "-", "-"].map(str::to_owned),
        Bytes(_) => [vnode.policy.to_string(), vnode.pages.to_string(), prefault.to_owned()],
    }
}

/// The CPUs of each as `vCPU:CPUs` where they differ, else those that all of them share.
fn cpus(vnode: &Vnode, at: &VnodePlacement) -> String {
    let shared = at.shortfalls.iter().any(|shortfall| matches!(shortfall, Shortfall::SharedCpus { .. }));
    let differ = at.vcpus.values().zip(at.vcpus.values().skip(1)).any(|(one, next)| one != next);
    if differ || (vnode.affinity == Affinity::Hard && !shared) {
        let pairs = at.vcpus.iter().map(|(vcpu, cpus)| format!("{vcpu}:{cpus}"));
        return or_dash(pairs.collect::<Vec<_>>().join(" "));
    }
    let all = at.vcpus.values().fold(CpuSet::new(), |all, cpus| all.union(cpus));
    or_dash(all)
}

/// How pnodes were chosen, if any were.
fn decision(plan: &Plan) -> Option<String> {
    let lines = plan.placement.decision.as_ref()?.lines();
    Some(format!("placement: {}\n", lines.join("\n           ")))
}

fn addresses(plan: &Plan) -> String {
    let titles = [("GUEST ADDRESSES", Side::Left), ("SIZE", Side::Right), ("VNODE", Side::Right)];
    let mut table = Table::new(titles.map(|(title, side)| (title.to_owned(), side)));
    let digits = format!("{:x}", plan.memory_map.end().0).len();
    for range in plan.memory_map.ram() {
        let (start, last) = (range.start.0, range.end().0.saturating_sub(1));
        table.row([
            format!("0x{start:0digits$x}-0x{last:0digits$x}"),
            range.size.to_string(),
            range.vnode.to_string(),
        ]);
    }
    table.text()
}

fn ids(plan: &Plan) -> Vec<u32> {
    plan.topology.vnodes().iter().map(|vnode| vnode.id.0).collect()
}

fn distances(plan: &Plan) -> String {
    matrix::text("distances (from row to column)", &ids(plan), |from, to| {
        or_dash(plan.topology.distances().get(from, to).map(|d| d.get().to_string()).unwrap_or_default())
    })
}

fn figures(plan: &Plan) -> Vec<String> {
    let Some(attributes) = plan.topology.attributes() else { return Vec::new() };
    let one = |title, show: fn(&PairAttributes) -> String| {
        matrix::text(title, &ids(plan), |initiator, target| {
            or_dash(attributes.get(initiator, target).as_ref().map(show).unwrap_or_default())
        })
    };
    vec![
        one("latency in ns (vCPUs of row, memory of column)", matrix::latency),
        one("bandwidth in MiB/s (vCPUs of row, memory of column)", matrix::bandwidth),
    ]
}

fn caches(plan: &Plan) -> Option<String> {
    let titles = ["VNODE", "CACHE LEVEL", "SIZE", "LINE"].map(|title| (title.to_owned(), Side::Right));
    let words = ["ASSOCIATIVITY", "WRITE POLICY"].map(|title| (title.to_owned(), Side::Left));
    let mut table = Table::new(titles.into_iter().chain(words));
    for cache in plan.topology.caches() {
        table.row([
            cache.vnode.to_string(),
            cache.level.to_string(),
            cache.size.to_string(),
            or_dash(if cache.line > 0 { cache.line.to_string() } else { String::new() }),
            cache.associativity.to_string(),
            cache.policy.to_string(),
        ]);
    }
    (!plan.topology.caches().is_empty()).then(|| table.text())
}

fn shortfalls(plan: &Plan) -> Option<String> {
    let lines = plan.placement.vnodes.iter().flat_map(|at| {
        at.shortfalls.iter().map(move |shortfall| format!("vnode {}: {shortfall}\n", at.vnode))
    });
    Some(lines.collect::<String>()).filter(|text| !text.is_empty())
}
