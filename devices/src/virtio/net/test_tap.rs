//! A host interface that does what a test's script says.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{Bytes, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::{HEADER_BYTES, MAX_SLICES, Offloads, Tap};

/// What the interface does once; when the script is over it does what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::virtio) enum Reply {
    Work,
    Fail(i32),
    Short,
}

#[derive(Default)]
pub(in crate::virtio) struct TapState {
    pub incoming: VecDeque<Vec<u8>>,
    pub receive_script: VecDeque<Reply>,
    pub sent: Vec<Vec<u8>>,
    pub send_script: VecDeque<Reply>,
    pub offloads: Option<Offloads>,
    pub enabled: Option<bool>,
    pub enable_fails: bool,
    pub receives: u64,
    pub sends: u64,
}

pub(in crate::virtio) struct FakeTap {
    pub state: Mutex<TapState>,
    event: EventFd,
}

impl FakeTap {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), event: EventFd::new(0).unwrap() })
    }
}

pub(in crate::virtio) const EAGAIN: i32 = 11;
pub(in crate::virtio) const EIO: i32 = 5;

impl Tap for FakeTap {
    fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn receive<B: BitmapSlice>(&self, into: &[VolatileSlice<'_, B>], rest: &mut [u8]) -> io::Result<usize> {
        assert!(!into.is_empty() && into.len() <= MAX_SLICES);
        let mut state = self.state.lock().unwrap();
        state.receives += 1;
        if let Some(Reply::Fail(errno)) = state.receive_script.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let frame = state.incoming.pop_front().ok_or(io::Error::from_raw_os_error(EAGAIN))?;
        let mut left = &frame[..];
        for slice in into {
            let n = left.len().min(slice.len());
            slice.write_slice(&left[..n], 0).unwrap();
            left = &left[n..];
        }
        let n = left.len().min(rest.len());
        rest[..n].copy_from_slice(&left[..n]);
        Ok(frame.len())
    }

    fn send<B: BitmapSlice>(&self, frame: &[VolatileSlice<'_, B>]) -> io::Result<usize> {
        assert!(!frame.is_empty() && frame.len() <= MAX_SLICES);
        let mut state = self.state.lock().unwrap();
        state.sends += 1;
        let reply = state.send_script.pop_front().unwrap_or(Reply::Work);
        if let Reply::Fail(errno) = reply {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let mut bytes = Vec::new();
        for slice in frame {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.read_slice(&mut bytes[start..], 0).unwrap();
        }
        if reply == Reply::Short {
            bytes.truncate(bytes.len() / 2);
        }
        let taken = bytes.len();
        state.sent.push(bytes);
        Ok(taken)
    }

    fn supported(&self) -> Offloads {
        Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.state.lock().unwrap().offloads = Some(offloads);
        Ok(())
    }

    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.enable_fails && enabled {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.enabled = Some(enabled);
        Ok(())
    }
}

/// A frame with a header that says nothing, and `bytes` of content that depends on `seed`.
pub(in crate::virtio) fn frame(seed: usize, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend((0..bytes).map(|i| u8::try_from((i * 7 + seed * 13) % 251).unwrap()));
    frame
}
