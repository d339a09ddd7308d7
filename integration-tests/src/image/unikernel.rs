//! Builds the tests' unikernel, which is C and assembler, with the machine's compiler.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// No library, no address randomness, and no registers that would have to be set up first.
const FLAGS: [&str; 15] = [
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,--no-warn-rwx-segments",
];

/// Compiles and links it into `to`.
pub(crate) fn build(to: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("unikernel");
    let mut command = Command::new("gcc");
    command.args(FLAGS).arg("-T").arg("link.ld").args(["start.S", "main.c"]).arg("-o").arg(to);
    let output = command.current_dir(&source).output().context("running gcc")?;
    ensure!(
        output.status.success(),
        "gcc could not build the unikernel: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
