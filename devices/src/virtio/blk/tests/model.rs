//! Random requests, well-formed or not, against a model that knows neither framing nor queues.

use proptest::prelude::*;

use super::bench::{Answer, Bench, Pending, extents, header};
use crate::virtio::blk::MAX_RANGE_SECTORS;
use crate::virtio::blk::test_disk::{Mischief, SHAPE, TestDisk};

const SECTORS: u64 = 64;
const SECTOR: usize = 512;

/// What a disk should do with the bytes of a request, whatever its framing: the status, and the data read.
struct Model {
    /// `None`: a request failed half-way, so nobody knows.
    content: Vec<Option<u8>>,
}

impl Model {
    /// The status that must come unless the host fails, and the sectors that it concerns.
    fn judge(request: &[u8], room: usize) -> (u8, Vec<(u64, u64)>) {
        let Some(header) = request.get(..16) else { return (1, vec![]) };
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
        let inside = |sector: u64, count: u64| u128::from(sector) + u128::from(count) <= u128::from(SECTORS);
        match kind {
            0 | 1 => {
                let bytes = if kind == 0 { room - 1 } else { request.len() - 16 };
                let count = (bytes / SECTOR) as u64;
                match bytes % SECTOR == 0 && inside(sector, count) {
                    true => (0, vec![(sector, count)]),
                    false => (1, vec![]),
                }
            }
            4 | 8 => (0, vec![]),
            11 | 13 => {
                let body = &request[16..];
                if body.is_empty() || !body.len().is_multiple_of(16) || body.len() > 32 * 16 {
                    return (1, vec![]);
                }
                let mut ranges = Vec::new();
                for extent in body.chunks(16) {
                    let sector = u64::from_le_bytes(extent[..8].try_into().unwrap());
                    let count = u32::from_le_bytes(extent[8..12].try_into().unwrap());
                    let flags = u32::from_le_bytes(extent[12..].try_into().unwrap());
                    if flags & !u32::from(kind == 13) != 0 {
                        return (2, vec![]);
                    }
                    if count > MAX_RANGE_SECTORS || !inside(sector, count.into()) {
                        return (1, vec![]);
                    }
                    ranges.push((sector, count.into()));
                }
                (0, ranges)
            }
            _ => (2, vec![]),
        }
    }

