//! Events to standard error, one line each: a subscriber small enough not to be felt. What is worth an event, and
//! how often, is decided where it happens.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The least important events that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity(Level);

impl Default for Verbosity {
    fn default() -> Self {
        Self(Level::WARN)
    }
}

impl FromStr for Verbosity {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "error" => Ok(Self(Level::ERROR)),
            "warn" => Ok(Self(Level::WARN)),
            "info" => Ok(Self(Level::INFO)),
            "debug" => Ok(Self(Level::DEBUG)),
            _ => Err(format!("`{word}` is not one of error, warn, info, debug")),
        }
    }
}

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
        let mut line = Line(String::new());
        event.record(&mut line);
        let clean: String = line.0.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
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
        // There is nowhere to say that standard error does not work.
        let _ = write!(std::io::stderr().lock(), "numavisor: {name}:{clean}{}", self.end);
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
