//! The host side of the serial port: standard input and output or a file, served by a thread of its own, so that neither
//! the control loop nor anybody who asks it waits for a reader. The UART is a model in `devices`.

mod backlog;
mod input;
mod port;
mod stream;
mod terminal;

pub use port::{SerialLink, SerialPort};
pub use stream::Stream;
pub use terminal::block_terminal_stops;
