//! The HTTP API from outside: a server in a process of its own, asked over its socket. What needs a running VM needs
//! KVM for a guest of a few instructions, and is skipped, and said so, where there is none.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

mod clients;
mod crowd;
mod ctl;
mod cycles;
mod life;
mod malformed;
mod prometheus;
mod refusals;
mod routes;
mod sockets;
mod starts;
mod support;
