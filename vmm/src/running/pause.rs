//! Pause and resume: vCPUs stop first, then devices, and a VM of which something would not stop in time runs on.

use super::Running;
use crate::handle::{Answer, Reply, RequestError};
use std::time::{Duration, Instant};

/// vCPUs stop within microseconds; one that does not is held up by the host.
const PAUSE_WITHIN: Duration = Duration::from_millis(200);
/// Between two looks whether they have.
const PAUSE_LOOK: Duration = Duration::from_millis(1);

/// Requests in flight end when the host's storage has answered them.
const HOLD_WITHIN: Duration = Duration::from_secs(3);

/// A pause that waits for vCPUs, then for devices.
pub(super) struct Pausing {
    replies: Vec<Reply>,
    until: Instant,
    /// vCPUs have stopped.
    devices: bool,
}

impl Running {
    /// Stops the vCPUs, then the devices; answered when nothing touches guest memory any more, or something would not stop in
    /// time: then all run on.
    pub fn pause(&mut self, reply: Reply) {
        match &mut self.pausing {
            None if self.paused => reply.send(Ok(Answer::Done)),
            Some(pausing) => pausing.replies.push(reply),
            None => {
                self.vcpus.pause();
                self.keeper.pause();
                // One that waits for a slow reader of its output would not stop.
                self.serial.let_guest_wait(false);
                let until = Instant::now() + PAUSE_WITHIN;
                self.pausing = Some(Pausing { replies: vec![reply], until, devices: false });
            }
        }
    }

    /// Goes on with what waits for threads of this VM; when to look again.
    pub fn look(&mut self) -> Option<Duration> {
        let pausing = self.pausing.as_mut()?;
        let running = self.vcpus.running();
        if running == 0 && !pausing.devices {
            // No vCPU has anything for them any more.
            (pausing.devices, pausing.until) = (true, Instant::now() + HOLD_WITHIN);
            self.segments.hold();
        }
        let (devices, until) = (pausing.devices, pausing.until);
        match if devices { self.segments.active() } else { running } {
            0 => {
                self.paused = true;
                self.publish();
                self.end_pause(|| Ok(Answer::Done));
                None
            }
            left if Instant::now() >= until => {
                self.let_run();
                self.end_pause(|| Err(not_stopped(devices, left)));
                None
            }
            _ => Some(PAUSE_LOOK),
        }
    }

    fn end_pause(&mut self, answer: impl Fn() -> Result<Answer, RequestError>) {
        let replies = self.pausing.take().map(|pausing| pausing.replies);
        replies.into_iter().flatten().for_each(|reply| reply.send(answer()));
    }

    fn let_run(&self) {
        self.serial.let_guest_wait(true);
        self.segments.go_on();
        self.run_vcpus();
        self.keeper.resume();
    }

    fn run_vcpus(&self) {
        if !self.still {
            self.vcpus.run();
        }
    }

    /// Has the guest's vCPUs stand still, whatever else is asked of it, or go on.
    pub fn hold_still(&mut self, hold: bool) {
        self.still = hold;
        if hold {
            self.vcpus.pause();
        } else if !self.paused && self.pausing.is_none() {
            self.vcpus.run();
        }
    }

    /// Lets them run again. One who waits for a pause is told that it did not come to that.
    pub fn resume(&mut self) -> Result<Answer, RequestError> {
        if let Some(Pausing { devices, .. }) = self.pausing {
            let left = if devices { self.segments.active() } else { self.vcpus.running() };
            self.let_run();
            self.end_pause(|| Err(not_stopped(devices, left)));
        }
        if self.paused {
            self.paused = false;
            self.publish();
            self.let_run();
        }
        Ok(Answer::Done)
    }
}

/// Why there is no pause.
fn not_stopped(devices: bool, left: usize) -> RequestError {
    match devices {
        true => RequestError::DevicesNotHeld(left),
        false => RequestError::NotStopped(left),
    }
}
