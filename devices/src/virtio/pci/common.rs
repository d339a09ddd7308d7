//! The common configuration structure (virtio 1.3, 4.1.4.3): what is read there, and what a write means. Changing
//! the status and the vectors is left to the function.

use super::layout::COMMON_BYTES;
use super::queues::QueueSetup;
use super::state::TransportState;

/// Offsets of the fields.
mod field {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0C;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1A;
    pub const QUEUE_ENABLE: u64 = 0x1C;
    pub const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub const QUEUE_AVAILABLE: u64 = 0x28;
    pub const QUEUE_USED: u64 = 0x30;
}

/// Device status bits (virtio 1.3, 2.1).
pub(super) mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
    /// Those that the driver sets.
    pub const OF_DRIVER: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// What others know and the driver reads here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub offered: u64,
    pub needs_reset: bool,
    /// A reset is not over yet.
    pub resetting: bool,
    pub generation: u8,
    pub config_vector: u16,
    pub queue_vector: u16,
}

/// What a write asks for beyond the registers themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// The write had no effect: no such register, the wrong width, or the wrong time.
    Ignored,
    Status(u8),
    ConfigVector(u16),
    QueueVector(u16),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Common {
    pub device_feature_select: u32,
    pub driver_feature_select: u32,
    pub driver_features: u64,
    /// The driver picked features above bit 63, where none are offered.
    pub beyond: bool,
    pub status: u8,
    pub queue_select: u16,
    pub queues: Vec<QueueSetup>,
}

