//! One running `numavisor run`: its command line, its guest's serial line, its end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::payload::{GuestKernel, Payload};
use super::spec::GuestSpec;
use crate::guest::report::GuestReport;
use crate::guest::{DONE, ERROR, OUT, READY};
use crate::lab::fault::Fault;
use crate::sys;

/// How long a guest may take for one step. An emulated one needs up to 20 s for the longest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What numavisor itself says is led by this in a transcript.
pub(crate) const ERRORS: &str = "numavisor: ";

/// Exit status of numavisor after a triple fault, and the line that goes with it.
const CRASH: i32 = 5;
const CRASH_LINE: &str = "numavisor: the guest crashed: ";
/// What the guest printed may still come after that.
const LAST_LINES: usize = 20;

/// vCPUs are watched for so long when their guest does not answer ...
const WATCHED: Duration = Duration::from_secs(1);
/// ... and are busy if together they ran for so much of it, in hundredths of a second as the kernel counts them.
const BUSY_TICKS: u64 = 80;

/// A guest that died, or did not answer in time.
#[derive(Debug)]
pub(crate) struct GuestFailure {
    text: String,
    fault: Option<Fault>,
}

impl fmt::Display for GuestFailure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

impl Error for GuestFailure {}

/// What an error says of its host, if anything.
pub(crate) fn fault(error: &anyhow::Error) -> Option<Fault> {
    error.chain().find_map(|cause| cause.downcast_ref::<GuestFailure>()).and_then(|failure| failure.fault)
}

/// How a guest is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) kernel: GuestKernel,
    /// Flags beside kernel, image and kernel command line.
    pub(crate) flags: Vec<String>,
    /// More words for the kernel command line.
    pub(crate) cmdline: String,
    /// System calls that the host forbids, as containers do.
    pub(crate) forbidden: Vec<i64>,
}

impl Start {
    /// Starts this guest.
    pub(crate) fn of(spec: &GuestSpec) -> Self {
        Self { flags: spec.flags(), ..Self::default() }
    }

    /// The same with another kernel.
    pub(crate) fn kernel(mut self, kernel: GuestKernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// The same with more flags.
    pub(crate) fn flag(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// The same with more words for the guest's kernel.
    pub(crate) fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = words.to_owned();
        self
    }

    /// `numavisor run` with all of it.
    pub(crate) fn command(&self, payload: &Payload) -> Command {
        let mut command = Command::new(payload.numavisor());
        command.arg("run").arg("--kernel").arg(payload.kernel(self.kernel));
        command.arg("--initramfs").arg(payload.initramfs(self.kernel));
        command.arg("--cmdline").arg(format!("console=ttyS0 quiet panic=-1 {}", self.cmdline).trim_end());
        command.args(&self.flags);
        command
    }
}

/// A started guest; killed when it goes out of sight.
pub(crate) struct Vm {
    child: Child,
    lines: Receiver<String>,
    transcript: Rc<RefCell<String>>,
}

impl Vm {
    /// Starts numavisor; `transcript` collects what it and the guest say.
    pub(crate) fn start(payload: &Payload, start: &Start, transcript: &Rc<RefCell<String>>) -> Result<Self> {
        let mut command = start.command(payload);
        if !start.forbidden.is_empty() {
            sys::forbid(&mut command, &start.forbidden)?;
        }
        Self::spawn(command, transcript)
    }

