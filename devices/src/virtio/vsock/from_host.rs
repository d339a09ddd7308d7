//! What host processes send, and those that come.
//! The rules of a single connection are `connection`'s.

use std::io::{self, ErrorKind};
use std::time::Instant;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{Permissions, VolatileSlice};

use super::connection::{Connection, Greeting, State};
use super::host::{HostSockets, HostStream};
use super::packet::{HEADER_BYTES, Header, MAX_DATA_BYTES, Operation, Ports};
use super::worker::{MAX_SLICES, PACKETS_PER_ROUND, VsockWorker};
use crate::virtio::GuestMemoryHandle;
use crate::virtio::guest_slices::add_slices;

/// Most host processes that are let in at once.
const ACCEPTS_PER_ROUND: usize = 16;

impl<M: GuestMemoryHandle, H: HostSockets> VsockWorker<M, H> {
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_ROUND {
            if self.table.is_full() && !self.make_room() {
                self.stop_listening();
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
                        tracing::warn!(%error, suppressed, "vsock: nobody let in for now");
                    }
                    self.stop_listening();
                    return;
                }
            }
        }
    }

    fn stop_listening(&mut self) {
        self.changed |= std::mem::replace(&mut self.listening, false);
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
                    self.handle.counts.refused.add(1);
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
        let guard = self.receive.memory();
        let memory: &M::M = &guard;
        let mut slices = Vec::new();
        for _ in 0..PACKETS_PER_ROUND {
            let Some(connection) = self.table.get(token).filter(|c| c.may_read()) else { return };
            let credit = connection.guest_room.bytes();
            if credit == 0 {
                connection.want_credit();
                break;
            }
            let Some(chain) = self.buffer(1) else { break };
            slices.clear();
            if !add_slices(memory, chain.writable(), Permissions::Write, MAX_SLICES, &mut slices) {
                self.handle.counts.malformed.add(1);
                self.receive.refused("a buffer in too many pieces");
                self.receive.used(chain, 0);
                continue;
            }
            let Some(connection) = self.table.get(token) else { return self.receive.put_back(chain) };
            match fill(&mut connection.stream, &slices, credit.min(MAX_DATA_BYTES)) {
                Ok(0) => {
                    self.receive.put_back(chain);
                    connection.host_ended();
                    break;
                }
                Ok(length) => {
                    connection.guest_room.sent(length);
                    let header = connection.header(self.guest_cid, Operation::Data);
                    self.say(chain, &Header { length, ..header });
                    self.handle.counts.to_guest_bytes.add(length.into());
                }
                Err(error) => {
                    self.receive.put_back(chain);
                    if error.kind() != ErrorKind::WouldBlock {
                        self.break_off(token);
                    }
                    break;
                }
            }
        }
    }
}

/// Reads into `slices` behind the header, `limit` bytes at most; 0 only where no more will come.
fn fill<S: HostStream, B: BitmapSlice>(
    stream: &mut S,
    slices: &[VolatileSlice<'_, B>],
    limit: u32,
) -> io::Result<u32> {
    let (mut skip, mut done) = (HEADER_BYTES, 0);
    let limit = limit as usize;
    for slice in slices {
        let start = skip.min(slice.len());
        skip -= start;
        let length = (slice.len() - start).min(limit - done);
        let Some(mut part) = slice.subslice(start, length).ok().filter(|part| !part.is_empty()) else {
            continue;
        };
        match stream.receive(&mut part) {
            Ok(0) => break,
            Ok(bytes) => {
                done += bytes;
                if bytes < length {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(u32::try_from(done).unwrap_or(0))
}
