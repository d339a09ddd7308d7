//! The serial port's output buffer: between bytes that come one by one and a sink that costs a system call.
//!
//! When to flush beyond lines and full chunks is left to [`Serial`](crate::Serial).

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use crate::SerialCounters;

/// Bytes that are worth a system call even without a line's end.
const CHUNK_BYTES: usize = 1024;
/// Bytes kept for a sink that takes nothing for now: some screens full, so that a slow terminal loses nothing in a
/// burst while a stopped one costs little memory.
pub(crate) const STALLED_MAX_BYTES: usize = 64 * 1024;

/// Bytes on their way to the sink. Never fails: what the sink refuses is counted.
pub(crate) struct OutputBuffer {
    sink: Box<dyn Write + Send>,
    pending: Vec<u8>,
    /// The sink said "would block": only [`Self::emit`] from outside tries again, not every byte.
    stalled: bool,
    counters: Arc<SerialCounters>,
    warned: bool,
}

impl OutputBuffer {
    pub(crate) fn new(sink: Box<dyn Write + Send>, counters: Arc<SerialCounters>) -> Self {
        Self { sink, pending: Vec::new(), stalled: false, counters, warned: false }
    }

    /// Bytes wait, or the sink still has to be flushed.
    pub(crate) fn is_waiting(&self) -> bool {
        self.stalled || !self.pending.is_empty()
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Hands everything to the sink, as far as it takes it now.
    pub(crate) fn emit(&mut self) {
        if !self.is_waiting() {
            return;
        }
        self.stalled = false;
        let (taken, result) = drain(&mut *self.sink, &self.pending);
        self.pending.drain(..taken);
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.stalled = true,
            Err(error) => {
                self.lose(self.pending.len(), &error);
                self.pending.clear();
            }
        }
        self.pending.shrink_to(CHUNK_BYTES);
    }

    /// What the sink has not taken.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Adds what another buffer had pending.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.push(*byte));
    }

    fn push(&mut self, byte: u8) {
        if self.pending.len() >= STALLED_MAX_BYTES {
            return self.lose(1, &io::Error::from(ErrorKind::WouldBlock));
        }
        self.pending.push(byte);
        if !self.stalled && (byte == b'\n' || self.pending.len() >= CHUNK_BYTES) {
            self.emit();
        }
    }

    fn lose(&mut self, bytes: usize, error: &io::Error) {
        self.counters.lost_bytes.add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if !self.warned {
            self.warned = true;
            tracing::warn!(%error, bytes, "serial: output lost; further losses are only counted");
        }
    }
}

/// How many bytes the sink took, and why it stopped if it did.
fn drain(sink: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match sink.write(&bytes[taken..]) {
            Ok(0) => return (taken, Err(ErrorKind::WriteZero.into())),
            Ok(count) => taken = bytes.len().min(taken + count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, sink.flush())
}

/// For `vm_superio`, which writes byte by byte and flushes after each: so a flush does nothing here.
impl Write for OutputBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.push(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last words of a guest seldom end a line.
impl Drop for OutputBuffer {
    fn drop(&mut self) {
        self.emit();
    }
}
