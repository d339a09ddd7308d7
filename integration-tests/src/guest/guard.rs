//! Memory whose content is known: threads fill pages of every node with words that follow from a key, the page's address
//! and how often it was written, and read them again and again. A page that another one was put in place of, an old
//! state of a page, and a lost write are all found. What is done to the memory meanwhile is the host's business.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report;
use crate::sys::BoundMemory;

const PAGE: usize = 4096;
/// A page table covers so much. The pages of a stretch lie at the begin of it, so that there is a page table for every few
/// of them: it is the tables that a lost change hurts most.
const STRETCH: usize = 2 << 20;
const PAGES_OF_STRETCH: usize = 16;
/// A mapping is so many stretches.
const STRETCHES: usize = 16;
/// Threads, and no more than this: each has memory of its own.
const THREADS_MAX: usize = 4;
/// So many findings are told in full; all are counted.
const TOLD: usize = 8;
const KEY: u64 = 0x6e75_6d61_7669_736f;

/// Threads that keep memory.
pub(crate) struct Guard {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    pages: usize,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Pages that were looked at.
    looked: AtomicU64,
    /// Times that a thread has looked at all of its own.
    rounds: AtomicU64,
    wrong: AtomicU64,
    told: Mutex<Vec<Value>>,
}

/// One mapping, and how often each of its pages was written.
struct Kept {
    memory: BoundMemory,
    written: Vec<u64>,
}

impl Guard {
    /// Takes `percent` of what each node has free. The rest is for whoever wants memory meanwhile.
    pub(crate) fn start(percent: u64) -> Result<Self> {
        ensure!((1..=90).contains(&percent), "{percent} % of the free memory: 1 to 90 can be kept");
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let mut shares: Vec<Vec<Kept>> = (0..count).map(|_| Vec::new()).collect();
        let mut next = 0;
        for node in report::online_nodes() {
            let (_, free) = report::node_memory(node);
            // A page table for each stretch counts too.
            let kib = STRETCHES * (PAGES_OF_STRETCH + 1) * PAGE / 1024;
            for _ in 0..free * percent / 100 / kib as u64 {
                shares[next % count].push(Kept::fill(node)?);
                next += 1;
            }
        }
        ensure!(next > 0, "no node has memory for a guard");
        let pages = next * STRETCHES * PAGES_OF_STRETCH;
        let shared = Arc::<Shared>::default();
        let mut guard = Self { shared: Arc::clone(&shared), threads: Vec::new(), pages };
        for mut share in shares {
            let shared = Arc::clone(&shared);
            let body = move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    share.iter_mut().for_each(|kept| kept.look(&shared));
                    shared.rounds.fetch_add(1, Ordering::Relaxed);
                }
            };
            guard.threads.push(std::thread::Builder::new().spawn(body).context("a thread")?);
        }
        Ok(guard)
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// What was found so far.
    pub(crate) fn found(&self) -> Value {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "looked": count(&self.shared.looked),
            "rounds": count(&self.shared.rounds),
            "wrong": count(&self.shared.wrong),
            "found": *told,
        })
    }

    /// Ends it; what was found.
    pub(crate) fn end(mut self) -> Value {
        self.join();
        self.found()
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.join();
    }
}

impl Kept {
    fn fill(node: u32) -> Result<Self> {
        let memory = BoundMemory::map(STRETCHES * STRETCH, node)?;
        memory.small_pages()?;
        let mut kept = Self { memory, written: vec![0; STRETCHES * PAGES_OF_STRETCH] };
        for page in 0..kept.written.len() {
            kept.write(page);
        }
        Ok(kept)
    }

    fn offset(page: usize) -> usize {
        page / PAGES_OF_STRETCH * STRETCH + page % PAGES_OF_STRETCH * PAGE
    }

    fn write(&mut self, page: usize) {
        let (offset, written) = (Self::offset(page), self.written[page]);
        let key = key(self.memory.address() + offset, written);
        if let Some(words) = self.memory.page(offset) {
            words.iter_mut().zip(0..).for_each(|(at, index)| *at = word(key, index));
        }
    }

    /// Looks at every page, and writes every fourth of them anew.
    fn look(&mut self, shared: &Shared) {
        for page in 0..self.written.len() {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let (offset, written) = (Self::offset(page), self.written[page]);
            let address = self.memory.address() + offset;
            let key = key(address, written);
            let words = self.memory.page(offset).map(|words| &*words);
            let wrong = words.and_then(|words| first_wrong(words, key));
            shared.looked.fetch_add(1, Ordering::Relaxed);
            if let Some((index, found)) = wrong {
                shared.wrong.fetch_add(1, Ordering::Relaxed);
                let mut told = shared.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.len() < TOLD {
                    told.push(json!({
                        "address": format!("{:#x}", address + index * size_of::<u64>()),
                        "expected": format!("{:#x}", word(key, index as u64)),
                        "found": format!("{found:#x}"),
                        "written": written,
                    }));
                }
            }
            if wrong.is_some() || page % 4 == 0 {
                self.written[page] += 1;
                self.write(page);
            }
        }
    }
}

/// The first word that is not as it was written.
fn first_wrong(words: &[u64], key: u64) -> Option<(usize, u64)> {
    words
        .iter()
        .zip(0..)
        .position(|(found, index)| *found != word(key, index))
        .map(|index| (index, words[index]))
}

fn key(address: usize, written: u64) -> u64 {
    mix(KEY ^ address as u64 ^ written.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn word(key: u64, index: u64) -> u64 {
    key.wrapping_add(index.wrapping_mul(0xd134_2543_de82_ef95))
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014).
fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::{Kept, PAGES_OF_STRETCH, STRETCH, Shared};
    use std::sync::atomic::Ordering;

    fn wrong(shared: &Shared) -> u64 {
        shared.wrong.load(Ordering::Relaxed)
    }

    #[test]
    fn what_was_written_is_found_again_and_what_changed_is_told_once() {
        let (mut kept, shared) = (Kept::fill(0).unwrap(), Shared::default());
        (0..3).for_each(|_| kept.look(&shared));
        assert_eq!(wrong(&shared), 0);
        assert_eq!(kept.written[..5], [3, 0, 0, 0, 3]);
        kept.memory.page(STRETCH + 4096).unwrap()[511] ^= 1 << 63;
        kept.look(&shared);
        assert_eq!(wrong(&shared), 1);
        let told = shared.told.lock().unwrap().clone();
        let address = kept.memory.address() + STRETCH + 4096 + 511 * 8;
        assert_eq!(told[0]["address"], format!("{address:#x}"));
        kept.look(&shared);
        assert_eq!(wrong(&shared), 1);
    }

    #[test]
    fn another_page_in_its_place_and_an_old_state_of_it_are_wrong() {
        let (mut kept, shared) = (Kept::fill(0).unwrap(), Shared::default());
        let old = *kept.memory.page(0).unwrap();
        kept.look(&shared);
        let other = *kept.memory.page(Kept::offset(PAGES_OF_STRETCH)).unwrap();
        for content in [old, other, [0; 512]] {
            *kept.memory.page(0).unwrap() = content;
            let before = wrong(&shared);
            kept.look(&shared);
            assert_eq!(wrong(&shared), before + 1);
        }
    }
}
