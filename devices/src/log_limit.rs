//! A limit on how often the guest can make us write a log line.
//!
//! Time and the line itself are the caller's.

use std::time::{Duration, Instant};

/// Lets `rate` lines through per second, at most `rate` at once, and counts the others.
///
/// ```
/// # use std::time::Instant;
/// # let (mut limit, port) = (devices::LogLimit::per_second(1), 0x80);
/// if let Some(suppressed) = limit.admit(Instant::now()) {
///     tracing::warn!(port, suppressed, "unassigned address");
/// }
/// ```
#[derive(Debug)]
pub struct LogLimit {
    rate: u32,
    tokens: u32,
    /// Tokens are whole up to here; `None` before the first line.
    filled: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// A limit of `rate` lines per second; with 0 no line ever passes.
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        Self { rate, tokens: rate, filled: None, suppressed: 0 }
    }

    /// Asks for one line at the time `now`. `Some` if it may be written, with the number of lines suppressed since
    /// the last that was. A clock that goes back gives no tokens.
    #[must_use = "the line may be written only if this is Some"]
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        self.refill(now);
        if self.tokens == 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    fn refill(&mut self, now: Instant) {
        let Some(interval) = Duration::from_secs(1).checked_div(self.rate) else { return };
        let filled = *self.filled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(filled);
        let missing = self.rate - self.tokens;
        let earned = elapsed.as_nanos() / interval.as_nanos().max(1);
        match u32::try_from(earned) {
            Ok(earned) if earned < missing => {
                self.tokens += earned;
                self.filled = Some(filled + interval * earned);
            }
            // Full: what was earned beyond that is lost.
            _ => {
                self.tokens = self.rate;
                self.filled = Some(filled + elapsed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_cut_and_the_next_line_tells_how_many_are_missing() {
        let start = Instant::now();
        let mut limit = LogLimit::per_second(2);
        assert_eq!(limit.admit(start), Some(0));
        assert_eq!(limit.admit(start), Some(0));
        assert_eq!(limit.admit(start), None);
        assert_eq!(limit.admit(start + Duration::from_millis(499)), None);
        assert_eq!(limit.admit(start + Duration::from_millis(500)), Some(2));
        assert_eq!(limit.admit(start + Duration::from_millis(501)), None);
    }

    #[test]
    fn a_limit_of_zero_lets_nothing_through() {
        let mut limit = LogLimit::per_second(0);
        assert_eq!(limit.admit(Instant::now()), None);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut limit = LogLimit::per_second(1);
        assert_eq!(limit.admit(start), Some(0));
        assert_eq!(limit.admit(start.checked_sub(Duration::from_secs(30)).unwrap()), None);
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(1));
    }

    proptest! {
        #[test]
        fn no_more_lines_than_the_rate_allows_and_none_is_forgotten(
            rate in 1_u32..50,
            steps in proptest::collection::vec(0_u64..200_000_000, 1..200),
        ) {
            let mut limit = LogLimit::per_second(rate);
            let start = Instant::now();
            let (mut now, mut admitted, mut told) = (start, 0_u64, 0_u64);
            for step in &steps {
                now += Duration::from_nanos(*step);
                if let Some(suppressed) = limit.admit(now) {
                    admitted += 1;
                    told += suppressed;
                }
            }
            let seconds = (now - start).as_nanos().div_ceil(1_000_000_000);
            prop_assert!(u128::from(admitted) <= u128::from(rate) * (seconds + 1));
            prop_assert_eq!(admitted + told + limit.suppressed, u64::try_from(steps.len()).unwrap());
        }
    }
}
