//! System calls of a process or of one of its threads, from the host kernel's tracer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

const TRACE: &str = "/sys/kernel/tracing";
/// Events of calls that open files: those that this kernel has.
const OPENS: [&str; 4] = [
    "syscalls/sys_enter_open",
    "syscalls/sys_enter_openat",
    "syscalls/sys_enter_openat2",
    "syscalls/sys_enter_creat",
];
const ALL: [&str; 1] = ["raw_syscalls/sys_enter"];

/// A tracer that runs.
pub(crate) struct SyscallTrace {
    events: &'static [&'static str],
}

impl SyscallTrace {
    /// Traces what opens files, in all threads of a process and those that they start.
    pub(crate) fn opens(pid: u32) -> Result<Self> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let tasks: Vec<String> = tasks.map(|task| task.file_name().to_string_lossy().into_owned()).collect();
        Self::start(&tasks.join(" "), true, &OPENS)
    }

    /// Traces all calls of one thread.
    pub(crate) fn of_thread(thread: u32) -> Result<Self> {
        Self::start(&thread.to_string(), false, &ALL)
    }

    fn start(tasks: &str, follow: bool, events: &'static [&'static str]) -> Result<Self> {
        let _ = mount(Some("tracefs"), TRACE, Some("tracefs"), MsFlags::empty(), None::<&str>);
        let this = Self { events };
        set("options/event-fork", if follow { "1" } else { "0" })?;
        set("set_event_pid", tasks)?;
        set("trace", "")?;
        let enabled = events.iter().filter(|event| enable(event, "1").is_ok()).count();
        anyhow::ensure!(enabled > 0, "the kernel has none of {events:?}");
        set("tracing_on", "1")?;
        Ok(this)
    }

    /// The calls so far, oldest first.
    pub(crate) fn take(&self) -> Result<Vec<String>> {
        let all = fs::read(Path::new(TRACE).join("trace"))?;
        let all = String::from_utf8_lossy(&all);
        Ok(all.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
    }

    /// The numbers of the calls so far, of a [thread](Self::of_thread).
    pub(crate) fn numbers(&self) -> Result<BTreeSet<i64>> {
        let number = |line: &String| line.split_once(": NR ")?.1.split(' ').next()?.parse().ok();
        Ok(self.take()?.iter().filter_map(number).collect())
    }
}

impl Drop for SyscallTrace {
    fn drop(&mut self) {
        for event in self.events {
            let _ = enable(event, "0");
        }
        let _ = set("set_event_pid", "");
    }
}

fn enable(event: &str, value: &str) -> Result<()> {
    set(&format!("events/{event}/enable"), value)
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new(TRACE).join(name);
    fs::write(&path, value).with_context(|| format!("{} to {value}", path.display()))
}
