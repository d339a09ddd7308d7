//! Data under credit, both ways.

use std::sync::atomic::Ordering;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::packet::{Header, Operation, Ports};
use super::{Bench, Packet};
use crate::virtio::test_driver::{BUFFERS, accesses};
use crate::virtio::vsock::BUFFER_BYTES;
use crate::virtio::{Interest, Source, SourceChange};

const PORTS: Ports = Ports { host: 7, guest: 5000 };

fn content(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|i| u8::try_from(i % 253).unwrap()).collect()
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for_and_asks_once() {
    let mut bench = Bench::new(0);
    let small = |operation, forwarded| Header { buffer: 100, forwarded, ..Bench::header(PORTS, operation) };
    assert!(bench.send(small(Operation::Request, 0), &[]));
    bench.exchange();
    let (_, mut host) = bench.sockets.connected().unwrap();
    host.write(&content(0, 250));
    let packets = bench.exchange();
    let operations: Vec<_> = packets.iter().map(Packet::operation).collect();
    assert_eq!(operations, [Operation::Data, Operation::CreditRequest]);
    assert_eq!(packets[0].data, content(0, 100));
    // No credit: the stream is not watched, so nothing spins.
    assert_eq!(bench.watched(), []);
    assert_eq!(bench.exchange(), []);
    assert!(bench.send(small(Operation::CreditUpdate, 100), &[]));
    let packets = bench.exchange();
    assert_eq!(packets[0].data, content(100, 100));
    assert!(bench.send(small(Operation::CreditUpdate, 200), &[]));
    assert_eq!(bench.exchange()[0].data, content(200, 50));
    assert_eq!(bench.watched(), [Interest::Readable]);
}

#[test]
fn a_stream_is_read_many_packets_at_once() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    let data = content(0, 100_000);
    assert_eq!(host.write(&data), data.len());
    let (mut read, mut packets) = (Vec::new(), 0);
    while read.len() < data.len() {
        for packet in bench.exchange() {
            packets += 1;
            read.extend(packet.data);
        }
    }
    assert_eq!(read, data);
    let calls = host.receives.load(Ordering::Relaxed);
    assert!(packets >= 24 && calls * 2 < packets, "{calls} calls for {packets} packets");
}

#[test]
fn each_buffer_of_a_packet_is_looked_for_once() {
    let costs = |buffers: u32| {
        let mut bench = Bench::new(0);
        assert!(bench.send(Bench::header(PORTS, Operation::Request), &[]));
        bench.post(1, 4096);
        bench.run();
        assert_eq!(bench.packets().len(), 1);
        let (_, mut host) = bench.sockets.connected().unwrap();
        while bench.transmit.used().is_some() {}

        let header = Header { length: 100 * buffers, ..Bench::header(PORTS, Operation::Data) };
        bench.memory.write_slice(&header.to_bytes(), GuestAddress(BUFFERS)).unwrap();
        let data = |writable| {
            (1..=u64::from(buffers)).map(move |i| (BUFFERS + i * 0x1000, 100, writable)).collect::<Vec<_>>()
        };
        let packet = [vec![(BUFFERS, 44, false)], data(false)].concat();
        bench.transmit.add(&packet).unwrap();
        let before = accesses(&bench.memory);
        bench.worker().ready(1);
        let to_host = accesses(&bench.memory) - before;
        assert_eq!(host.read().0.len(), 100 * buffers as usize);

        let room = [vec![(BUFFERS, 44, true)], data(true)].concat();
        bench.receive.add(&room).unwrap();
        host.write(&[1; 50]);
        let before = accesses(&bench.memory);
        bench.worker().ready(16);
        let to_guest = accesses(&bench.memory) - before;
        assert_eq!(bench.receive.used().map(|(_, written)| written), Some(44 + 50));
        [to_host, to_guest]
    };
    // And one for its descriptor.
    let (one, nine) = (costs(1), costs(9));
    assert_eq!([nine[0] - one[0], nine[1] - one[1]], [2 * 8; 2]);
}

