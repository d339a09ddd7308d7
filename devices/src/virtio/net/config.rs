//! The configuration of a network device: its address, link, queues and MTU (virtio 1.3, 5.1.4).
//! When the link changes is the host's decision.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Most pairs of queues of a device: what a Linux tap has (`MAX_TAP_QUEUES`), under the specification's 0x8000.
pub const MAX_QUEUE_PAIRS: u16 = 256;
/// Smallest MTU of a device (virtio 1.3, 5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// Bytes of the configuration up to and with the MTU.
const CONFIG_BYTES: usize = 12;
const LINK_UP: u16 = 1;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

/// Why a text or some bytes are no address for a device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MacError {
    /// Not six pairs of hexadecimal digits.
    #[error("{0:?} is not a mac address, must be six pairs of hexadecimal digits such as 52:54:00:12:34:56")]
    Syntax(String),
    /// A device cannot have it.
    #[error("{0} is a multicast mac address, the first byte must be even")]
    Group(MacAddress),
    /// Nor this.
    #[error("{0} is not a valid mac address of a device")]
    Zero(MacAddress),
}

impl MacAddress {
    /// An address that a device can have: no group's, and not zero.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        match bytes {
            [first, ..] if first & 1 != 0 => Err(MacError::Group(Self(bytes))),
            [0, 0, 0, 0, 0, 0] => Err(MacError::Zero(Self(bytes))),
            bytes => Ok(Self(bytes)),
        }
    }

    /// A locally administered address out of `seed`: the same seed gives the same address.
    #[must_use]
    pub fn local(seed: [u8; 5]) -> Self {
        let [a, b, c, d, e] = seed;
        Self([0x02, a, b, c, d, e])
    }

    /// Its bytes in the order on the wire.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let syntax = || MacError::Syntax(text.chars().take(32).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(syntax)?, 16).map_err(|_| syntax())?;
        }
        if parts.next().is_some() {
            return Err(syntax());
        }
        Self::new(bytes)
    }
}

/// What a network device tells its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetConfig {
    /// Its address.
    pub mac: MacAddress,
    /// The advice on the MTU, if any; at least [`MIN_MTU`].
    pub mtu: Option<u16>,
}

/// The configuration space.
pub(super) fn space(config: &NetConfig, link_up: bool, queue_pairs: u16) -> [u8; CONFIG_BYTES] {
    let [a, b, c, d, e, f] = config.mac.bytes();
    let [status0, status1] = if link_up { LINK_UP } else { 0 }.to_le_bytes();
    let [pairs0, pairs1] = queue_pairs.to_le_bytes();
    let [mtu0, mtu1] = config.mtu.unwrap_or(0).to_le_bytes();
    [a, b, c, d, e, f, status0, status1, pairs0, pairs1, mtu0, mtu1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_pairs_of_digits() {
        let mac: MacAddress = "52:54:00:aB:cd:ef".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        for bad in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:", "5:54:00:ab:cd:ef", "+2:54:00:ab:cd:ef"] {
            assert_eq!(bad.parse::<MacAddress>(), Err(MacError::Syntax(bad.into())));
        }
        assert!(matches!("01:00:5e:00:00:01".parse::<MacAddress>(), Err(MacError::Group(_))));
        assert!(matches!("00:00:00:00:00:00".parse::<MacAddress>(), Err(MacError::Zero(_))));
        assert_eq!(
            MacAddress::new(MacAddress::local([1, 2, 3, 4, 5]).bytes()).unwrap().to_string(),
            "02:01:02:03:04:05"
        );
    }

    #[test]
    fn the_configuration_has_the_layout_of_the_specification() {
        let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: Some(9000) };
        let space = space(&config, true, 4);
        assert_eq!(space, [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 4, 0, 0x28, 0x23]);
    }
}
