//! Commands of the driver (virtio 1.3, 5.1.6.5): what they say, checked. Doing it is the worker's business.

use super::features::{bits, switchable};

/// Most bytes of a command that is known.
pub(super) const COMMAND_BYTES: usize = 16;
/// The answer to a command that was done.
pub(super) const OK: u8 = 0;
/// The answer to one that was not.
pub(super) const ERROR: u8 = 1;

const CLASS_MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
const CLASS_GUEST_OFFLOADS: u8 = 5;
const GUEST_OFFLOADS_SET: u8 = 0;

/// A command that the device can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Use this many pairs of queues, from the first on.
    QueuePairs(u16),
    /// Switch the driver's offloads: these features on, its others off.
    Offloads(u64),
}

/// What the driver wants, if it may: `features` were negotiated, the device has `pairs`.
pub(super) fn parse(command: &[u8], features: u64, pairs: u16) -> Option<Command> {
    match *command {
        [CLASS_MQ, MQ_VQ_PAIRS_SET, low, high] if features & bits::MQ != 0 => {
            let wanted = u16::from_le_bytes([low, high]);
            (1..=pairs).contains(&wanted).then_some(Command::QueuePairs(wanted))
        }
        [CLASS_GUEST_OFFLOADS, GUEST_OFFLOADS_SET, a, b, c, d, e, f, g, h]
            if features & bits::CTRL_GUEST_OFFLOADS != 0 =>
        {
            let wanted = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            (wanted & !switchable(features) == 0).then_some(Command::Offloads(wanted))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_one_to_as_many_as_there_are() {
        let ask = |n: u16| {
            let [low, high] = n.to_le_bytes();
            parse(&[4, 0, low, high], bits::MQ, 4)
        };
        assert_eq!(ask(1), Some(Command::QueuePairs(1)));
        assert_eq!(ask(4), Some(Command::QueuePairs(4)));
        assert_eq!([ask(0), ask(5), ask(0x8000)], [None; 3]);
        assert_eq!(parse(&[4, 0, 1, 0], 0, 4), None);
        assert_eq!(parse(&[4, 0, 1], bits::MQ, 4), None);
        assert_eq!(parse(&[], u64::MAX, 4), None);
    }

    #[test]
    fn only_offloads_that_were_negotiated_can_be_switched() {
        let features = bits::CTRL_GUEST_OFFLOADS | bits::GUEST_CSUM | bits::GUEST_TSO4;
        let ask = |wanted: u64| parse(&[&[5, 0], &wanted.to_le_bytes()[..]].concat(), features, 1);
        assert_eq!(ask(bits::GUEST_CSUM), Some(Command::Offloads(bits::GUEST_CSUM)));
        assert_eq!(ask(0), Some(Command::Offloads(0)));
        assert_eq!(ask(bits::GUEST_TSO6), None);
        assert_eq!(ask(bits::MRG_RXBUF), None);
    }
}
