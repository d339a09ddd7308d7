//! The DSDT's methods, run by ACPICA's own interpreter (`acpiexec`), which is the one in Linux.
//! Whether Linux uses them as it should is for the boot tests.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use support::cases;

/// Skips the test where it is not.
fn acpiexec_is_installed() -> bool {
    let installed = Command::new("acpiexec").arg("-v").stdin(Stdio::null()).output().is_ok();
    if !installed {
        testing::skip("no acpiexec (package acpica-tools)");
    }
    installed
}

/// What acpiexec says when it runs `commands` on the DSDT of the case with a host bridge per domain. Every
/// register reads as `register`.
fn run(test: &str, register: &str, commands: &str) -> String {
    let (_, platform) =
        cases::all().into_iter().find(|(name, _)| *name == "pci-bridge-per-domain").expect("case");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.dat"));
    let set = cases::build(&platform);
    fs::write(&path, &set.get(b"DSDT").expect("a DSDT").bytes).expect("write table");
    let mut command = Command::new("acpiexec");
    command.args(["-fv", register, "-b", commands]).arg(&path).stdin(Stdio::null());
    let output = command.output().expect("run acpiexec");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("ACPI Error") && !said.contains("AE_"), "{said}");
    said
}

#[test]
fn the_event_method_notifies_the_power_button_only_if_its_bit_is_set() {
    if !acpiexec_is_installed() {
        return;
    }
    let notified = "Device Notify on [PWRB]";
    let pressed = run("pressed", "0x1", r"evaluate \_SB.GED_._EVT 5");
    assert!(pressed.contains(notified) && pressed.contains("Value 0x80"), "{pressed}");
    let other = run("other", "0xFE", r"evaluate \_SB.GED_._EVT 5");
    assert!(!other.contains(notified), "{other}");
}

#[test]
fn processors_and_host_bridges_say_their_domain() {
    if !acpiexec_is_installed() {
        return;
    }
    for (device, domain) in [("C001", 0), ("C002", 1), ("P000", 0), ("P001", 1)] {
        let said = run(device, "0", &format!(r"evaluate \_SB.{device}._PXM"));
        assert!(said.contains(&format!("[Integer] = {domain:016X}")), "{said}");
    }
}

/// The first DWORD says what was wrong, the third what is granted (PCI Firmware Specification 3.3, 4.5.1).
#[test]
fn a_host_bridge_grants_what_it_knows_and_says_what_was_wrong() {
    if !acpiexec_is_installed() {
        return;
    }
    let uuid = "5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66";
    let other = "00 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66";
    let cases = [
        ("granted", uuid, 1, "00 00 00 00 1F 01 00 00 1D", "00 00 00 00 1F 01 00 00 1D 00 00 00"),
        ("masked", uuid, 1, "01 00 00 00 1F 01 00 00 3F", "11 00 00 00 1F 01 00 00 1D 00 00 00"),
        ("revision", uuid, 2, "00 00 00 00 1F 01 00 00 10", "08 00 00 00 1F 01 00 00 10 00 00 00"),
        ("uuid", other, 1, "00 00 00 00 1F 01 00 00 1F", "04 00 00 00 1F 01 00 00 1F 00 00 00"),
    ];
    for (name, uuid, revision, asked, answer) in cases {
        let said =
            run(name, "0", &format!(r"evaluate \_SB.P001._OSC ({uuid}) {revision} 3 ({asked} 00 00 00)"));
        assert!(said.contains(answer), "{name}: {said}");
    }
}
