//! Which files a process opens, from the host kernel's tracer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

const TRACE: &str = "/sys/kernel/tracing";
/// Those that this kernel has.
const CALLS: [&str; 4] = ["open", "openat", "openat2", "creat"];

/// A tracer that runs.
pub(crate) struct OpenTrace(());

impl OpenTrace {
    /// Traces all threads of a process, and those that they start.
    pub(crate) fn start(pid: u32) -> Result<Self> {
        let _ = mount(Some("tracefs"), TRACE, Some("tracefs"), MsFlags::empty(), None::<&str>);
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let tasks: Vec<String> = tasks.map(|task| task.file_name().to_string_lossy().into_owned()).collect();
        set("options/event-fork", "1")?;
        set("set_event_pid", &tasks.join(" "))?;
        set("trace", "")?;
        for call in CALLS {
            let _ = enable(call, "1");
        }
        enable("openat", "1")?;
        set("tracing_on", "1")?;
        Ok(Self(()))
    }

    /// The calls so far, oldest first.
    pub(crate) fn take(&self) -> Result<Vec<String>> {
        let all = fs::read(Path::new(TRACE).join("trace"))?;
        let all = String::from_utf8_lossy(&all);
        Ok(all.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
    }
}

impl Drop for OpenTrace {
    fn drop(&mut self) {
        for call in CALLS {
            let _ = enable(call, "0");
        }
        let _ = set("set_event_pid", "");
    }
}

fn enable(call: &str, value: &str) -> Result<()> {
    set(&format!("events/syscalls/sys_enter_{call}/enable"), value)
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new(TRACE).join(name);
    fs::write(&path, value).with_context(|| format!("{} to {value}", path.display()))
}
