//! All connections of a device, found by token or by ports, at most [`MAX_CONNECTIONS`].
//! What happens in them is the worker's business.

use std::collections::{BTreeMap, VecDeque};

use super::connection::{Connection, State};
use super::host::HostStream;
use super::packet::Ports;

/// Most connections of one guest, so that it cannot take all of this process's descriptors and memory: with
/// [`BUFFER_BYTES`](super::BUFFER_BYTES) each, 64 MiB.
pub const MAX_CONNECTIONS: usize = 512;
/// Ports of host processes that connect to the guest: above those that services have.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Tokens below are the worker's own.
const FIRST_TOKEN: u32 = 16;

/// The connections.
pub(super) struct Table<S> {
    connections: BTreeMap<u32, Connection<S>>,
    by_ports: BTreeMap<Ports, u32>,
    /// Those that owe packets, each once.
    line: VecDeque<u32>,
    next_token: u32,
    next_port: u32,
}

impl<S: HostStream> Table<S> {
    pub fn new() -> Self {
        Self {
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            line: VecDeque::new(),
            next_token: FIRST_TOKEN,
            next_port: FIRST_HOST_PORT,
        }
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    pub fn is_full(&self) -> bool {
        self.connections.len() >= MAX_CONNECTIONS
    }

    /// A connection that only the guest could end, if it would.
    pub fn leftover(&self) -> Option<u32> {
        self.iter().find(|(_, connection)| connection.is_leftover()).map(|(token, _)| token)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Connection<S>)> {
        self.connections.iter().map(|(token, connection)| (*token, connection))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Connection<S>)> {
        self.connections.iter_mut().map(|(token, connection)| (*token, connection))
    }

    pub fn get(&mut self, token: u32) -> Option<&mut Connection<S>> {
        self.connections.get_mut(&token)
    }

    pub fn find(&self, ports: Ports) -> Option<u32> {
        self.by_ports.get(&ports).copied()
    }

    /// Adds a connection; its token, which no other had for long, so that a late event cannot be taken for its. One
    /// that has no ports yet is not found by them.
    pub fn add(&mut self, connection: Connection<S>) -> u32 {
        while self.next_token < FIRST_TOKEN || self.connections.contains_key(&self.next_token) {
            self.next_token = self.next_token.wrapping_add(1);
        }
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        if !matches!(connection.state, State::Greeting(_)) {
            self.by_ports.insert(connection.ports, token);
        }
        self.connections.insert(token, connection);
        token
    }

    /// Gives a greeted connection its ports: one of ours that is free with `guest`.
    pub fn assign(&mut self, token: u32, guest: u32) {
        let ports = loop {
            let ports = Ports { host: self.next_port, guest };
            self.next_port =
                self.next_port.checked_add(1).filter(|port| *port != u32::MAX).unwrap_or(FIRST_HOST_PORT);
            if !self.by_ports.contains_key(&ports) {
                break ports;
            }
        };
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.ports = ports;
            connection.state = State::Requested;
            self.by_ports.insert(ports, token);
        }
    }

    pub fn remove(&mut self, token: u32) -> Option<Connection<S>> {
        let connection = self.connections.remove(&token)?;
        if self.by_ports.get(&connection.ports) == Some(&token) {
            self.by_ports.remove(&connection.ports);
        }
        Some(connection)
    }

    /// Puts a connection that owes packets in the line.
    pub fn line_up(&mut self, token: u32) {
        if let Some(connection) = self.connections.get_mut(&token)
            && connection.owed != Default::default()
            && !std::mem::replace(&mut connection.in_line, true)
        {
            self.line.push_back(token);
        }
    }

    /// The next that owes packets, which leaves the line.
    pub fn next_in_line(&mut self) -> Option<u32> {
        loop {
            let token = self.line.pop_front()?;
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.in_line = false;
                return Some(token);
            }
        }
    }
}
