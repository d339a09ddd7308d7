//! The header of each packet (virtio 1.3, 5.10.6), to bytes and back. What to answer is the worker's business.

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 44;
/// Most bytes of data in one packet to the guest: as Linux has it (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`). From the guest come as
/// many as its credit allows (virtio 1.3, 5.10.6.3).
pub(super) const MAX_DATA_BYTES: u32 = 64 << 10;
/// The host's context id.
pub(super) const HOST_CID: u64 = 2;
/// The type of sockets that we have.
pub(super) const STREAM: u16 = 1;

/// The peer receives no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// The peer sends no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
}

impl Operation {
    const ALL: [(u16, Self); 7] = [
        (1, Self::Request),
        (2, Self::Response),
        (3, Self::Reset),
        (4, Self::Shutdown),
        (5, Self::Data),
        (6, Self::CreditUpdate),
        (7, Self::CreditRequest),
    ];

    fn number(self) -> u16 {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or(0, |(number, _)| *number)
    }

    fn of(number: u16) -> Option<Self> {
        Self::ALL.iter().find(|(one, _)| *one == number).map(|(_, operation)| *operation)
    }
}

/// Both ends of a connection, which name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    pub host: u32,
    pub guest: u32,
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    pub length: u32,
    pub kind: u16,
    /// `None` if the number is no operation's.
    pub operation: Option<Operation>,
    pub flags: u32,
    pub buffer: u32,
    pub forwarded: u32,
}

/// Takes `N` bytes from the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    match bytes.split_first_chunk() {
        Some((first, rest)) => {
            *bytes = rest;
            *first
        }
        None => [0; N],
    }
}

impl Header {
    /// A header without data from the host to the guest.
    pub fn to_guest(ports: Ports, guest_cid: u64, operation: Operation) -> Self {
        Self {
            source_cid: HOST_CID,
            destination_cid: guest_cid,
            source_port: ports.host,
            destination_port: ports.guest,
            length: 0,
            kind: STREAM,
            operation: Some(operation),
            flags: 0,
            buffer: 0,
            forwarded: 0,
        }
    }

    /// The ports of a packet from the guest.
    pub fn ports(&self) -> Ports {
        Ports { host: self.destination_port, guest: self.source_port }
    }

    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let operation = self.operation.map_or(0, Operation::number);
        let parts: [&[u8]; 10] = [
            &self.source_cid.to_le_bytes(),
            &self.destination_cid.to_le_bytes(),
            &self.source_port.to_le_bytes(),
            &self.destination_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &operation.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buffer.to_le_bytes(),
            &self.forwarded.to_le_bytes(),
        ];
        let mut bytes = [0; HEADER_BYTES];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let rest = &mut &bytes[..];
        Self {
            source_cid: u64::from_le_bytes(take(rest)),
            destination_cid: u64::from_le_bytes(take(rest)),
            source_port: u32::from_le_bytes(take(rest)),
            destination_port: u32::from_le_bytes(take(rest)),
            length: u32::from_le_bytes(take(rest)),
            kind: u16::from_le_bytes(take(rest)),
            operation: Operation::of(u16::from_le_bytes(take(rest))),
            flags: u32::from_le_bytes(take(rest)),
            buffer: u32::from_le_bytes(take(rest)),
            forwarded: u32::from_le_bytes(take(rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_layout_of_the_specification() {
        let bytes: [u8; HEADER_BYTES] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.source_cid, 0x0706_0504_0302_0100);
        assert_eq!((header.source_port, header.destination_port), (0x1312_1110, 0x1716_1514));
        assert_eq!((header.length, header.kind, header.operation), (0x1b1a_1918, 0x1d1c, None));
        assert_eq!((header.flags, header.buffer, header.forwarded), (0x2322_2120, 0x2726_2524, 0x2b2a_2928));
    }

    #[test]
    fn every_operation_survives() {
        for (_, operation) in Operation::ALL {
            let header = Header::to_guest(Ports { host: 1, guest: 2 }, 3, operation);
            assert_eq!(Header::from_bytes(&header.to_bytes()), header);
        }
    }
}
