//! The host side of network devices and sockets: taps, unix sockets, vhost.
//! How the devices themselves behave is modelled in `devices`.

mod error;
mod interface;
#[cfg(test)]
mod interface_tests;
pub mod kernel_thread;
mod sockets;
#[cfg(test)]
mod sockets_tests;
mod vhost;

pub use error::NetError;
pub use interface::{Interface, InterfaceOptions, TapSource, Vhost};
pub use sockets::{SocketDevice, SocketHost, Sockets, UnixSocket};
