//! The lab: NUMA hosts with KVM inside an emulator, for machines that are none themselves.
//!
//! `shape` says what hosts there are, `disk` packs what they need, `machine` boots one and listens to it. What runs
//! inside is `runner`; the two talk as in `job`.

pub(crate) mod disk;
pub(crate) mod fault;
pub(crate) mod job;
pub(crate) mod machine;
pub(crate) mod shape;
