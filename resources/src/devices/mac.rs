//! MAC addresses: given ones, and defaults. The caller provides the host's identity.

use super::{DeviceError, MAX_SHOWN, refuse};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt;

/// What the hash of a default address begins with, so that it says nothing of the host to those who see the address.
const PURPOSE: &[u8] = b"numavisor network interface 1";

/// The address of a network interface: a station's, never a group's or zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address of an interface for which none is typed: locally administered, and the same each time for what `host`
    /// says of the host and the name of the tap, which one VM of a host has at a time.
    #[must_use]
    pub fn of_tap(host: &[&str], tap: &str) -> Self {
        let mut hash = Sha256::new_with_prefix(PURPOSE);
        for part in host.iter().chain([&tap]) {
            hash.update([0]);
            hash.update(part.as_bytes());
        }
        let hash: [u8; 32] = hash.finalize().into();
        let [first, rest @ ..] = hash;
        // Bit 0 is a group's, bit 1 says that no manufacturer gave it (IEEE 802, 8.4).
        let mut mac = [(first & !3) | 2, 0, 0, 0, 0, 0];
        mac.iter_mut().skip(1).zip(rest).for_each(|(byte, hash)| *byte = hash);
        Self(mac)
    }

    /// Reads an address as typed.
    pub(super) fn parse(text: &str, at: &str) -> Result<Self, DeviceError> {
        let shown = || text.chars().take(MAX_SHOWN).collect::<String>();
        let mut mac = [0; 6];
        let parts: Vec<&str> = text.split(':').collect();
        let fits = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if parts.len() != mac.len() || !parts.iter().all(fits) {
            return refuse(
                format!("{at}.mac"),
                shown(),
                "is not a MAC address, must look like 52:54:00:12:34:56",
            );
        }
        for (byte, part) in mac.iter_mut().zip(parts) {
            *byte = u8::from_str_radix(part, 16).unwrap_or(0);
        }
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return refuse(format!("{at}.mac"), shown(), "is a multicast address or zero, must be unicast");
        }
        Ok(Self(mac))
    }

    /// In the order in which they are sent.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Mac;
    use std::collections::BTreeSet;

    #[test]
    fn hosts_and_taps_make_addresses_that_differ_and_stay() {
        let ids = |count| (0..count).map(|id| format!("{id:032x}"));
        let mut all = BTreeSet::new();
        for host in ids(100) {
            for tap in (0..100).map(|tap| format!("tap{tap}")) {
                let mac = Mac::of_tap(&[&host], &tap);
                assert_eq!(mac.bytes()[0] & 3, 2, "{mac} is not a local station's");
                assert_eq!(Mac::of_tap(&[&host], &tap), mac);
                assert_eq!(Mac::parse(&mac.to_string(), ""), Ok(mac));
                assert!(all.insert(mac), "{mac} comes twice");
            }
        }
        // Parts do not run into each other.
        assert_ne!(Mac::of_tap(&["a", "b"], "c"), Mac::of_tap(&["ab"], "c"));
        assert_ne!(Mac::of_tap(&["a"], "bc"), Mac::of_tap(&["ab"], "c"));
        // For ever: guests have leases for it.
        let known = Mac::of_tap(&["0123456789abcdef0123456789abcdef"], "tap0");
        assert_eq!(known.to_string(), "ee:21:ce:3b:cf:a2");
    }
}
