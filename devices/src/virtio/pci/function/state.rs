//! A virtio function saved and restored: its configuration space, MSI-X table, registers and device, a section each.

use super::super::common::status;
use super::super::runner::StartError;
use super::super::state::{QueueState, TransportState};
use super::{DeviceConfig, VirtioPci};
use crate::pci::{ConfigSpaceState, MsixState};
use crate::state::{HexBytes, Section, Sections, State, StateError, ensure};
use crate::virtio::{GuestMemoryHandle, QueuePosition, VirtioInterrupt};

/// A function's state, checked as far as it can be before anything is changed.
struct Parts {
    config: ConfigSpaceState,
    msix: MsixState,
    transport: TransportState,
    device: Section,
}

impl<M: GuestMemoryHandle> VirtioPci<M> {
    pub(super) fn save_sections(&self) -> Result<Vec<Section>, StateError> {
        let worker = self.runner.held_worker().ok_or_else(|| self.running())?;
        let positions = worker.map(|worker| worker.positions());
        Ok(vec![
            Section::of(&self.config.save())?,
            Section::of(&self.msix.save())?,
            Section::of(&self.transport(positions.as_deref()))?,
            self.runner.device.save(worker)?,
        ])
    }

    pub(super) fn restore_sections(&mut self, sections: Vec<Section>) -> Result<(), StateError> {
        if !self.runner.is_stopped() {
            return Err(self.running());
        }
        let parts = self.check(sections)?;
        // The device has to be made anew if a driver had started it.
        if self.runner.held_worker().flatten().is_some() {
            self.runner.reset();
        }
        let held = self.runner.hold();
        self.note_failure(held);
        self.power_on();
        let restored = self.apply(parts);
        if restored.is_err() {
            self.runner.reset();
            self.power_on();
        }
        restored
    }

    fn running(&self) -> StateError {
        StateError::Running { part: self.runner.name().to_owned() }
    }

    fn transport(&self, positions: Option<&[(u16, QueuePosition)]>) -> TransportState {
        let position = |index| {
            let positions = positions.unwrap_or_default();
            positions.iter().find(|(of, _)| *of == index).map(|(_, position)| *position)
        };
        let queues = (0..).zip(&self.common.queues).map(|(index, queue)| QueueState {
            size: queue.size,
            vector: self.interrupts.queue_vector(index),
            enabled: queue.enabled,
            descriptors: queue.descriptors,
            available: queue.available,
            used: queue.used,
            position: position(index),
        });
        TransportState {
            status: self.common.status,
            needs_reset: self.interrupts.needs_reset(),
            active: positions.is_some(),
            device_feature_select: self.common.device_feature_select,
            driver_feature_select: self.common.driver_feature_select,
            driver_features: self.common.driver_features,
            features_above_63: self.common.beyond,
            queue_select: self.common.queue_select,
            config_vector: self.interrupts.config_vector(),
            isr: self.interrupts.isr(),
            config_generation: self.device_config.generation,
            config_read: self.device_config.last.clone().map(HexBytes),
            config: HexBytes(self.runner.device.config()),
            queues: queues.collect(),
        }
    }

    fn check(&self, sections: Vec<Section>) -> Result<Parts, StateError> {
        let mut sections = Sections::new(sections);
        let (config, msix) = (sections.take()?, sections.take()?);
        let transport: TransportState = sections.take()?;
        let device = sections.take_last("the device's section")?;
        self.config.check(&config)?;
        self.msix.check(&msix)?;
        transport.check(&self.common.sizes(), self.msix.count(), self.offered())?;
        ensure::<TransportState>(
            transport.status & status::FEATURES_OK == 0
                || self.runner.device.accepts(transport.driver_features),
            "driver_features",
            format_args!("{:#x}", transport.driver_features),
            "must be features that the device can work with",
        )?;
        Ok(Parts { config, msix, transport, device })
    }

    fn apply(&mut self, parts: Parts) -> Result<(), StateError> {
        let Parts { config, msix, transport, device } = parts;
        self.config.restore(&config)?;
        self.msix.restore(&msix)?;
        self.follow_control();
        // Where message control is as at power-on: then nothing is pending.
        let (control, bus_master) = self.control;
        self.msix.set_control(control, bus_master);
        self.common.restore(&transport);
        self.interrupts.restore(&transport);
        let last = transport.config_read.map(|bytes| bytes.0);
        self.device_config = DeviceConfig { last, generation: transport.config_generation };
        if transport.active {
            let queues = transport.queues;
            self.try_start(|index| queues.get(index)?.position).map_err(|error| self.refused(&error))?;
        }
        self.runner.restore_device(device)?;
        self.follow_config_message();
        if transport.status & status::DRIVER_OK != 0 && self.runner.device.config() != transport.config.0 {
            // A host that cannot send it has been counted, and the generation tells a driver that reads.
            let _ = self.interrupts.config_changed();
        }
        Ok(())
    }

    fn refused(&self, error: &StartError) -> StateError {
        match error {
            StartError::Setup(error) => StateError::Value {
                section: TransportState::NAME,
                field: "queues".to_owned(),
                value: error.to_string(),
                rule: "must be queues in this machine's memory",
            },
            StartError::Device(_)
            | StartError::Spawn(_)
            | StartError::Kick { .. }
            | StartError::Order
            | StartError::Dead => StateError::Host {
                part: self.runner.name().to_owned(),
                call: "start the device",
                reason: error.to_string(),
            },
        }
    }
}
