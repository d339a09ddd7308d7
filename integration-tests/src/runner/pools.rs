//! Pools of huge pages on given nodes, for as long as a test runs.

use std::fs;

use anyhow::{Context, Result, ensure};

/// A node's pool, back at its former size when dropped.
pub(crate) struct Pool {
    path: String,
    before: String,
}

/// KiB of the pages of the usual pool ...
pub(crate) const SIZE_2M: u64 = 2 << 10;
/// ... and of the one that not every processor has.
pub(crate) const SIZE_1G: u64 = 1 << 20;

fn pool(node: u32, page_kib: u64) -> String {
    format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{page_kib}kB")
}

impl Pool {
    /// Reserves `pages` pages of `page_kib` KiB on `node`, in addition to those there.
    pub(crate) fn reserve(node: u32, page_kib: u64, pages: u64) -> Result<Self> {
        let path = format!("{}/nr_hugepages", pool(node, page_kib));
        let before = fs::read_to_string(&path).context(path.clone())?.trim().to_owned();
        let wanted = before.parse::<u64>()? + pages;
        let pool = Self { path, before };
        fs::write(&pool.path, wanted.to_string())?;
        let got = pool.size()?;
        ensure!(got == wanted, "node {node} gave {got} huge pages of the {wanted} asked for");
        Ok(pool)
    }

    /// How many pages it is of, free and taken.
    pub(crate) fn size(&self) -> Result<u64> {
        Ok(fs::read_to_string(&self.path)?.trim().parse()?)
    }

    /// Has it be of `pages` pages.
    pub(crate) fn resize(&self, pages: u64) -> Result<()> {
        fs::write(&self.path, pages.to_string())?;
        let got = self.size()?;
        ensure!(got == pages, "the pool is of {got} pages, not {pages}");
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}

/// Free huge pages of `page_kib` KiB on `node`.
pub(crate) fn free(node: u32, page_kib: u64) -> Result<u64> {
    let path = format!("{}/free_hugepages", pool(node, page_kib));
    Ok(fs::read_to_string(&path).context(path)?.trim().parse()?)
}
