//! Running VMs and their claims, as tables.

use crate::show::or_dash;
use crate::show::table::{Side, Table};
use resources::{Bytes, Claim, HostTopology, NodeClaim, NodeSet};
use vmm::claims::{Living, NumaStat};

/// A table of sums by pnode, and one of VMs.
pub fn text(host: &HostTopology, running: &[Living]) -> String {
    if running.is_empty() {
        return "no claims\n".to_owned();
    }
    format!("{}\n{}", by_pnode(host, running), by_vm(running))
}

fn by_pnode(host: &HostTopology, running: &[Living]) -> String {
    let mut table = table([
        ("PNODE", Side::Right),
        ("CLAIMED", Side::Right),
        ("UNTOUCHED", Side::Right),
        ("HIT", Side::Right),
        ("MISS", Side::Right),
        ("FOREIGN", Side::Right),
        ("INTERLEAVED", Side::Right),
        ("LEFT", Side::Right),
        ("PAGES CLAIMED", Side::Left),
        ("VCPUS", Side::Right),
        ("PINNED", Side::Left),
    ]);
    let (ledger, none) = (Living::ledger(running), NodeClaim::default());
    for pnode in host.pnodes() {
        let claimed = ledger.claimed(pnode.id).unwrap_or(&none);
        let untouched = ledger.untouched_memory(pnode.id);
        let NumaStat { hit, miss, foreign, interleave_hit } = Living::stat(running, pnode.id);
        table.row([
            pnode.id.to_string(),
            amount(claimed.memory),
            amount(untouched),
            amount(hit),
            amount(miss),
            amount(foreign),
            amount(interleave_hit),
            pnode.available().saturating_sub(untouched).human(),
            or_dash(pages(claimed)),
            claimed.vcpus.to_string(),
            or_dash(&claimed.pinned),
        ]);
    }
    table.text()
}

fn by_vm(running: &[Living]) -> String {
    let mut table = table([
        ("PID", Side::Right),
        ("MEMORY", Side::Right),
        ("TOUCHED", Side::Right),
        ("RELEASED", Side::Right),
        ("PAGES", Side::Left),
        ("VCPUS", Side::Right),
        ("PNODES", Side::Left),
    ]);
    for vm in running {
        let total = vm.claim.total();
        table.row([
            vm.pid.to_string(),
            amount(total.memory),
            // Not what is not known.
            vm.touched.as_ref().map_or("?".to_owned(), |touched| amount(within(&vm.claim, &touched.has))),
            amount(released(&vm.released)),
            or_dash(pages(&total)),
            total.vcpus.to_string(),
            or_dash(vm.claim.pnodes.keys().copied().collect::<NodeSet>()),
        ]);
    }
    table.text()
}

/// Memory touched on claimed pnodes.
fn within(claim: &Claim, touched: &Claim) -> Bytes {
    let here = claim.pnodes.keys().filter_map(|pnode| touched.pnodes.get(pnode));
    here.fold(Bytes::ZERO, |sum, node| sum.saturating_add(node.memory))
}

/// Of all kinds of pages.
fn released(claim: &Claim) -> Bytes {
    let total = claim.total();
    let pages = |(size, pages): (&Bytes, &u64)| Bytes(size.get().saturating_mul(*pages));
    total.huge_pages.iter().map(pages).fold(total.memory, Bytes::saturating_add)
}

fn pages(claim: &NodeClaim) -> String {
    let pools = claim.huge_pages.iter().map(|(size, pages)| format!("{pages} of {size}"));
    pools.collect::<Vec<_>>().join(", ")
}

fn amount(bytes: Bytes) -> String {
    if bytes == Bytes::ZERO { "-".to_owned() } else { bytes.human() }
}

fn table<const N: usize>(titles: [(&str, Side); N]) -> Table {
    Table::new(titles.map(|(title, side)| (title.to_owned(), side)))
}
