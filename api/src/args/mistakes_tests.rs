//! Every flag and every key with invalid values of every kind: each error is ours, with field, value and rule.

use super::refuse::line;
use super::{Cli, Command, VmFlags, device, hmat, numa};
use clap::{CommandFactory, Parser};
use resources::VmSpec;

/// Values that are wrong for most.
const VALUES: [&str; 12] =
    ["x", "-1", "1.5", "+1", "0x10", "300", "70000", "5000000000", "99999999999999999999", "", "3-1", "0,0"];
/// What libraries say, without field, value or rule.
const FOREIGN: [&str; 9] = [
    "invalid digit",
    "number too",
    "target type",
    "provided string",
    "cannot parse",
    "invalid value",
    "unexpected",
    "error:",
    "For more information",
];

fn check(line: &str, field: &str, value: &str) {
    assert!(!line.contains('\n'), "{field}={value}: {line}");
    for foreign in FOREIGN {
        assert!(!line.contains(foreign), "{field}={value}: {line}");
    }
    let rest = line.strip_prefix(field).and_then(|rest| rest.strip_prefix(": "));
    let rest = rest.unwrap_or_else(|| panic!("{field}={value}: does not begin with the field: {line}"));
    let shown = if value.is_empty() { "``" } else { value };
    let part = value.split([',', '-']).any(|part| !part.is_empty() && rest.contains(part));
    assert!(
        rest.contains(shown) || part || rest.starts_with("a value is required"),
        "{field}={value}: no value: {line}"
    );
}

/// Gives each flag of a command and of those below it each value.
fn walk(command: &clap::Command, words: &[String], seen: &mut usize) {
    // What stands before a word that is not the first.
    let mut before: Vec<String> = Vec::new();
    for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
        let long = argument.get_long().map(|long| format!("--{long}"));
        let field = long.clone().unwrap_or_else(|| argument.get_id().to_string().to_uppercase());
        for value in VALUES {
            // A word alone that begins with a dash is a flag.
            if long.is_none() && value.starts_with('-') {
                continue;
            }
            let before = if long.is_none() { before.as_slice() } else { &[] };
            let word = long.as_ref().map_or_else(|| value.to_owned(), |long| format!("{long}={value}"));
            if let Err(error) = Cli::try_parse_from(words.iter().chain(before).chain([&word])) {
                let line = line(&error);
                // What else is missing comes after what is wrong.
                if !line.contains(": missing, must be given") && !line.starts_with("a command is missing") {
                    check(&line, &field, value);
                    *seen += 1;
                }
            }
        }
        if long.is_none() {
            before.push("0".to_owned());
        }
    }
    for deeper in command.get_subcommands() {
        let words: Vec<String> = words.iter().cloned().chain([deeper.get_name().to_owned()]).collect();
        walk(deeper, &words, seen);
    }
}

#[test]
fn each_flag_refuses_what_it_cannot_be_with_its_name_the_value_and_the_rule() {
    let mut seen = 0;
    walk(&Cli::command(), &["numavisor".to_owned()], &mut seen);
    assert!(seen > 200, "{seen} refusals");
}

fn refused(flag: &str, text: &str) -> Option<String> {
    let cli = Cli::try_parse_from(["numavisor", "plan", flag, text]).unwrap();
    let Command::Plan(args) = cli.command else { unreachable!("it is plan") };
    let flags: &VmFlags = &args.vm;
    flags.put_into(&mut VmSpec::default()).err().map(|failure| failure.line)
}

#[test]
fn each_key_refuses_what_it_cannot_be_with_its_name_the_value_and_the_rule() {
    let flags = [
        ("--numa", "--numa[0]", "", numa::KEYS),
        ("--disk", "--disk[0]", "", device::DISK_KEYS),
        ("--net", "--net[0]", "", device::NET_KEYS),
        ("--vsock", "--vsock", "", device::VSOCK_KEYS),
        ("--console", "--console", "", device::CONSOLE_KEYS),
        ("--attribute", "--attribute[0]", "0:0,", hmat::ATTRIBUTE_KEYS),
        ("--memory-cache", "--memory-cache[0]", "", hmat::CACHE_KEYS),
    ];
    let mut seen = 0;
    for (flag, field, before, keys) in flags {
        for key in keys.split(", ") {
            for value in VALUES.into_iter().filter(|value| !value.contains(',')) {
                let line = refused(flag, &format!("{before}{key}={value}"));
                let about = format!("{field}.{key}");
                match line {
                    // Another key that has to be there.
                    Some(line) if !line.starts_with(&about) && line.contains(": missing") => {}
                    Some(line) => {
                        check(&line, &about, value);
                        seen += 1;
                    }
                    None => {}
                }
            }
            let twice = refused(flag, &format!("{before}{key}=0,{key}=0"));
            if let Some(line) = twice.filter(|line| !line.contains("`0`")) {
                assert_eq!(line, format!("{field}.{key}: given twice, must be given once"));
            }
        }
    }
    assert!(seen > 150, "{seen} refusals");
}