/// One of the two 32-bit halves that a feature register shows.
fn half(value: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn with_half(value: u64, select: u32, new: u32) -> u64 {
    match select {
        0 => value & !u64::from(u32::MAX) | u64::from(new),
        _ => value & u64::from(u32::MAX) | u64::from(new) << 32,
    }
}

impl Common {
    pub fn new(sizes: &[u16]) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            beyond: false,
            status: 0,
            queue_select: 0,
            queues: sizes.iter().map(|size| QueueSetup::new(*size)).collect(),
        }
    }

    /// The greatest sizes of the queues.
    pub fn sizes(&self) -> Vec<u16> {
        self.queues.iter().map(|queue| queue.max).collect()
    }

    /// Registers as in `state`, which has been checked.
    pub fn restore(&mut self, state: &TransportState) {
        self.device_feature_select = state.device_feature_select;
        self.driver_feature_select = state.driver_feature_select;
        (self.driver_features, self.beyond) = (state.driver_features, state.features_above_63);
        (self.status, self.queue_select) = (state.status, state.queue_select);
        for (queue, state) in self.queues.iter_mut().zip(&state.queues) {
            *queue = QueueSetup {
                max: queue.max,
                size: state.size,
                enabled: state.enabled,
                descriptors: state.descriptors,
                available: state.available,
                used: state.used,
            };
        }
    }

    pub fn has(&self, bits: u8) -> bool {
        self.status & bits == bits
    }

    /// The structure as bytes, so that it can be read in any width. A queue that does not exist reads as zeros, its
    /// size too, which says so (virtio 1.3, 4.1.4.3).
    pub fn image(&self, shown: Shown) -> [u8; COMMON_BYTES] {
        let none = QueueSetup::new(0);
        let queue = self.queues.get(usize::from(self.queue_select)).unwrap_or(&none);
        let needs_reset = if shown.needs_reset { status::NEEDS_RESET } else { 0 };
        // Any bit but those that a driver waits for will do.
        let resetting = if shown.resetting { status::ACKNOWLEDGE } else { 0 };
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        let notify_offset = if queue.max == 0 { 0 } else { self.queue_select };
        let mut image = Image { bytes: [0; COMMON_BYTES], length: 0 };
        image.put(&self.device_feature_select.to_le_bytes());
        image.put(&half(shown.offered, self.device_feature_select).to_le_bytes());
        image.put(&self.driver_feature_select.to_le_bytes());
        image.put(&half(self.driver_features, self.driver_feature_select).to_le_bytes());
        image.put(&shown.config_vector.to_le_bytes());
        image.put(&queues.to_le_bytes());
        image.put(&[self.status | needs_reset | resetting, shown.generation]);
        image.put(&self.queue_select.to_le_bytes());
        image.put(&queue.size.to_le_bytes());
        image.put(&shown.queue_vector.to_le_bytes());
        image.put(&u16::from(queue.enabled).to_le_bytes());
        image.put(&notify_offset.to_le_bytes());
        image.put(&queue.descriptors.to_le_bytes());
        image.put(&queue.available.to_le_bytes());
        image.put(&queue.used.to_le_bytes());
        image.bytes
    }

    /// Takes a write. Fields have to be written in their own width, 64-bit ones also in halves (virtio 1.3, 4.1.3.1).
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Asked {
        match (offset, data) {
            (field::STATUS, &[value]) => Asked::Status(value),
            (_, &[a, b]) => self.write_16(offset, u16::from_le_bytes([a, b])),
            (_, &[a, b, c, d]) => self.write_32(offset, u32::from_le_bytes([a, b, c, d])),
            (_, &[a, b, c, d, e, f, g, h]) if offset.is_multiple_of(8) => {
                let low = self.write_address(offset, u32::from_le_bytes([a, b, c, d]));
                match low {
                    Asked::Nothing => self.write_address(offset + 4, u32::from_le_bytes([e, f, g, h])),
                    _ => low,
                }
            }
            _ => Asked::Ignored,
        }
    }

    fn write_16(&mut self, offset: u64, value: u16) -> Asked {
        match offset {
            field::CONFIG_VECTOR => Asked::ConfigVector(value),
            field::QUEUE_SELECT => {
                self.queue_select = value;
                Asked::Nothing
            }
            field::QUEUE_VECTOR => Asked::QueueVector(value),
            field::QUEUE_SIZE => match self.queue_in_setup().is_some_and(|queue| queue.set_size(value)) {
                true => Asked::Nothing,
                false => Asked::Ignored,
            },
            // A queue is not disabled by writing 0 (virtio 1.3, 4.1.4.3.2).
            field::QUEUE_ENABLE if value == 1 => match self.queue_in_setup() {
                Some(queue) => {
                    queue.enabled = true;
                    Asked::Nothing
                }
                None => Asked::Ignored,
            },
            _ => Asked::Ignored,
        }
    }

    fn write_32(&mut self, offset: u64, value: u32) -> Asked {
        match offset {
            field::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            field::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            field::DRIVER_FEATURE if self.has(status::FEATURES_OK) => return Asked::Ignored,
            field::DRIVER_FEATURE => match self.driver_feature_select {
                select @ (0 | 1) => {
                    self.driver_features = with_half(self.driver_features, select, value);
                }
                _ => self.beyond |= value != 0,
            },
            _ => return self.write_address(offset, value),
        }
        Asked::Nothing
    }

    /// One half of the address of a part of the selected queue.
    fn write_address(&mut self, offset: u64, value: u32) -> Asked {
        let Some(queue) = self.queue_in_setup() else { return Asked::Ignored };
        let address = match offset & !0b111 {
            field::QUEUE_DESCRIPTORS => &mut queue.descriptors,
            field::QUEUE_AVAILABLE => &mut queue.available,
            field::QUEUE_USED => &mut queue.used,
            _ => return Asked::Ignored,
        };
        *address = match offset % 8 {
            0 => with_half(*address, 0, value),
            4 => with_half(*address, 1, value),
            _ => return Asked::Ignored,
        };
        Asked::Nothing
    }

    /// The selected queue, if it exists and the driver may still set it up: not enabled yet (virtio 1.3, 4.1.4.3.2), and
    /// the device not started.
    fn queue_in_setup(&mut self) -> Option<&mut QueueSetup> {
        if self.has(status::DRIVER_OK) {
            return None;
        }
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.enabled)
    }
}

struct Image {
    bytes: [u8; COMMON_BYTES],
    length: usize,
}

impl Image {
    fn put(&mut self, field: &[u8]) {
        let end = self.length + field.len();
        self.bytes[self.length..end].copy_from_slice(field);
        self.length = end;
    }
}
