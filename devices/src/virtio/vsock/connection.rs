//! One connection: its state, its credit, and what waits to be said about it or written to its host process.
//! Queues and packets of other connections are the worker's business.

use std::io::{self, ErrorKind};
use std::net::Shutdown;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::credit::{GuestRoom, OurRoom};
use super::host::HostStream;
use super::packet::{Header, Operation, Ports, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::virtio::Interest;

/// Most bytes of a connection that wait for its host process to read them: two packets of the largest size.
pub const BUFFER_BYTES: u32 = 128 << 10;
/// Longest first line of a host process, newline included: `CONNECT 4294967295` has 18.
const MAX_GREETING_BYTES: usize = 32;

/// How far a connection got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// A host process connected and has not yet said all of what it wants.
    Greeting(Vec<u8>),
    /// The guest was asked.
    Requested,
    /// Data may flow.
    Open,
    /// The host process is gone; the guest has to finish.
    HostGone,
}

/// Packets about the connection that the guest has to hear.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owed {
    pub request: bool,
    pub response: bool,
    /// Flags of a shutdown; 0 for none.
    pub shutdown: u32,
    pub credit_update: bool,
    pub credit_request: bool,
}

/// What a host process said so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    Incomplete,
    Port(u32),
    Nonsense,
}

/// A connection.
pub(super) struct Connection<S> {
    pub stream: S,
    pub ports: Ports,
    pub state: State,
    pub owed: Owed,
    /// It stands in the line of those that owe packets.
    pub in_line: bool,
    pub guest_room: GuestRoom,
    pub our_room: OurRoom,
    /// Written by the guest, not yet read by the host process.
    waiting: Vec<u8>,
    /// How much of `waiting` has gone.
    gone: usize,
    host_ended: bool,
    guest_sends_no_more: bool,
    guest_receives_no_more: bool,
    credit_asked: bool,
    /// What the thread waits for.
    pub watched: Option<Interest>,
}

impl<S: HostStream> Connection<S> {
    pub fn new(stream: S, ports: Ports, state: State) -> Self {
        Self {
            stream,
            ports,
            state,
            owed: Owed::default(),
            in_line: false,
            guest_room: GuestRoom::default(),
            our_room: OurRoom::new(BUFFER_BYTES),
            waiting: Vec::new(),
            gone: 0,
            host_ended: false,
            guest_sends_no_more: false,
            guest_receives_no_more: false,
            credit_asked: false,
            watched: None,
        }
    }

    /// What to wait for; `room` says whether the guest has buffers at all.
    pub fn interest(&self, room: bool) -> Option<Interest> {
        let readable = match &self.state {
            State::Greeting(_) => true,
            State::Open => room && self.may_read() && self.guest_room.bytes() > 0,
            State::Requested | State::HostGone => false,
        };
        match (readable, self.has_waiting()) {
            (true, true) => Some(Interest::Both),
            (true, false) => Some(Interest::Readable),
            (false, true) => Some(Interest::Writable),
            (false, false) => None,
        }
    }

    /// Whether what the host process sends is for the guest.
    pub fn may_read(&self) -> bool {
        self.state == State::Open && !self.host_ended && !self.guest_receives_no_more
    }

    fn has_waiting(&self) -> bool {
        self.gone < self.waiting.len()
    }

