//! What the host's KVM did last for a guest that died, from the kernel's tracer: exits with the guest's instruction,
//! and what was injected. AMD's KVM forgets the registers of a vCPU that shut down; this has them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

const TRACE: &str = "/sys/kernel/tracing";
const EVENTS: [&str; 4] = ["kvm_exit", "kvm_inj_virq", "kvm_inj_exception", "kvm_set_irq"];
/// Per CPU: some seconds of exits.
const BUFFER_KIB: &str = "512";
/// `SVM_EXIT_SHUTDOWN` (AMD APM volume 2, appendix C): nothing is written over after that.
const STOP: &str = "traceoff if exit_reason == 0x7f";
/// So many of the last events are shown.
const SHOWN: usize = 60;

/// A tracer that runs.
pub(super) struct KvmTrace(());

impl KvmTrace {
    /// Switched on before there is a guest: that changes the kernel's code.
    pub(super) fn start() -> Result<Self> {
        let _ = mount(Some("tracefs"), TRACE, Some("tracefs"), MsFlags::empty(), None::<&str>);
        set("buffer_size_kb", BUFFER_KIB)?;
        for event in EVENTS {
            // Not every kernel has all of them.
            let _ = set(&format!("events/kvm/{event}/enable"), "1");
        }
        set("events/kvm/kvm_exit/enable", "1")?;
        let _ = set("events/kvm/kvm_exit/trigger", STOP);
        Ok(Self(()))
    }

    /// The last events, oldest first; what follows is traced anew.
    pub(super) fn take(&self) -> Vec<String> {
        let all = fs::read(Path::new(TRACE).join("trace")).unwrap_or_default();
        let all = String::from_utf8_lossy(&all);
        let lines: Vec<&str> = all.lines().filter(|line| !line.starts_with('#')).collect();
        let last = lines[lines.len().saturating_sub(SHOWN)..].iter().map(|&line| line.to_owned()).collect();
        let _ = set("trace", "");
        let _ = set("tracing_on", "1");
        last
    }
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new(TRACE).join(name);
    fs::write(&path, value).with_context(|| format!("{} to {value}", path.display()))
}
