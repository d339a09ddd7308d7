//! Feature bits of network devices (virtio 1.3, 5.1.3) and the offloads of a tap that they stand for.
//! Which of them a tap can do is for the tap to say.

use std::ops::{BitAnd, BitOr};

/// Features of a network device.
pub mod bits {
    /// The device takes frames with partial checksums.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames with partial checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The driver may switch its offloads off and on while it runs.
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    /// The device gives advice on the largest frame.
    pub const MTU: u64 = 1 << 3;
    /// The device has a MAC address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes large TCP segments over IPv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes large TCP segments over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The driver takes large TCP segments with congestion marks.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The driver takes large UDP datagrams to be fragmented.
    pub const GUEST_UFO: u64 = 1 << 10;
    /// The device takes large TCP segments over IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes large TCP segments over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The device takes large TCP segments with congestion marks.
    pub const HOST_ECN: u64 = 1 << 13;
    /// The device takes large UDP datagrams to be fragmented.
    pub const HOST_UFO: u64 = 1 << 14;
    /// A frame may take several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The configuration has the state of the link.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// There are several pairs of queues.
    pub const MQ: u64 = 1 << 22;
    /// The driver takes large UDP datagrams over IPv4 to be segmented.
    pub const GUEST_USO4: u64 = 1 << 54;
    /// The driver takes large UDP datagrams over IPv6 to be segmented.
    pub const GUEST_USO6: u64 = 1 << 55;
    /// The device takes large UDP datagrams to be segmented.
    pub const HOST_USO: u64 = 1 << 56;
}

/// What a tap may hand over unfinished: frames without checksums, segments larger than the MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(u8);

impl Offloads {
    /// Nothing: every frame is complete.
    pub const NONE: Self = Self(0);
    /// Checksums are left to the receiver; needed for all others.
    pub const CHECKSUM: Self = Self(1 << 0);
    /// Large TCP segments over IPv4.
    pub const TSO4: Self = Self(1 << 1);
    /// Large TCP segments over IPv6.
    pub const TSO6: Self = Self(1 << 2);
    /// Those with congestion marks too.
    pub const ECN: Self = Self(1 << 3);
    /// UDP datagrams to be fragmented.
    pub const UFO: Self = Self(1 << 4);
    /// UDP datagrams over IPv4 to be segmented.
    pub const USO4: Self = Self(1 << 5);
    /// UDP datagrams over IPv6 to be segmented.
    pub const USO6: Self = Self(1 << 6);

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether frames may be larger than the MTU.
    #[must_use]
    pub fn segments(self) -> bool {
        self.0 & !(Self::CHECKSUM.0 | Self::ECN.0) != 0
    }
}

