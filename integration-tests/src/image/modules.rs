//! Picks kernel modules and all they depend on out of an unpacked kernel package, in load order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::kernel::Kernel;
use super::newc::Archive;

/// Puts the modules called `wanted`, with their dependencies, into `/modules` of an image. Names the kernel has
/// built in, or does not know, are passed over.
pub(crate) fn add(archive: &mut Archive, kernel: &Kernel, wanted: &[&str]) -> Result<()> {
    let known = dependencies(kernel)?;
    let mut files: BTreeMap<String, &Path> = BTreeMap::new();
    let mut order = String::new();
    for wanted in wanted {
        let Some(module) = known.get(&wanted.replace('-', "_")) else { continue };
        let names: Vec<String> = module.needs.iter().map(|path| name(path)).collect();
        order.push_str(&format!("{}: {}\n", name(&module.path), names.join(" ")));
        for path in module.needs.iter().chain([&module.path]) {
            files.insert(name(path), path);
        }
    }
    for (name, path) in files {
        archive.file(&format!("modules/{name}.ko"), 0o644, &plain_bytes(path)?);
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

struct Module {
    path: PathBuf,
    /// In load order.
    needs: Vec<PathBuf>,
}

/// Reads what `depmod` says of the package; it writes its files beside the modules.
fn dependencies(kernel: &Kernel) -> Result<BTreeMap<String, Module>> {
    let modules = kernel.modules_directory();
    let table = modules.join("modules.dep");
    if !table.exists() {
        let status = Command::new("depmod")
            .arg("-b")
            .arg(&kernel.root)
            .arg(&kernel.release)
            .status()
            .context("depmod")?;
        ensure!(status.success(), "depmod for {} failed: {status}", kernel.release);
    }
    let text = std::fs::read_to_string(&table).with_context(|| format!("reading {}", table.display()))?;
    let mut known = BTreeMap::new();
    for line in text.lines() {
        let Some((path, needs)) = line.split_once(':') else {
            bail!("{}: odd line '{line}'", table.display())
        };
        let path = modules.join(path);
        let needs = needs.split_whitespace().rev().map(|need| modules.join(need)).collect();
        known.insert(name(&path), Module { path, needs });
    }
    Ok(known)
}

fn name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// Newer packages compress each module; unpacking them here is cheaper than in an emulated guest.
fn plain_bytes(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return std::fs::read(path).with_context(|| format!("reading {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        other => bail!("{}: no way to unpack {other:?}", path.display()),
    };
    let output =
        Command::new(tool).arg("-dc").arg(path).output().with_context(|| format!("running {tool}"))?;
    ensure!(output.status.success(), "{tool} could not unpack {}", path.display());
    Ok(output.stdout)
}
