//! Device models. They ask for host effects through traits and leave KVM and threads to `vmm`.
#![forbid(unsafe_code)]
