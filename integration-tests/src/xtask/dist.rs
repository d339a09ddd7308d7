//! `cargo xtask dist`: what a package holds. The program needs no library of the system it runs on.

use std::fs;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use super::cargo;

/// Where each shell looks for the completions of `numavisor`.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "numavisor"), ("zsh", "_numavisor"), ("fish", "numavisor.fish")];

/// Builds `target/dist`: the program, its manual pages and its completions.
pub(super) fn run() -> Result<ExitCode> {
    let built = cargo::build_release()?;
    let dist = cargo::target().join("dist");
    let (man, completions) = (dist.join("man1"), dist.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let program = dist.join("numavisor");
    fs::copy(&built, &program).with_context(|| program.display().to_string())?;
    let status =
        Command::new(&program).arg("man").arg("--dir").arg(&man).status().context("numavisor man")?;
    ensure!(status.success(), "numavisor man: {status}");
    for (shell, file) in COMPLETIONS {
        let output = Command::new(&program).args(["completions", shell]).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "numavisor completions {shell}: {}", output.status);
        fs::write(completions.join(file), output.stdout)?;
    }
    println!(
        "{}: {} bytes, {} manual pages",
        program.display(),
        fs::metadata(&program)?.len(),
        fs::read_dir(&man)?.count()
    );
    Ok(ExitCode::SUCCESS)
}
