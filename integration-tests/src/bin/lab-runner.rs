//! Runs the boot tests on the host it finds itself on; as process 1 it first makes that host, a lab L1, usable.

fn main() -> std::process::ExitCode {
    integration_tests::lab_runner_main()
}
