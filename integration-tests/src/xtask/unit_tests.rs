//! Runs `cargo test` and counts: what passed, what failed, and what said by `testing::skip` that it cannot run here.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};
use testing::{SKIPS_FILE, Skipped};

use super::cargo::{CRATES, cargo, target};
use super::setup;
use super::tally::Tally;
use crate::lab::job::Verdict;

/// Builds all of them. What does not compile is said by [`run`].
pub(super) fn build() -> Result<()> {
    let mut command = cargo("test", &[&CRATES[..], &["--quiet", "--no-run"]].concat());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().context("cargo test")?;
    Ok(())
}

/// Runs the tests whose names contain one of `filter`, or all; shows those that fail or are skipped.
pub(super) fn run(filter: &[String], tally: &mut Tally) -> Result<()> {
    let skips = target().join("skipped-tests.txt");
    let _ = fs::remove_file(&skips);
    fs::create_dir_all(target())?;
    let mut command = cargo("test", &[&CRATES[..], &["--no-fail-fast"]].concat());
    command.arg("--").args(filter).stdout(Stdio::piped()).env(SKIPS_FILE, &skips);
    if env::var_os("RUST_BACKTRACE").is_none() {
        command.env("RUST_BACKTRACE", "1");
    }
    match setup::schemathesis() {
        Ok(program) => drop(command.env("SCHEMATHESIS", program)),
        // Its test says that it is skipped; everything else can still run.
        Err(error) => eprintln!("no schemathesis: {error:#}"),
    }
    let mut child = command.spawn().context("cargo test")?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        if counts.take(&line) {
            println!("{line}");
        }
    }
    let skipped: Vec<Skipped> =
        fs::read_to_string(&skips).unwrap_or_default().lines().filter_map(Skipped::parse).collect();
    let skipped = counts.skipped(&skipped);
    for (test, why) in &skipped {
        println!("skipped {test}: {why}");
    }
    let skips = u64::try_from(skipped.len())?;
    tally.add(Verdict::Passed, counts.passed.saturating_sub(skips));
    tally.add(Verdict::Skipped, counts.ignored + skips);
    tally.add(Verdict::Failed, counts.failed);
    // A crate that does not compile, or a test binary that is killed, has no counts.
    if !child.wait()?.success() && counts.failed == 0 {
        println!("FAILED  cargo test");
        tally.step(false);
    }
    Ok(())
}

/// What libtest's lines say.
#[derive(Debug, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Names of tests that failed, in whichever binary.
    failures: BTreeSet<String>,
}

impl Counts {
    /// Takes a line of libtest's; whether it is worth showing.
    fn take(&mut self, line: &str) -> bool {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let words: Vec<&str> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
                let pair = words.windows(2).find(|pair| pair[1] == what);
                pair.and_then(|pair| pair[0].parse::<u64>().ok()).unwrap_or(0)
            };
            let tests = count("passed") + count("failed") + count("ignored");
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
            return tests > 0;
        }
        if let Some(rest) = line.strip_prefix("test ") {
            if let Some(name) = rest.strip_suffix(" ... FAILED") {
                self.failures.insert(name.to_owned());
            }
            return !rest.ends_with(" ... ok");
        }
        !(line.is_empty() || line.starts_with("running "))
    }

    /// The tests that were skipped and did not fail as well, each once, and why.
    fn skipped<'a>(&self, lines: &'a [Skipped]) -> BTreeMap<&'a str, &'a str> {
        let mut skipped = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for line in lines.iter().filter(|line| !self.failures.contains(&line.test)) {
            // Two binaries may have a test of the same name; the second is told by its binary.
            if seen.insert((&line.binary, &line.test)) {
                let taken = skipped.contains_key(line.test.as_str());
                skipped
                    .insert(if taken { line.binary.as_str() } else { line.test.as_str() }, line.why.as_str());
            }
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;
    use testing::Skipped;

    fn skipped(binary: &str, test: &str) -> Skipped {
        Skipped { binary: binary.into(), test: test.into(), why: format!("no {test}") }
    }

    #[test]
    fn counts_add_up_and_what_passed_is_not_shown() {
        let mut counts = Counts::default();
        let lines = [
            ("running 3 tests", false),
            ("test a::b ... ok", false),
            ("test a::c ... FAILED", true),
            ("test a::d ... ignored, slow", true),
            ("", false),
            ("thread 'a::c' panicked at a.rs:1:", true),
            (
                "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                true,
            ),
            (
                "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s",
                false,
            ),
            (
                "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                true,
            ),
        ];
        for (line, shown) in lines {
            assert_eq!(counts.take(line), shown, "{line}");
        }
        assert_eq!((counts.passed, counts.failed, counts.ignored), (5, 1, 1));
        assert!(counts.failures.contains("a::c"));
    }

    #[test]
    fn a_test_is_skipped_once_and_one_that_failed_is_not() {
        let mut counts = Counts::default();
        counts.take("test net::c ... FAILED");
        let lines =
            [skipped("vmm", "kvm"), skipped("vmm", "kvm"), skipped("vmm", "net::c"), skipped("api", "kvm")];
        let skipped = counts.skipped(&lines);
        assert_eq!(skipped.into_iter().collect::<Vec<_>>(), [("api", "no kvm"), ("kvm", "no kvm")]);
    }
}
