//! Disk images for lab hosts: a directory in, an ext4 image out, and files back out of it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Makes `image` an ext4 file system of `mib` MiB that holds what is in `directory`.
pub(crate) fn pack(directory: &Path, image: &Path, mib: u64) -> Result<()> {
    let _ = fs::remove_file(image);
    File::create(image)
        .and_then(|file| file.set_len(mib << 20))
        .with_context(|| format!("creating {}", image.display()))?;
    let output = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"])
        .arg(directory)
        .arg(image)
        .stdin(Stdio::null())
        .output()
        .context("running mke2fs")?;
    ensure!(output.status.success(), "mke2fs: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Copies everything in `image` into `directory`.
pub(crate) fn unpack(image: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let output = Command::new("/sbin/debugfs")
        .arg("-R")
        .arg(format!("rdump / {}", directory.display()))
        .arg(image)
        .output()
        .context("running debugfs")?;
    ensure!(output.status.success(), "debugfs: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The bytes of all files below `directory`.
pub(crate) fn size(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        total += if kind.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(total)
}
