//! The HTTP API over a unix socket. Nothing of it runs without `--api-socket`.

mod admission;
pub mod app;
mod body;
pub mod command_queue;
mod convert;
pub mod events;
mod handlers;
mod metrics;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod openapi_frozen;
pub mod problem;
mod procfs;
mod route;
pub mod server;
pub mod socket;
mod time;
mod watch;
pub mod wire;
mod write_timeout;
