//! Moves some of a vnode's pages between pnodes, policy unchanged: off a pnode into room that was just made on others, and
//! back to the pnode that their part is bound to. Moving a whole vnode is `moves`.

use super::parts::{Piece, pieces};
use super::ram::{GuestRam, RamRegion};
use crate::sys::{HostError, PageStatus};
use resources::{Bytes, MemoryPart, MemoryPolicy, NodeSet, PnodeId, VnodeId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Memory looked at between two looks at what is left to do.
const CHUNK: usize = 64 << 20;
/// A transparent huge page moves when one of its pages is named.
const HUGE: usize = 2 << 20;

/// Moves pages of `vnode` from `from` to others, to each no more than its room but for the rest of a huge page; gives
/// what left `from`, as the kernel says. Pages go first that come home so, to the pnode of their part. `stop` is asked
/// between chunks.
pub fn shift(
    ram: &GuestRam,
    vnode: VnodeId,
    parts: &[MemoryPart],
    from: PnodeId,
    rooms: &BTreeMap<PnodeId, Bytes>,
    stop: &dyn Fn() -> bool,
) -> Result<Bytes, HostError> {
    let mut rooms: Vec<(PnodeId, u64)> = rooms.iter().map(|(pnode, room)| (*pnode, room.get())).collect();
    let there = |pnode: PnodeId| pnode == from;
    let mut moved = 0;
    for (pnode, room) in rooms.iter_mut().filter(|(pnode, _)| *pnode != from) {
        let gone = send(ram, vnode, &part_on(ram, vnode, parts, *pnode), &there, *pnode, *room, stop)?;
        *room = room.saturating_sub(gone);
        moved += gone;
    }
    let regions: Vec<&RamRegion> = ram.of(vnode).collect();
    for (region, chunk) in chunks(&regions, &pieces_of(&regions, &NodeSet::new(), &[])) {
        rooms.retain(|(pnode, room)| *room >= region.page() as u64 && *pnode != from);
        let Some(room) = rooms.first_mut() else { break };
        if stop() {
            break;
        }
        let gone = send_chunk(region, chunk, &there, room.0, room.1)
            .map_err(|error| error.of(format!("vnode {vnode}")))?;
        room.1 = room.1.saturating_sub(gone);
        moved += gone;
    }
    Ok(Bytes(moved))
}

/// Moves pages of the part that a vnode has on `pnode` there from wherever else they lie, no more than `most` but for the
/// rest of a huge page; gives what came. A vnode without parts has none that are not at home.
pub fn bring_home(
    ram: &GuestRam,
    vnode: VnodeId,
    parts: &[MemoryPart],
    pnode: PnodeId,
    most: Bytes,
    stop: &dyn Fn() -> bool,
) -> Result<Bytes, HostError> {
    let part = part_on(ram, vnode, parts, pnode);
    send(ram, vnode, &part, &|other| other != pnode, pnode, most.get(), stop).map(Bytes)
}

fn pieces_of(regions: &[&RamRegion], on: &NodeSet, parts: &[MemoryPart]) -> Vec<Piece> {
    pieces(regions.iter().map(|region| region.mapping.size()), MemoryPolicy::Bind, on, parts)
}

/// The pieces of the part on one pnode.
fn part_on(ram: &GuestRam, vnode: VnodeId, parts: &[MemoryPart], pnode: PnodeId) -> Vec<Piece> {
    let (regions, on): (Vec<_>, NodeSet) =
        (ram.of(vnode).collect(), parts.iter().map(|part| part.pnode).collect());
    let mut all = pieces_of(&regions, &on, parts);
    all.retain(|piece| !parts.is_empty() && piece.on == NodeSet::one(pnode));
    all
}

fn chunks<'a>(regions: &[&'a RamRegion], pieces: &[Piece]) -> Vec<(&'a RamRegion, Range<usize>)> {
    let of = |piece: &Piece| {
        let (region, Range { start, end }) = (regions[piece.region], piece.range.clone());
        let chunk = CHUNK.max(region.page());
        (start..end).step_by(chunk).map(move |start| (region, start..(start + chunk).min(end)))
    };
    pieces.iter().flat_map(of).collect()
}

/// Sends pages of these pieces that lie where `wanted` says to `to`.
fn send(
    ram: &GuestRam,
    vnode: VnodeId,
    pieces: &[Piece],
    wanted: &dyn Fn(PnodeId) -> bool,
    to: PnodeId,
    most: u64,
    stop: &dyn Fn() -> bool,
) -> Result<u64, HostError> {
    let regions: Vec<&RamRegion> = ram.of(vnode).collect();
    let mut sent = 0;
    for (region, chunk) in chunks(&regions, pieces) {
        let left = most.saturating_sub(sent);
        if left < region.page() as u64 || stop() {
            break;
        }
        sent += send_chunk(region, chunk, wanted, to, left)
            .map_err(|error| error.of(format!("vnode {vnode}")))?;
    }
    Ok(sent)
}

fn send_chunk(
    region: &RamRegion,
    range: Range<usize>,
    wanted: &dyn Fn(PnodeId) -> bool,
    to: PnodeId,
    most: u64,
) -> Result<u64, HostError> {
    let offsets: Vec<usize> = range.step_by(region.page()).collect();
    let page = region.page() as u64;
    let there = |offsets: &[usize]| -> Result<Vec<usize>, HostError> {
        let status = region.mapping.locate(offsets)?;
        let is_there = |status: &PageStatus| matches!(status, PageStatus::On(pnode) if wanted(*pnode));
        let on = offsets.iter().zip(status).filter(|(_, status)| is_there(status));
        Ok(on.map(|(offset, _)| *offset).collect())
    };
    let most = usize::try_from(most / page).unwrap_or(usize::MAX);
    let mut going = there(&offsets)?;
    going.truncate(most);
    // One page of each block first: where that is a huge page, all of it has moved.
    let mut heads = going.clone();
    heads.dedup_by_key(|offset| *offset / HUGE);
    region.mapping.relocate(&heads, &vec![to; heads.len()])?;
    let small = there(&going)?;
    region.mapping.relocate(&small, &vec![to; small.len()])?;
    Ok((going.len() - there(&going)?.len()) as u64 * page)
}
