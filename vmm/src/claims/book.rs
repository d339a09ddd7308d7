//! The claims of running VMs while the directory is locked, and a claim of one's own. Which files there are is
//! `record`'s knowledge.

use crate::claims::error::failed;
use crate::claims::lock::Lock;
use crate::claims::record::{Record, SUFFIX, UNFINISHED};
use crate::claims::{Claims, ClaimsError, NumaStat, Survey, Touched, touched};
use crate::lock_file::{FileAccess, plain};
use crate::ofd_lock::WriteLock;
use resources::{Claim, Ledger, PnodeId};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A VM that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    /// The name of its file.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// When that started, in clock ticks since the host did.
    pub started: u64,
    /// What it was promised.
    pub claim: Claim,
    /// What it was promised beside that and released: room for others.
    pub released: Claim,
    /// What of its claim it has touched, where that is known.
    pub touched: Option<Touched>,
}

/// The claims of a host. Nobody else claims anything as long as it is open.
#[derive(Debug)]
pub struct Book {
    claims: Claims,
    /// The running VMs, by the names of their files.
    pub living: Vec<Living>,
    /// The same VMs claim the same as when the survey was made.
    pub as_surveyed: bool,
    lock: Lock,
}

impl Living {
    /// What all of them were promised and have not touched.
    pub fn ledger(living: &[Self]) -> Ledger {
        ledger(living.iter())
    }

    /// The same without one that is held here: what a VM that changes its own claim has to fit beside.
    pub fn ledger_without(living: &[Self], held: &Held) -> Ledger {
        ledger(living.iter().filter(|vm| !held.path.ends_with(&vm.name)))
    }

    /// What all of them together have of a pnode, beside what their policies wanted. VMs that cannot be asked are left
    /// out.
    pub fn stat(living: &[Self], pnode: PnodeId) -> NumaStat {
        let of = |vm: &Self| vm.touched.as_ref()?.stat.get(&pnode).copied();
        living.iter().filter_map(of).fold(NumaStat::default(), |sum, stat| sum.plus(&stat))
    }
}

/// A claim, as long as it is kept: until it is dropped, or the process ends, however it does.
#[derive(Debug)]
pub struct Held {
    claims: Claims,
    path: PathBuf,
    file: WriteLock,
}

impl Book {
    pub(super) fn new(claims: Claims, lock: Lock, mut living: Vec<Living>, survey: &Survey) -> Self {
        let alike =
            |(now, before): (&Living, &Living)| (&now.name, &now.claim) == (&before.name, &before.claim);
        let as_surveyed = living.len() == survey.living.len() && living.iter().zip(&survey.living).all(alike);
        for vm in &mut living {
            let before = survey.living.iter().find(|before| before.name == vm.name);
            vm.touched = before.and_then(|before| before.touched.clone());
            // What it has released since then it had touched, and has no more.
            if let (Some(touched), Some(before)) = (&mut vm.touched, before) {
                touched.has = touched.has.less(&before.claim.less(&vm.claim));
            }
        }
        Self { claims, living, as_surveyed, lock }
    }

    /// What all of them were promised and have not touched.
    pub fn ledger(&self) -> Ledger {
        Living::ledger(&self.living)
    }

    /// Adds a claim, all of it or nothing, and closes the book.
    pub fn claim(self, claim: &Claim) -> Result<Held, ClaimsError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let name = format!("{}-{now}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let Self { claims, lock, .. } = self;
        let new = claims.root.join(format!("{name}{UNFINISHED}"));
        let held = write(&new, (claim, &Claim::default()), claims.modes.claim).and_then(|file| {
            let path = claims.root.join(format!("{name}{SUFFIX}"));
            fs::rename(&new, &path).map_err(failed(&path, "rename"))?;
            Ok(Held { claims, path, file })
        });
        if held.is_err() {
            // What is left of it is ignored, and removed by the next that claims.
            drop(fs::remove_file(&new));
        }
        drop(lock);
        held
    }

    /// Puts another claim in the place of one that is held, all of it or nothing, and closes the book. `released` is what
    /// the VM could claim beside it and leaves to others.
    pub fn replace(self, held: &mut Held, claim: &Claim, released: &Claim) -> Result<(), ClaimsError> {
        let new = held.path.with_extension(UNFINISHED.trim_start_matches('.'));
        let replaced = write(&new, (claim, released), held.claims.modes.claim).and_then(|file| {
            fs::rename(&new, &held.path).map_err(failed(&held.path, "rename"))?;
            // Only now may the one of before be unlocked: until it has lost its name it must not look left behind.
            held.file = file;
            Ok(())
        });
        if replaced.is_err() {
            drop(fs::remove_file(&new));
        }
        drop(self.lock);
        replaced
    }
}

impl Held {
    /// The directory that it is in.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Held {
    /// The name goes first; whoever has opened the file before finds it unlocked.
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

fn ledger<'a>(living: impl Iterator<Item = &'a Living>) -> Ledger {
    let nothing = Claim::default();
    let mut ledger = Ledger::new();
    living.for_each(|vm| ledger.add(&vm.claim, vm.touched.as_ref().map_or(&nothing, |touched| &touched.has)));
    ledger
}

fn encode(claim: &Claim, released: &Claim) -> io::Result<Vec<u8>> {
    let (pid, started) = (std::process::id(), touched::own_start());
    let (claim, released) = (claim.clone(), released.clone());
    serde_json::to_vec(&Record { version: 1, pid, started, claim, released }).map_err(io::Error::from)
}

/// Locked before anybody else may open it and before there is anything in it, so that it is never seen without its owner.
fn write(
    path: &Path,
    (claim, released): (&Claim, &Claim),
    access: FileAccess,
) -> Result<WriteLock, ClaimsError> {
    let file = plain().read(true).write(true).create_new(true).open(path).map_err(failed(path, "open"))?;
    let locked = WriteLock::attempt(file).map_err(failed(path, "fcntl"))?;
    let file = locked.map_err(|_| failed(path, "fcntl")(io::ErrorKind::WouldBlock.into()))?;
    access.apply(&file).map_err(failed(path, "chmod"))?;
    let text = encode(claim, released).map_err(failed(path, "write"))?;
    (&*file).write_all(&text).map_err(failed(path, "write"))?;
    Ok(file)
}
