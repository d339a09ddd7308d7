//! Whether a rest between the rounds of a burst pays. It gathers frames, and what the peer says to them, so there are
//! fewer kicks and interrupts; but a driver that waits for an answer waits longer. That is not to be known from the
//! frames, so both ways are tried, and the one by which more goes out in a second is kept for a while.

use std::time::{Duration, Instant};

/// Bytes over which a way is measured.
const SAMPLE: u64 = 1 << 20;
/// Samples of a way in its trial: the first is not counted, while the other's effects last.
const TRIAL: u32 = 2;
/// Samples for which rests are kept that pay.
const TERM_WITH: u32 = 16;
/// Samples without rests where they do not pay: it is a wrong try that costs most.
const TERM_WITHOUT: u32 = 32;
/// A driver that says nothing for so long has nothing to say: the sample begins anew.
const GAP: Duration = Duration::from_millis(10);

/// The choice between the two ways. It begins without rests.
#[derive(Debug)]
pub(super) struct Moderation {
    /// Samples since the last trials began.
    age: u32,
    bytes: u64,
    began: Option<Instant>,
    last: Option<Instant>,
    /// How long a sample took without rests.
    without: Duration,
    /// What the trials said.
    rest_pays: bool,
}

impl Moderation {
    pub const START: Self =
        Self { age: 0, bytes: 0, began: None, last: None, without: Duration::MAX, rest_pays: false };

    /// Whether to rest after a round of a burst.
    pub fn rests(&self) -> bool {
        match self.age {
            0..TRIAL => false,
            age if age < 2 * TRIAL => true,
            _ => self.rest_pays,
        }
    }

    fn term(&self) -> u32 {
        if self.rest_pays { TERM_WITH } else { TERM_WITHOUT }
    }

    /// A round took so many bytes from the driver, and ended now.
    pub fn took(&mut self, bytes: u64, now: Instant) {
        let idle = self.last.replace(now).is_none_or(|last| now.saturating_duration_since(last) > GAP);
        let Some(began) = self.began.filter(|_| !idle) else {
            (self.began, self.bytes) = (Some(now), 0);
            return;
        };
        self.bytes += bytes;
        if self.bytes < SAMPLE {
            return;
        }
        let took = now.saturating_duration_since(began);
        (self.began, self.bytes) = (Some(now), 0);
        self.age += 1;
        match self.age {
            TRIAL => self.without = took,
            age if age == 2 * TRIAL => self.rest_pays = took < self.without,
            age if age >= 2 * TRIAL + self.term() => self.age = 0,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Moderation;
    use std::time::{Duration, Instant};

    /// Of so many rounds of 64 KiB those after which there was a rest, where a round takes so many microseconds with a
    /// rest, and without.
    fn rests(rounds: u32, with: u64, without: u64) -> f64 {
        let (mut moderation, mut now, mut rests) = (Moderation::START, Instant::now(), 0);
        for _ in 0..rounds {
            let resting = moderation.rests();
            rests += u32::from(resting);
            now += Duration::from_micros(if resting { with } else { without });
            moderation.took(64 << 10, now);
        }
        f64::from(rests) / f64::from(rounds)
    }

    #[test]
    fn the_way_by_which_more_goes_out_is_taken_mostly() {
        assert!(rests(100_000, 200, 300) > 0.89);
        assert!(rests(100_000, 300, 200) < 0.06);
    }

    #[test]
    fn it_begins_without_rests() {
        assert!(rests(16, 1, 1) == 0.0);
    }

    #[test]
    fn a_pause_is_no_part_of_a_sample() {
        let (mut moderation, mut now) = (Moderation::START, Instant::now());
        for _ in 0..10_000 {
            now += Duration::from_millis(11);
            moderation.took(64 << 10, now);
        }
        assert!(!moderation.rests());
    }

    #[test]
    fn a_change_of_what_pays_is_noticed() {
        let (mut moderation, mut now) = (Moderation::START, Instant::now());
        let mut share = |moderation: &mut Moderation, with, without| {
            let mut rests = 0;
            for _ in 0..20_000 {
                rests += u32::from(moderation.rests());
                now += Duration::from_micros(if moderation.rests() { with } else { without });
                moderation.took(64 << 10, now);
            }
            f64::from(rests) / 20_000.0
        };
        assert!(share(&mut moderation, 100, 200) > 0.8);
        assert!(share(&mut moderation, 200, 100) < 0.1);
    }
}
