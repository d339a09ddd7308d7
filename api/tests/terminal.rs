//! `numavisor run` on a terminal: raw while the VM runs, as it was afterwards; the escape quits. Needs KVM for a guest
//! of a few instructions; skipped, and said so, where there is none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vmm::test_kernel::{outs, pvh_elf};

const COM1: u16 = 0x3f8;

/// A guest that says `up` and halts, on a terminal of its own.
fn start() -> Option<(Child, File, impl Fn() -> Termios, tempfile::TempDir)> {
    if !testing::kvm() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, pvh_elf(&outs(&[(COM1, b'u'), (COM1, b'p'), (COM1, b'\n')]), true)).unwrap();
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let stdio = || Stdio::from(slave.try_clone().unwrap());
    // A terminal is only made raw by a process in its foreground: `setsid --ctty` makes it the child's own.
    let child = Command::new("setsid")
        .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_numavisor"), "run", "--memory", "32M", "--kernel"])
        .arg(&kernel)
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut terminal = File::from(master);
    let mut seen = Vec::new();
    while !seen.ends_with(b"up\n") && !seen.ends_with(b"up\r\n") {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    Some((child, terminal, move || tcgetattr(&slave).unwrap(), dir))
}

fn wait_for(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "did not happen in 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_escape_quits_and_the_terminal_is_as_it_was() {
    let Some((mut child, mut terminal, modes, _dir)) = start() else { return };
    wait_for(|| !modes().local_flags.contains(LocalFlags::ICANON));
    assert!(!modes().local_flags.intersects(LocalFlags::ECHO | LocalFlags::ISIG));
    terminal.write_all(b"\x01x").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(modes().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
}

#[test]
fn the_second_signal_ends_the_vm_and_the_terminal_is_as_it_was() {
    let Some((mut child, _terminal, modes, _dir)) = start() else { return };
    wait_for(|| !modes().local_flags.contains(LocalFlags::ICANON));
    let pid = child_of(child.id());
    for _ in 0..2 {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(modes().local_flags.contains(LocalFlags::ICANON));
}

/// `setsid --wait` forks when it leads a group; the signal is for numavisor itself.
fn child_of(pid: u32) -> nix::unistd::Pid {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let number = children.split_whitespace().next().map_or(pid, |child| child.parse().unwrap());
    nix::unistd::Pid::from_raw(number.try_into().unwrap())
}