impl BitOr for Offloads {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Offloads {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The driver's offloads and what each means for the tap.
const GUEST_OFFLOADS: [(u64, Offloads); 7] = [
    (bits::GUEST_CSUM, Offloads::CHECKSUM),
    (bits::GUEST_TSO4, Offloads::TSO4),
    (bits::GUEST_TSO6, Offloads::TSO6),
    (bits::GUEST_ECN, Offloads::ECN),
    (bits::GUEST_UFO, Offloads::UFO),
    (bits::GUEST_USO4, Offloads::USO4),
    (bits::GUEST_USO6, Offloads::USO6),
];

/// What the driver sends unfinished: a kernel that can hand such frames over can take them, too.
const HOST_OFFLOADS: [(u64, Offloads); 6] = [
    (bits::CSUM, Offloads::CHECKSUM),
    (bits::HOST_TSO4, Offloads::TSO4),
    (bits::HOST_TSO6, Offloads::TSO6),
    (bits::HOST_ECN, Offloads::ECN),
    (bits::HOST_UFO, Offloads::UFO),
    (bits::HOST_USO, Offloads(Offloads::USO4.0 | Offloads::USO6.0)),
];

/// Features that depend on others, and those of which each needs one (virtio 1.3, 5.1.3.1).
const DEPENDENCIES: [(u64, u64); 5] = [
    (
        bits::GUEST_TSO4 | bits::GUEST_TSO6 | bits::GUEST_UFO | bits::GUEST_USO4 | bits::GUEST_USO6,
        bits::GUEST_CSUM,
    ),
    (bits::GUEST_ECN, bits::GUEST_TSO4 | bits::GUEST_TSO6),
    (bits::HOST_TSO4 | bits::HOST_TSO6 | bits::HOST_UFO | bits::HOST_USO, bits::CSUM),
    (bits::HOST_ECN, bits::HOST_TSO4 | bits::HOST_TSO6),
    (bits::MQ, bits::CTRL_VQ),
];

/// Whether each feature comes with what it depends on.
#[must_use]
pub fn is_consistent(features: u64) -> bool {
    DEPENDENCIES.iter().all(|(dependent, needed)| features & dependent == 0 || features & needed != 0)
}

/// The features to offer over a tap that can do `supported`.
#[must_use]
pub fn of_offloads(supported: Offloads) -> u64 {
    let all = GUEST_OFFLOADS.iter().chain(&HOST_OFFLOADS);
    let can = all.filter(|(_, needs)| supported.has(*needs)).map(|(bit, _)| bit).sum();
    // Checksums come before segments, and those before congestion marks.
    DEPENDENCIES
        .iter()
        .fold(can, |can, (dependent, needed)| if can & needed == 0 { can & !dependent } else { can })
}

/// What the tap may hand over to a driver that negotiated `features`; without the checksum offload, nothing (virtio
/// 1.3, 5.1.3.1).
#[must_use]
pub fn to_offloads(features: u64) -> Offloads {
    if features & bits::GUEST_CSUM == 0 {
        return Offloads::NONE;
    }
    let wanted = GUEST_OFFLOADS.iter().filter(|(bit, _)| features & bit != 0);
    wanted.fold(Offloads::NONE, |all, (_, one)| all | *one)
}

/// The feature bits that a driver may switch while it runs (virtio 1.3, 5.1.6.5.6.1).
#[must_use]
pub fn switchable(features: u64) -> u64 {
    GUEST_OFFLOADS.iter().map(|(bit, _)| bit).sum::<u64>() & features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_checksums_there_is_no_offload_at_all() {
        assert_eq!(of_offloads(Offloads::TSO4 | Offloads::UFO), 0);
        assert_eq!(to_offloads(bits::GUEST_TSO4), Offloads::NONE);
    }

    #[test]
    fn a_feature_comes_with_one_that_it_depends_on_or_not_at_all() {
        use bits::*;
        for (dependent, needed) in [
            (GUEST_TSO4, &[GUEST_CSUM][..]),
            (GUEST_TSO6, &[GUEST_CSUM]),
            (GUEST_UFO, &[GUEST_CSUM]),
            (GUEST_USO4, &[GUEST_CSUM]),
            (GUEST_USO6, &[GUEST_CSUM]),
            (GUEST_ECN, &[GUEST_CSUM | GUEST_TSO4, GUEST_CSUM | GUEST_TSO6]),
            (HOST_TSO4, &[CSUM]),
            (HOST_TSO6, &[CSUM]),
            (HOST_UFO, &[CSUM]),
            (HOST_USO, &[CSUM]),
            (HOST_ECN, &[CSUM | HOST_TSO4, CSUM | HOST_TSO6]),
            (MQ, &[CTRL_VQ]),
        ] {
            let others = MAC | STATUS | MRG_RXBUF;
            assert!(!is_consistent(others | dependent), "{dependent:#x}");
            assert!(needed.iter().all(|needed| is_consistent(others | dependent | needed)), "{dependent:#x}");
        }
        assert!(is_consistent(0));
    }

    #[test]
    fn whatever_a_tap_can_do_the_whole_offer_may_be_taken() {
        for supported in 0..0x80 {
            assert!(is_consistent(of_offloads(Offloads(supported))), "{supported:#x}");
        }
        let marks_without_segments = of_offloads(Offloads::CHECKSUM | Offloads::ECN);
        assert_eq!(marks_without_segments, bits::CSUM | bits::GUEST_CSUM);
    }

    #[test]
    fn a_tap_that_segments_udp_for_one_protocol_only_is_not_offered_to_the_driver_as_a_sink() {
        let features = of_offloads(Offloads::CHECKSUM | Offloads::USO4);
        assert_eq!(features, bits::CSUM | bits::GUEST_CSUM | bits::GUEST_USO4);
    }

    #[test]
    fn what_was_negotiated_is_what_the_tap_is_told() {
        let all = Offloads(0x7f);
        let features = of_offloads(all);
        assert_eq!(to_offloads(features), all);
        assert!(!to_offloads(features & !bits::GUEST_TSO6).has(Offloads::TSO6));
        assert_eq!(switchable(features).count_ones(), 7);
        assert!(!(Offloads::CHECKSUM | Offloads::ECN).segments());
        assert!(Offloads::USO6.segments());
    }
}
