//! What guests and lab hosts boot: kernels taken from Debian packages and initramfs images made here; and what emulates
//! the hosts.

pub(crate) mod apt;
pub(crate) mod debian;
pub(crate) mod emulator;
mod emulator_fix;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod modules;
pub(crate) mod newc;
pub(crate) mod unikernel;
pub(crate) mod vmlinux;
