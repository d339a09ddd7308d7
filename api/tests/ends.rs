//! A VM whose input, output or starter is not what one would wish still runs, and ends when it is told to. Needs KVM for a
//! guest of a few instructions; skipped, and said so, where there is none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vmm::test_kernel::{outs, pvh_elf};

const COM1: u16 = 0x3f8;
const SLEEP_CONTROL: u16 = 0x600;
const POWER_OFF: u8 = 5 << 2 | 1 << 5;
/// Longer than anything takes on a busy host.
const LONG: Duration = Duration::from_secs(60);
/// `mov dx, COM1; mov al, 'x'; again: out dx, al; jmp again`
const PRINTS: [u8; 9] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd];
/// `again: mov dx, COM1 + 5; in al, dx; test al, 1; jz again; mov dx, COM1; in al, dx; out dx, al; jmp again`
const ECHOES: [u8; 17] =
    [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef];

/// Says `up` and halts.
fn up() -> Vec<u8> {
    outs(&[(COM1, b'u'), (COM1, b'p'), (COM1, b'\n')])
}

struct Vm {
    child: Child,
    dir: tempfile::TempDir,
}

impl Vm {
    /// `numavisor run` with a guest, changed by `how`.
    fn start(code: &[u8], how: impl FnOnce(&mut Command)) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        Self::within(dir, code, how)
    }

    fn within(dir: tempfile::TempDir, code: &[u8], how: impl FnOnce(&mut Command)) -> Option<Self> {
        if !testing::kvm() {
            return None;
        }
        let kernel = dir.path().join("kernel");
        std::fs::write(&kernel, pvh_elf(code, true)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
        command.args(["run", "--memory", "32M", "--kernel"]).arg(&kernel);
        how(&mut command);
        Some(Self { child: command.spawn().unwrap(), dir })
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn status(&mut self) -> Option<i32> {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("did not end in {LONG:?}");
    }

    /// Twice, and the second not before the first was taken.
    fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        while self.runs() && self.proc("SigPnd") | self.proc("ShdPnd") != 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.signal(Signal::SIGTERM);
        self.status()
    }

    /// A mask of signals from `/proc/PID/status`.
    fn proc(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mask(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

fn read_up(from: &mut impl Read) {
    let mut text = [0; 3];
    from.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"up\n");
}

#[test]
fn signals_end_a_vm_whose_output_and_log_nobody_reads() {
    let (reader, writer) = std::io::pipe().unwrap();
    let vm = Vm::start(&PRINTS, |command| {
        command.args(["--log", "debug"]).stdin(Stdio::null());
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
    });
    let Some(mut vm) = vm else { return };
    // The pipe fills up, then what waits for its reader does.
    std::thread::sleep(Duration::from_millis(500));
    assert!(vm.runs());
    assert_eq!(vm.terminate(), Some(143));
    drop(reader);
}

#[test]
fn a_guest_prints_on_when_its_reader_has_gone() {
    let (reader, writer) = std::io::pipe().unwrap();
    let vm = Vm::start(&[&up()[..21], &PRINTS].concat(), |command| {
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null());
    });
    let Some(mut vm) = vm else { return };
    let mut reader = reader;
    read_up(&mut reader);
    drop(reader);
    std::thread::sleep(Duration::from_millis(200));
    assert!(vm.runs());
    assert_eq!(vm.terminate(), Some(143));
}

#[test]
fn all_of_standard_input_reaches_the_guest_and_its_end_costs_nothing() {
    let vm = Vm::start(&ECHOES, |command| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    });
    let Some(mut vm) = vm else { return };
    let (mut keys, mut shown) = (vm.child.stdin.take().unwrap(), vm.child.stdout.take().unwrap());
    let typed: Vec<u8> = (0..6000_u32).map(|n| b'a' + (n % 26).to_le_bytes()[0]).collect();
    keys.write_all(&typed).unwrap();
    let mut echoed = vec![0; typed.len()];
    shown.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, typed);
    drop(keys);
    assert!(idles(&vm), "the end of its input is read over and over");
    assert_eq!(vm.terminate(), Some(143));
}

/// Whether the serial port's thread sleeps: how often it went to sleep does not grow.
fn idles(vm: &Vm) -> bool {
    let tasks = PathBuf::from(format!("/proc/{}/task", vm.child.id()));
    let mut tasks = std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
    let serial = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap() == "serial\n";
    let task = tasks.find(serial).unwrap();
    let switches = || {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        counts.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum::<u64>()
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(1));
    switches() - before <= 10
}

