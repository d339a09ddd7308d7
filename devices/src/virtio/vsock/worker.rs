//! The running half of a socket device: what is owed to the guest, what is waited for, which source is whose.
//! Packets from the guest are `from_guest`'s, streams of host processes `from_host`'s.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use super::connection::{Connection, Owed, State};
use super::counters::VsockCounters;
use super::events::Events;
use super::host::{HostSockets, HostStream};
use super::packet::{HEADER_BYTES, Header, Operation, Ports};
use super::table::{MAX_CONNECTIONS, Table};
use super::unreported::Unreported;
use crate::LogLimit;
use crate::virtio::{
    Chain, GuestMemoryHandle, Interest, MAX_CHAIN_DESCRIPTORS, QueuePosition, Source, SourceChange, Worker,
    WorkerQueue,
};

const RECEIVE_TOKEN: u32 = 0;
const TRANSMIT_TOKEN: u32 = 1;
const LISTENER_TOKEN: u32 = 2;
const EVENTS_TOKEN: u32 = 3;

/// Most packets of one round, so that the other direction and other connections get their turn.
pub(super) const PACKETS_PER_ROUND: u16 = 64;
/// Most resets that wait for buffers of the guest's; a guest that keeps the rules needs one a connection.
const MAX_RESETS: usize = 2 * MAX_CONNECTIONS;

/// Most pieces of guest memory that a packet may lie in: buffers of a chain, some across the border of regions.
pub(super) const MAX_SLICES: usize = 2 * MAX_CHAIN_DESCRIPTORS as usize;

/// The worker of a socket device.
pub(super) struct VsockWorker<M, H: HostSockets> {
    /// To the guest.
    pub(super) receive: WorkerQueue<M>,
    /// From the guest.
    pub(super) transmit: WorkerQueue<M>,
    /// What the guest is told of the device as a whole.
    pub(super) events: Option<Events<M>>,
    /// Taken out while packets lie in it, so that it need not be counted that they do.
    pub(super) memory: Option<M>,
    pub(super) sockets: Arc<H>,
    pub(super) table: Table<H::Stream>,
    pub(super) resets: VecDeque<Ports>,
    /// Where a read of a stream keeps the buffers that it fills, and the room for data in each; empty in between.
    pub(super) packets: Vec<(Chain, u32)>,
    pub(super) guest_cid: u64,
    /// The guest has no buffers for us.
    pub(super) starved: bool,
    /// The host lets nobody in for now.
    pub(super) listening: bool,
    /// Something happened after which it may again.
    pub(super) relieved: bool,
    /// What of the sources has changed and the thread does not know yet.
    pub(super) unreported: Unreported,
    pub(super) log: LogLimit,
    pub(super) counters: Arc<VsockCounters>,
}

impl<M: GuestMemoryHandle, H: HostSockets> VsockWorker<M, H> {
    pub fn new(
        receive: WorkerQueue<M>,
        transmit: WorkerQueue<M>,
        events: Option<Events<M>>,
        memory: M,
        sockets: Arc<H>,
        guest_cid: u64,
        counters: Arc<VsockCounters>,
    ) -> Self {
        Self {
            receive,
            transmit,
            events,
            memory: Some(memory),
            sockets,
            table: Table::new(),
            resets: VecDeque::new(),
            packets: Vec::new(),
            guest_cid,
            starved: false,
            listening: true,
            relieved: false,
            unreported: Unreported::default(),
            log: LogLimit::per_second(1),
            counters,
        }
    }

    /// Before each source is served: buffers may have come. What is owed goes before anything new.
    fn begin(&mut self) {
        self.receive.begin();
        if self.starved && self.receive.available() > 0 {
            self.set_starved(false);
        }
        self.say_what_is_owed();
    }

    fn serve_events(&mut self) {
        if let Some(events) = &mut self.events {
            events.serve();
        }
    }

    /// After each source was served: says what is owed, and whether what to wait for has changed.
    fn end(&mut self) -> bool {
        self.say_what_is_owed();
        self.receive.signal();
        self.counters.connections.set(self.table.len() as u64);
        if std::mem::take(&mut self.relieved) && !self.listening && !self.table.is_full() {
            self.set_listening(true);
        }
        !self.unreported.is_empty()
    }

    pub(super) fn set_listening(&mut self, listening: bool) {
        if std::mem::replace(&mut self.listening, listening) != listening {
            self.unreported.changed(LISTENER_TOKEN);
        }
    }

    fn set_starved(&mut self, starved: bool) {
        if std::mem::replace(&mut self.starved, starved) != starved {
            for (token, connection) in self.table.iter_mut() {
                watch(&mut self.unreported, token, connection, !starved);
            }
        }
    }

    /// Brings what is watched, and what is owed, of a connection up to date.
    pub(super) fn settle(&mut self, token: u32) {
        let room = !self.starved;
        let Some(connection) = self.table.get(token) else { return };
        if connection.our_room.is_worth_telling() && connection.state == State::Open {
            connection.owed.credit_update = true;
        }
        watch(&mut self.unreported, token, connection, room);
        self.table.line_up(token);
    }

