//! `cargo xtask`: set-up, demo, tests, lab and benchmarks of numavisor.

fn main() -> std::process::ExitCode {
    integration_tests::xtask_main()
}
