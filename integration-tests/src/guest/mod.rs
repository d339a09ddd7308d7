//! Process 1 of a test guest: says what Linux believes of the machine, then obeys the line commands in `commands`.
//!
//! Machine-readable lines start with `@@`: `@@hello` once and first of all, `@@ready` when commands are read,
//! `@@report {json}`, `@@out TEXT` for the output of a shell command, and after each command `@@done NAME {json}` or
//! `@@error NAME TEXT`. A script for runs without anybody at the serial line is given on the kernel command line,
//! `numavisor.do=fill,alloc:64:1,report,poweroff`.

pub(crate) mod commands;
mod guard;
pub(crate) mod memory;
pub(crate) mod modules;
pub(crate) mod power;
pub(crate) mod report;
pub(crate) mod traffic;
pub(crate) mod vsock;

use std::fs;
use std::io::{self, BufRead};

use nix::mount::{MsFlags, mount};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// First of all the lines of a guest; what a benchmark waits for.
pub(crate) const HELLO: &str = "@@hello";
/// The guest reads commands from now on.
pub(crate) const READY: &str = "@@ready";
/// A report follows as JSON.
pub(crate) const REPORT: &str = "@@report ";
/// Output of a shell command.
pub(crate) const OUT: &str = "@@out ";
/// A command was obeyed.
pub(crate) const DONE: &str = "@@done ";
/// A command was not obeyed.
pub(crate) const ERROR: &str = "@@error ";

/// The whole life of the guest's process 1; it ends by powering off.
pub fn guest_init_main() {
    println!("{HELLO}");
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        let _ = fs::create_dir_all(at);
        if let Err(error) = mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
            println!("{ERROR}mount {at}: {error}");
        }
    }
    // Console lines of the kernel would tear ours apart; they are all in the report.
    let _ = fs::write("/proc/sys/kernel/printk", "1");
    // This one's are printed whatever that says, where an emulated host lets a CPU wait for half a minute.
    let _ = fs::write("/proc/sys/kernel/soft_watchdog", "0");
    raw_terminal();

    let mut state = commands::State::default();
    if let Some(script) = scripted() {
        for line in script {
            state.obey(&line);
        }
        power::off();
    }
    println!("{READY}");
    for line in io::stdin().lock().lines() {
        match line {
            Ok(line) => state.obey(&line),
            Err(error) => println!("{ERROR}stdin {error}"),
        }
    }
    power::off();
}

/// No echo: the harness must not read its own commands back.
fn raw_terminal() {
    if let Ok(mut terminal) = tcgetattr(io::stdin()) {
        terminal.local_flags.remove(LocalFlags::ECHO);
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &terminal);
    }
}

fn scripted() -> Option<Vec<String>> {
    let cmdline = fs::read_to_string("/proc/cmdline").ok()?;
    let script = cmdline.split_whitespace().find_map(|word| word.strip_prefix("numavisor.do="))?;
    Some(script.split(',').map(|command| command.replace(':', " ")).collect())
}
