//! Tests of the block device as a whole, with a driver and a disk of their own.

mod bench;
mod device;
mod meanwhile;
mod model;
mod requests;
