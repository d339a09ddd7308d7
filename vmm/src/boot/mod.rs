//! From a kernel file to a guest that can start: what the file is, where things go, writing them, first registers.

mod image;
mod layout;
mod linux;
mod pvh;
mod ranges;
mod registers;

pub use image::{ImageError, KernelImage};
pub use layout::{BootLayout, LayoutError};
pub use registers::set_boot_registers;

use crate::diagnosis::{of_call, of_file};
use crate::firmware::{self, Firmware};
use crate::memory::GuestRam;
use resources::{Diagnosis, ErrorKind, Plan};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use vm_memory::GuestMemoryError;

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// bzImage, or an ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// Initial ramdisk.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
}

/// Why a kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("{field}: {path}: {source}")]
    Read {
        /// `kernel` or `initramfs`.
        field: &'static str,
        /// As typed.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel is not one that can be booted.
    #[error("kernel: {path}: {source}", path = path.display())]
    Image {
        /// As typed.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// It does not fit.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The file changed while it was read.
    #[error("{field}: {path}: changed while it was loaded ({reason})", path = path.display())]
    Load {
        /// `kernel` or `initramfs`.
        field: &'static str,
        /// As typed.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// Guest memory is not where the layout says: a mistake of ours.
    #[error("guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

impl BootError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        let invalid = |code| Diagnosis::new(ErrorKind::Invalid, code);
        match self {
            Self::Read { field, source, .. } => of_file(source).at(field),
            Self::Image { source: ImageError::Read(source), .. } => of_call(source).at("kernel"),
            Self::Image {
                source:
                    ImageError::NotAKernel
                    | ImageError::Damaged(_)
                    | ImageError::CutShort { .. }
                    | ImageError::No64BitEntry
                    | ImageError::NoPvhEntry
                    | ImageError::OtherMachine,
                ..
            } => invalid("kernel_image").at("kernel"),
            Self::Layout(error) => match error {
                LayoutError::Kernel { .. } | LayoutError::KernelTooLow { .. } => {
                    invalid("kernel_too_large").at("kernel")
                }
                LayoutError::Initramfs { .. } => invalid("initramfs_too_large").at("initramfs"),
                LayoutError::Cmdline { .. } | LayoutError::CmdlineNul => invalid("cmdline").at("cmdline"),
            },
            Self::Load { field, .. } => Diagnosis::new(ErrorKind::InUse, "file_changed").at(field),
            Self::Memory(_) => Diagnosis::new(ErrorKind::Internal, "internal"),
        }
    }
}

/// A payload whose files were opened and found to fit; nothing of the VM has been touched.
#[derive(Debug)]
pub struct Boot {
    payload: Payload,
    kernel: File,
    initramfs: Option<File>,
    image: KernelImage,
    layout: BootLayout,
}

/// How the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Long mode, RSI at the boot parameters (Linux, `Documentation/arch/x86/boot.rst`, 64-bit protocol).
    Linux64 {
        /// First instruction.
        rip: u64,
    },
    /// 32-bit protected mode, EBX at the start info (Xen, `docs/misc/pvh.pandoc`).
    Pvh {
        /// First instruction.
        rip: u64,
    },
}

impl Boot {
    /// Opens and inspects the files and decides where everything goes.
    pub fn prepare(payload: Payload, plan: &Plan, firmware: &Firmware) -> Result<Self, BootError> {
        let mut kernel = open("kernel", &payload.kernel)?;
        let image = KernelImage::inspect(&mut kernel)
            .map_err(|source| BootError::Image { path: payload.kernel.clone(), source })?;
        let initramfs = payload.initramfs.as_ref().map(|path| open("initramfs", path)).transpose()?;
        let initramfs_size = match (&initramfs, &payload.initramfs) {
            (Some(file), Some(path)) => file.metadata().map_err(|e| read_error("initramfs", path, e))?.len(),
            _ => 0,
        };
        if payload.cmdline.contains('\0') {
            return Err(LayoutError::CmdlineNul.into());
        }
        let cmdline = payload.cmdline.len();
        let layout = BootLayout::new(&plan.memory_map, firmware.range, &image, initramfs_size, cmdline)?;
        Ok(Self { payload, kernel, initramfs, image, layout })
    }

