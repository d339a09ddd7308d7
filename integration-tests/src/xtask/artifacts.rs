//! Everything a run needs, made once and kept in the cache: kernels, images, binaries, the payload directory and disk.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{cargo, setup};
use crate::image::debian::Debian;
use crate::image::emulator::Emulator;
use crate::image::kernel::Kernel;
use crate::image::{initramfs, unikernel, vmlinux};
use crate::lab::disk;
use crate::lab::machine::Images;
use crate::runner::payload::{DEBIAN, GuestKernel, UNIKERNEL};

/// The cache: fetched kernels, built images, logs. Never committed.
pub(crate) fn cache() -> PathBuf {
    cargo::target().join("lab")
}

/// What a run is made of.
pub(crate) struct Artifacts {
    /// Directory with binaries, kernels and images, as `runner::payload` names them.
    pub(crate) payload: PathBuf,
    pub(crate) runner: PathBuf,
    kernel: Kernel,
    /// The disk of the Debian, if it was asked for or is there.
    pub(crate) debian: Option<PathBuf>,
}

impl Artifacts {
    /// Installs, fetches and builds what is missing; the program is that of tests, which is soon built.
    pub(crate) fn make() -> Result<Self> {
        Self::with_program(&cargo::build_for_tests(&cargo::CRATES, &["numavisor"])?.join("numavisor"))
    }

    /// The same with the program that people run, which takes minutes to build.
    pub(crate) fn of_release() -> Result<Self> {
        Self::with_program(&cargo::build_release()?)
    }

    fn with_program(program: &Path) -> Result<Self> {
        setup::install_all()?;
        let cache = cache();
        let payload = cache.join("payload");
        fs::create_dir_all(&payload)?;
        let built = cargo::build_for_tests(&cargo::CRATES, &["guest-init", "lab-runner"])?;
        strip(program, &payload.join("numavisor"))?;
        let (init, runner) = (cache.join("guest-init"), cache.join("lab-runner"));
        strip(&built.join("guest-init"), &init)?;
        strip(&built.join("lab-runner"), &runner)?;
        let kernel = Kernel::default_of(&cache)?;
        copy(&kernel.bzimage(), &payload.join(GuestKernel::StockBzImage.file()))?;
        write(&payload.join(GuestKernel::Stock.initramfs()), &initramfs::guest(&init, &kernel)?)?;
        let elf = payload.join(GuestKernel::Stock.file());
        if !elf.exists() {
            write(&elf, &vmlinux::extract(&fs::read(kernel.bzimage())?)?)?;
        }
        unikernel::build(&payload.join(UNIKERNEL))?;
        match Kernel::newer(&cache) {
            Ok(newer) => {
                copy(&newer.bzimage(), &payload.join(GuestKernel::Newer.file()))?;
                write(&payload.join(GuestKernel::Newer.initramfs()), &initramfs::guest(&init, &newer)?)?;
            }
            // Its tests fail then and say so; everything else can still run.
            Err(error) => eprintln!("no newer guest kernel: {error:#}"),
        }
        let mut artifacts = Self { payload, runner, kernel, debian: None };
        if let Some(debian) = Debian::made(&cache) {
            artifacts.take(&debian)?;
        }
        Ok(artifacts)
    }

    /// Adds a Debian on a disk, made once.
    pub(crate) fn add_debian(&mut self) -> Result<()> {
        self.take(&Debian::make(&cache())?)
    }

    fn take(&mut self, debian: &Debian) -> Result<()> {
        for (from, name) in [&debian.kernel, &debian.initramfs].into_iter().zip(DEBIAN) {
            copy(from, &self.payload.join(name))?;
        }
        self.debian = Some(debian.disk.clone());
        Ok(())
    }

    /// Adds the release build and the rival with all it needs: for benchmarks only, it is large.
    pub(crate) fn with_rival(mut self) -> Result<Self> {
        let payload = cache().join("payload-bench");
        let rival = payload.join("qemu");
        for directory in ["lib", "firmware"] {
            fs::create_dir_all(rival.join(directory))?;
        }
        for entry in fs::read_dir(&self.payload)? {
            let entry = entry?;
            copy(&entry.path(), &payload.join(entry.file_name()))?;
        }
        copy(&cargo::build_release()?, &payload.join("numavisor-release"))?;
        let qemu = Path::new("/usr/bin/qemu-system-x86_64");
        copy(qemu, &rival.join("qemu-system-x86_64"))?;
        for library in initramfs::shared_libraries(qemu)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("ld-linux") {
                copy(&library, &rival.join("ld.so"))?;
            }
            copy(&library, &rival.join("lib").join(name))?;
        }
        for directory in ["/usr/share/seabios", "/usr/share/qemu"] {
            for name in ["bios-microvm.bin", "bios-256k.bin", "pvh.bin", "linuxboot_dma.bin", "kvmvapic.bin"]
            {
                let file = Path::new(directory).join(name);
                if file.exists() {
                    copy(&file, &rival.join("firmware").join(name))?;
                }
            }
        }
        self.payload = payload;
        Ok(self)
    }

    /// What a lab host boots, with the payload as a disk.
    pub(crate) fn images(&self) -> Result<Images> {
        let work = cache().join("hosts");
        fs::create_dir_all(&work)?;
        let host_image = work.join("host.cpio");
        write(&host_image, &initramfs::host(&self.runner, &self.kernel)?)?;
        let disk_image = work.join("payload.img");
        let mib = disk::size(&self.payload)? / (1 << 20) + 32;
        disk::pack(&self.payload, &disk_image, mib)?;
        Ok(Images {
            emulator: Emulator::find(&cache())?,
            kernel: self.kernel.bzimage(),
            initramfs: host_image,
            payload: disk_image,
            distribution: self.debian.clone(),
            work,
        })
    }
}

/// Copies a program without what only debuggers read: guests and lab hosts hold it in memory.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let stripped = tempfile::NamedTempFile::new_in(to.parent().unwrap_or(to))?;
    let status = Command::new("strip").arg("-o").arg(stripped.path()).arg(from).status().context("strip")?;
    ensure!(status.success(), "strip {}: {status}", from.display());
    copy(stripped.path(), to)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// Copies a file, in one step for whoever reads it at the moment.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    write(to, &bytes)?;
    Ok(fs::set_permissions(to, fs::metadata(from)?.permissions())?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    file.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(path).map(|_| ()).with_context(|| format!("writing {}", path.display()))
}
