//! Runs boot tests one after the other, once each, and reports how each ended. Second tries are left to
//! `xtask::lanes`.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::HostFacts;
use super::payload::Payload;
use super::vm::fault;
use crate::boot_tests::{BootTest, Ctx, all};
use crate::lab::fault::Fault;
use crate::lab::job::{Event, TestResult, Verdict};

/// Programs that a test started are killed after so long, so that it ends and says where it was.
const TEST_LIMIT: Duration = Duration::from_secs(300);
/// It may start more before it notices.
const KILLED_EVERY: Duration = Duration::from_secs(5);

/// Lines of a failed guest's output that are shown.
const SHOWN: usize = 30;

/// The error of a test that finds, by trying, that its host does not have what it needs.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl Error for Skip {}

/// Runs the tests called `names`; 1 if any failed.
pub(super) fn run(payload: &Payload, names: &[String]) -> Result<i32> {
    let host = HostFacts::look()?;
    let logs = payload.scratch.join("logs");
    fs::create_dir_all(&logs)?;
    let mut failed = 0;
    for test in all().filter(|test| names.iter().any(|name| name == test.name)) {
        Event::Start { test: test.name.to_owned() }.say();
        let began = Instant::now();
        let transcript = Rc::new(RefCell::new(String::new()));
        let (verdict, detail, fault) = match host.lacks(&test.needs) {
            Some(lack) => (Verdict::Skipped, lack, None),
            None => within_limit(|| outcome(test, payload, &host, &transcript)),
        };
        let _ = fs::write(logs.join(format!("{}.log", test.name)), &*transcript.borrow());
        failed += i32::from(verdict == Verdict::Failed);
        let seconds = began.elapsed().as_secs_f64();
        Event::Test(TestResult { test: test.name.to_owned(), verdict, seconds, detail, fault }).say();
    }
    Ok(i32::from(failed > 0))
}

/// Calls `test`, and kills what this process has started when that takes too long.
fn within_limit<T>(test: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (over, is_over) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut wait = TEST_LIMIT;
            while is_over.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                kill_children();
                wait = KILLED_EVERY;
            }
        });
        let ended = test();
        drop(over);
        ended
    })
}

fn kill_children() {
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }
}

fn outcome(
    test: &BootTest,
    payload: &Payload,
    host: &HostFacts,
    transcript: &Rc<RefCell<String>>,
) -> (Verdict, String, Option<Fault>) {
    let ctx = Ctx { payload, host, needs: test.needs, transcript: Rc::clone(transcript) };
    let result = catch_unwind(AssertUnwindSafe(|| (test.run)(&ctx)))
        .unwrap_or_else(|_| Err(anyhow!("the test panicked")));
    match result {
        Ok(()) => (Verdict::Passed, String::new(), None),
        Err(error) if error.is::<Skip>() => (Verdict::Skipped, error.to_string(), None),
        Err(error) => {
            let transcript = transcript.borrow();
            let lines: Vec<&str> = transcript.lines().collect();
            let tail = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            (Verdict::Failed, format!("{error:#}\n{tail}"), fault(&error))
        }
    }
}
