//! Rounds of hints: the driver says what it has free, between the number of the round and a stop (virtio 1.3, 5.5.6.5).
//! The driver holds what it hinted until it is told that the round is done.

/// The driver is to stop, or did (`VIRTIO_BALLOON_CMD_ID_STOP`).
const STOP: u32 = 0;
/// The driver may have its pages again (`VIRTIO_BALLOON_CMD_ID_DONE`).
const DONE: u32 = 1;

/// Where the rounds stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hints {
    /// The driver can hint.
    able: bool,
    command: u32,
    /// The last round's number.
    number: u32,
    /// The driver has begun it, and not stopped.
    open: bool,
    rounds: u64,
}

impl Hints {
    pub fn new(able: bool, rounds: u64) -> Self {
        Self { able, rounds, ..Self::default() }
    }

    /// What stands in the configuration.
    pub fn command(self) -> u32 {
        self.command
    }

    /// The last round's number.
    pub fn round(self) -> u32 {
        self.number
    }

    /// Whether the configuration can have `command` after the round of that number.
    pub fn is_command(command: u32, round: u32) -> bool {
        command <= DONE || command == round
    }

    /// As they were; a round under way ends, as nobody knows of it any more.
    pub fn restore(&mut self, command: u32, round: u32) {
        (self.command, self.number, self.open) = (command.min(DONE), round, false);
    }

    /// Rounds that came to their end.
    pub fn rounds(self) -> u64 {
        self.rounds
    }

    /// Whether pages that come count.
    pub fn open(self) -> bool {
        self.open
    }

    /// A new round takes the place of the one under way; false if the driver cannot.
    pub fn begin(&mut self) -> bool {
        self.number = self.number.wrapping_add(1).max(DONE + 1);
        self.command = if self.able { self.number } else { STOP };
        self.open = false;
        self.able
    }

    /// The driver says a number; true if the round is over, and the driver has to be told.
    pub fn say(&mut self, number: u32) -> bool {
        let ends = number == STOP && self.open;
        self.open = number == self.command && number > DONE;
        if ends {
            self.command = DONE;
            self.rounds += 1;
        }
        ends
    }

    /// Nobody waits for it any more: the driver gets its pages back.
    pub fn end(&mut self) {
        (self.command, self.open) = (DONE, false);
    }
}

#[cfg(test)]
mod tests {
    use super::Hints;

    #[test]
    fn a_round_is_between_its_number_and_a_stop() {
        let mut hints = Hints::new(true, 7);
        assert!(!hints.say(0) && !hints.open());
        assert!(hints.begin());
        assert_eq!(hints.command(), 2);
        // A number of another round, or of none.
        for other in [0, 1, 3] {
            assert!(!hints.say(other) && !hints.open());
        }
        assert!(!hints.say(2) && hints.open());
        assert!(hints.say(0) && !hints.open());
        assert_eq!((hints.command(), hints.rounds()), (1, 8));
        assert!(!hints.say(1) && !hints.open());
        hints.begin();
        hints.say(3);
        hints.end();
        assert_eq!((hints.command(), hints.open(), hints.rounds()), (1, false, 8));
    }

    #[test]
    fn numbers_that_have_a_meaning_are_left_out_and_a_driver_that_cannot_is_not_asked() {
        let mut hints = Hints { number: u32::MAX, ..Hints::new(true, 0) };
        hints.begin();
        assert_eq!(hints.command(), 2);
        let mut hints = Hints::new(false, 0);
        assert!(!hints.begin());
        assert_eq!(hints.command(), 0);
    }
}