#[test]
fn data_allocates_nothing_either_way() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    let stream = 16;
    let mut allocations = Vec::new();
    let (to_guest, to_host) = (content(0, 20_000), content(0, 1000));
    for _ in 0..12 {
        bench.post(32, 4096);
        host.write(&to_guest);
        assert!(bench.send(Header { length: 1000, ..Bench::header(PORTS, Operation::Data) }, &to_host));
        let heap = allocation_counter::measure(|| {
            bench.worker().ready(1);
            bench.worker().ready(stream);
        });
        allocations.push(heap.count_total);
        let data: Vec<u8> = bench.packets().into_iter().flat_map(|packet| packet.data).collect();
        assert!(data == to_guest && host.read() == (to_host.clone(), false));
        bench.interrupt.take();
    }
    assert_eq!(allocations[4..], [0; 8], "{allocations:?}");
}

#[test]
fn a_packet_may_be_as_long_as_the_credit() {
    for length in [65_537, 69_000] {
        let mut bench = Bench::new(0);
        let mut host = bench.connect(PORTS);
        let data = content(0, length);
        bench.say(PORTS, Operation::Data, &data);
        let (mut read, mut turns) = (Vec::new(), 0);
        while read.len() < length && turns < 100 {
            read.extend(host.read().0);
            bench.exchange();
            turns += 1;
        }
        assert_eq!(read, data);
        assert_eq!(bench.counters.malformed.get(), 0);
    }
}

#[test]
fn a_packet_that_is_none_ends_the_connection_that_it_names() {
    let mut bench = Bench::new(0);
    let _host = bench.connect(PORTS);
    // Longer than its buffers, so its bytes are lost to the stream.
    assert!(bench.send(Header { length: 500, ..Bench::header(PORTS, Operation::Data) }, &[1, 2, 3]));
    let operations: Vec<_> = bench.exchange().iter().map(Packet::operation).collect();
    assert_eq!(operations, [Operation::Reset]);
    assert_eq!((bench.counters.broken.get(), bench.counters.malformed.get()), (1, 1));
}

#[test]
fn data_for_a_host_process_that_does_not_read_waits_within_bounds() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    // Until the socket and our buffer are full the guest has credit.
    let mut sent = 0;
    let (mut buffer, mut forwarded) = (BUFFER_BYTES, 0);
    loop {
        let room = usize::try_from(buffer - (u32::try_from(sent).unwrap() - forwarded)).unwrap();
        if room == 0 {
            break;
        }
        let data = content(sent, room.min(10_000));
        sent += data.len();
        for packet in bench.say(PORTS, Operation::Data, &data) {
            assert_eq!(packet.operation(), Operation::CreditUpdate);
            (buffer, forwarded) = (packet.header.buffer, packet.header.forwarded);
        }
        assert!(sent < 10_000_000);
    }
    assert_eq!(bench.watched(), [Interest::Both]);
    // It reads: all arrives in order, and the guest hears of the room.
    let mut got = Vec::new();
    let mut updates = 0;
    while got.len() < sent {
        got.extend(host.read().0);
        updates += bench.exchange().len();
    }
    assert!(got == content(0, sent));
    assert!(updates > 0);
    assert_eq!(bench.counters.broken.get(), 0);
    assert_eq!(bench.watched(), [Interest::Readable]);
}

#[test]
fn what_the_guest_wrote_before_it_closed_still_arrives() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    // Fill the socket so that the last bytes wait here.
    let mut sent = 0;
    while bench.watched() != [Interest::Both] {
        let data = content(sent, 10_000);
        sent += data.len();
        bench.say(PORTS, Operation::Data, &data);
    }
    let header = Header { flags: 3, ..Bench::header(PORTS, Operation::Shutdown) };
    assert!(bench.send(header, &[]));
    assert_eq!(bench.exchange(), []);
    let mut got = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..1000 {
        let (data, end) = host.read();
        got.extend(data);
        if end {
            break;
        }
        answers.extend(bench.exchange());
    }
    assert!(got == content(0, sent));
    assert_eq!(answers.last().map(Packet::operation), Some(Operation::Reset));
}

#[test]
fn while_the_guest_has_no_buffers_streams_are_not_watched_and_answers_come_first_later() {
    let mut bench = Bench::new(0);
    assert!(bench.send(Bench::header(PORTS, Operation::Request), &[]));
    bench.run();
    let (_, mut host) = bench.sockets.connected().unwrap();
    host.write(b"data");
    bench.run();
    assert_eq!((bench.watched(), bench.packets()), (vec![], vec![]));
    bench.post(8, 4096);
    // The stream's event may come before the queue's.
    bench.ready(16);
    let operations: Vec<_> = bench.packets().iter().map(Packet::operation).collect();
    assert_eq!(operations, [Operation::Response, Operation::Data]);
}

