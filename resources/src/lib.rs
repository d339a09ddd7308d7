//! What a VM asks, what the host has, and who gets what: pure types and pure decisions, same input, same answer.
//! Encoding tables is `acpi`'s work, acting on a host is `vmm`'s.
#![forbid(unsafe_code)]
