//! ACPI tables: words to bytes. Knows proximity domains; what a vnode is, is `resources`' business.
#![forbid(unsafe_code)]
