//! The balloon's state as it is saved: its account of pages, its target, and how far its driver has come. The memory of
//! pages that are out is not saved; after a restore the host lets it go again. Counts and what the guest said of itself are
//! not in it, nor a round of hints that is under way: whoever began it is not there any more, so it ends.

use serde::{Deserialize, Serialize};

use super::super::hints::Hints;
use super::super::host::{BalloonHost, PagePlace};
use super::super::pages::{PageRun, compact};
use super::super::stack::Stack;
use super::super::worker::MAX_ARRAY_PAGES;
use super::State as Account;
use crate::state::{State, StateError, ensure};

/// State of a [`Balloon`](crate::virtio::balloon::Balloon).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonState {
    /// `actual`, as the driver last wrote it.
    pub actual: u32,
    /// `poison_val`, as the driver last wrote it.
    pub poison: u32,
    /// There while a driver runs the device.
    pub driver: Option<BalloonDriverState>,
}

/// What a balloon and its driver owe each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonDriverState {
    /// `num_pages`: pages that the driver shall give.
    pub target: u32,
    /// The most that was asked for since its last array, which it may still act on.
    pub highest_target: u32,
    /// Pages of other vnodes are not wanted: the first turns the driver round.
    pub exact: bool,
    /// The driver has read its target since it came.
    pub target_read: bool,
    /// At how many pages `exact` turned the driver round, if it has since the target was set.
    pub turned_round_at: Option<u32>,
    /// Pages of other vnodes that were out before the array that turned it round.
    pub off_node_before: u32,
    /// The number of the last round of hints.
    pub hint_round: u32,
    /// `free_page_hint_cmd_id`.
    pub hint_command: u32,
    /// Pages that are out, in the order in which they came.
    pub pages: Vec<PagesOut>,
    /// Pages of the oldest array on the deflate queue, if the driver waits for memory that the host does not have.
    pub waited_for: Option<Vec<PageRun>>,
}

/// Pages that are out, one after the other in memory and in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesOut {
    /// The first page's number.
    pub first: u32,
    /// Pages, at least one.
    pub count: u32,
    /// Their memory was left alone, because they go back at once.
    pub kept: bool,
}

impl State for BalloonState {
    const NAME: &'static str = "virtio-balloon";
    const VERSION: u32 = 1;
}

/// The pages of a driver that is restored.
struct Pages {
    stack: Stack,
    /// Those of other vnodes among them.
    off_node: u32,
    /// Those whose memory the host lets go once more.
    taken: Vec<PageRun>,
}

/// The pages of a stack in few words.
fn pages_out(stack: &Stack) -> Vec<PagesOut> {
    let mut pages: Vec<PagesOut> = Vec::new();
    for pfn in stack.upwards() {
        let kept = stack.is_kept(pfn);
        match pages.last_mut() {
            Some(last) if last.kept == kept && last.first.checked_add(last.count) == Some(pfn) => {
                last.count += 1
            }
            _ => pages.push(PagesOut { first: pfn, count: 1, kept }),
        }
    }
    pages
}

impl BalloonDriverState {
    /// Whether hints can stand so.
    fn check_hints(&self) -> Result<(), StateError> {
        let Self { hint_command: command, hint_round: round, .. } = self;
        ensure::<BalloonState>(
            Hints::is_command(*command, *round),
            "driver.hint_command",
            format_args!("{command}, round {round}"),
            "must be 0, 1 or the number of the last round",
        )
    }

    /// The pages, if these can be out on this host.
    fn pages(&self, host: &dyn BalloonHost) -> Result<Pages, StateError> {
        const RULE: &str = "must be pages of the guest's memory, each there once";
        let mut pages = Pages { stack: Stack::default(), off_node: 0, taken: Vec::new() };
        let mut taken = Vec::new();
        for (number, PagesOut { first, count, kept }) in self.pages.iter().copied().enumerate() {
            let wrong = || {
                let value = format_args!("{count} from {first}");
                StateError::value::<BalloonState>(format!("driver.pages[{number}]"), value, RULE)
            };
            let end = first.checked_add(count).filter(|_| count > 0).ok_or_else(wrong)?;
            for pfn in first..end {
                let place = host.place(pfn);
                if place == PagePlace::Outside || !pages.stack.push(pfn) {
                    return Err(wrong());
                }
                pages.off_node += u32::from(place == PagePlace::OffNode);
                match kept {
                    true => pages.stack.keep(pfn),
                    false => taken.push(pfn),
                }
            }
        }
        taken.extend(self.waited_for_pages(host)?);
        pages.taken = compact(&mut taken);
        Ok(pages)
    }

    /// They may be out again: a driver that does not wait for an answer may give them once more.
    fn waited_for_pages(&self, host: &dyn BalloonHost) -> Result<Vec<u32>, StateError> {
        let mut pages = Vec::new();
        for (number, PageRun { first, count }) in self.waited_for.iter().flatten().copied().enumerate() {
            let count_fits = usize::try_from(count).is_ok_and(|count| pages.len() + count <= MAX_ARRAY_PAGES);
            let end = first.checked_add(count).filter(|_| count > 0 && count_fits);
            let good = |pfn| host.place(pfn) != PagePlace::Outside;
            match end {
                Some(end) if (first..end).all(good) => pages.extend(first..end),
                Some(_) | None => {
                    return Err(StateError::value::<BalloonState>(
                        format!("driver.waited_for[{number}]"),
                        format_args!("{count} from {first}"),
                        "must be pages of the guest's memory, at most 16384 in all",
                    ));
                }
            }
        }
        Ok(pages)
    }
}

impl Account {
    /// What is saved of it; with a driver, whose worker has `waited_for`.
    pub fn save(&self, driver: Option<Option<&[PageRun]>>) -> BalloonState {
        let driver = driver.map(|waited_for| BalloonDriverState {
            target: self.asked,
            highest_target: self.asked_most,
            exact: self.exact,
            target_read: self.target_read,
            turned_round_at: self.dry,
            off_node_before: self.off_node_before,
            hint_round: self.hints.round(),
            hint_command: self.hints.command(),
            pages: pages_out(&self.stack),
            waited_for: waited_for.map(<[PageRun]>::to_vec),
        });
        BalloonState { actual: self.actual, poison: self.poison, driver }
    }

    /// Becomes as in `state`; with a driver, which has just [begun](Self::begin). Gives the pages whose memory the host has
    /// to let go once more.
    pub fn restore(
        &mut self,
        state: &BalloonState,
        host: &dyn BalloonHost,
    ) -> Result<Vec<PageRun>, StateError> {
        let rule = "must be there if the device is active, and only then";
        ensure::<BalloonState>(
            state.driver.is_some() == self.active,
            "driver",
            state.driver.is_some(),
            rule,
        )?;
        let mut taken = Vec::new();
        if let Some(driver) = &state.driver {
            driver.check_hints()?;
            let pages = driver.pages(host)?;
            (self.asked, self.asked_most, self.exact) = (driver.target, driver.highest_target, driver.exact);
            (self.target_read, self.dry) = (driver.target_read, driver.turned_round_at);
            self.off_node_before = driver.off_node_before;
            self.hints.restore(driver.hint_command, driver.hint_round);
            (self.stack, self.off_node, taken) = (pages.stack, pages.off_node, pages.taken);
        }
        (self.actual, self.poison) = (state.actual, state.poison);
        Ok(taken)
    }

    /// As many pages are out as were asked for, and some.
    pub fn is_settled(&self) -> bool {
        self.stack.len() > 0 && self.stack.len() >= self.asked
    }
}
