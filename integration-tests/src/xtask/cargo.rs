//! Calls cargo: checks of the tree, and the binaries that lab and guests are made of.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The only target these tools know: lab and guests are x86 machines. Naming it has build scripts and macros built in the
/// ordinary way, while everything else needs no library of the system it runs on.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The settings of every build here, those of the alias in `.cargo/config.toml`: with one set of flags a dependency is
/// built once, for these tools, for all tests and for the lab.
const SETTINGS: [&str; 2] = [
    "build.target='x86_64-unknown-linux-gnu'",
    "target.x86_64-unknown-linux-gnu.rustflags=['-C','target-feature=+crt-static']",
];
/// All crates but the one whose build takes a C++ compiler.
pub(crate) const CRATES: [&str; 3] = ["--workspace", "--exclude", "fuzz"];
/// A test among the things to build: cargo then chooses the features that tests have, so that tests and programs share
/// their libraries.
const AS_FOR_TESTS: [&str; 2] = ["--test", "other_users"];

/// The top of the repository.
pub(crate) fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's output directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from)
}

/// Where cargo puts the programs of a profile's builds.
pub(crate) fn programs(profile: &str) -> PathBuf {
    target().join(TARGET).join(profile)
}

/// A subcommand of cargo's, at the top of the repository.
pub(crate) fn cargo(subcommand: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand);
    if subcommand != "fmt" {
        command.args(SETTINGS.iter().flat_map(|setting| ["--config", setting]));
    }
    // It would replace the flags of the settings.
    command.args(arguments).current_dir(top()).env_remove("RUSTFLAGS");
    command
}

/// Builds programs as the tests have them, and says where they are.
pub(crate) fn build_for_tests(crates: &[&str], programs_wanted: &[&str]) -> Result<PathBuf> {
    let mut command = cargo("build", &["--quiet"]);
    command.args(crates).args(AS_FOR_TESTS).args(programs_wanted.iter().flat_map(|name| ["--bin", name]));
    run(&mut command)?;
    Ok(programs("debug"))
}

/// Builds the program that people run, and says where it is.
pub(crate) fn build_release() -> Result<PathBuf> {
    run(&mut cargo("build", &["--quiet", "--release", "--package", "api", "--bin", "numavisor"]))?;
    Ok(programs("release").join("numavisor"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("cargo")?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
