//! Tests of the transport from the driver's side, through configuration space and BARs as a guest does it.

mod lifecycle;
mod model;
mod negotiation;
mod notifications;
mod threads;
