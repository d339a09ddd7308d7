//! Boots one lab host under QEMU, passes its lines on, and makes sure that it ends.

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::disk;
use super::fault::Fault;
use super::job::{Event, JOB_FILE, Job};
use super::shape::HostShape;
use crate::image::emulator::Emulator;
use crate::qmp::Qmp;
use crate::sys;

/// An AMD processor with SVM and without what TCG cannot emulate, so that it says no word about it; and without XSAVE
/// and all that needs it, since TCG does not intercept XSETBV: nested guests would run with the host's XCR0 and not
/// with theirs, and their processes would end in `rt_sigreturn`.
const CPU: &str = "EPYC,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsave,-xsavec,-xsaveopt,-xgetbv1,-xsaves,-avx,-avx2,-fma,-f16c,+svm,+npt";

/// What lab hosts boot, made by `xtask::artifacts`.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    pub(crate) emulator: Emulator,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) payload: PathBuf,
    /// A disk with a distribution on it; what is written to it is forgotten.
    pub(crate) distribution: Option<PathBuf>,
    /// Where scratch disks and logs go.
    pub(crate) work: PathBuf,
}

/// How a host is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The emulator is killed after this ...
    pub(crate) limit: Duration,
    /// ... or when the host has said nothing for so long.
    pub(crate) silence: Duration,
    /// One CPU whose clock counts instructions: slow and repeatable.
    pub(crate) counted: bool,
}

/// Room for what jobs leave behind and what they need meanwhile. The image has holes.
const SCRATCH_MIB: u64 = 256;

const CMDLINE: &str = "console=ttyS0 quiet loglevel=1 reboot=k panic=1 nokaslr mitigations=off";

/// A lab host did not come to its end by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HostFailure {
    /// It gave no sign of life for so long.
    Silent(Duration),
    /// It went on and on.
    TooLong(Duration),
    /// Its kernel or the emulator ended.
    Ended,
    /// Its process 1 ended, which is our own, or there was no memory left for it.
    WithoutRunner,
}

impl HostFailure {
    /// What that says of the emulator, if anything.
    pub(crate) fn fault(self) -> Option<Fault> {
        match self {
            Self::Silent(_) => Some(Fault::HostSilent),
            Self::Ended => Some(Fault::HostEnded),
            Self::TooLong(_) | Self::WithoutRunner => None,
        }
    }
}

/// How Linux panics without process 1, or where it may not be killed for its memory.
const WITHOUT_RUNNER: [&str; 2] = ["Attempted to kill init", "deadlocked on memory"];

impl fmt::Display for HostFailure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(after) => write!(to, "said nothing for {} s and was stopped", after.as_secs()),
            Self::TooLong(after) => write!(to, "was not done after {} s and was stopped", after.as_secs()),
            Self::Ended => to.write_str("ended before its job did"),
            Self::WithoutRunner => to.write_str("lost the process that did its job"),
        }
    }
}

impl Error for HostFailure {}

/// What an error of [`run`] says of the emulator, if anything.
pub(crate) fn fault(error: &anyhow::Error) -> Option<Fault> {
    error.chain().find_map(|cause| cause.downcast_ref::<HostFailure>()).and_then(|failure| failure.fault())
}

/// Keeps the console of a host that failed: another try must not write over what this one said.
fn failed(failure: HostFailure, label: &str, log: &Path) -> Result<anyhow::Error> {
    let kept = log.with_extension("crash.log");
    fs::rename(log, &kept)?;
    Ok(anyhow::Error::new(failure)
        .context(format!("lab host '{label}', whose console is in {}", kept.display())))
}

/// Boots `shape`, has it do `job`, and calls `hear` with each line it says; what it leaves behind is called `label`. The
/// exit code of the job.
pub(crate) fn run(
    images: &Images,
    shape: &HostShape,
    job: &Job,
    label: &str,
    pace: Pace,
    mut hear: impl FnMut(&str),
) -> Result<i32> {
    let scratch = Scratch::make(images, shape, job)?;
    let log_path = images.work.join(format!("{label}.log"));
    let mut log = File::create(&log_path)?;
    let mut command = emulator(images, shape, &scratch, pace);
    let variant = &images.emulator.variant;
    command.args(["-append", &format!("{CMDLINE}{}{}", job.host_cmdline(), variant.cmdline)]);
    if variant.kicked {
        let socket = scratch.directory.path().join("qmp");
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        kick(socket);
    }
    if matches!(job, Job::Shell) {
        println!("this is the lab host '{}'; leave it with `exit`, or kill it with Ctrl-A x", shape.name);
        command.args(["-serial", "mon:stdio"]);
        let status =
            Running(sys::die_with_parent(&mut command).spawn().context("starting qemu-system-x86_64")?)
                .0
                .wait()?;
        return Ok(status.code().unwrap_or(1));
    }
    command.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut emulator =
        Running(sys::die_with_parent(&mut command).spawn().context("starting qemu-system-x86_64")?);
    let console = emulator.0.stdout.take().context("no console")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });

    let deadline = Instant::now() + pace.limit;
    let (mut code, mut failure) = (None, HostFailure::Ended);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left.min(pace.silence)) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                if WITHOUT_RUNNER.iter().any(|end| line.contains(end)) {
                    failure = HostFailure::WithoutRunner;
                }
                if let Some(Event::Exit { code: exit }) = Event::parse(&line) {
                    code = Some(exit);
                }
                // After the end of the job only the kernel speaks.
                if code.is_none() {
                    hear(&line);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let failure = match left > pace.silence {
                    true => HostFailure::Silent(pace.silence),
                    false => HostFailure::TooLong(pace.limit),
                };
                return Err(failed(failure, label, &log_path)?);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = emulator.0.wait()?;
    scratch.collect(images, label)?;
    match code {
        Some(code) => Ok(code),
        None => Err(failed(failure, label, &log_path)?.context(format!("the emulator ended with {status}"))),
    }
}

