//! Checks of the tree that are no tests: format, lints, licences, documentation, and that all there is to build builds.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use super::cargo::{self, CRATES, cargo, top};
use super::tally::Tally;
use super::{dist, setup};
use crate::lab::job::Verdict;

/// Those of the quick level: seconds each, once the crates are built.
pub(super) fn quick(tally: &mut Tally) -> Result<()> {
    component("fmt", &["--all", "--check"], tally)?;
    component(
        "clippy",
        &[&["--quiet"], &CRATES[..], &["--all-targets", "--", "-D", "warnings"]].concat(),
        tally,
    )?;
    licences(tally)
}

/// Those that build something that no test needs.
pub(super) fn slow(tally: &mut Tally) -> Result<()> {
    let mut documentation = cargo("doc", &[&["--quiet", "--no-deps"], &CRATES[..]].concat());
    step("documentation", documentation.env("RUSTDOCFLAGS", "-D warnings"), tally)?;
    let began = Instant::now();
    let targets = fuzz_targets()?;
    let names: Vec<&str> = targets.iter().map(String::as_str).collect();
    report_result("fuzz targets", &cargo::build_for_tests(&["--workspace"], &names), began, tally);
    Ok(())
}

/// Builds the release beside `work`, which waits more than it computes.
pub(super) fn beside_release_build(
    tally: &mut Tally,
    work: impl FnOnce(&mut Tally) -> Result<()>,
) -> Result<()> {
    let began = Instant::now();
    let build = thread::spawn(dist::run);
    let done = work(tally);
    let built = build.join().unwrap_or_else(|_| Err(anyhow!("the release build panicked")));
    report_result("release build", &built, began, tally);
    done
}

/// Their names, which are those of the directories of their seeds.
fn fuzz_targets() -> Result<Vec<String>> {
    let seeds = top().join("fuzz/seeds");
    let entries = fs::read_dir(&seeds).with_context(|| seeds.display().to_string())?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect())
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
    if cargo(tool, &["--version"]).output().is_ok_and(|output| output.status.success()) {
        return step(&format!("cargo {tool}"), &mut cargo(tool, arguments), tally);
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

fn report_result<T>(name: &str, result: &Result<T>, began: Instant, tally: &mut Tally) {
    if let Err(error) = result {
        println!("{error:#}");
    }
    report(name, result.is_ok(), began, tally);
}

fn report(name: &str, ok: bool, began: Instant, tally: &mut Tally) {
    let word = if ok { "ok     " } else { "FAILED " };
    println!("{word} {name} ({:.0} s)", began.elapsed().as_secs_f64());
    tally.step(ok);
}