    /// Reads on in the first line, and no byte past it.
    pub fn greet(&mut self) -> io::Result<Greeting> {
        let State::Greeting(line) = &mut self.state else { return Ok(Greeting::Nonsense) };
        loop {
            let mut byte = [0];
            match self.stream.receive(&[VolatileSlice::from(&mut byte[..])]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => return Ok(parse_greeting(line)),
                Ok(_) if line.len() + 1 >= MAX_GREETING_BYTES => return Ok(Greeting::Nonsense),
                Ok(_) => line.extend(byte),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Greeting::Incomplete),
                Err(error) => return Err(error),
            }
        }
    }

    /// The guest accepted: the host process hears which port it has.
    pub fn accepted(&mut self) -> io::Result<()> {
        self.state = State::Open;
        self.waiting.extend(format!("OK {}\n", self.ports.host).into_bytes());
        self.flush()?;
        // A new socket that has no room for a line is not worth keeping; and the line is not the guest's data, of
        // which it would get credit back.
        if self.has_waiting() { Err(ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Takes data of the guest's that it had credit for; what the stream does not take now, waits.
    pub fn write<B: BitmapSlice>(&mut self, data: &[VolatileSlice<'_, B>]) -> io::Result<()> {
        for slice in data {
            let mut done = 0;
            while done < slice.len() && !self.has_waiting() {
                let Ok(rest) = slice.offset(done) else { break };
                match self.stream.send(&rest) {
                    Ok(0) => break,
                    Ok(sent) => {
                        done += sent;
                        self.our_room.forward(count(sent));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            let start = self.waiting.len();
            self.waiting.resize(start + (slice.len() - done), 0);
            if let (Some(room), Ok(rest)) = (self.waiting.get_mut(start..), slice.offset(done)) {
                rest.copy_to(room);
            }
        }
        Ok(())
    }

    /// Writes what waits; how many bytes went.
    pub fn flush(&mut self) -> io::Result<usize> {
        let before = self.gone;
        while let Some(rest) = self.waiting.get_mut(self.gone..).filter(|rest| !rest.is_empty()) {
            match self.stream.send(&VolatileSlice::from(rest)) {
                Ok(0) => break,
                Ok(sent) => self.gone += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let went = self.gone - before;
        if !self.has_waiting() {
            // A connection that is keeping up holds no memory.
            self.waiting = Vec::new();
            self.gone = 0;
            if self.guest_sends_no_more {
                self.stream.shutdown(Shutdown::Write);
            }
        } else if self.gone > BUFFER_BYTES as usize / 2 {
            self.waiting.drain(..self.gone);
            self.gone = 0;
        }
        Ok(went)
    }

    /// Writes what waits, for which the guest gets credit back.
    pub fn flush_data(&mut self) -> io::Result<()> {
        let went = self.flush()?;
        self.our_room.forward(count(went));
        Ok(())
    }

    /// The host process sends no more.
    pub fn host_ended(&mut self) {
        self.host_ended = true;
        self.owed.shutdown |= SHUTDOWN_SEND;
        if self.stream.is_hung_up() {
            self.owed.shutdown |= SHUTDOWN_RECEIVE;
            self.state = State::HostGone;
            self.stream.shutdown(Shutdown::Both);
            self.waiting = Vec::new();
            self.gone = 0;
        }
    }

    /// The guest ends one direction or both.
    pub fn guest_ended(&mut self, flags: u32) {
        if flags & SHUTDOWN_RECEIVE != 0 && !self.guest_receives_no_more {
            self.guest_receives_no_more = true;
            self.stream.shutdown(Shutdown::Read);
        }
        if flags & SHUTDOWN_SEND != 0 && !self.guest_sends_no_more {
            self.guest_sends_no_more = true;
            if !self.has_waiting() {
                self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    /// Whether the guest may still send data.
    pub fn guest_may_send(&self) -> bool {
        self.state == State::Open && !self.guest_sends_no_more
    }

    /// The guest wants nothing more of it, and all it wrote has gone.
    pub fn is_over(&self) -> bool {
        self.guest_sends_no_more && self.guest_receives_no_more && !self.has_waiting()
    }

    /// Only the guest, or too many others, can end it.
    pub fn is_leftover(&self) -> bool {
        match self.state {
            State::HostGone => true,
            State::Open => self.guest_sends_no_more && self.guest_receives_no_more,
            State::Requested => self.stream.is_hung_up(),
            State::Greeting(_) => false,
        }
    }

    /// Asks for credit, once until some comes.
    pub fn want_credit(&mut self) {
        if !std::mem::replace(&mut self.credit_asked, true) {
            self.owed.credit_request = true;
        }
    }

    /// Credit as a packet of the guest's tells it.
    pub fn hear_credit(&mut self, header: &Header) {
        self.guest_room.update(header.buffer, header.forwarded);
        if self.guest_room.bytes() > 0 {
            self.credit_asked = false;
        }
    }

    /// The next packet that is owed.
    pub fn next_owed(&mut self, guest_cid: u64) -> Option<Header> {
        let owed = &mut self.owed;
        let (operation, flags) = if std::mem::take(&mut owed.request) {
            (Operation::Request, 0)
        } else if std::mem::take(&mut owed.response) {
            (Operation::Response, 0)
        } else if owed.shutdown != 0 {
            (Operation::Shutdown, std::mem::take(&mut owed.shutdown))
        } else if std::mem::take(&mut owed.credit_update) {
            (Operation::CreditUpdate, 0)
        } else if std::mem::take(&mut owed.credit_request) {
            (Operation::CreditRequest, 0)
        } else {
            return None;
        };
        Some(Header { flags, ..self.header(guest_cid, operation) })
    }

    /// A packet that goes out now, and so tells of our room.
    pub fn header(&mut self, guest_cid: u64, operation: Operation) -> Header {
        let (buffer, forwarded) = self.our_room.tell();
        self.owed.credit_update = false;
        Header { buffer, forwarded, ..Header::to_guest(self.ports, guest_cid, operation) }
    }
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn parse_greeting(line: &[u8]) -> Greeting {
    let port = std::str::from_utf8(line)
        .ok()
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .and_then(|line| line.split_once(' '))
        .filter(|(word, _)| word.eq_ignore_ascii_case("connect"))
        .map(|(_, port)| port.trim())
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse().ok());
    port.map_or(Greeting::Nonsense, Greeting::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_names_a_port() {
        for (line, port) in [("CONNECT 52", 52), ("connect 4294967295", u32::MAX), ("CONNECT 7\r", 7)] {
            assert_eq!(parse_greeting(line.as_bytes()), Greeting::Port(port));
        }
        for line in [
            "",
            "CONNECT",
            "CONNECT ",
            "CONNECT -1",
            "CONNECT +1",
            "CONNECT 4294967296",
            "HELO 1",
            "CONNECT 1 2",
        ] {
            assert_eq!(parse_greeting(line.as_bytes()), Greeting::Nonsense, "{line}");
        }
        assert_eq!(parse_greeting(&[0xff, 0xfe]), Greeting::Nonsense);
    }
}
