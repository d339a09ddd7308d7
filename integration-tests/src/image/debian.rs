//! A small Debian on a raw disk, made once by `mmdebstrap` from the sources apt is configured for, with the kernel and
//! the initramfs that its own package scripts installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{apt, kernel};

/// Beside what every Debian has: an init, its own kernel and initramfs, and the tools a test asks what they see.
const PACKAGES: &str = "systemd-sysv,udev,linux-image-cloud-amd64,initramfs-tools,kmod,iproute2,iputils-ping,\
                        pciutils,util-linux,hwloc-nox";
/// Not needed to boot, and the most of the image that is not.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
/// Of the file system, sparse; some 310 MiB are used.
const SIZE: &str = "512M";
/// Changed whenever an older image will not do.
const MARK: &str = "1";

/// A Debian, ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Debian {
    /// A raw disk with one ext4 file system and no partitions. Root has no password.
    pub(crate) disk: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Debian {
    /// The one in the cache, whether or not it is there yet.
    fn at(directory: &Path) -> Self {
        Self {
            disk: directory.join("disk.img"),
            kernel: directory.join("vmlinuz"),
            initramfs: directory.join("initrd.img"),
        }
    }

    /// The one in the cache, if it was made already.
    pub(crate) fn made(cache: &Path) -> Option<Self> {
        let directory = cache.join("debian");
        let mark = fs::read_to_string(directory.join("made")).ok()?;
        (mark == MARK).then(|| Self::at(&directory))
    }

    /// Makes it, unless it is in the cache.
    pub(crate) fn make(cache: &Path) -> Result<Self> {
        if let Some(made) = Self::made(cache) {
            return Ok(made);
        }
        let directory = cache.join("debian");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        println!("making a Debian root file system (a minute or two, once)");
        let sources = directory.join("sources.list");
        fs::write(&sources, apt::debian_sources()?)?;
        let (debian, root) = (Self::at(&directory), directory.join("root"));
        let mut command = as_root()?;
        command.args(["mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"]);
        command.arg(format!("--include={PACKAGES}"));
        for path in LEFT_OUT {
            command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        // "$1" is the root directory; these run outside of it.
        for hook in [
            "echo debian > \"$1/etc/hostname\"",
            "echo '/dev/vda / ext4 defaults 0 0' > \"$1/etc/fstab\"",
            "chroot \"$1\" passwd -q -d root",
        ] {
            command.arg(format!("--customize-hook={hook}"));
        }
        succeed(command.arg(&kernel::codename()?).arg(&root).arg(&sources))?;
        // An initramfs is for root's eyes only.
        for (from, to) in [("vmlinuz", &debian.kernel), ("initrd.img", &debian.initramfs)] {
            succeed(as_root()?.args(["install", "-m", "644"]).arg(root.join(from)).arg(to))?;
        }
        let mut pack = as_root()?;
        pack.args(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]);
        succeed(pack.arg(&root).arg(&debian.disk).arg(SIZE))?;
        succeed(as_root()?.args(["rm", "-rf", "--one-file-system"]).arg(&root))?;
        fs::write(directory.join("made"), MARK)?;
        Ok(debian)
    }
}

/// A command that will run what is added to it as root, so that the files of the image are root's.
fn as_root() -> Result<Command> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Command::new("env"));
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).output();
    ensure!(
        sudo.is_ok_and(|output| output.status.success()),
        "a Debian image is made by root, and sudo wants a password"
    );
    let mut command = Command::new("sudo");
    command.arg("-n");
    Ok(command)
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, said.trim());
    Ok(())
}
