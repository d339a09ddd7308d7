//! A device of the VM, and what stays outside of it to look at: the same over all guests.

use super::GuestMemory;
use crate::handle::DeviceView;
use devices::Figures;
use devices::virtio::{VirtioCounters, VirtioDevice};
use resources::VnodeId;
use std::sync::Arc;

/// A device at rest, for a guest that comes.
pub struct HostDevice {
    /// What stays outside.
    pub handle: DeviceHandle,
    /// The device.
    pub device: Box<dyn VirtioDevice<GuestMemory>>,
}

/// What stays outside of a device to look at it.
#[derive(Clone)]
pub struct DeviceHandle {
    /// Where it sits.
    pub vnode: VnodeId,
    /// Its name in logs and figures, and that of its thread: at most 15 bytes (`comm` in proc(5)).
    pub name: String,
    /// What its transport counts.
    pub transport: Arc<VirtioCounters>,
    /// What the device counts, and what its host side does.
    pub figures: Vec<Arc<dyn Figures>>,
}

impl HostDevice {
    /// A device whose transport has counted nothing yet.
    pub fn new(vnode: VnodeId, name: String, device: Box<dyn VirtioDevice<GuestMemory>>) -> Self {
        let figures = device.figures().into_iter().collect();
        Self { handle: DeviceHandle { vnode, name, transport: Arc::default(), figures }, device }
    }
}

impl DeviceHandle {
    /// As it is now.
    pub fn view(&self) -> DeviceView {
        DeviceView {
            name: self.name.clone(),
            vnode: self.vnode,
            counters: Arc::clone(&self.transport),
            figures: self.figures.iter().flat_map(|figures| figures.figures()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestMemory, HostDevice};
    use devices::state::{Section, StateError};
    use devices::virtio::{Activation, ActivationError, DeviceKind, VirtioDevice, Worker};
    use devices::{Figure, FigureKind, Figures};
    use resources::VnodeId;
    use std::sync::Arc;

    devices::figures! {
        /// What a bell counts.
        struct BellCounters: "bell" {
            rings: Counter = "Times that the bell rang.",
        }
    }

    struct Bell(Arc<BellCounters>);

    impl VirtioDevice<GuestMemory> for Bell {
        fn kind(&self) -> DeviceKind {
            DeviceKind { id: 63, pci_class: 0x00_FF_00 }
        }

        fn queue_sizes(&self) -> Vec<u16> {
            vec![16]
        }

        fn figures(&self) -> Option<Arc<dyn Figures>> {
            Some(Arc::clone(&self.0) as _)
        }

        fn save(&self, _: Option<&dyn Worker>) -> Result<Section, StateError> {
            unreachable!("nobody saves it")
        }

        fn restore(&mut self, _: Section, _: Option<&mut dyn Worker>) -> Result<(), StateError> {
            unreachable!("nobody restores it")
        }

        fn activate(&mut self, _: Activation<GuestMemory>) -> Result<Box<dyn Worker>, ActivationError> {
            unreachable!("no driver comes")
        }
    }

    #[test]
    fn a_device_that_nothing_here_knows_is_seen_with_its_figures() {
        let counters = Arc::<BellCounters>::default();
        let device = HostDevice::new(VnodeId(1), "bell".to_owned(), Box::new(Bell(Arc::clone(&counters))));
        counters.rings.add(2);
        device.handle.transport.resets.one();
        let view = device.handle.view();
        let rings = Figure::new("bell", "rings", "Times that the bell rang.", (FigureKind::Counter, 2));
        assert_eq!((view.name.as_str(), view.vnode, view.figures), ("bell", VnodeId(1), vec![rings]));
        assert_eq!(view.counters.resets.get(), 1);
    }
}
