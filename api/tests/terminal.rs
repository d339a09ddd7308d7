//! `numavisor run` on a terminal: raw while the VM runs, as it was afterwards; the escape quits. Needs KVM for a guest
//! of a few instructions; skipped, and said so, where there is none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, LocalFlags, SetArg, Termios, tcflow, tcgetattr, tcsetattr};
use nix::unistd::Pid;
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

#[test]
fn the_terminal_is_as_it_was_when_the_vm_dies_of_a_signal() {
    for signal in [Signal::SIGABRT, Signal::SIGBUS, Signal::SIGSEGV] {
        let Some((mut child, _terminal, modes, _dir)) = start() else { return };
        wait_for(|| !modes().local_flags.contains(LocalFlags::ICANON));
        kill(child_of(child.id()), signal).unwrap();
        assert!(!child.wait().unwrap().success(), "{signal}");
        assert!(modes().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO), "{signal}");
    }
}

/// What the shell prints, up to the first line that begins with `word`: that line's rest.
fn line_of(terminal: &mut File, word: &str) -> String {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        if byte == *b"\n" {
            if let Some(rest) = String::from_utf8_lossy(&line).trim().strip_prefix(word) {
                return rest.trim().to_owned();
            }
            line.clear();
        } else {
            line.push(byte[0]);
        }
    }
}

#[test]
fn a_vm_in_the_background_of_a_terminal_is_never_stopped_and_leaves_the_terminal_alone() {
    if !testing::kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    // Says `up` again and again, each time after some input.
    let echo = [
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef,
    ];
    let up = outs(&[(COM1, b'u'), (COM1, b'p'), (COM1, b'\n')]);
    let code = [&up[..21], &echo].concat();
    std::fs::write(&kernel, pvh_elf(&code, true)).unwrap();
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    // Background processes that write to this terminal would be stopped too.
    let mut modes = tcgetattr(&slave).unwrap();
    modes.local_flags.insert(LocalFlags::TOSTOP);
    tcsetattr(&slave, SetArg::TCSANOW, &modes).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let script = "set -m; \"$@\" & echo pid $!; cat >/dev/null; echo over; fg >/dev/null; echo status $?";
    let stdio = || Stdio::from(slave.try_clone().unwrap());
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_numavisor"), "run"])
        .args(["--log", "debug", "--memory", "32M", "--kernel"])
        .arg(&kernel)
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut terminal = File::from(master);
    let pid = Pid::from_raw(line_of(&mut terminal, "pid").parse().unwrap());
    line_of(&mut terminal, "up");
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    // For `cat`, which is in the foreground.
    terminal.write_all(b"key\n").unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!matches!(state(), 'T' | 't'), "stopped");
    assert_eq!(tcgetattr(&slave).unwrap(), before);
    // In the foreground it has the terminal: what is typed is the guest's.
    terminal.write_all(b"\x04").unwrap();
    line_of(&mut terminal, "over");
    wait_for(|| !tcgetattr(&slave).unwrap().local_flags.contains(LocalFlags::ICANON));
    terminal.write_all(b"guest\n").unwrap();
    line_of(&mut terminal, "guest");
    terminal.write_all(b"\x01x").unwrap();
    assert_eq!(line_of(&mut terminal, "status"), "0");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(tcgetattr(&slave).unwrap(), before);
}

#[test]
fn a_vm_on_a_terminal_that_was_stopped_ends_and_leaves_it_as_it_was() {
    let Some((mut child, mut terminal, modes, _dir)) = start() else { return };
    wait_for(|| !modes().local_flags.contains(LocalFlags::ICANON));
    let pid = child_of(child.id());
    // As Ctrl-S does it in the modes that the shell had.
    let slave = File::open(format!("/proc/{pid}/fd/0")).unwrap();
    tcflow(&slave, FlowArg::TCOOFF).unwrap();
    for _ in 0..2 {
        kill(pid, Signal::SIGTERM).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(modes().local_flags.contains(LocalFlags::ICANON));
    let _ = terminal.flush();
}

/// `setsid --wait` forks when it leads a group; the signal is for numavisor itself.
fn child_of(pid: u32) -> nix::unistd::Pid {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let number = children.split_whitespace().next().map_or(pid, |child| child.parse().unwrap());
    nix::unistd::Pid::from_raw(number.try_into().unwrap())
}