    /// Starts a VMM by this command.
    pub(crate) fn spawn(mut command: Command, transcript: &Rc<RefCell<String>>) -> Result<Self> {
        note(transcript, &format!("$ {command:?}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child =
            sys::die_with_parent(&mut command).spawn().with_context(|| format!("starting {command:?}"))?;
        Self::of(child, transcript)
    }

    /// A process just started, with pipes for its three standard files.
    pub(crate) fn of(mut child: Child, transcript: &Rc<RefCell<String>>) -> Result<Self> {
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take().context("no standard output")?;
        let errors = child.stderr.take().context("no standard error")?;
        forward(output, "", sender.clone());
        forward(errors, ERRORS, sender);
        Ok(Self { child, lines, transcript: Rc::clone(transcript) })
    }

    /// The process that is the VMM.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the guest reads commands.
    pub(crate) fn ready(&mut self) -> Result<()> {
        self.line("the guest's init", |line| (line == READY).then_some(())).map(|_| ())
    }

    /// Has the guest obey a command and waits for its answer.
    pub(crate) fn ask(&mut self, command: &str) -> Result<Value> {
        self.tell(command)?;
        let name = command.split_whitespace().next().unwrap_or_default();
        let (done, error) = (format!("{DONE}{name} "), format!("{ERROR}{name} "));
        let answer = self.line(&format!("the answer to '{command}'"), |line| {
            let refusal = line.strip_prefix(&error).map(|text| Err(text.to_owned()));
            line.strip_prefix(&done).map(|text| Ok(text.to_owned())).or(refusal)
        })?;
        let answer = answer.map_err(|text| anyhow::anyhow!("the guest could not '{command}': {text}"))?;
        serde_json::from_str(&answer).with_context(|| format!("'{answer}'"))
    }

    /// Has a shell in the guest run a line: its exit status and what it said.
    pub(crate) fn shell(&mut self, line: &str) -> Result<(i64, String)> {
        self.tell(&format!("sh {line}"))?;
        let output = RefCell::new(String::new());
        let (done, error) = (format!("{DONE}sh "), format!("{ERROR}sh "));
        let answer = self.line(&format!("the end of '{line}'"), |said| {
            if let Some(text) = said.strip_prefix(OUT) {
                output.borrow_mut().push_str(&format!("{text}\n"));
            }
            let refusal = said.strip_prefix(&error).map(|text| Err(text.to_owned()));
            said.strip_prefix(&done).map(|text| Ok(text.to_owned())).or(refusal)
        })?;
        let answer = answer.map_err(|text| anyhow::anyhow!("the guest could not run '{line}': {text}"))?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok((answer["status"].as_i64().unwrap_or(-1), output.into_inner()))
    }

    /// The same for a line that must succeed.
    pub(crate) fn output(&mut self, line: &str) -> Result<String> {
        let (status, output) = self.shell(line)?;
        ensure!(status == 0, "'{line}' ended with {status} in the guest: {output}");
        Ok(output.trim_end().to_owned())
    }

    /// Sends a line to the guest.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no standard input")?;
        note(&self.transcript, &format!("> {line}"));
        input.write_all(format!("{line}\n").as_bytes()).context("writing to the guest's serial line")
    }

    /// What the guest believes of its machine.
    pub(crate) fn report(&mut self) -> Result<GuestReport> {
        let answer = self.ask("packed")?;
        GuestReport::unpacked(answer.as_str().unwrap_or_default()).context("the guest's report")
    }

    /// Waits for a line that `wanted` accepts.
    pub(crate) fn line<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.line_within(PATIENCE, what, wanted)
    }

    /// The same with another patience.
    pub(crate) fn line_within<T>(
        &mut self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    note(&self.transcript, &line);
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let text = format!("{what} did not come within {} s", patience.as_secs());
                    return Err(self.silent(text));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    let said = self.transcript.borrow().lines().rev().take(LAST_LINES).any(is_crash);
                    let fault = (status.code() == Some(CRASH) && said).then_some(Fault::GuestCrashed);
                    let text = format!("numavisor ended ({status}) before {what}");
                    return Err(GuestFailure { text, fault }.into());
                }
            }
        }
    }

    /// An error for a guest that does not answer, with what its vCPUs do meanwhile.
    fn silent(&self, text: String) -> anyhow::Error {
        let before = vcpu_ticks(self.pid());
        thread::sleep(WATCHED);
        let ran: BTreeMap<String, u64> = vcpu_ticks(self.pid())
            .into_iter()
            .map(|(name, ticks)| {
                let then = before.get(&name).copied().unwrap_or(ticks);
                (name, ticks.saturating_sub(then))
            })
            .collect();
        note(&self.transcript, &format!("hundredths of {WATCHED:?} that each vCPU ran: {ran:?}"));
        note(&self.transcript, &threads(self.pid()));
        let fault = (ran.values().sum::<u64>() >= BUSY_TICKS).then_some(Fault::GuestBusy);
        GuestFailure { text, fault }.into()
    }

    /// Powers the guest off and expects status 0.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.tell("poweroff")?;
        let status = self.ended()?;
        ensure!(
            status.code() == Some(0),
            "numavisor ended with {status} after a guest power-off, not with 0"
        );
        Ok(())
    }

    /// Waits for the process to end by itself.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Ok(line) = self.lines.try_recv() {
                note(&self.transcript, &line);
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                note(&self.transcript, &threads(self.pid()));
                bail!("numavisor did not end within {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it is still running.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends the VMM a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal).context("kill")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(50)) {
            note(&self.transcript, &line);
        }
    }
}

