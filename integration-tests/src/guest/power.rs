//! The ways a guest ends: power-off, reboot, triple fault, and the ACPI power button.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::reboot::{RebootMode, reboot as kernel_reboot};

use super::modules;
use crate::sys;

/// Powers the machine off by ACPI; halts it where that does not work.
pub(crate) fn off() -> ! {
    end(RebootMode::RB_POWER_OFF)
}

/// Resets the machine, in the way `reboot=` on the kernel command line says (`reboot=t` is a triple fault).
pub(crate) fn reboot() -> ! {
    end(RebootMode::RB_AUTOBOOT)
}

/// Starts another kernel in place of this one, without a reset; kernel and initramfs are on these disks.
pub(crate) fn kexec(kernel: &str, initramfs: &str) -> Result<Infallible> {
    let copied = |from: &str, to: &str| -> Result<File> {
        io::copy(&mut File::open(from).with_context(|| from.to_owned())?, &mut File::create(to)?)?;
        Ok(File::open(to)?)
    };
    let (kernel, initramfs) = (copied(kernel, "/kexec-kernel")?, copied(initramfs, "/kexec-initramfs")?);
    let cmdline = CString::new(fs::read_to_string("/proc/cmdline")?.trim_end())?;
    sys::kexec_load(&kernel, &initramfs, &cmdline).context("kexec_file_load")?;
    drop((kernel, initramfs));
    fs::remove_file("/kexec-kernel")?;
    fs::remove_file("/kexec-initramfs")?;
    end(RebootMode::RB_KEXEC)
}

/// A kernel panic; with `panic=-1` on the command line a reset follows at once.
pub(crate) fn crash() -> ! {
    let _ = fs::write("/proc/sys/kernel/sysrq", "1");
    let _ = fs::write("/proc/sysrq-trigger", "c");
    end(RebootMode::RB_AUTOBOOT)
}

fn end(mode: RebootMode) -> ! {
    let answer: Result<Infallible, _> = kernel_reboot(mode);
    println!("@@error reboot {answer:?}");
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// The input device of the ACPI power button.
pub(crate) struct Button(File);

/// `struct input_event` on a 64-bit machine: two 8-byte times, type, code, value.
const EVENT_BYTES: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

impl Button {
    /// Loads the drivers and opens the button's event device.
    pub(crate) fn find() -> Result<Self> {
        modules::load("button")?;
        modules::load("evdev")?;
        for _ in 0..50 {
            if let Some(path) = event_device()? {
                return Ok(Self(File::open(&path).with_context(|| path.clone())?));
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("no input device is called 'Power Button'")
    }

    /// Returns when the button is pressed.
    pub(crate) fn wait(mut self) -> Result<()> {
        let mut event = [0u8; EVENT_BYTES];
        loop {
            self.0.read_exact(&mut event)?;
            let kind = u16::from_ne_bytes([event[16], event[17]]);
            let code = u16::from_ne_bytes([event[18], event[19]]);
            if (kind, code) == (EV_KEY, KEY_POWER) && event[20] == 1 {
                return Ok(());
            }
        }
    }
}

fn event_device() -> Result<Option<String>> {
    let Ok(inputs) = fs::read_dir("/sys/class/input") else { return Ok(None) };
    for input in inputs {
        let name = input?.file_name().to_string_lossy().into_owned();
        let label = fs::read_to_string(format!("/sys/class/input/{name}/device/name")).unwrap_or_default();
        if name.starts_with("event") && label.trim() == "Power Button" {
            return Ok(Some(format!("/dev/input/{name}")));
        }
    }
    Ok(None)
}
