//! Guests that keep no rule: no panic, no endless round, nothing without bound.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::packet::{Header, Operation, Ports};
use super::{Bench, Packet};
use crate::virtio::vsock::MAX_CONNECTIONS;

const PORTS: Ports = Ports { host: 7, guest: 5000 };

fn operations(packets: &[Packet]) -> Vec<Operation> {
    packets.iter().map(Packet::operation).collect()
}

#[test]
fn data_without_credit_ends_the_connection() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    host.write(b"x");
    let data = vec![0; 64 << 10];
    let mut answers = Vec::new();
    // The host process reads nothing, and the guest does not wait.
    for _ in 0..40 {
        answers.extend(operations(&bench.say(PORTS, Operation::Data, &data)));
    }
    assert!(answers.contains(&Operation::Reset), "{answers:?}");
    assert_eq!((bench.counters.broken.get(), bench.counters.connections.get()), (1, 0));
}

#[test]
fn packets_that_make_no_sense_are_answered_as_the_specification_says() {
    let mut bench = Bench::new(0);
    // Of no connection.
    for operation in [Operation::Data, Operation::Response, Operation::Shutdown, Operation::CreditUpdate] {
        assert_eq!(operations(&bench.say(PORTS, operation, &[])), [Operation::Reset]);
    }
    assert_eq!(bench.say(PORTS, Operation::Reset, &[]), []);
    // Of an unknown type, or to nobody, or from somebody else, or without an operation.
    let header = Bench::header(PORTS, Operation::Request);
    let cases = [
        (Header { kind: 9, ..header }, 1),
        (Header { operation: None, ..header }, 1),
        (Header { destination_cid: 77, ..header }, 0),
        (Header { source_cid: 41, ..header }, 0),
        (Header { length: 500, ..Bench::header(PORTS, Operation::Data) }, 0),
        (Header { length: u32::MAX, ..Bench::header(PORTS, Operation::Data) }, 0),
    ];
    for (header, resets) in cases {
        assert!(bench.send(header, &[1, 2, 3]));
        assert_eq!(operations(&bench.exchange()), vec![Operation::Reset; resets], "{header:?}");
    }
    assert_eq!(bench.counters.malformed.get(), 6);
    // A second request, a response to nothing asked: the connection ends.
    for operation in [Operation::Request, Operation::Response] {
        let _host = bench.connect(PORTS);
        assert_eq!(operations(&bench.say(PORTS, operation, &[])), [Operation::Reset]);
    }
}

#[test]
fn answers_that_a_guest_does_not_take_are_bounded() {
    let mut bench = Bench::new(0);
    for guest in 0..5000 {
        assert!(bench.send(Bench::header(Ports { host: 200, guest }, Operation::Request), &[]));
        bench.run();
    }
    assert!(bench.counters.lost_resets.get() > 0);
    let mut resets = 0;
    loop {
        let packets = bench.exchange();
        if packets.is_empty() {
            break;
        }
        resets += packets.len();
    }
    assert_eq!(resets, 2 * MAX_CONNECTIONS);
}

#[test]
fn buffers_without_room_for_a_header_are_given_back() {
    let mut bench = Bench::new(0);
    bench.post(3, 51);
    assert!(bench.receive.add(&[(0x10_0000, 43, true)]).is_some());
    assert!(bench.send(Bench::header(PORTS, Operation::CreditRequest), &[]));
    bench.run();
    assert_eq!(operations(&bench.packets()[..1]), [Operation::Reset]);
}

proptest! {
    #[test]
    fn whatever_a_guest_sends_the_device_stays_within_bounds(
        packets in vec((0_u16..10, 0_u32..3, 0_u32..4, 0_u32..8, 0_u32..300, any::<u32>(), any::<u32>(), 0_usize..300), 1..200),
        host_acts in vec(0_u8..6, 1..50),
    ) {
        let mut bench = Bench::new(0);
        let mut hosts = Vec::new();
        let mut acts = host_acts.into_iter().cycle();
        for (operation, host, guest, flags, length, buffer, forwarded, data) in packets {
            let ports = Ports { host: [7, 1 << 30, 100][host as usize], guest };
            let mut bytes = Bench::header(ports, Operation::Data).to_bytes();
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            let header = Header { flags, length, buffer, forwarded, ..Header::from_bytes(&bytes) };
            prop_assert!(bench.send(header, &vec![7; data]));
            match acts.next().unwrap() {
                0 => {
                    let mut host = bench.sockets.arrive();
                    host.write(format!("CONNECT {guest}\nhello").as_bytes());
                    hosts.push(host);
                }
                1 => hosts.truncate(hosts.len() / 2),
                2 => {
                    for host in &mut hosts {
                        host.write(b"some data");
                    }
                }
                3 => bench.post(4, 4096),
                4 => {
                    for host in &mut hosts {
                        let _ = host.stream.shutdown(std::net::Shutdown::Write);
                    }
                }
                _ => {
                    for host in &mut hosts {
                        host.read();
                    }
                }
            }
            bench.run();
            hosts.extend(std::iter::from_fn(|| bench.sockets.connected()).map(|(_, host)| host));
            bench.packets();
        }
        prop_assert!(bench.counters.connections.get() <= MAX_CONNECTIONS as u64);
        prop_assert!(bench.interrupt.faults.lock().unwrap().is_empty());
    }

    #[test]
    fn rings_full_of_nonsense_end_in_a_fault_or_in_packets(
        descriptors in vec((0_u64..0x90_0000, prop_oneof![0_u32..5000, any::<u32>()], 0_u16..8, 0_u16..70), 128),
        heads in vec(0_u16..70, 1..32),
    ) {
        let mut bench = Bench::new(1 << 28);
        for (i, (address, length, flags, next)) in descriptors.into_iter().enumerate() {
            let queue = if i < 64 { &bench.receive } else { &bench.transmit };
            queue.descriptor(u16::try_from(i % 64).unwrap(), address, length, flags, next);
        }
        for (i, head) in heads.into_iter().enumerate() {
            if i % 2 == 0 { bench.receive.make_available(head) } else { bench.transmit.make_available(head) }
            bench.run();
        }
        prop_assert!(bench.interrupt.faults.lock().unwrap().len() <= 2);
    }
}
