//! The state of the virtio transport: the registers of a function, and where its queues are. The configuration space, the
//! MSI-X table and the device have sections of their own.

use serde::{Deserialize, Serialize};

use super::common::status;
use super::interrupt::NO_VECTOR;
use crate::state::{HexBytes, State, StateError, ensure};
use crate::virtio::QueuePosition;

/// State of a virtio function's registers (virtio 1.3, 4.1.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// `device_status`, the bits that the driver has set.
    pub status: u8,
    /// DEVICE_NEEDS_RESET.
    pub needs_reset: bool,
    /// The device runs: after DRIVER_OK, unless it could not start.
    pub active: bool,
    /// `device_feature_select`.
    pub device_feature_select: u32,
    /// `driver_feature_select`.
    pub driver_feature_select: u32,
    /// The features that the driver has written.
    pub driver_features: u64,
    /// It has written some above bit 63.
    pub features_above_63: bool,
    /// `queue_select`.
    pub queue_select: u16,
    /// `config_msix_vector`; 0xFFFF for none.
    pub config_vector: u16,
    /// The ISR status.
    pub isr: u8,
    /// `config_generation`.
    pub config_generation: u8,
    /// The device's configuration as the driver read it last, if it has.
    pub config_read: Option<HexBytes>,
    /// The device's configuration. Where it is another one after a restore, the driver is told.
    pub config: HexBytes,
    /// The queues.
    pub queues: Vec<QueueState>,
}

/// State of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// `queue_size`.
    pub size: u16,
    /// `queue_msix_vector`; 0xFFFF for none.
    pub vector: u16,
    /// `queue_enable`.
    pub enabled: bool,
    /// `queue_desc`.
    pub descriptors: u64,
    /// `queue_driver`.
    pub available: u64,
    /// `queue_device`.
    pub used: u64,
    /// How far the device has come with it; `null` unless it serves the queue.
    pub position: Option<QueuePosition>,
}

impl State for TransportState {
    const NAME: &'static str = "virtio-pci";
    const VERSION: u32 = 1;
}

impl TransportState {
    /// As a driver finds a device with queues of these greatest sizes.
    #[must_use]
    pub fn power_on(sizes: &[u16]) -> Self {
        let queue = |size: &u16| QueueState {
            size: *size,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
            position: None,
        };
        Self {
            status: 0,
            needs_reset: false,
            active: false,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            features_above_63: false,
            queue_select: 0,
            config_vector: NO_VECTOR,
            isr: 0,
            config_generation: 0,
            config_read: None,
            config: HexBytes::default(),
            queues: sizes.iter().map(queue).collect(),
        }
    }

    /// Whether a device with queues of these greatest sizes and so many vectors, that offers these features, can be so.
    /// Where the rings lie is checked as they are built.
    pub(super) fn check(&self, sizes: &[u16], vectors: u16, offered: u64) -> Result<(), StateError> {
        let Self { status, needs_reset: _, active, driver_features, config_vector, isr, queues, .. } = self;
        let has = |bits: u8| status & bits == bits;
        let steps = [
            status & !status::OF_DRIVER == 0,
            !has(status::DRIVER_OK) || has(status::FEATURES_OK),
            !active || has(status::DRIVER_OK),
        ];
        let rule = "must be bits that a driver sets, DRIVER_OK after FEATURES_OK, active after DRIVER_OK";
        let value = format_args!("{status:#x}, active {active}");
        ensure::<Self>(steps.into_iter().all(|good| good), "status", value, rule)?;
        ensure::<Self>(
            !has(status::FEATURES_OK) || (driver_features & !offered == 0 && !self.features_above_63),
            "driver_features",
            format_args!("{driver_features:#x}, {:#x} not offered", driver_features & !offered),
            "must be features that the device offers",
        )?;
        let exists = |vector: u16| vector < vectors || vector == NO_VECTOR;
        let rule = "must be a vector of the function, or 65535 for none";
        ensure::<Self>(exists(*config_vector), "config_vector", config_vector, rule)?;
        ensure::<Self>(isr & !0b11 == 0, "isr", isr, "must have no bits but 1:0")?;
        ensure::<Self>(queues.len() == sizes.len(), "queues", queues.len(), "must be the device's queues")?;
        for (number, (queue, most)) in queues.iter().zip(sizes).enumerate() {
            let field = |name: &str| format!("queues[{number}].{name}");
            ensure::<Self>(exists(queue.vector), field("vector"), queue.vector, rule)?;
            ensure::<Self>(
                queue.size.is_power_of_two() && queue.size <= *most,
                field("size"),
                queue.size,
                "must be a power of two, and no more than the device has",
            )?;
            ensure::<Self>(
                queue.position.is_none() || (*active && queue.enabled),
                field("position"),
                "not null",
                "must be null unless the device is active and the queue enabled",
            )?;
            let QueuePosition { next_available, next_used, broken } = queue.position.unwrap_or_default();
            ensure::<Self>(
                broken || next_available.wrapping_sub(next_used) <= queue.size,
                field("position"),
                format_args!("available {next_available}, used {next_used}"),
                "must be no farther apart than the queue's size",
            )?;
        }
        Ok(())
    }
}
