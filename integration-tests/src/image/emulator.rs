//! The QEMU that emulates lab hosts: the installed one, or a newer one fetched with its libraries into the cache and
//! never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt::{Index, Private};

/// Older ones lose interrupts: at each exit of a nested guest they clear a bit of the processor's pending requests by an
/// ordinary `and` (`svm_helper.c`), while another processor sets one beside it. A host processor then sleeps for ever, or
/// a guest waits for one that does. Before 8.1 they may also go on running code that has been written over.
const SOUND: (u32, u32) = (11, 0);
const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A QEMU.
#[derive(Clone, Debug)]
pub(crate) enum Emulator {
    /// Of the machine.
    Installed,
    /// With all it needs, below a directory.
    Fetched(PathBuf),
}

impl Emulator {
    /// The installed one if it is sound, else one of Debian's stable release in `cache`, else the installed one after all.
    pub(crate) fn find(cache: &Path) -> Result<Self> {
        let version = Self::Installed.version()?;
        if version >= SOUND {
            return Ok(Self::Installed);
        }
        Ok(Self::fetch(cache).unwrap_or_else(|error| {
            eprintln!("no newer QEMU, lab hosts may lock up under {}.{}: {error:#}", version.0, version.1);
            Self::Installed
        }))
    }

    fn fetch(cache: &Path) -> Result<Self> {
        let root = cache.join("qemu");
        let fetched = Self::Fetched(root.clone());
        if fetched.version().is_ok_and(|version| version >= SOUND) {
            return Ok(fetched);
        }
        println!("fetching a newer QEMU and its libraries, for lab hosts");
        let _ = fs::remove_dir_all(&root);
        let [release, newer] = ["stable", "stable-backports"];
        Index::Private(Private::open_all(cache, &[release, newer])?).unpack_all(PACKAGE, newer, &root)?;
        let version = fetched.version()?;
        ensure!(version >= SOUND, "{newer} has {}.{}", version.0, version.1);
        Ok(fetched)
    }

    /// Major and minor; an error if it does not start.
    fn version(&self) -> Result<(u32, u32)> {
        let output = self.command().arg("--version").output().context(PROGRAM)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut numbers = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .map(|version| version.split('.').filter_map(|part| part.parse().ok()))
            .with_context(|| format!("{PROGRAM}: {}", String::from_utf8_lossy(&output.stderr)))?;
        numbers.next().zip(numbers.next()).context("a version without numbers")
    }

    /// To start it with.
    pub(crate) fn command(&self) -> Command {
        let Self::Fetched(root) = self else { return Command::new(PROGRAM) };
        let libraries = root.join(LIBRARIES);
        // Another release's program runs with that release's loader and C library.
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(root.join("usr/bin").join(PROGRAM));
        command.env("QEMU_MODULE_DIR", libraries.join("qemu"));
        for directory in FIRMWARE {
            command.arg("-L").arg(root.join(directory));
        }
        command
    }
}
