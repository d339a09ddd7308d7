//! Loads kernel modules from `/modules`, where `image::modules` put them: `NAME.ko`, and `order` with one line
//! `NAME: DEPENDENCY...` each, dependencies in load order.

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
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => bail!("finit_module {module}: {error}"),
        }
    }
    Ok(())
}
