//! The Debian packages the lab and the tests need.

use anyhow::Result;

use crate::image::apt;

/// Package, and what it is for.
const PACKAGES: [(&str, &str); 13] = [
    ("qemu-system-x86", "emulates the lab's NUMA hosts; the rival in benchmarks"),
    ("seabios", "firmware for it"),
    ("busybox-static", "the shell in guests and lab hosts"),
    ("kmod", "depmod, for the order of kernel modules"),
    ("numactl", "numactl -H in guests and lab hosts"),
    ("acpica-tools", "iasl, which reads our ACPI tables back"),
    ("e2fsprogs", "makes the lab's disks"),
    ("gcc", "builds the tests' unikernel"),
    ("mmdebstrap", "makes the Debian that a test boots"),
    ("xz-utils", "unpacks modules of newer kernels"),
    ("zstd", "unpacks newer kernels"),
    ("debian-archive-keyring", "checks packages of other releases"),
    ("libc-bin", "ldd, for the libraries of numactl"),
];

/// Installs those that are missing.
pub(super) fn install_all() -> Result<()> {
    apt::install(&PACKAGES)
}