#[test]
fn a_stream_without_credit_is_not_watched_after_a_time_without_buffers() {
    let mut bench = Bench::new(0);
    // One buffer, which the answer takes.
    bench.post(1, 4096);
    let header = Header { buffer: 10, ..Bench::header(PORTS, Operation::Request) };
    assert!(bench.send(header, &[]));
    bench.run();
    let (_, mut host) = bench.sockets.connected().unwrap();
    host.write(&[1; 100]);
    bench.run();
    let header = Header { buffer: 10, ..Bench::header(PORTS, Operation::CreditUpdate) };
    assert!(bench.send(header, &[]));
    bench.run();
    bench.post(8, 4096);
    assert_ne!(bench.ready(0), []);
    assert_eq!(bench.watched(), [Interest::Readable]);
    assert_ne!(bench.ready(16), [], "no longer watched");
    assert_eq!(bench.watched(), []);
}

#[test]
fn credit_that_goes_and_comes_changes_one_source_of_many() {
    let mut bench = Bench::new(0);
    let ports = |guest| Ports { host: 7, guest };
    let mut hosts: Vec<_> = (0..100).map(|guest| bench.connect(ports(guest))).collect();
    let token = 16 + 70;
    let update =
        |forwarded| Header { buffer: 10, forwarded, ..Bench::header(ports(70), Operation::CreditUpdate) };
    assert!(bench.send(update(0), &[]));
    assert_eq!(bench.ready(1), []);
    hosts[70].write(&[1; 15]);
    let fd = match *bench.ready(token) {
        [SourceChange::Removed { fd, token: gone }] if gone == token => fd,
        ref changes => panic!("{changes:?}"),
    };
    assert!(bench.send(update(10), &[]));
    assert_eq!(bench.ready(1), [SourceChange::Set(Source { fd, token, interest: Interest::Readable })]);
    assert_eq!(bench.ready(token), []);
}

proptest! {
    #[test]
    fn all_bytes_arrive_in_order_both_ways(
        writes in vec((0_usize..20_000, any::<bool>()), 1..40),
        room in 300_u32..100_000,
        posts in vec(0_usize..12, 8),
        length in 300_u32..4096,
        event_idx in any::<bool>(),
    ) {
        let mut bench = Bench::new(if event_idx { 1 << 29 } else { 0 });
        let request = Header { buffer: room, ..Bench::header(PORTS, Operation::Request) };
        prop_assert!(bench.send(request, &[]));
        bench.post(4, length);
        bench.run();
        let (_, mut host) = bench.sockets.connected().unwrap();
        let (mut to_host, mut to_guest) = (0, 0);
        let (mut at_host, mut at_guest) = (Vec::new(), Vec::new());
        let (mut buffer, mut forwarded) = (BUFFER_BYTES, 0);
        let mut posts = posts.into_iter().cycle();
        let mut writes = writes.into_iter();
        for turn in 0..30_000 {
            let write = writes.next();
            match write {
                Some((bytes, true)) => {
                    let may = (buffer - (u32::try_from(to_host).unwrap() - forwarded)) as usize;
                    let data = content(to_host, bytes.min(may));
                    let length = u32::try_from(data.len()).unwrap();
                    let told = u32::try_from(at_guest.len()).unwrap();
                    let header = Header { length, buffer: room, forwarded: told, ..Bench::header(PORTS, Operation::Data) };
                    if bench.send(header, &data) {
                        to_host += data.len();
                    }
                }
                Some((bytes, false)) => to_guest += host.write(&content(to_guest, bytes)),
                None if at_host.len() == to_host && at_guest.len() == to_guest => break,
                None => {}
            }
            bench.post(posts.next().unwrap() + usize::from(write.is_none()), length);
            bench.run();
            for packet in bench.packets() {
                prop_assert!(!matches!(packet.operation(), Operation::Reset | Operation::Shutdown));
                (buffer, forwarded) = (packet.header.buffer, packet.header.forwarded);
                at_guest.extend(packet.data);
            }
            if turn % 3 == 0 {
                at_host.extend(host.read().0);
                let told = u32::try_from(at_guest.len()).unwrap();
                bench.send(Header { buffer: room, forwarded: told, ..Bench::header(PORTS, Operation::CreditUpdate) }, &[]);
            }
        }
        prop_assert!(at_host == content(0, to_host));
        prop_assert!(at_guest == content(0, to_guest));
        prop_assert_eq!(bench.counters.broken.get(), 0);
    }
}