    pub(super) fn remove(&mut self, token: u32) -> Option<Connection<H::Stream>> {
        let removed = self.table.remove(token)?;
        self.unreported.removed(removed.stream.fd(), token);
        self.relieved = true;
        Some(removed)
    }

    /// Ends a connection, and tells the guest if it knows of it.
    pub(super) fn reset(&mut self, token: u32) {
        if let Some(connection) = self.remove(token)
            && !matches!(connection.state, State::Greeting(_))
        {
            self.owe_reset(connection.ports);
        }
    }

    pub(super) fn break_off(&mut self, token: u32) {
        self.counters.broken.one();
        self.reset(token);
    }

    pub(super) fn owe_reset(&mut self, ports: Ports) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(ports);
        } else {
            self.counters.lost_resets.one();
        }
    }

    /// A buffer of the guest's that has room for a header and `data` bytes more.
    pub(super) fn buffer(&mut self, data: u64) -> Option<Chain> {
        self.buffer_by(data, WorkerQueue::pop)
    }

    /// The same, taken out of the queue by `pop`.
    pub(super) fn buffer_by(
        &mut self,
        data: u64,
        mut pop: impl FnMut(&mut WorkerQueue<M>) -> Option<Chain>,
    ) -> Option<Chain> {
        loop {
            let Some(chain) = pop(&mut self.receive) else {
                self.set_starved(true);
                return None;
            };
            if chain.writable_bytes() >= HEADER_BYTES as u64 + data {
                return Some(chain);
            }
            self.counters.malformed.one();
            self.receive.refused("a buffer that no packet can be put in");
            self.receive.used(chain, 0);
        }
    }

    pub(super) fn say(&mut self, chain: Chain, header: &Header) {
        chain.write(self.receive.memory(), 0, &header.to_bytes());
        let bytes = u32::try_from(HEADER_BYTES).unwrap_or(0).saturating_add(header.length);
        self.receive.used(chain, bytes);
    }

    fn say_what_is_owed(&mut self) {
        while let Some(ports) = self.resets.front().copied() {
            let Some(chain) = self.buffer(0) else { return };
            self.resets.pop_front();
            self.say(chain, &Header::to_guest(ports, self.guest_cid, Operation::Reset));
        }
        while let Some(token) = self.table.next_in_line() {
            let cid = self.guest_cid;
            while self.table.get(token).is_some_and(|connection| connection.owed != Owed::default()) {
                let Some(chain) = self.buffer(0) else { return self.table.line_up(token) };
                match self.table.get(token).and_then(|connection| connection.next_owed(cid)) {
                    Some(header) => self.say(chain, &header),
                    None => self.receive.put_back(chain),
                }
            }
            self.settle(token);
        }
    }
}

/// Notes what is to be waited for on a connection's stream; `room` says whether the guest has buffers.
fn watch<S: HostStream>(unreported: &mut Unreported, token: u32, connection: &mut Connection<S>, room: bool) {
    let interest = connection.interest(room);
    if std::mem::replace(&mut connection.watched, interest) != interest {
        unreported.changed(token);
    }
}

impl<M: GuestMemoryHandle, H: HostSockets> Worker for VsockWorker<M, H> {
    fn sources(&self) -> Vec<Source> {
        let mut sources = vec![self.receive.source(RECEIVE_TOKEN), self.transmit.source(TRANSMIT_TOKEN)];
        sources.extend(self.events.as_ref().map(|events| events.source(EVENTS_TOKEN)));
        if self.listening {
            let fd = self.sockets.listener();
            sources.push(Source { fd, token: LISTENER_TOKEN, interest: Interest::Readable });
        }
        sources.extend(self.table.iter().filter_map(|(token, connection)| {
            let interest = connection.interest(!self.starved)?;
            Some(Source { fd: connection.stream.fd(), token, interest })
        }));
        sources
    }

    fn changes(&mut self, changes: &mut Vec<SourceChange>) -> bool {
        let (table, listening, listener) = (&mut self.table, self.listening, self.sockets.listener());
        self.unreported.take(changes, |token| match token {
            LISTENER_TOKEN => Some((listener, listening.then_some(Interest::Readable))),
            token => table.get(token).map(|connection| (connection.stream.fd(), connection.watched)),
        });
        true
    }

    fn start(&mut self) {
        self.serve_events();
        self.begin();
        self.serve_transmit();
        self.end();
    }

    fn ready(&mut self, token: u32) -> bool {
        self.begin();
        match token {
            RECEIVE_TOKEN => {}
            TRANSMIT_TOKEN => {
                self.relieved = true;
                self.serve_transmit();
            }
            LISTENER_TOKEN => self.accept(),
            EVENTS_TOKEN => self.serve_events(),
            token => self.serve_stream(token),
        }
        self.end()
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        let events = self.events.as_ref().map(Events::position);
        [self.receive.position(), self.transmit.position()].into_iter().chain(events).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
