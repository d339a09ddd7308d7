//! Host effects that only write down what was asked of them, for the tests of this crate.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::interrupt::{InterruptError, InterruptLine, MsiMessage, MsiRouter};
use crate::power::{PowerRequest, PowerSink};
use crate::serial::SerialHost;

fn refused() -> io::Error {
    io::Error::from(io::ErrorKind::WouldBlock)
}

/// Counts triggers; fails them while told to.
#[derive(Default)]
pub(crate) struct CountingLine {
    triggers: AtomicU64,
    failing: AtomicBool,
}

impl CountingLine {
    pub(crate) fn triggers(&self) -> u64 {
        self.triggers.load(Ordering::Relaxed)
    }

    pub(crate) fn fail(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }
}

impl InterruptLine for CountingLine {
    fn trigger(&self) -> Result<(), InterruptError> {
        self.triggers.fetch_add(1, Ordering::Relaxed);
        if self.failing.load(Ordering::Relaxed) {
            return Err(InterruptError::Signal(refused()));
        }
        Ok(())
    }
}

/// Remembers power requests.
#[derive(Default)]
pub(crate) struct PowerLog(Mutex<Vec<PowerRequest>>);

impl PowerLog {
    pub(crate) fn requests(&self) -> Vec<PowerRequest> {
        self.0.lock().unwrap().clone()
    }
}

impl PowerSink for PowerLog {
    fn request(&self, request: PowerRequest) {
        self.0.lock().unwrap().push(request);
    }
}

/// What a router was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouterCall {
    Set(u8, Option<MsiMessage>),
    Signal(MsiMessage),
}

/// Remembers routes and messages; fails while told to.
#[derive(Default)]
pub(crate) struct RouterLog {
    calls: Mutex<Vec<RouterCall>>,
    failing: AtomicBool,
}

impl RouterLog {
    /// The calls since the last time this was asked.
    pub(crate) fn take(&self) -> Vec<RouterCall> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    pub(crate) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    fn note(&self, call: RouterCall) -> bool {
        self.calls.lock().unwrap().push(call);
        self.failing.load(Ordering::Relaxed)
    }
}

impl MsiRouter for RouterLog {
    fn set(&self, pin: u8, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        match self.note(RouterCall::Set(pin, message)) {
            true => Err(InterruptError::Route { pin, source: refused() }),
            false => Ok(()),
        }
    }

    fn signal(&self, message: MsiMessage) -> Result<(), InterruptError> {
        match self.note(RouterCall::Signal(message)) {
            true => Err(InterruptError::Message { address: message.address, source: refused() }),
            false => Ok(()),
        }
    }
}

/// Counts what the serial port told.
#[derive(Default)]
pub(crate) struct HostLog {
    rooms: AtomicU64,
    waitings: AtomicU64,
}

impl HostLog {
    /// How often there was room for input, and output waiting.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.rooms.load(Ordering::Relaxed), self.waitings.load(Ordering::Relaxed))
    }
}

impl SerialHost for HostLog {
    fn input_room(&self) {
        self.rooms.fetch_add(1, Ordering::Relaxed);
    }

    fn output_waiting(&self) {
        self.waitings.fetch_add(1, Ordering::Relaxed);
    }
}
