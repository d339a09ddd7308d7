//! Checks of the tree that are no tests: format, lints, licences, documentation, and that all there is to build builds.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::cargo::{cargo, target, top};
use super::tally::Tally;
use super::{dist, setup};
use crate::lab::job::Verdict;

/// Those of the quick level: seconds each, once the crates are built.
pub(super) fn quick(tally: &mut Tally) -> Result<()> {
    component("fmt", &["fmt", "--all", "--check"], tally)?;
    component(
        "clippy",
        &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"],
        tally,
    )?;
    licences(tally)
}

/// Those that build something that no test needs.
pub(super) fn slow(tally: &mut Tally) -> Result<()> {
    let mut documentation = cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
    step("documentation", documentation.env("RUSTDOCFLAGS", "-D warnings"), tally)?;
    let mut fuzz = cargo(&["build", "--quiet", "--locked", "--manifest-path"]);
    fuzz.arg(top().join("fuzz/Cargo.toml")).arg("--target-dir").arg(target().join("fuzz"));
    step("fuzz targets", &mut fuzz, tally)?;
    seeds(tally)?;
    let began = Instant::now();
    let built = dist::run();
    if let Err(error) = &built {
        println!("{error:#}");
    }
    report("release build", built.is_ok(), began, tally);
    Ok(())
}

/// Runs each fuzz target on its seeds, once each.
fn seeds(tally: &mut Tally) -> Result<()> {
    let seeds = top().join("fuzz/seeds");
    let mut targets: Vec<String> = fs::read_dir(&seeds)
        .with_context(|| seeds.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    targets.sort();
    let began = Instant::now();
    let mut all_ok = true;
    for name in targets {
        let files = fs::read_dir(seeds.join(&name))?.filter_map(|entry| Some(entry.ok()?.path()));
        let output = Command::new(target().join("fuzz/debug").join(&name)).args(files).output();
        let output = output.with_context(|| format!("fuzz target {name}"))?;
        if !output.status.success() {
            println!("{}\nfuzz target {name}: {}", String::from_utf8_lossy(&output.stderr), output.status);
            all_ok = false;
        }
    }
    report("seeds of the fuzz targets", all_ok, began, tally);
    Ok(())
}

/// `cargo deny`: licences, sources, duplicate and banned crates. Advisories are left to who reaches their database.
fn licences(tally: &mut Tally) -> Result<()> {
    match setup::cargo_deny() {
        Ok(program) => {
            let mut command = Command::new(program);
            command.current_dir(top()).args(["--log-level", "error", "check", "bans", "licenses", "sources"]);
            step("cargo deny", &mut command, tally)
        }
        Err(error) => {
            println!("skipped cargo deny: {error:#}");
            tally.count(Verdict::Skipped);
            Ok(())
        }
    }
}

/// Runs a component of the toolchain, where it is there.
fn component(tool: &str, arguments: &[&str], tally: &mut Tally) -> Result<()> {
    if cargo(&[tool, "--version"]).output().is_ok_and(|output| output.status.success()) {
        return step(&format!("cargo {tool}"), &mut cargo(arguments), tally);
    }
    println!("skipped cargo {tool}: the toolchain does not have it");
    tally.count(Verdict::Skipped);
    Ok(())
}

fn step(name: &str, command: &mut Command, tally: &mut Tally) -> Result<()> {
    let began = Instant::now();
    let ok = command.status().with_context(|| name.to_owned())?.success();
    report(name, ok, began, tally);
    Ok(())
}

fn report(name: &str, ok: bool, began: Instant, tally: &mut Tally) {
    let word = if ok { "ok     " } else { "FAILED " };
    println!("{word} {name} ({:.0} s)", began.elapsed().as_secs_f64());
    tally.step(ok);
}
