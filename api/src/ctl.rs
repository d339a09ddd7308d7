//! Parts of `numavisor ctl`: a small HTTP client, and tables for responses. The commands are in `commands::ctl`.

pub mod client;
pub mod show;
pub mod show_events;
pub mod stream;
pub mod top;
