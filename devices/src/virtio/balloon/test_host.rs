//! A host that remembers what it was asked, for pages 0 to 999 on the vnode and 1000 to 1999 on another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::interrupt::MsiMessage;
use crate::virtio::balloon::{BalloonHost, PagePlace, PageRun, Sweep};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Begin(bool),
    Take(Vec<PageRun>),
    Give(Vec<PageRun>),
    Reported(Vec<PageRun>),
    Poisoned(Vec<PageRun>),
    Sweep,
    Hinting,
    Hinted(Vec<PageRun>),
    Forget,
    End,
}

#[derive(Default)]
pub struct TestHost {
    asked: Mutex<Vec<Asked>>,
    /// It has no memory to give.
    pub poor: AtomicBool,
    /// It may have pages again that are out.
    pub torn: AtomicBool,
    /// A sweep does not come to its end.
    pub part: AtomicBool,
}

impl TestHost {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
    }
}

impl BalloonHost for TestHost {
    fn begin(&self, tells_first: bool) {
        self.note(Asked::Begin(tells_first));
    }

    fn place(&self, pfn: u32) -> PagePlace {
        match pfn {
            0..1000 => PagePlace::OnNode,
            1000..2000 => PagePlace::OffNode,
            _ => PagePlace::Outside,
        }
    }

    fn take(&self, runs: &[PageRun]) {
        self.note(Asked::Take(runs.to_vec()));
    }

    fn give(&self, runs: &[PageRun]) -> bool {
        let poor = self.poor.load(Ordering::Relaxed);
        if !poor {
            self.note(Asked::Give(runs.to_vec()));
        }
        !poor
    }

    fn sweep(&self) -> Sweep {
        self.note(Asked::Sweep);
        if self.part.load(Ordering::Relaxed) { Sweep::Part } else { Sweep::Whole }
    }

    fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Relaxed)
    }

    fn reported(&self, runs: &[PageRun], poisoned: bool) {
        self.note(if poisoned { Asked::Poisoned(runs.to_vec()) } else { Asked::Reported(runs.to_vec()) });
    }

    fn hinting(&self) {
        self.note(Asked::Hinting);
    }

    fn hinted(&self, runs: &[PageRun]) {
        self.note(Asked::Hinted(runs.to_vec()));
    }

    fn forget(&self) {
        self.note(Asked::Forget);
    }

    fn is_ready(&self) -> bool {
        !self.poor.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.note(Asked::End);
    }
}

/// A message to a CPU by its APIC ID.
pub fn message(apic_id: u64) -> Option<MsiMessage> {
    Some(MsiMessage { address: 0xFEE0_0000 | apic_id << 12, data: 0x41 })
}

pub fn run(first: u32, count: u32) -> PageRun {
    PageRun { first, count }
}