#[test]
fn a_vm_without_input_runs_and_sleeps() {
    for input in ["null", "ended", "closed"] {
        let vm = Vm::start(&up(), |command| {
            command.stdout(Stdio::piped()).stderr(Stdio::null());
            match input {
                "null" => drop(command.stdin(Stdio::null())),
                "ended" => drop(command.stdin(std::io::pipe().unwrap().0)),
                _ => {
                    let numavisor = format!("exec '{}' \"$@\" <&-", command.get_program().display());
                    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
                    let mut shell = Command::new("sh");
                    shell
                        .args(["-c", &numavisor, "sh"])
                        .args(args)
                        .stdout(Stdio::piped())
                        .stderr(Stdio::null());
                    *command = shell;
                }
            }
        });
        let Some(mut vm) = vm else { return };
        read_up(&mut vm.child.stdout.take().unwrap());
        assert!(vm.runs() && idles(&vm), "{input}");
        assert_eq!(vm.terminate(), Some(143), "{input}");
    }
}

#[test]
fn a_signal_that_the_starter_has_ignored_stays_ignored() {
    for (word, signal) in [("HUP", Signal::SIGHUP), ("INT", Signal::SIGINT)] {
        for serve in [false, true] {
            let vm = Vm::start(&up(), |command| {
                let program = command.get_program().to_owned();
                let mut args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
                if serve {
                    let socket = PathBuf::from(args.last().unwrap()).with_file_name("socket");
                    args = vec!["serve".into(), "--api-socket".into(), socket.into()];
                }
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("trap '' {word}; exec \"$@\""), "sh"]).arg(program).args(args);
                shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
                *command = shell;
            });
            let Some(mut vm) = vm else { return };
            let ready = vm.dir.path().join("socket");
            match serve {
                true => while !ready.exists() || vm.proc("SigBlk") & mask(Signal::SIGTERM) == 0 {},
                false => read_up(&mut vm.child.stdout.take().unwrap()),
            }
            // Blocked signals are for the VM, ignored ones for nobody.
            assert_eq!(vm.proc("SigIgn") & mask(signal), mask(signal));
            assert_eq!(vm.proc("SigBlk") & (mask(signal) | mask(Signal::SIGTERM)), mask(Signal::SIGTERM));
            vm.signal(signal);
            vm.signal(signal);
            std::thread::sleep(Duration::from_millis(200));
            assert!(vm.runs(), "{word} serve={serve}");
            if serve {
                vm.signal(Signal::SIGTERM);
                assert_eq!(vm.status(), Some(0));
            } else {
                assert_eq!(vm.terminate(), Some(143));
            }
        }
    }
}

#[test]
fn a_vm_whose_serial_file_is_a_fifo_that_nobody_reads_runs_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let code = outs(&[(COM1, b'u'), (COM1, b'p'), (COM1, b'\n'), (SLEEP_CONTROL, POWER_OFF)]);
    let vm = Vm::within(dir, &code, |command| {
        command.arg("--serial").arg(format!("file={}", fifo.display()));
    });
    let Some(mut vm) = vm else { return };
    assert_eq!(vm.status(), Some(0));
}

#[test]
fn a_vm_of_another_process_group_is_not_stopped_by_signals_of_the_terminal() {
    // No terminal at all: nothing is read from one, and nothing is written to one.
    let vm = Vm::start(&up(), |command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    });
    let Some(mut vm) = vm else { return };
    read_up(&mut vm.child.stdout.take().unwrap());
    let stops = mask(Signal::SIGTTIN) | mask(Signal::SIGTTOU);
    assert_eq!(vm.proc("SigBlk") & stops, stops);
    assert_eq!(vm.terminate(), Some(143));
}

#[test]
fn one_signal_is_enough_with_a_timeout_whatever_the_guest_does() {
    // The second one resets itself again and again instead of powering off.
    let resets = outs(&[(COM1, b'u'), (COM1, b'p'), (COM1, b'\n'), (0x602, 0x52)]);
    for (code, more) in [(up(), &["--on-reset", "exit"][..]), (resets, &["--on-reset", "reboot"])] {
        let vm = Vm::start(&code, |command| {
            command.args(["--shutdown-timeout", "1"]).args(more);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        });
        let Some(mut vm) = vm else { return };
        read_up(&mut vm.child.stdout.take().unwrap());
        assert!(vm.runs());
        let told = Instant::now();
        vm.signal(Signal::SIGTERM);
        assert_eq!(vm.status(), Some(143));
        assert!(told.elapsed() >= Duration::from_secs(1), "it had no time");
    }
}
