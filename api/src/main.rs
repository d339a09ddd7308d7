//! The `numavisor` command.
fn main() {}
