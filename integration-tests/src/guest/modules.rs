//! Loads kernel modules from `/modules`, where `image::modules` put them: `NAME.ko`, and `order` with one line
//! `NAME: DEPENDENCY...` each, dependencies in load order. Their parameters stand on the kernel's command line, as
//! `NAME.PARAMETER=VALUE`.

use std::ffi::CString;
use std::fs::{self, File};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// Loads `name` and what it depends on; a module that is there already, or built in, is no error.
pub(crate) fn load(name: &str) -> Result<()> {
    let name = name.replace('-', "_");
    if fs::exists(format!("/sys/module/{name}"))? {
        return Ok(());
    }
    let order = fs::read_to_string("/modules/order").context("/modules/order")?;
    let Some(dependencies) = order
        .lines()
        .find_map(|line| line.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(':')))
    else {
        bail!("no module {name} in this image")
    };
    for module in dependencies.split_whitespace().chain([name.as_str()]) {
        let path = format!("/modules/{module}.ko");
        let file = File::open(&path).with_context(|| path.clone())?;
        match finit_module(&file, &parameters(module), ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => bail!("finit_module {module}: {error}"),
        }
    }
    Ok(())
}

fn parameters(module: &str) -> CString {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    CString::new(parameters_in(&cmdline, module)).unwrap_or_default()
}

fn parameters_in(cmdline: &str, module: &str) -> String {
    let of_module = |word| str::strip_prefix(word, module)?.strip_prefix('.');
    cmdline.split_whitespace().filter_map(of_module).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_module_gets_its_own_parameters() {
        let cmdline = "quiet kvm.a=1 kvm_amd.vgif=0 kvm_amd.npt=1 kvm_amdx.b=2";
        assert_eq!(super::parameters_in(cmdline, "kvm_amd"), "vgif=0 npt=1");
        assert_eq!(super::parameters_in(cmdline, "virtio"), "");
    }
}
