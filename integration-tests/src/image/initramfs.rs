//! The two initramfs images: one for test guests, one for the lab's L1 hosts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use super::modules;
use super::newc::Archive;

/// Loaded on demand by `modprobe` in a guest; nothing is loaded at its boot.
const GUEST_MODULES: [&str; 11] = [
    "button",
    "evdev",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_mem",
    "virtio_console",
    "virtio_rng",
    "virtio_mmio",
    "vmw_vsock_virtio_transport",
];
/// What an L1 may need to be a host.
const HOST_MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "loop",
    "nbd",
    "kvm",
    "kvm_amd",
    "kvm_intel",
    "tun",
    "vhost_vsock",
    "vhost_net",
];

/// The guest's image: our init, busybox, the numactl package and the virtio modules of its kernel.
pub(crate) fn guest(init: &Path, kernel: &Kernel) -> Result<Vec<u8>> {
    build(init, kernel, &GUEST_MODULES)
}

/// An L1's image: the runner as its init, busybox, the numactl package, and the modules of a KVM host.
pub(crate) fn host(runner: &Path, kernel: &Kernel) -> Result<Vec<u8>> {
    build(runner, kernel, &HOST_MODULES)
}

fn build(init: &Path, kernel: &Kernel, wanted: &[&str]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "tmp", "run", "root"] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 5, 1);
    archive.copy("init", init)?;
    busybox(&mut archive)?;
    for name in ["numactl", "migratepages"] {
        program(&mut archive, &Path::new("/usr/bin").join(name))?;
    }
    modules::add(&mut archive, kernel, wanted)?;
    Ok(archive.finish())
}

/// Debian's static busybox under all its names.
fn busybox(archive: &mut Archive) -> Result<()> {
    let busybox = Path::new("/bin/busybox");
    archive.copy("bin/busybox", busybox)?;
    let list = Command::new(busybox).arg("--list").output().context("running busybox")?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(())
}

/// A program of this machine at its own path, with its shared libraries at theirs.
fn program(archive: &mut Archive, path: &Path) -> Result<()> {
    archive.copy(&path.to_string_lossy(), path)?;
    for library in shared_libraries(path)? {
        archive.copy(&library.to_string_lossy(), &library)?;
    }
    Ok(())
}

/// What `ldd` says a program is linked with, the loader included.
pub(crate) fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("running ldd")?;
    ensure!(output.status.success(), "ldd {} failed", program.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .flat_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}
