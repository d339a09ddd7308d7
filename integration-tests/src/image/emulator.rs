//! The QEMU that emulates lab hosts: the installed one, or a newer one fetched as packages into the cache and never
//! installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt::{Index, Private};
use super::kernel::codename;

/// Older ones may go on running code that has been written over, if one processor translates it while another writes.
/// Linux writes over its own code when its first VM begins and its last one ends; hosts lock up by it now and then.
const SOUND: (u32, u32) = (8, 1);
const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// A QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Emulator {
    program: PathBuf,
    firmware: Vec<PathBuf>,
}

impl Emulator {
    /// The installed one if it is sound, else one of the backports in `cache`, else the installed one after all.
    pub(crate) fn find(cache: &Path) -> Result<Self> {
        let installed = Self { program: PROGRAM.into(), firmware: Vec::new() };
        let version = installed.version()?;
        if version >= SOUND {
            return Ok(installed);
        }
        Ok(Self::fetched(cache).unwrap_or_else(|error| {
            eprintln!("no newer QEMU, lab hosts may lock up under {}.{}: {error:#}", version.0, version.1);
            installed
        }))
    }

    fn fetched(cache: &Path) -> Result<Self> {
        let root = cache.join("qemu");
        let emulator = Self {
            program: root.join("usr/bin").join(PROGRAM),
            firmware: FIRMWARE.map(|directory| root.join(directory)).to_vec(),
        };
        if emulator.version().is_ok_and(|version| version >= SOUND) {
            return Ok(emulator);
        }
        let suite = format!("{}-backports", codename()?);
        println!("fetching a newer QEMU from {suite}, for lab hosts");
        let _ = fs::remove_dir_all(&root);
        let index = Index::Private(Private::open(cache, &suite)?);
        for package in PACKAGES {
            index.unpack(package, &root)?;
        }
        let version = emulator.version()?;
        ensure!(version >= SOUND, "{suite} has {}.{}", version.0, version.1);
        Ok(emulator)
    }

    /// Major and minor; an error if it does not start.
    fn version(&self) -> Result<(u32, u32)> {
        let output =
            self.command().arg("--version").output().with_context(|| self.program.display().to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut numbers = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .map(|version| version.split('.').filter_map(|part| part.parse().ok()))
            .with_context(|| {
                format!("{}: {}", self.program.display(), String::from_utf8_lossy(&output.stderr))
            })?;
        numbers.next().zip(numbers.next()).context("a version without numbers")
    }

    /// To start it with.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for directory in &self.firmware {
            command.arg("-L").arg(directory);
        }
        command
    }
}