    /// Decides anew where everything goes, for a guest with other memory.
    pub fn fit(&mut self, plan: &Plan, firmware: &Firmware) -> Result<(), BootError> {
        let (initramfs, cmdline) =
            (self.layout.initramfs.map_or(0, |(_, size)| size), self.payload.cmdline.len());
        self.layout = BootLayout::new(&plan.memory_map, firmware.range, &self.image, initramfs, cmdline)?;
        Ok(())
    }

    /// Whether the kernel is Linux, as far as its file says.
    pub fn is_linux(&self) -> bool {
        match self.image {
            KernelImage::BzImage(_) => true,
            KernelImage::Elf(elf) => elf.linux,
        }
    }

    /// The kernel's file, as typed.
    pub fn kernel(&self) -> &std::path::Path {
        &self.payload.kernel
    }

    /// Writes kernel, initramfs, command line, boot parameters and tables into guest memory.
    pub fn load(&mut self, plan: &Plan, ram: &GuestRam, firmware: &Firmware) -> Result<Entry, BootError> {
        use vm_memory::{Bytes, GuestAddress};
        let memory = ram.memory();
        for table in &firmware.tables.tables {
            memory.write_slice(&table.bytes, GuestAddress(table.address))?;
        }
        memory.write_slice(&firmware.tables.rsdp, GuestAddress(resources::memory_map::RSDP.0))?;
        memory.write_slice(&firmware::reset_code(), GuestAddress(firmware::RESET_VECTOR))?;
        memory.write_slice(self.payload.cmdline.as_bytes(), self.layout.cmdline)?;
        memory.write_obj(0_u8, GuestAddress(self.layout.cmdline.0 + self.payload.cmdline.len() as u64))?;
        if let (Some(file), Some((start, size))) = (&mut self.initramfs, self.layout.initramfs) {
            rewind(file)
                .and_then(|()| {
                    let size = usize::try_from(size).map_err(std::io::Error::other)?;
                    memory.read_exact_volatile_from(start, file, size).map_err(std::io::Error::other)
                })
                .map_err(|e| changed("initramfs", self.payload.initramfs.as_ref(), e))?;
        }
        rewind(&mut self.kernel).map_err(|e| changed("kernel", Some(&self.payload.kernel), e))?;
        let ranges = ranges::address_ranges(&plan.memory_map, &plan.pci, firmware.range);
        match self.image {
            KernelImage::BzImage(_) => linux::load(memory, &mut self.kernel, &self.layout, &ranges),
            KernelImage::Elf(_) => pvh::load(memory, &mut self.kernel, &self.layout, &ranges),
        }
        .map_err(|error| match error {
            linux::LoadError::Memory(error) => error.into(),
            linux::LoadError::Kernel(reason) => {
                BootError::Load { field: "kernel", path: self.payload.kernel.clone(), reason }
            }
        })
    }
}

fn open(field: &'static str, path: &PathBuf) -> Result<File, BootError> {
    // A FIFO that nobody writes to, or a terminal, is not to be waited for.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|e| read_error(field, path, e))?;
    let kind = file.metadata().map_err(|e| read_error(field, path, e))?;
    if kind.is_file() {
        return Ok(file);
    }
    Err(read_error(field, path, std::io::Error::other("not a regular file")))
}

fn read_error(field: &'static str, path: &std::path::Path, source: std::io::Error) -> BootError {
    BootError::Read { field, path: path.to_owned(), source }
}

fn changed(field: &'static str, path: Option<&PathBuf>, error: std::io::Error) -> BootError {
    BootError::Load { field, path: path.cloned().unwrap_or_default(), reason: error.to_string() }
}

fn rewind(file: &mut File) -> Result<(), std::io::Error> {
    std::io::Seek::rewind(file)
}
