//! What host processes send, and those that come.
//! The rules of a single connection are `connection`'s.

use std::io::ErrorKind;
use std::time::Instant;

use vm_memory::Permissions;

use super::connection::{Connection, Greeting, State};
use super::host::{HostSockets, HostStream, MAX_PIECES};
use super::packet::{HEADER_BYTES, Header, MAX_DATA_BYTES, Operation, Ports};
use super::worker::{PACKETS_PER_ROUND, VsockWorker};
use crate::virtio::guest_slices::{GuestSlice, Slices, cut};
use crate::virtio::queue_worker::Emptied;
use crate::virtio::{Chain, GuestMemoryHandle};

/// Most host processes that are let in at once.
const ACCEPTS_PER_ROUND: usize = 16;
/// Most packets that one read of a stream fills: 64 KiB in Linux's buffers.
const MAX_BATCH: usize = 16;

impl<M: GuestMemoryHandle, H: HostSockets> VsockWorker<M, H> {
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_ROUND {
            if self.table.is_full() && !self.make_room() {
                self.set_listening(false);
                return;
            }
            match self.sockets.accept() {
                Ok(stream) => {
                    let ports = Ports { host: 0, guest: 0 };
                    let token = self.table.add(Connection::new(stream, ports, State::Greeting(Vec::new())));
                    self.settle(token);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors, most likely: until something changes, asking again would be in vain.
                    if let Some(suppressed) = self.log.admit(Instant::now()) {
                        tracing::warn!(%error, suppressed, "vsock: cannot accept connections for now");
                    }
                    self.set_listening(false);
                    return;
                }
            }
        }
    }

    /// Ends a connection that waits for the guest only; false if there is none.
    pub(super) fn make_room(&mut self) -> bool {
        let leftover = self.table.leftover();
        leftover.into_iter().for_each(|token| self.reset(token));
        leftover.is_some()
    }

    pub(super) fn serve_stream(&mut self, token: u32) {
        let Some(connection) = self.table.get(token) else { return };
        match &connection.state {
            State::Greeting(_) => match connection.greet() {
                Ok(Greeting::Incomplete) => {}
                Ok(Greeting::Port(port)) => {
                    connection.owed.request = true;
                    self.table.assign(token, port);
                }
                Ok(Greeting::Nonsense) | Err(_) => {
                    self.counters.refused.one();
                    self.remove(token);
                }
            },
            State::Open => {
                if connection.flush_data().is_err() {
                    return self.break_off(token);
                }
                if connection.is_over() {
                    return self.reset(token);
                }
                self.read_stream(token);
            }
            State::Requested | State::HostGone => {}
        }
        self.settle(token);
    }

    /// Takes what a host process sent to the guest.
    fn read_stream(&mut self, token: u32) {
        let Some(memory) = self.memory.take() else { return };
        let mut packets = std::mem::take(&mut self.packets);
        self.read_stream_into(token, memory.memory(), &mut packets);
        (self.memory, self.packets) = (Some(memory), packets);
    }

    /// As many packets at once as the last read had use for, up to [`MAX_BATCH`]: a guest's buffers are small, and a call for
    /// each costs more than its bytes.
    fn read_stream_into(&mut self, token: u32, memory: &M::M, packets: &mut Vec<(Chain, u32)>) {
        let (mut left, mut batch) = (usize::from(PACKETS_PER_ROUND), 1);
        let mut slices = Slices::new();
        while left > 0 {
            let Some(connection) = self.table.get(token).filter(|c| c.may_read()) else { return };
            let credit = connection.guest_room.bytes();
            if credit == 0 {
                return connection.want_credit();
            }
            slices.clear();
            let room = self.collect(memory, credit, batch.min(left), packets, &mut slices);
            let Some(connection) = self.table.get(token).filter(|_| !packets.is_empty()) else { return };
            let result = connection.stream.receive(&slices);
            match result {
                Ok(0) => connection.host_ended(),
                Ok(bytes) => {
                    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                    left -= self.say_data(token, bytes, packets);
                    if bytes >= room {
                        batch = (batch * 2).min(MAX_BATCH);
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.break_off(token),
            }
            // Last taken, first put back.
            packets.drain(..).rev().for_each(|(chain, _)| self.receive.put_back(chain));
            return;
        }
    }

    /// Takes buffers for up to `most` packets with `credit` bytes of data together, and the memory behind their headers; as
    /// much as there is now. How many bytes.
    fn collect<'m>(
        &mut self,
        memory: &'m M::M,
        credit: u32,
        most: usize,
        packets: &mut Vec<(Chain, u32)>,
        slices: &mut Slices<GuestSlice<'m, M::M>>,
    ) -> u32 {
        let mut total = 0;
        while packets.len() < most && total < credit {
            // The first is asked for, so that the driver notifies where there is none.
            if !packets.is_empty() && self.receive.available() == 0 {
                break;
            }
            let before = slices.len();
            let next = self.buffer_by(1, |queue| {
                slices.truncate(before);
                queue.take_into(Emptied::Asks, memory, Permissions::Write, slices)
            });
            let Some(chain) = next else {
                slices.truncate(before);
                break;
            };
            if slices.len() - before > MAX_PIECES {
                slices.truncate(before);
                self.counters.malformed.one();
                self.receive.refused("a buffer in too many pieces");
                self.receive.used(chain, 0);
                continue;
            }
            let room = chain.writable_bytes().saturating_sub(HEADER_BYTES as u64);
            let room = u32::try_from(room).unwrap_or(u32::MAX).min(MAX_DATA_BYTES).min(credit - total);
            cut(slices, before, HEADER_BYTES, room as usize);
            if slices.len() > MAX_PIECES {
                slices.truncate(before);
                self.receive.put_back(chain);
                break;
            }
            packets.push((chain, room));
            total += room;
        }
        total
    }

    /// So many `bytes` lie in the first of these buffers: says so, and how many they were.
    fn say_data(&mut self, token: u32, mut bytes: u32, packets: &mut Vec<(Chain, u32)>) -> usize {
        let mut room = 0;
        let full = packets.iter().take_while(|(_, more)| {
            let fits = room < bytes;
            room += more;
            fits
        });
        let count = full.count();
        for (chain, room) in packets.drain(..count) {
            let length = room.min(bytes);
            bytes -= length;
            let Some(connection) = self.table.get(token) else { return count };
            connection.guest_room.sent(length);
            let header = connection.header(self.guest_cid, Operation::Data);
            self.say(chain, &Header { length, ..header });
            self.counters.to_guest_bytes.add(length.into());
        }
        count
    }
}
