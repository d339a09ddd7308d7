//! `/init` of the test guests.

fn main() {
    integration_tests::guest_init_main();
}
