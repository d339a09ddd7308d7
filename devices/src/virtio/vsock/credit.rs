//! Credit: how much each side may send, by counts that wrap (virtio 1.3, 5.10.6.3).

use std::num::Wrapping;

/// What we may still send to the guest.
#[derive(Debug, Default)]
pub(super) struct GuestRoom {
    buffer: u32,
    forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
}

impl GuestRoom {
    /// The guest told what it has; every packet does.
    pub fn update(&mut self, buffer: u32, forwarded: u32) {
        self.buffer = buffer;
        self.forwarded = Wrapping(forwarded);
    }

    /// Bytes that we may send. A guest that contradicts itself has no room.
    pub fn bytes(&self) -> u32 {
        self.buffer.saturating_sub((self.sent - self.forwarded).0)
    }

    pub fn sent(&mut self, bytes: u32) {
        self.sent += bytes;
    }
}

/// What the guest may still send to us.
#[derive(Debug)]
pub(super) struct OurRoom {
    buffer: u32,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// What of `forwarded` the guest knows.
    told: Wrapping<u32>,
}

impl OurRoom {
    pub fn new(buffer: u32) -> Self {
        Self { buffer, received: Wrapping(0), forwarded: Wrapping(0), told: Wrapping(0) }
    }

    /// The guest sent so much; false if it had no credit for it.
    pub fn receive(&mut self, bytes: u32) -> bool {
        let waiting = (self.received - self.forwarded).0;
        if bytes > self.buffer.saturating_sub(waiting) {
            return false;
        }
        self.received += bytes;
        true
    }

    /// So much went on to the host.
    pub fn forward(&mut self, bytes: u32) {
        self.forwarded += bytes;
    }

    /// Whether the guest should hear of the room there is: it knows of half or less.
    pub fn is_worth_telling(&self) -> bool {
        let known = self.buffer.saturating_sub((self.received - self.told).0);
        self.forwarded != self.told && known <= self.buffer / 2
    }

    /// Buffer and forwarded count for a packet that goes out now.
    pub fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.buffer, self.forwarded.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_wrap() {
        let mut room =
            GuestRoom { buffer: 100, forwarded: Wrapping(u32::MAX - 9), sent: Wrapping(u32::MAX - 9) };
        room.sent(60);
        assert_eq!(room.bytes(), 40);
        room.update(100, 50);
        assert_eq!(room.bytes(), 100);
        // More forwarded than was ever sent.
        room.update(100, 51);
        assert_eq!(room.bytes(), 0);
    }

    #[test]
    fn a_guest_that_sends_more_than_it_may_is_found_out() {
        let mut room = OurRoom::new(100);
        assert!(room.receive(60) && !room.receive(41) && room.receive(40));
        room.forward(60);
        assert!(room.is_worth_telling());
        assert_eq!(room.tell(), (100, 60));
        assert!(!room.is_worth_telling());
        assert!(!room.receive(61) && room.receive(60));
    }
}
