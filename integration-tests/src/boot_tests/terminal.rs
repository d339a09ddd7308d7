//! numavisor on a terminal: raw mode, the escape that quits, and the terminal as it was afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::{BootTest, Ctx};
use crate::guest::READY;
use crate::runner::host::Needs;
use crate::runner::vm::{PATIENCE, Start, note};
use crate::sys;

const ONE: Needs =
    Needs { nodes: 1, mib: 600, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "terminal_is_raw_and_the_escape_quits", needs: ONE, run: escape },
    BootTest { name: "terminal_of_others_is_left_alone", needs: ONE, run: background },
];

/// Ctrl-A x.
const ESCAPE: &[u8] = b"\x01x";

fn escape(ctx: &Ctx) -> Result<()> {
    let terminal = openpty(None, None)?;
    let before = tcgetattr(&terminal.slave)?;
    // `setsid -c` puts numavisor in the terminal's foreground: only there may it change the terminal.
    let numavisor = Start::default().command(ctx.payload);
    let mut command = Command::new("setsid");
    command.arg("-c").arg(numavisor.get_program()).args(numavisor.get_args());
    command.stdin(terminal.slave.try_clone()?).stdout(terminal.slave.try_clone()?).stderr(Stdio::null());
    let mut child = Killed(sys::die_with_parent(&mut command).spawn().context("starting numavisor")?);
    let mut keys = File::from(terminal.master.try_clone()?);
    let shown = read_all(terminal.master);
    let mut text = String::new();
    let deadline = Instant::now() + PATIENCE;
    while !text.contains(READY) {
        let more = shown.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let more = more.with_context(|| format!("the guest's init did not come: {text}"))?;
        more.lines().for_each(|line| note(&ctx.transcript, line));
        text.push_str(&more);
    }
    let during = tcgetattr(&terminal.slave)?;
    let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
    ensure!(!during.local_flags.intersects(cooked), "the terminal is not raw: {:?}", during.local_flags);
    // Ctrl-C is the guest's, and a doubled Ctrl-A is a Ctrl-A.
    keys.write_all(b"\x03\x01\x01\n")?;
    thread::sleep(Duration::from_millis(500));
    ensure!(child.0.try_wait()?.is_none(), "Ctrl-C or a doubled Ctrl-A ended numavisor");
    keys.write_all(ESCAPE)?;
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        ensure!(Instant::now() < deadline, "Ctrl-A x did not end numavisor");
        thread::sleep(Duration::from_millis(20));
    };
    ensure!(status.code() == Some(0), "Ctrl-A x ended numavisor with {status}, not with 0");
    let after = tcgetattr(&terminal.slave)?;
    ensure!(after == before, "the terminal is not as it was: {after:?}, it was {before:?}");
    Ok(())
}

/// A start that fails leaves the terminal as it was; a VM in its background runs, and leaves it alone.
fn background(ctx: &Ctx) -> Result<()> {
    let (terminal, directory) = (openpty(None, None)?, tempfile::tempdir()?);
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let before = tcgetattr(&terminal.slave)?;
    // A shell on the terminal, with this before and that after the command.
    let shell = |before: &str, start: &Start, after: &str| -> Result<Killed> {
        let program = start.command(ctx.payload);
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let mut command = Command::new("setsid");
        command.args(["-c", "sh", "-c", &format!("{before} {} {after}", words.join(" "))]);
        command.stdin(terminal.slave.try_clone()?).stdout(terminal.slave.try_clone()?).stderr(Stdio::null());
        note(&ctx.transcript, &format!("$ {command:?}"));
        Ok(Killed(sys::die_with_parent(&mut command).spawn().context("starting a shell")?))
    };
    let _shown = read_all(terminal.master);

    let missing = format!("path={}", path("missing"));
    let status = shell("exec", &Start::default().flag(&["--disk", &missing]), "")?.0.wait()?;
    ensure!(!status.success(), "a VM without its disk started");
    let after = tcgetattr(&terminal.slave)?;
    ensure!(after == before, "after a start that failed the terminal is {after:?}, it was {before:?}");

    // A group of its own, which is not the terminal's.
    let (serial, socket) = (format!("file={}", path("serial")), path("api"));
    let start = Start::default().flag(&["--serial", &serial, "--api-socket", &socket]);
    let mut vm = shell("set -m;", &start, "& wait")?;
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(path("serial")).unwrap_or_default().contains(READY) {
        ensure!(Instant::now() < deadline, "the guest of a VM in the background did not come");
        ensure!(vm.0.try_wait()?.is_none(), "the VM in the background ended");
        thread::sleep(Duration::from_millis(200));
    }
    let during = tcgetattr(&terminal.slave)?;
    ensure!(during == before, "a VM in the background made the terminal {during:?}, it was {before:?}");
    ctx.numavisor(&["ctl", "--api-socket", &socket, "delete"])?;
    vm.0.wait()?;
    Ok(())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_all(master: OwnedFd) -> Receiver<String> {
    let (sender, shown) = mpsc::channel();
    thread::spawn(move || {
        let mut master = File::from(master);
        let mut bytes = [0; 1024];
        while let Ok(count) = master.read(&mut bytes) {
            if count == 0 || sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    shown
}
