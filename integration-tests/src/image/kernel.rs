//! Stock Debian kernels, fetched as packages into the cache and never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::{Index, Private};

/// A kernel package unpacked in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As in `uname -r`.
    pub(crate) release: String,
    /// Where the package is unpacked.
    pub(crate) root: PathBuf,
}

/// The package every Debian has a kernel for virtual machines by.
const CLOUD: &str = "linux-image-cloud-amd64";
const IMAGE: &str = "linux-image-";
/// What counts as the newer kernel.
const NEWER: (u32, u32) = (6, 12);

impl Kernel {
    /// The kernel that this Debian would install in a cloud guest.
    pub(crate) fn default_of(cache: &Path) -> Result<Self> {
        cached(cache, "default", || {
            let name = Index::Machine.dependency(CLOUD, IMAGE)?;
            Ok((Index::Machine, name.with_context(|| format!("{CLOUD} depends on no kernel"))?))
        })
    }

    /// A kernel of 6.12 or later: from the configured sources, else from backports, else from the next release.
    pub(crate) fn newer(cache: &Path) -> Result<Self> {
        cached(cache, "newer", || {
            if let Some(name) = newest(&Index::Machine)? {
                return Ok((Index::Machine, name));
            }
            let mut refusals = Vec::new();
            for suite in [format!("{}-backports", codename()?), "trixie".to_owned()] {
                println!("no kernel of {}.{} here; asking {suite}", NEWER.0, NEWER.1);
                let index = Private::open(cache, &suite).map(Index::Private);
                match index.and_then(|index| Ok((newest(&index)?, index))) {
                    Ok((Some(name), index)) => return Ok((index, name)),
                    Ok((None, _)) => refusals.push(format!("{suite} has none")),
                    Err(error) => refusals.push(format!("{suite}: {error:#}")),
                }
            }
            bail!("no kernel of {}.{} or later to be had: {}", NEWER.0, NEWER.1, refusals.join("; "))
        })
    }

    /// The compressed kernel.
    pub(crate) fn bzimage(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Where its modules are.
    pub(crate) fn modules_directory(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

/// The kernel in `cache` under `kind`, unpacked there first if it is not; `find` names index and package.
fn cached(cache: &Path, kind: &str, find: impl FnOnce() -> Result<(Index, String)>) -> Result<Kernel> {
    let directory = cache.join("kernels").join(kind);
    let (root, mark) = (directory.join("root"), directory.join("release"));
    if let Ok(release) = fs::read_to_string(&mark) {
        return Ok(Kernel { release, root });
    }
    let (index, package) = find()?;
    println!("fetching {package} (the {kind} guest kernel)");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    index.unpack(&package, &root)?;
    // Debian merges /lib into /usr; depmod and we look into /lib.
    if !root.join("lib/modules").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).context("linking lib to usr/lib")?;
    }
    let release = package.trim_start_matches(IMAGE).trim_end_matches("-unsigned").to_owned();
    let kernel = Kernel { release, root };
    if !kernel.bzimage().exists() {
        bail!("{package} has no {}", kernel.bzimage().display());
    }
    fs::write(&mark, &kernel.release)?;
    Ok(kernel)
}

/// The newest cloud kernel of an index that is new enough.
fn newest(index: &Index) -> Result<Option<String>> {
    let mut found: Vec<(Vec<u32>, String)> = index
        .names(r"^linux-image-[0-9].*-cloud-amd64$")?
        .into_iter()
        .map(|name| (numbers(&name), name))
        .filter(|(version, _)| version.len() >= 3 && (version[0], version[1]) >= NEWER)
        .collect();
    found.sort();
    Ok(found.pop().map(|(_, name)| name))
}

/// The numbers of a version, `6.12.117+deb12` giving 6, 12, 117, 12; meta-packages have only two.
fn numbers(package: &str) -> Vec<u32> {
    let version = package.trim_start_matches(IMAGE).split("-cloud").next().unwrap_or_default();
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The name of this Debian's release.
pub(crate) fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release has no VERSION_CODENAME")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_order_as_numbers_and_meta_packages_are_short() {
        assert_eq!(numbers("linux-image-6.12.117+deb12-cloud-amd64"), [6, 12, 117, 12]);
        assert_eq!(numbers("linux-image-6.12-cloud-amd64"), [6, 12]);
        assert!(
            numbers("linux-image-6.12.117+deb12-cloud-amd64")
                > numbers("linux-image-6.12.9+deb12-cloud-amd64")
        );
    }
}
