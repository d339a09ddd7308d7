//! Virtio devices (virtio 1.3): what a device is to its transport and to the thread that runs it.
//! Which thread that is, and on which host node it runs, is `vmm`'s decision.

mod device;

pub use device::{
    Activation, ActivationError, ActiveQueue, GuestMemoryHandle, Interest, Source, VirtioDevice, VirtioInterrupt,
    Worker,
};
