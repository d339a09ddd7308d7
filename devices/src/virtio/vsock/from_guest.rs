//! What the guest sends: packets to connections, to those that it wants, and to none.
//! The rules of a single connection are `connection`'s.

use vm_memory::{GuestMemory, Permissions};

use super::connection::{Connection, State};
use super::host::HostSockets;
use super::packet::{HEADER_BYTES, HOST_CID, Header, Operation, STREAM};
use super::worker::{MAX_SLICES, PACKETS_PER_ROUND, VsockWorker};
use crate::virtio::GuestMemoryHandle;
use crate::virtio::guest_slices::{GuestSlice, Slices, cut, read_front};
use crate::virtio::queue_worker::Emptied;

/// A packet of the guest's, its data still in place.
struct Packet<'a, 'm, G: GuestMemory> {
    header: Header,
    data: &'a [GuestSlice<'m, G>],
}

impl<M: GuestMemoryHandle, H: HostSockets> VsockWorker<M, H> {
    pub(super) fn serve_transmit(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        self.serve_transmit_from(memory.memory());
        self.memory = Some(memory);
    }

    fn serve_transmit_from(&mut self, memory: &M::M) {
        let mut slices = Slices::new();
        self.transmit.begin_with(PACKETS_PER_ROUND);
        while let Some(chain) = self.transmit.take_into(Emptied::Asks, memory, Permissions::Read, &mut slices)
        {
            let mut bytes = [0; HEADER_BYTES];
            let complete = read_front(&slices, &mut bytes) == HEADER_BYTES;
            let header = Header::from_bytes(&bytes);
            let end = (HEADER_BYTES as u64).saturating_add(header.length.into());
            let has_data = header.operation == Some(Operation::Data) && header.length > 0;
            let good = complete
                && header.source_cid == self.guest_cid
                && end <= chain.readable_bytes()
                && (!has_data || slices.len() <= MAX_SLICES);
            if good {
                cut(&mut slices, 0, HEADER_BYTES, header.length as usize);
                self.hear(&Packet::<M::M> { header, data: &slices });
            } else {
                self.counters.malformed.one();
                self.transmit.refused("what was sent is no packet");
                // With a part of its stream lost, a connection cannot go on.
                if complete
                    && header.source_cid == self.guest_cid
                    && header.destination_cid == HOST_CID
                    && header.kind == STREAM
                    && let Some(token) = self.table.find(header.ports())
                {
                    self.break_off(token);
                }
            }
            self.transmit.used(chain, 0);
            slices.clear();
        }
        self.transmit.signal();
    }

    /// A packet of the guest's (virtio 1.3, 5.10.6.4 and 5.10.6.6).
    fn hear(&mut self, packet: &Packet<'_, '_, M::M>) {
        let header = &packet.header;
        let ports = header.ports();
        let known = (header.kind == STREAM && header.destination_cid == HOST_CID)
            .then_some(header.operation)
            .flatten();
        match (self.table.find(ports), known) {
            (Some(token), Some(operation)) => self.hear_connection(token, operation, packet),
            (None, Some(Operation::Reset)) => {}
            (None, Some(Operation::Request)) => self.connect(header),
            (None, Some(_)) => self.owe_reset(ports),
            (_, None) if header.operation == Some(Operation::Reset) => {}
            (_, None) => {
                self.counters.malformed.one();
                self.transmit.refused("a packet of an unknown kind, or to another host");
                if header.destination_cid == HOST_CID {
                    self.owe_reset(ports);
                }
            }
        }
    }

    /// The guest wants a connection.
    fn connect(&mut self, header: &Header) {
        let room = !self.table.is_full() || self.make_room();
        let stream = room.then(|| self.sockets.connect(header.destination_port)).and_then(Result::ok);
        let Some(stream) = stream else {
            self.counters.refused.one();
            return self.owe_reset(header.ports());
        };
        self.counters.guest_connects.one();
        let mut connection = Connection::new(stream, header.ports(), State::Open);
        connection.hear_credit(header);
        connection.owed.response = true;
        let token = self.table.add(connection);
        self.settle(token);
    }

    fn hear_connection(&mut self, token: u32, operation: Operation, packet: &Packet<'_, '_, M::M>) {
        let Some(connection) = self.table.get(token) else { return };
        connection.hear_credit(&packet.header);
        match (operation, &connection.state) {
            (Operation::Reset, state) => {
                if *state == State::Requested {
                    self.counters.refused.one();
                }
                self.remove(token);
            }
            (Operation::Response, State::Requested) => {
                self.counters.host_connects.one();
                if connection.accepted().is_err() {
                    return self.break_off(token);
                }
            }
            (Operation::Data, _) => return self.take_data(token, packet),
            (Operation::Shutdown, State::Open | State::HostGone) => {
                connection.guest_ended(packet.header.flags);
                if connection.is_over() {
                    return self.reset(token);
                }
            }
            (Operation::CreditRequest, State::Open) => connection.owed.credit_update = true,
            (Operation::CreditUpdate | Operation::CreditRequest, _) => {}
            (Operation::Request | Operation::Response | Operation::Shutdown, _) => {
                return self.break_off(token);
            }
        }
        self.settle(token);
    }

    fn take_data(&mut self, token: u32, packet: &Packet<'_, '_, M::M>) {
        let Some(connection) = self.table.get(token) else { return };
        let length = packet.header.length;
        if !connection.guest_may_send() || !connection.our_room.receive(length) {
            return self.break_off(token);
        }
        self.counters.to_host_bytes.add(length.into());
        if connection.write(packet.data).is_err() {
            return self.break_off(token);
        }
        self.settle(token);
    }
}
