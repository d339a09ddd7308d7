//! Pages of a pool that are the guest's again without its having waited for them, since its driver was reset with pages
//! out: a thread brings them back one by one, so that no vCPU waits and a later shortage of the pool meets no touch. What
//! brings one back is left to the host's side of the balloon.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Huge pages that are to come back, of a whole VM.
#[derive(Debug, Default)]
pub struct Returns {
    state: Mutex<State>,
    one_is_back: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Each by its first page of 4 KiB.
    pending: BTreeSet<u32>,
    /// The one that is being brought back.
    current: Option<u32>,
    runs: bool,
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

impl Returns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are to come back, with `bring` in a thread; returns at once. Without a thread they come with the guest's
    /// touches.
    pub fn add(self: &Arc<Self>, pages: &[u32], bring: impl Fn(u32) + Send + 'static) -> io::Result<()> {
        let mut state = self.state();
        if state.ended || pages.is_empty() {
            return Ok(());
        }
        state.pending.extend(pages);
        if !state.runs {
            let this = Arc::clone(self);
            let body = move || {
                while let Some(page) = this.next() {
                    bring(page);
                }
            };
            state.thread = Some(std::thread::Builder::new().name("balloon-returns".into()).spawn(body)?);
            state.runs = true;
        }
        Ok(())
    }

    fn next(&self) -> Option<u32> {
        let mut state = self.state();
        self.one_is_back.notify_all();
        state.current = if state.ended { None } else { state.pending.pop_first() };
        state.runs = state.current.is_some();
        state.current
    }

    /// These are out again: they do not come back any more. Waits for one that is just coming.
    pub fn withdraw(&self, pages: &[u32]) {
        let mut state = self.state();
        state.pending.retain(|page| !pages.contains(page));
        while state.current.is_some_and(|current| pages.contains(&current)) {
            state = self.one_is_back.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing comes back any more; waits for one page at most.
    pub fn end(&self) {
        let thread = {
            let mut state = self.state();
            state.ended = true;
            state.pending.clear();
            state.thread.take()
        };
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Returns;
    use std::sync::{Arc, Barrier, mpsc};

    #[test]
    fn pages_come_back_in_a_thread_but_for_those_that_are_out_again_or_when_the_vm_ends() {
        let (returns, step) = (Arc::<Returns>::default(), Arc::new(Barrier::new(2)));
        let (back, comes) = mpsc::channel();
        let steps = Arc::clone(&step);
        let bring = move |page| {
            steps.wait();
            back.send(page).unwrap();
            steps.wait();
        };
        returns.add(&[1, 2, 3, 4, 5, 6], bring.clone()).unwrap();
        step.wait();
        // 1 is coming.
        returns.withdraw(&[2, 4]);
        step.wait();
        step.wait();
        step.wait();
        assert_eq!([(); 2].map(|()| comes.recv()), [Ok(1), Ok(3)]);
        returns.add(&[9], bring.clone()).unwrap();
        step.wait();
        let ending = std::thread::spawn({
            let returns = Arc::clone(&returns);
            move || returns.end()
        });
        while !returns.state().ended {
            std::thread::yield_now();
        }
        step.wait();
        ending.join().unwrap();
        assert_eq!(comes.try_iter().collect::<Vec<_>>(), [5]);
        returns.add(&[7], bring).unwrap();
        assert!(comes.recv().is_err(), "a page came after the end");
    }

    #[test]
    fn what_is_out_again_waits_for_the_page_that_is_coming() {
        let (returns, (back, comes)) = (Arc::<Returns>::default(), mpsc::channel());
        returns.add(&[1], move |page| back.send(page).unwrap()).unwrap();
        assert_eq!(comes.recv(), Ok(1));
        returns.withdraw(&[1]);
        let state = returns.state();
        assert!(state.current.is_none() && state.pending.is_empty());
    }
}
