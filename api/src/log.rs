//! Log lines on standard error: a minimal subscriber. Logging never blocks: a thread writes, and lines are counted
//! and dropped if it falls too far behind. The callers decide what to log, and how often.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The least important events that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity(Level);

impl Verbosity {
    /// Errors.
    pub const ERROR: Self = Self(Level::ERROR);
    /// Everything but what helps to find mistakes in this program.
    pub const INFO: Self = Self(Level::INFO);
    /// Everything.
    pub const DEBUG: Self = Self(Level::DEBUG);
}

impl Default for Verbosity {
    fn default() -> Self {
        Self(Level::WARN)
    }
}

impl FromStr for Verbosity {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "error" => Ok(Self::ERROR),
            "warn" => Ok(Self::default()),
            "info" => Ok(Self::INFO),
            "debug" => Ok(Self::DEBUG),
            _ => Err(format!("`{word}` is not one of error, warn, info, debug")),
        }
    }
}

/// Maximum number of buffered lines.
const MOST_LINES: usize = 1024;
/// How long the last lines are waited for at the end: also a busy host has written them by then.
const LAST_LINES: Duration = Duration::from_secs(2);

/// `None` where its thread cannot be started.
static WRITER: OnceLock<Option<Writer>> = OnceLock::new();

type Listener = Box<dyn Fn(&'static str, &str) + Send + Sync>;

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Tells someone else of warnings and errors too, whatever is shown: level and text. Only the first one is told, in the
/// thread where it happens, so it must return at once.
pub fn listen(listener: impl Fn(&'static str, &str) + Send + Sync + 'static) {
    let _ = LISTENER.set(Box::new(listener));
}

/// Shows events from now on.
pub fn start(verbosity: Verbosity) {
    // The console may be raw, where a line feed alone does not go back to the first column.
    let end = if std::io::stderr().is_terminal() { "\r\n" } else { "\n" };
    // Only the first subscriber counts, and this is the only place that sets one.
    let _ = tracing::subscriber::set_global_default(Lines { most: verbosity.0, end });
}

/// Writes a line as it is, after those before it.
pub fn line(line: String) {
    let writer = WRITER.get_or_init(|| Writer::start(std::io::stderr()));
    match writer {
        Some(writer) => writer.add(line),
        // There is nowhere to say that standard error does not work.
        None => drop(std::io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits until all lines are written, but not for a reader that does not read.
pub fn finish() {
    if let Some(Some(writer)) = WRITER.get() {
        writer.finish(LAST_LINES);
    }
}

/// Lines on their way to where they are written.
#[derive(Clone, Default)]
struct Writer(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    lost: u64,
    /// One is being written.
    writing: bool,
}

impl Writer {
    /// Writes in a thread of its own.
    fn start(sink: impl Write + Send + 'static) -> Option<Self> {
        let writer = Self::default();
        let work = writer.clone();
        vmm::spawn_without_signals("log", move || work.work(sink)).ok()?;
        Some(writer)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: String) {
        let mut waiting = self.lock();
        if waiting.lines.len() < MOST_LINES {
            waiting.lines.push_back(line);
        } else {
            waiting.lost += 1;
        }
        drop(waiting);
        self.0.1.notify_all();
    }

    fn work(&self, mut sink: impl Write) {
        loop {
            let line = {
                let idle = |waiting: &mut Waiting| waiting.lines.is_empty() && waiting.lost == 0;
                let mut waiting =
                    self.0.1.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
                waiting.writing = true;
                waiting.lines.pop_front().unwrap_or_else(|| {
                    format!("numavisor: warn: {} lines were lost\n", std::mem::take(&mut waiting.lost))
                })
            };
            // There is nowhere to say that standard error does not work.
            let _ = sink.write_all(line.as_bytes());
            self.lock().writing = false;
            self.0.1.notify_all();
        }
    }

    fn finish(&self, within: Duration) {
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        drop(self.0.1.wait_timeout_while(self.lock(), within, busy));
    }
}

struct Lines {
    most: Level,
    end: &'static str,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.most.max(Level::WARN)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.most.max(Level::WARN)))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let mut text = Line(String::new());
        event.record(&mut text);
        let clean: String = text.0.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let name = match level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        if let Some(listener) = LISTENER.get().filter(|_| level <= Level::WARN) {
            listener(name, clean.trim_start());
        }
        if level > self.most {
            return;
        }
        line(format!("numavisor: {name}:{clean}{}", self.end));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_LINES, Writer};
    use std::io::{PipeWriter, Read, pipe};
    use std::time::Duration;

    fn full() -> (std::io::PipeReader, PipeWriter, usize) {
        let (reader, writer) = pipe().unwrap();
        let stream = vmm::Stream::output(std::os::fd::AsFd::as_fd(&writer)).unwrap();
        let mut count = 0;
        while let Ok(written) = stream.write(&[b'.'; 4096]) {
            count += written;
        }
        (reader, writer, count)
    }

    #[test]
    fn a_reader_that_does_not_read_makes_nobody_wait_and_is_told_what_it_missed() {
        let (mut reader, pipe, filled) = full();
        let writer = Writer::start(pipe).unwrap();
        for line in 0..MOST_LINES + 100 {
            writer.add(format!("{line}\n"));
        }
        writer.finish(Duration::ZERO);
        reader.read_exact(&mut vec![0; filled]).unwrap();
        let mut text = String::new();
        while !text.ends_with("lost\n") {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            text.push(char::from(byte[0]));
        }
        // The thread may have had one in its hand.
        let lines: Vec<&str> = text.lines().collect();
        let lost = MOST_LINES + 100 - (lines.len() - 1);
        assert!((99..=100).contains(&lost), "{lost}");
        assert_eq!(
            (lines[0], lines[lines.len() - 1]),
            ("0", &*format!("numavisor: warn: {lost} lines were lost"))
        );
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let (mut reader, pipe) = pipe().unwrap();
        let writer = Writer::start(pipe).unwrap();
        writer.add("last\n".to_owned());
        writer.finish(Duration::from_secs(60));
        let mut text = [0; 5];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"last\n");
    }
}