/// A line of a transcript without its time.
pub(crate) fn untimed(line: &str) -> &str {
    line.trim_start().split_once(' ').map_or(line, |(_, line)| line)
}

/// Of a line of a transcript.
fn is_crash(line: &str) -> bool {
    untimed(line).strip_prefix(ERRORS).is_some_and(|said| said.starts_with(CRASH_LINE))
}

/// Processor time of each vCPU's thread, by name; QEMU's have others.
fn vcpu_ticks(pid: u32) -> BTreeMap<String, u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| ticks(&stat)).collect()
}

/// Name and time (user, with what the guest had, and system) in a `stat` of a vCPU's thread: proc(5).
fn ticks(stat: &str) -> Option<(String, u64)> {
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let is_vcpu = name.starts_with("vcpu") || (name.starts_with("CPU ") && name.ends_with("/KVM"));
    let time = |field: usize| fields.split(' ').nth(field)?.parse::<u64>().ok();
    let sum = time(11)? + time(12)?;
    is_vcpu.then(|| (name.to_owned(), sum))
}

/// What each thread of a process is at, for who wonders why it does not go on.
fn threads(pid: u32) -> String {
    let mut text = String::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let state = read("stat").rsplit(") ").next().unwrap_or_default().chars().take(1).collect::<String>();
        let stack = read("stack").lines().take(8).collect::<Vec<_>>().join(" < ");
        let (name, at) = (read("comm"), read("wchan"));
        text += &format!("thread {} {state} in {at}, {} {stack}\n", name.trim(), read("syscall").trim());
    }
    text
}

/// Adds a line to a transcript, led by the seconds since the first of this process. A report is long and is checked as a
/// whole; its text would hide the rest.
pub(crate) fn note(transcript: &Rc<RefCell<String>>, line: &str) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let mut transcript = transcript.borrow_mut();
    transcript.push_str(&format!("{:7.1} ", BEGAN.get_or_init(Instant::now).elapsed().as_secs_f64()));
    transcript.push_str(&line.chars().take(400).collect::<String>());
    transcript.push('\n');
}

fn forward(from: impl Read + Send + 'static, prefix: &'static str, to: mpsc::Sender<String>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = format!("{prefix}{}", String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
            line.clear();
            if to.send(text).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{GuestFailure, fault, is_crash, ticks};
    use crate::lab::fault::Fault;
    use anyhow::Context;

    #[test]
    fn times_are_taken_of_vcpus_only() {
        let stat = |name: &str| format!("77 ({name}) R 1 2 3 4 5 6 7 8 9 10 1100 120 0 0 20 0 9 0 5");
        assert_eq!(ticks(&stat("vcpu3")), Some(("vcpu3".to_owned(), 1220)));
        assert_eq!(ticks(&stat("CPU 0/KVM")), Some(("CPU 0/KVM".to_owned(), 1220)));
        assert_eq!(ticks(&stat("numavisor")), None);
        assert_eq!(ticks("77 (vcpu3) R 1"), None);
    }

    #[test]
    fn a_crash_is_what_numavisor_says_and_not_what_a_guest_prints() {
        assert!(is_crash("   12.3 numavisor: numavisor: the guest crashed: vCPU 0 shut down"));
        assert!(!is_crash("   12.3 numavisor: the guest crashed: vCPU 0 shut down"));
    }

    #[test]
    fn a_fault_is_found_below_what_was_said_about_it() {
        let failure = GuestFailure { text: "no answer".to_owned(), fault: Some(Fault::GuestBusy) };
        let error = Err::<(), _>(anyhow::Error::new(failure)).context("first").context("second").unwrap_err();
        assert_eq!(fault(&error), Some(Fault::GuestBusy));
        assert_eq!(fault(&anyhow::anyhow!("no answer")), None);
    }
}