    /// The disk did what was asked, or tried to.
    fn settle(&mut self, request: &[u8], ranges: &[(u64, u64)], answer: &Answer, failed: bool) {
        let kind = u32::from_le_bytes(request[..4].try_into().unwrap());
        for (sector, count) in ranges {
            let start = usize::try_from(*sector).unwrap() * SECTOR;
            let end = start + usize::try_from(*count).unwrap() * SECTOR;
            let content = &mut self.content[start..end];
            match kind {
                0 if !failed => {
                    for (i, (known, got)) in content.iter().zip(answer.data()).enumerate() {
                        assert!(known.is_none_or(|known| known == *got), "byte {} of {sector}", start + i);
                    }
                    assert_eq!(answer.written as usize, answer.bytes.len());
                }
                0 => {}
                _ if failed => content.fill(None),
                1 => {
                    for (known, new) in content.iter_mut().zip(&request[16..]) {
                        *known = Some(*new);
                    }
                }
                11 => content.fill(Some(0xDD)),
                _ => content.fill(Some(0)),
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Request {
    bytes: Vec<u8>,
    room: u32,
    cuts: Vec<u32>,
    queue: usize,
}

fn sector() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..SECTORS, 1 => SECTORS - 2..SECTORS + 3, 1 => any::<u64>(), 1 => (1_u64 << 54)..(1 << 56)]
}

fn bytes_and_room() -> impl Strategy<Value = (Vec<u8>, u32)> {
    let odd = prop_oneof![6 => Just(0_usize), 1 => 1..SECTOR];
    let read = (sector(), 0_usize..5, odd.clone())
        .prop_map(|(sector, count, odd)| (header(0, sector), count * SECTOR + odd + 1));
    let write = (sector(), 0_usize..5, odd, any::<u8>()).prop_map(|(sector, count, odd, fill)| {
        let mut bytes = header(1, sector);
        bytes.resize(16 + count * SECTOR + odd, fill);
        (bytes, 1)
    });
    let extent = (
        sector(),
        prop_oneof![0_u32..4, any::<u32>()],
        prop_oneof![6 => Just(0), 2 => Just(1), 1 => any::<u32>()],
    );
    let ranges = (prop_oneof![Just(11), Just(13)], proptest::collection::vec(extent, 0..4))
        .prop_map(|(kind, list)| (extents(kind, &list), 1));
    let other = (prop_oneof![Just(4), Just(8), any::<u32>()], 1_usize..30)
        .prop_map(|(kind, room)| (header(kind, 0), room));
    let noise = (proptest::collection::vec(any::<u8>(), 0..40), 1_usize..600);
    prop_oneof![4 => read, 4 => write, 3 => ranges, 2 => other, 1 => noise]
        .prop_map(|(bytes, room)| (bytes, u32::try_from(room).unwrap()))
}

fn request() -> impl Strategy<Value = Request> {
    (bytes_and_room(), proptest::collection::vec(1_u32..900, 0..4), 0_usize..2)
        .prop_map(|((bytes, room), cuts, queue)| Request { bytes, room, cuts, queue })
}

struct Run {
    bench: Bench,
    model: Model,
    pending: Vec<Pending>,
    asked: Vec<(Pending, Request)>,
    statuses: [u64; 3],
    failures: [u64; 3],
}

impl Run {
    fn reap(&mut self, queue: usize) {
        for (pending, answer) in self.bench.reap(queue, &mut self.pending) {
            let at = self.asked.iter().position(|(p, _)| p.queue == queue && p.head == pending.head).unwrap();
            let (_, request) = self.asked.swap_remove(at);
            let (expected, ranges) = Model::judge(&request.bytes, request.room as usize);
            let status = answer.status();
            self.statuses[usize::from(status)] += 1;
            let failed = expected == 0 && status != 0;
            if failed {
                self.failures[usize::from(status)] += 1;
            } else {
                assert_eq!(status, expected, "{request:?}");
            }
            if expected == 0 {
                self.model.settle(&request.bytes, &ranges, &answer, failed);
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.pending.is_empty() {
                return;
            }
            for queue in 0..2 {
                self.bench.poll(queue);
                self.reap(queue);
            }
        }
        panic!("{} requests are never answered", self.pending.len());
    }

    /// A driver orders what overlaps; the device need not.
    fn overlaps(&self, request: &Request) -> bool {
        let ranges = |request: &Request| Model::judge(&request.bytes, request.room as usize).1;
        let touch = |a: &(u64, u64), b: &(u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
        let mine = ranges(request);
        self.asked.iter().any(|(_, other)| ranges(other).iter().any(|a| mine.iter().any(|b| touch(a, b))))
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_once_and_as_its_bytes_say(
        requests in proptest::collection::vec(request(), 1..60),
        seed in any::<u64>(),
        fail in prop_oneof![Just(0_u64), 1_u64..8],
        hold in prop_oneof![Just(0_u64), 1_u64..15],
    ) {
        let content: Vec<u8> = (0..64 * SECTOR).map(|i| u8::try_from(i / 3 % 256).unwrap()).collect();
        let disk = TestDisk::new(content.clone(), SHAPE);
        disk.set_mischief(seed, Mischief { fail, hold });
        let mut run = Run {
            bench: Bench::with(&disk, 2, 64, u64::MAX),
            model: Model { content: content.into_iter().map(Some).collect() },
            pending: Vec::new(),
            asked: Vec::new(),
            statuses: [0; 3],
            failures: [0; 3],
        };
        let total = requests.len() as u64;
        for request in requests {
            if run.overlaps(&request) {
                run.settle();
            }
            let Request { bytes, room, cuts, queue } = &request;
            let mut cuts = cuts.clone();
            // Few enough pieces for the queue.
            cuts.push(4096);
            let posted = run.bench.post(*queue, bytes, *room, &cuts).or_else(|| {
                run.settle();
                run.bench.post(*queue, bytes, *room, &cuts)
            });
            let posted = posted.expect("an empty queue has room");
            run.pending.push(posted.clone());
            run.asked.push((posted, request));
            let queue = run.pending.last().unwrap().queue;
            run.bench.kick(queue);
            run.reap(queue);
        }
        run.settle();
        prop_assert_eq!(run.statuses.iter().sum::<u64>(), total);
        let injected = disk.state().injected;
        prop_assert_eq!(run.failures, [0, injected.eio + injected.enospc, injected.unsupported]);
        let counters = run.bench.handle.counters();
        prop_assert_eq!((counters.host_errors.get(), counters.no_space.get()), (injected.eio, injected.enospc));
        prop_assert_eq!(
            counters.malformed.get() + counters.out_of_range.get() + counters.host_errors.get() + counters.no_space.get(),
            run.statuses[1]
        );
        prop_assert_eq!(counters.unsupported.get(), run.statuses[2]);
        for (i, (known, is)) in run.model.content.iter().zip(&disk.state().content).enumerate() {
            prop_assert!(known.is_none_or(|known| known == *is), "byte {}", i);
        }
        prop_assert!(run.bench.interrupt.faults.lock().unwrap().is_empty());
    }
}
