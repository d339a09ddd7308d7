//! What `numavisor ctl` is made of: a small HTTP client, and tables of what it was told. Which command asks what is in
//! `commands::ctl`.

pub mod client;
pub mod show;
pub mod show_events;
pub mod stream;
pub mod top;
