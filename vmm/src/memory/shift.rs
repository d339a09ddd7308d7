//! Moves some of a vnode's pages off a pnode into room that was just made on others, policy unchanged. Moving a whole
//! vnode is `moves`.

use super::ram::{GuestRam, RamRegion};
use crate::sys::{HostError, PageStatus};
use resources::{Bytes, PnodeId, VnodeId};
use std::collections::BTreeMap;

/// Memory looked at between two looks at what is left to do.
const CHUNK: usize = 64 << 20;
/// A transparent huge page moves when one of its pages is named.
const HUGE: usize = 2 << 20;

/// Moves pages of `vnode` from `from` to others, to each no more than its room but for the rest of a huge page; gives
/// what left `from`, as the kernel says. `stop` is asked between chunks.
pub fn shift(
    ram: &GuestRam,
    vnode: VnodeId,
    from: PnodeId,
    rooms: &BTreeMap<PnodeId, Bytes>,
    stop: &dyn Fn() -> bool,
) -> Result<Bytes, HostError> {
    let mut rooms: Vec<(PnodeId, u64)> = rooms.iter().map(|(pnode, room)| (*pnode, room.get())).collect();
    let mut moved = 0;
    for region in ram.of(vnode) {
        for start in (0..region.mapping.size()).step_by(CHUNK.max(region.page())) {
            rooms.retain(|(pnode, room)| *room >= region.page() as u64 && *pnode != from);
            let Some(room) = rooms.first_mut() else { return Ok(Bytes(moved)) };
            if stop() {
                return Ok(Bytes(moved));
            }
            let end = (start + CHUNK.max(region.page())).min(region.mapping.size());
            let gone = shift_chunk(region, start..end, from, room.0, room.1)
                .map_err(|error| error.of(format!("vnode {vnode}")))?;
            room.1 = room.1.saturating_sub(gone);
            moved += gone;
        }
    }
    Ok(Bytes(moved))
}

fn shift_chunk(
    region: &RamRegion,
    range: std::ops::Range<usize>,
    from: PnodeId,
    to: PnodeId,
    room: u64,
) -> Result<u64, HostError> {
    let offsets: Vec<usize> = range.step_by(region.page()).collect();
    let page = region.page() as u64;
    let there = |offsets: &[usize]| -> Result<Vec<usize>, HostError> {
        let status = region.mapping.locate(offsets)?;
        let on = offsets.iter().zip(status).filter(|(_, status)| *status == PageStatus::On(from));
        Ok(on.map(|(offset, _)| *offset).collect())
    };
    let most = usize::try_from(room / page).unwrap_or(usize::MAX);
    let mut wanted = there(&offsets)?;
    wanted.truncate(most);
    // One page of each block first: where that is a huge page, all of it has moved.
    let mut heads = wanted.clone();
    heads.dedup_by_key(|offset| *offset / HUGE);
    region.mapping.relocate(&heads, &vec![to; heads.len()])?;
    let small = there(&wanted)?;
    region.mapping.relocate(&small, &vec![to; small.len()])?;
    Ok((wanted.len() - there(&wanted)?.len()) as u64 * page)
}
