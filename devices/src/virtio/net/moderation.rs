//! Whether a rest between the rounds of a burst pays: frames gather meanwhile, and what the peer says to them, so there
//! are fewer kicks and interrupts; but a driver that waits for an answer waits longer. What was found after a rest
//! tells: a driver that had more than one frame ready went on by itself, one that had none or one waits for something.

/// Frames found after a rest that paid.
const GATHERED: u16 = 2;
/// Most bursts that are not followed by a rest after one that did not pay.
const MOST_PASSED: u32 = 64;

/// After which bursts to rest.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    /// It rests, or did before this round.
    resting: bool,
    /// Bursts yet to pass without a rest.
    left: u32,
    /// How many they were at first: twice as many each time that a rest did not pay.
    passed: u32,
}

impl Moderation {
    /// The last round ended with a rest.
    pub fn is_resting(&self) -> bool {
        self.resting
    }

    /// Whether a round is to end with a rest if it ends as a burst of so many frames.
    pub fn rests_after(&self, frames: u16) -> bool {
        if self.resting { frames >= GATHERED } else { self.left == 0 }
    }

    /// A round of so many frames has ended, as a burst or not, and is followed by a rest or not.
    pub fn ended(&mut self, frames: u16, burst: bool, resting: bool) {
        let rested = std::mem::replace(&mut self.resting, resting);
        if rested {
            self.passed = if frames >= GATHERED { 0 } else { (2 * self.passed).clamp(1, MOST_PASSED) };
            self.left = self.passed;
        } else if burst {
            self.left = self.left.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Moderation;

    /// Of so many bursts those after which there was a rest, where so many frames are found each time.
    fn rests(moderation: &mut Moderation, bursts: u32, frames: u16) -> u32 {
        let mut rests = 0;
        for _ in 0..bursts {
            let resting = moderation.rests_after(frames);
            rests += u32::from(resting);
            moderation.ended(frames, true, resting);
        }
        rests
    }

    #[test]
    fn it_rests_as_long_as_frames_gather() {
        assert_eq!(rests(&mut Moderation::default(), 1000, 2), 1000);
    }

    #[test]
    fn a_driver_that_waits_is_hardly_held_up() {
        assert!(rests(&mut Moderation::default(), 10_000, 1) < 170);
    }

    #[test]
    fn rounds_that_are_no_burst_change_nothing() {
        let mut moderation = Moderation::default();
        for _ in 0..1000 {
            moderation.ended(1, false, false);
        }
        assert!(moderation.rests_after(1));
    }

    #[test]
    fn a_change_is_noticed() {
        let mut moderation = Moderation::default();
        rests(&mut moderation, 1000, 1);
        assert!(rests(&mut moderation, 1000, 9) > 930);
        assert!(rests(&mut moderation, 1000, 1) < 30);
    }
}
