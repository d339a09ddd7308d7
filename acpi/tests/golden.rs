//! Golden tables: the bytes of every case, the text that `iasl -d` makes of them, and whether that compiles again.
//! `UPDATE_GOLDENS=1 cargo test -p acpi` writes them anew.

mod support;

use acpi::TableSet;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::cases;

/// The version whose texts are stored; others lay out or word some lines differently.
const IASL_VERSION: &str = "version 20200925";
/// Longer texts are not stored: they say the same thing many times over.
const DSL_BYTES_MAX: usize = 48 * 1024;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDENS").is_some_and(|value| value == "1")
}

/// File names and contents of a set of tables.
fn files(set: &TableSet) -> Vec<(String, &[u8])> {
    let named = set.tables.iter().map(|table| (name(&table.signature), table.bytes.as_slice()));
    std::iter::once(("RSDP".to_string(), set.rsdp.as_slice())).chain(named).collect()
}

fn name(signature: &[u8; 4]) -> String {
    String::from_utf8(signature.to_vec()).expect("signatures are letters")
}

/// Compares or, if asked to, writes. Returns what is wrong.
fn settle(path: &Path, actual: &[u8]) -> Option<String> {
    if updating() {
        fs::create_dir_all(path.parent().expect("a golden is in a directory")).expect("make directory");
        fs::write(path, actual).expect("write golden");
        return None;
    }
    match fs::read(path) {
        Ok(expected) if expected == actual => None,
        Ok(_) => Some(format!("{} differs", path.display())),
        Err(error) => Some(format!("{}: {error}", path.display())),
    }
}

/// Golden files with that extension that no case has any more; removes them if asked to.
fn leftovers(extension: &str, kept: &BTreeSet<PathBuf>) -> Vec<String> {
    let mut left = Vec::new();
    for case in fs::read_dir(golden()).expect("goldens").map(|entry| entry.expect("entry").path()) {
        for path in fs::read_dir(case).expect("case").map(|entry| entry.expect("entry").path()) {
            if path.extension().is_some_and(|found| found == extension) && !kept.contains(&path) {
                if updating() {
                    fs::remove_file(&path).expect("remove golden");
                } else {
                    left.push(format!("{} belongs to no case", path.display()));
                }
            }
        }
    }
    left
}

#[test]
fn tables_equal_their_golden_bytes() {
    let mut wrong = Vec::new();
    let mut kept = BTreeSet::new();
    for (case, platform) in cases::all() {
        for (table, bytes) in files(&cases::build(&platform)) {
            let path = golden().join(case).join(table + ".dat");
            wrong.extend(settle(&path, bytes));
            kept.insert(path);
        }
    }
    wrong.extend(leftovers("dat", &kept));
    assert!(wrong.is_empty(), "{}\nif that is meant: UPDATE_GOLDENS=1 cargo test -p acpi", wrong.join("\n"));
}

#[test]
fn the_same_platform_gives_the_same_bytes() {
    for ((_, first), (_, second)) in cases::all().into_iter().zip(cases::all()) {
        assert_eq!(cases::build(&first), cases::build(&second));
    }
}

/// What iasl prints of its version; the test is skipped where there is none.
fn iasl_version() -> Option<String> {
    let said = Command::new("iasl").arg("-v").output().ok().filter(|output| output.status.success());
    if said.is_none() {
        testing::skip("no iasl (package acpica-tools)");
    }
    said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
}

struct Workspace(PathBuf);

impl Workspace {
    fn new() -> Workspace {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("iasl");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("make directory");
        Workspace(path)
    }

    /// Runs iasl and returns all it says; fails if iasl does.
    fn iasl(&self, what: &str, arguments: &[&str]) -> String {
        let output = Command::new("iasl").args(arguments).current_dir(&self.0).output().expect("run iasl");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{what}: iasl {arguments:?} failed:\n{said}");
        said
    }
}

/// Every table of every case is disassembled and compiled again, without a word from iasl. Equal tables of
/// different cases, often the FADT, are done once, and their text is stored once: with the first of the cases.
#[test]
fn iasl_reads_and_compiles_every_table_without_complaint() {
    let Some(version) = iasl_version() else { return };
    let same_version = version.contains(IASL_VERSION);
    assert!(same_version || !updating(), "texts are of iasl {IASL_VERSION}, this is {version}");
    if !same_version {
        println!("texts not compared, they are of iasl {IASL_VERSION}; this is {version}");
    }
    let workspace = Workspace::new();
    let (mut wrong, mut kept, mut done) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (case, platform) in cases::all() {
        let set = cases::build(&platform);
        for (table, bytes) in files(&set) {
            // iasl does not read the RSDP by itself.
            if table == "RSDP" || !done.insert(bytes.to_vec()) {
                continue;
            }
            let text = disassemble(&workspace, case, &table, bytes);
            compile(&workspace, case, &table, bytes);
            if same_version && text.len() <= DSL_BYTES_MAX {
                let path = golden().join(case).join(table + ".dsl");
                wrong.extend(settle(&path, text.as_bytes()));
                kept.insert(path);
            }
        }
    }
    if same_version {
        wrong.extend(leftovers("dsl", &kept));
    }
    assert!(wrong.is_empty(), "{}\nif that is meant: UPDATE_GOLDENS=1 cargo test -p acpi", wrong.join("\n"));
}

/// Leaves `table.dsl` in the workspace; returns it without what changes with time, place and version.
fn disassemble(workspace: &Workspace, case: &str, table: &str, bytes: &[u8]) -> String {
    fs::write(workspace.0.join("table.dat"), bytes).expect("write table");
    let said = workspace.iasl(&format!("{case}/{table}"), &["-d", "table.dat"]);
    let lower = said.to_lowercase();
    let complaints = ["error", "warning", "invalid", "could not", "unknown", "incorrect"];
    assert!(!complaints.iter().any(|word| lower.contains(word)), "{case}/{table}: iasl -d says:\n{said}");
    let text = fs::read_to_string(workspace.0.join("table.dsl")).expect("iasl wrote the text");
    let body = text.split_once("*/\n").map_or(text.as_str(), |(_comment, body)| body);
    // The bytes are in the other golden.
    let body = body.split_once("Raw Table Data").map_or(body, |(body, _bytes)| body);
    assert!(!body.contains("**** "), "{case}/{table}: iasl -d could not read all of it:\n{body}");
    format!("{}\n", body.trim())
}

/// Compiles the workspace's `table.dsl`: no complaint, and what comes out equals what went in.
/// `-on`: without shortening names.
fn compile(workspace: &Workspace, case: &str, table: &str, bytes: &[u8]) {
    let said = workspace.iasl(&format!("{case}/{table}"), &["-on", "-p", "compiled", "table.dsl"]);
    let clean = said.contains("0 Errors, 0 Warnings, 0 Remarks") && !said.contains("Remark ");
    assert!(clean, "{case}/{table}: iasl says:\n{said}");
    let compiled = fs::read(workspace.0.join("compiled.aml")).expect("iasl wrote the table");
    // iasl signs what it compiles, which changes the checksum too (ACPI 6.5, table 5.4).
    let unsigned = |table: &[u8]| [&table[..9], &table[10..28], &table[36..]].concat();
    assert_eq!(unsigned(&compiled), unsigned(bytes), "{case}/{table}: compiled again it differs");
}
