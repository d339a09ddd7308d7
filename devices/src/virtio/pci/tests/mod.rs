//! Tests of the transport from the driver's side, through configuration space and BARs as a guest does it.

mod in_flight;
mod lifecycle;
mod model;
mod negotiation;
mod notifications;
mod restore;
mod threads;
mod trivial_device;
