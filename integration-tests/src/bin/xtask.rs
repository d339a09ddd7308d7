//! Project chores: set-up, demo, tests, lab, benchmarks.
fn main() {}
