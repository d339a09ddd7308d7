//! Watches over a guest whose balloon driver was reset with pages out that are not claimed any more. It may run on: a Linux
//! that powers off resets its devices and touches none of those pages. One that goes on to use memory, as a kernel
//! started by `kexec` does, stands still until there is room. Stopping vCPUs is left to the control loop.

use resources::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Between two looks at a guest that runs. What it can touch in this time is what a pnode may be short of for a moment.
const LOOK: Duration = Duration::from_millis(1);
/// And at one that stands still.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A guest that ends touches a little, and so does this program.
const SLACK: Bytes = Bytes::mib(2);

/// Whether the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Nothing is owed.
    #[default]
    Idle,
    /// It runs, and this much was resident when it began to be owed memory.
    Runs(Bytes),
    /// It stands still.
    Held,
}

/// The watch.
#[derive(Debug, Default)]
pub struct Watch(State);

impl Watch {
    /// When to look again, though nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        let after = match self.0 {
            State::Idle => return None,
            State::Runs(_) => LOOK,
            State::Held => LOOK_AGAIN,
        };
        Some(Instant::now() + after)
    }

    /// Looks; `Some(true)` if the guest is to be held, `Some(false)` if it may go on. `resident` is what the VM has now,
    /// `None` if that cannot be known.
    pub fn look(&mut self, owed: bool, resident: impl FnOnce() -> Option<Bytes>) -> Option<bool> {
        let (next, hold) = match (self.0, owed) {
            (State::Idle, false) | (State::Held, true) => return None,
            (State::Idle, true) => match resident() {
                Some(now) => (State::Runs(now), None),
                None => (State::Held, Some(true)),
            },
            (State::Runs(from), true) => match resident() {
                Some(now) if now.saturating_sub(from) <= SLACK => return None,
                Some(_) | None => (State::Held, Some(true)),
            },
            (State::Runs(_), false) => (State::Idle, None),
            (State::Held, false) => (State::Idle, Some(false)),
        };
        self.0 = next;
        hold
    }
}

/// What this process has resident, from `/proc/self/statm` (proc(5)): a VM's memory, and little beside it.
#[derive(Debug, Default)]
pub struct Resident(Option<File>);

impl Resident {
    /// As it is now; `None` where there is no `/proc`.
    pub fn now(&mut self) -> Option<Bytes> {
        let file = match &mut self.0 {
            Some(file) => file,
            none => none.insert(File::open("/proc/self/statm").ok()?),
        };
        let mut text = [0; 128];
        let length = file.read_at(&mut text, 0).ok()?;
        let pages: u64 = str::from_utf8(text.get(..length)?).ok()?.split(' ').nth(1)?.parse().ok()?;
        let page = u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??).ok()?;
        Some(Bytes(pages.saturating_mul(page)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Resident, SLACK, Watch};
    use resources::Bytes;

    #[test]
    fn a_guest_runs_while_it_touches_next_to_nothing_and_stands_still_from_then_on_until_there_is_room() {
        let (mut watch, from) = (Watch::default(), Bytes::mib(100));
        let touched = |more: Bytes| move || Some(from.saturating_add(more));
        assert_eq!(watch.look(false, || unreachable!()), None);
        assert_eq!(watch.look(true, touched(Bytes::ZERO)), None);
        assert!(watch.due().is_some());
        assert_eq!(watch.look(true, touched(SLACK)), None);
        assert_eq!(watch.look(true, || Some(Bytes::ZERO)), None, "it shrank");
        assert_eq!(watch.look(true, touched(SLACK.saturating_add(Bytes(1)))), Some(true));
        assert!(watch.due().is_some());
        assert_eq!(watch.look(true, || unreachable!()), None);
        assert_eq!(watch.look(false, || unreachable!()), Some(false));
        assert_eq!((watch.due(), watch.look(false, || unreachable!())), (None, None));
    }

    #[test]
    fn one_that_gets_its_memory_in_time_never_stands_still() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(true, || Some(Bytes::ZERO)), None);
        assert_eq!(watch.look(false, || Some(Bytes::gib(1))), None);
        assert_eq!(watch.look(true, || Some(Bytes::gib(1))), None, "measured from anew");
        assert_eq!(watch.look(true, || Some(Bytes::gib(1))), None);
    }

    #[test]
    fn what_cannot_be_watched_stands_still() {
        assert_eq!(Watch::default().look(true, || None), Some(true));
        let mut watch = Watch::default();
        watch.look(true, || Some(Bytes::ZERO));
        assert_eq!(watch.look(true, || None), Some(true));
    }

    #[test]
    fn what_is_resident_grows_with_what_is_touched() {
        let mut resident = Resident::default();
        let before = resident.now().unwrap();
        let memory = std::hint::black_box(vec![1_u8; 32 << 20]);
        let after = resident.now().unwrap();
        assert!(after >= before.saturating_add(Bytes::mib(16)), "{before} and {after}");
        drop(memory);
    }
}
