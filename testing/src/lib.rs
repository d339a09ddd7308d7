//! What the tests of all crates share: how a test says that it, or a part of it, cannot run on this machine.
//! Counting what was skipped is left to `cargo xtask test`.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::panic::Location;
use std::path::Path;
use std::thread;

/// `1` makes each skip a failure.
pub const NO_SKIPS: &str = "NUMAVISOR_NO_SKIPS";
/// A file that gets a line for each skip; without it the line goes to standard error.
pub const SKIPS_FILE: &str = "NUMAVISOR_SKIPS_FILE";

/// One line of the file: a test that could not run, or only in part.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Skipped {
    /// The test binary.
    pub binary: String,
    /// The test's path in it.
    pub test: String,
    /// What is missing.
    pub why: String,
}

impl Skipped {
    /// The line, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        let plain = |text: &str| text.replace(['\t', '\n', '\r'], " ");
        format!("{}\t{}\t{}", plain(&self.binary), plain(&self.test), plain(&self.why))
    }

    /// Reads a line back.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(3, '\t').map(str::to_owned);
        Some(Self { binary: fields.next()?, test: fields.next()?, why: fields.next()? })
    }
}

/// Says that the test this thread runs, or a part of it, cannot run here. The caller returns, or goes on with what
/// can. The test is counted as skipped and not as passed.
///
/// # Panics
///
/// Where `NUMAVISOR_NO_SKIPS` is `1`.
#[track_caller]
pub fn skip(why: impl Display) {
    let why = why.to_string();
    let no_skips = std::env::var_os(NO_SKIPS).is_some_and(|value| value == "1");
    assert!(!no_skips, "skipped: {why}; {NO_SKIPS}=1 makes that a failure");
    let binary = std::env::current_exe().unwrap_or_default();
    let binary = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // libtest names a test's thread after it, unless it runs one test at a time, in the main thread.
    let test = match thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => Location::caller().to_string(),
    };
    let skipped = Skipped { binary, test, why };
    match std::env::var_os(SKIPS_FILE) {
        Some(file) => record(Path::new(&file), &skipped),
        // Not by a macro of printing: libtest would keep it to itself.
        None => drop(writeln!(std::io::stderr(), "skipped {}: {}", skipped.test, skipped.why)),
    }
}

/// One write for the whole line: tests run side by side.
fn record(file: &Path, skipped: &Skipped) {
    let line = format!("{}\n", skipped.line());
    let written = File::options()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(written.is_ok(), "{}: {written:?}", file.display());
}

/// Whether virtual machines can be made here; skips the test if not.
#[track_caller]
#[must_use]
pub fn kvm() -> bool {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => true,
        Err(error) => {
            skip(format_args!("no /dev/kvm: {error}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Skipped;

    #[test]
    fn a_line_is_read_back() {
        let skipped = |why: &str| Skipped { binary: "vmm-1".into(), test: "a::b".into(), why: why.into() };
        assert_eq!(skipped("no\ttun\n").line(), "vmm-1\ta::b\tno tun ");
        assert_eq!(Skipped::parse("vmm-1\ta::b\tno tun"), Some(skipped("no tun")));
        assert_eq!(Skipped::parse("vmm-1\ta::b"), None);
    }
}
