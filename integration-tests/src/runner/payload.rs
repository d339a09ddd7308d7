//! The files a run needs, by name; `xtask::artifacts` puts them there.

use std::path::PathBuf;

/// Where the files of a run are.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    /// Read-only: binaries, kernels, images.
    pub(crate) directory: PathBuf,
    /// Writable: logs and temporary files.
    pub(crate) scratch: PathBuf,
    /// A disk with a Debian on it that may be written to, if there is one.
    pub(crate) debian: Option<PathBuf>,
}

/// File name of the tests' unikernel.
pub(crate) const UNIKERNEL: &str = "unikernel";

/// File names of the Debian's own kernel and initramfs.
pub(crate) const DEBIAN: [&str; 2] = ["vmlinuz-debian", "initrd-debian.img"];

/// Which kernel a guest boots.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum GuestKernel {
    /// This Debian's own as an uncompressed ELF file, for the PVH entry: an emulated guest does not unpack it.
    #[default]
    Stock,
    /// The same as the distribution has it, a bzImage.
    StockBzImage,
    /// 6.12 or later, as bzImage.
    Newer,
}

impl GuestKernel {
    /// The kernel's file name.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Stock => "vmlinux",
            Self::StockBzImage => "vmlinuz",
            Self::Newer => "vmlinuz-newer",
        }
    }

    /// The file name of the image with its modules.
    pub(crate) const fn initramfs(self) -> &'static str {
        match self {
            Self::Stock | Self::StockBzImage => "initramfs.cpio",
            Self::Newer => "initramfs-newer.cpio",
        }
    }
}

impl Payload {
    /// The program under test.
    pub(crate) fn numavisor(&self) -> PathBuf {
        self.directory.join("numavisor")
    }

    /// The release build of it, where the job asks for one.
    pub(crate) fn numavisor_release(&self) -> PathBuf {
        self.directory.join("numavisor-release")
    }

    /// A guest kernel.
    pub(crate) fn kernel(&self, kernel: GuestKernel) -> PathBuf {
        self.directory.join(kernel.file())
    }

    /// The image that goes with it.
    pub(crate) fn initramfs(&self, kernel: GuestKernel) -> PathBuf {
        self.directory.join(kernel.initramfs())
    }
}