/// Has the emulator ask all its CPUs to leave their loops, again and again, until it ends: a device that cannot be made
/// has it wait until no CPU looks at what devices there were (`drain_call_rcu`).
fn kick(socket: PathBuf) {
    thread::spawn(move || {
        let nowhere = json!({ "driver": "virtio-rng-pci", "bus": "nowhere" });
        let mut qmp = loop {
            match Qmp::connect(&socket) {
                Ok(qmp) => break qmp,
                Err(_) if socket.parent().is_some_and(Path::exists) => {
                    thread::sleep(Duration::from_millis(100))
                }
                Err(_) => return,
            }
        };
        while qmp.try_ask("device_add", &nowhere).is_ok() {}
    });
}

impl Pace {
    /// For jobs of our own: their host says all the time that it is alive.
    pub(crate) const fn wall(limit_seconds: u64) -> Self {
        Self { limit: Duration::from_secs(limit_seconds), silence: Duration::from_secs(90), counted: false }
    }

    /// The same without minding silence: a command of the user's may be quiet.
    pub(crate) const fn allowing_silence(limit_seconds: u64) -> Self {
        let limit = Duration::from_secs(limit_seconds);
        Self { limit, silence: limit, counted: false }
    }

    /// With a clock that counts instructions.
    pub(crate) const fn counted(limit_seconds: u64) -> Self {
        let limit = Duration::from_secs(limit_seconds);
        Self { limit, silence: limit, counted: true }
    }
}

/// Kills the emulator when it goes out of sight.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk with the job on it, for results to come back on.
struct Scratch {
    directory: tempfile::TempDir,
    image: PathBuf,
}

impl Scratch {
    fn make(images: &Images, shape: &HostShape, job: &Job) -> Result<Self> {
        fs::create_dir_all(&images.work)?;
        let directory = tempfile::tempdir_in(&images.work)?;
        let files = directory.path().join("files");
        fs::create_dir(&files)?;
        fs::write(files.join(JOB_FILE), serde_json::to_vec_pretty(job)?)?;
        let image = directory.path().join(format!("{}.img", shape.name));
        disk::pack(&files, &image, SCRATCH_MIB)?;
        Ok(Self { directory, image })
    }

    fn collect(&self, images: &Images, label: &str) -> Result<()> {
        let to = images.work.join("results").join(label);
        let _ = fs::remove_dir_all(&to);
        disk::unpack(&self.image, &to)
    }
}

fn emulator(images: &Images, shape: &HostShape, scratch: &Scratch, pace: Pace) -> Command {
    let mut command = images.emulator.command();
    command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults"]);
    command.args(["-cpu", &format!("{CPU}{}", images.emulator.variant.cpu)]);
    if pace.counted {
        command.args(["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"]);
    } else if images.emulator.variant.one_thread {
        command.args(["-accel", "tcg,thread=single"]);
    } else {
        command.args(["-accel", "tcg,thread=multi"]);
    }
    command.args(["-smp", &shape.cpus().to_string(), "-m", &format!("{}M", shape.mib())]);
    let mut first = 0;
    for (node, id) in shape.nodes.iter().zip(0u32..) {
        command.args(["-object", &format!("memory-backend-ram,id=m{id},size={}M", node.mib)]);
        let cpus = match node.cpus {
            0 => String::new(),
            count => format!(",cpus={first}-{}", first + count - 1),
        };
        first += node.cpus;
        command.args(["-numa", &format!("node,nodeid={id},memdev=m{id}{cpus}")]);
    }
    for (from, to, value) in shape.distances {
        command.args(["-numa", &format!("dist,src={from},dst={to},val={value}")]);
    }
    for (image, options) in [(&images.payload, ",readonly=on"), (&scratch.image, "")] {
        command.args([
            "-drive",
            &format!("if=virtio,format=raw,cache=unsafe,file={}{options}", image.display()),
        ]);
    }
    if let Some(image) = &images.distribution {
        let options = "if=virtio,format=raw,cache=unsafe,snapshot=on";
        command.args(["-drive", &format!("{options},file={}", image.display())]);
    }
    command.arg("-kernel").arg(&images.kernel).arg("-initrd").arg(&images.initramfs);
    command
}
