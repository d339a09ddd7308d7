//! Runs boot tests one after the other, once each, and reports how each ended. Second tries are left to
//! `xtask::lanes`.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::host::HostFacts;
use super::payload::Payload;
use super::vm::fault;
use crate::boot_tests::{BootTest, Ctx, all};
use crate::lab::fault::Fault;
use crate::lab::job::{Event, TestResult, Verdict};

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
            None => outcome(test, payload, &host, &transcript),
        };
        let _ = fs::write(logs.join(format!("{}.log", test.name)), &*transcript.borrow());
        failed += i32::from(verdict == Verdict::Failed);
        let seconds = began.elapsed().as_secs_f64();
        Event::Test(TestResult { test: test.name.to_owned(), verdict, seconds, detail, fault }).say();
    }
    Ok(i32::from(failed > 0))
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
