//! Turns a plan into a running virtual machine and keeps it true. Unsafe code lives in `sys` alone.
