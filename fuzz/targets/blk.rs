//! A guest that does what the bytes say to this device, and then drives it by the rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| devices::virtio::hostile_driver::blk(bytes, &[]));
