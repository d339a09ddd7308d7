//! Calls cargo: checks of the tree, and the binaries that lab and guests are made of.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The only target these tools know: lab and guests are x86 machines.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The top of the repository.
pub(crate) fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's output directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from)
}

/// A cargo command at the top of the repository.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(top());
    command
}

/// Builds binaries that need no library of the system they run on, and says where they are.
pub(crate) fn build_static(binaries: &[&str], release: bool) -> Result<PathBuf> {
    let directory = target().join("lab/static");
    // The target is named so that build scripts and macros are built in the ordinary way.
    let mut command = cargo(&["build", "--quiet", "--target", TARGET, "--config", "profile.dev.debug=false"]);
    command.arg("--target-dir").arg(&directory).args(["--config", "profile.dev.strip=true"]);
    if release {
        command.arg("--release");
    }
    for binary in binaries {
        let package = if *binary == "numavisor" { "api" } else { "integration-tests" };
        command.args(["--package", package, "--bin", binary]);
    }
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", TARGET.to_uppercase().replace('-', "_"));
    let status = command
        .env_remove("RUSTFLAGS")
        .env(flags, "-C target-feature=+crt-static")
        .status()
        .context("cargo")?;
    ensure!(status.success(), "building {binaries:?} failed");
    Ok(directory.join(TARGET).join(if release { "release" } else { "debug" }))
}
