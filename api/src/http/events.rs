//! Numbered events in a bounded buffer, which streams read from any position. The callers decide which events to
//! emit.

use crate::http::time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Maximum number of kept events: a day of a quiet VM, some hundred KiB.
pub const KEPT: usize = 1024;

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Event {
    /// ID, starting at 1 in each process, without gaps.
    pub id: u64,
    /// Time in UTC (RFC 3339).
    pub time: String,
    /// Type: `vm_state`, `prefault`, `job`, `balloon`, `host_short`, `disk_full`, `misplaced`, `affinity`, `warning`, or
    /// `lost` for dropped events.
    #[serde(rename = "type")]
    pub kind: String,
    /// Fields of the type.
    #[serde(flatten)]
    #[cfg_attr(test, schema(value_type = Object))]
    pub data: Map<String, Value>,
}

/// The buffer.
pub struct EventLog {
    kept: Mutex<Kept>,
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    events: VecDeque<Event>,
}

impl EventLog {
    /// An empty log.
    pub fn new() -> Self {
        Self { kept: Mutex::default(), last: watch::Sender::new(0) }
    }

    /// Adds an event; `data` is an object. Never waits for a reader.
    pub fn add(&self, kind: &str, data: Value) {
        let data = match data {
            Value::Object(data) => data,
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let id = kept.last;
        kept.events.push_back(Event { id, time: time::now(), kind: kind.to_owned(), data });
        if kept.events.len() > KEPT {
            kept.events.pop_front();
        }
        drop(kept);
        self.last.send_replace(id);
    }

    /// Up to `most` events after number `after`, oldest first. If the next one is not kept any more, or `after` is from
    /// another process, the first says so, and what is kept follows.
    pub fn after(&self, after: u64, most: usize) -> Vec<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = kept.events.front().map_or(kept.last + 1, |event| event.id);
        let known = after <= kept.last;
        let from = if known { after.saturating_add(1).max(oldest) } else { oldest };
        let skip = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        let mut events: Vec<Event> = Vec::new();
        if !known || after.saturating_add(1) < oldest {
            events.push(lost(after, oldest));
        }
        events.extend(kept.events.iter().skip(skip).take(most).cloned());
        events
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// Number of open streams.
    pub fn readers(&self) -> usize {
        self.last.receiver_count()
    }

    /// Notifies of new events.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

fn lost(after: u64, oldest: u64) -> Event {
    let data = json!({"after": after, "next": oldest});
    let data = data.as_object().cloned().unwrap_or_default();
    Event { id: oldest.saturating_sub(1), time: time::now(), kind: "lost".to_owned(), data }
}

impl Event {
    /// As an event of a `text/event-stream`.
    pub fn stream_text(&self) -> String {
        let data = serde_json::to_string(self).unwrap_or_default();
        format!("id: {}\nevent: {}\ndata: {data}\n\n", self.id, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::{EventLog, KEPT};
    use serde_json::json;

    fn ids(log: &EventLog, after: u64) -> Vec<(u64, String)> {
        log.after(after, usize::MAX).into_iter().map(|event| (event.id, event.kind)).collect()
    }

    fn log(events: usize) -> EventLog {
        let log = EventLog::new();
        (0..events).for_each(|n| log.add("tick", json!({ "n": n })));
        log
    }

    #[test]
    fn a_reader_goes_on_where_it_left_off() {
        let log = log(3);
        assert_eq!(ids(&log, 0), [(1, "tick".into()), (2, "tick".into()), (3, "tick".into())]);
        assert_eq!(ids(&log, 2), [(3, "tick".into())]);
        assert_eq!(ids(&log, 3), []);
        assert_eq!(log.after(0, 2).len(), 2);
    }

    #[test]
    fn what_is_not_kept_any_more_is_said() {
        let log = log(KEPT + 10);
        let events = ids(&log, 4);
        assert_eq!(events.first(), Some(&(10, "lost".into())));
        assert_eq!(events.get(1), Some(&(11, "tick".into())));
        assert_eq!(events.len(), KEPT + 1);
        assert_eq!(ids(&log, 10).first(), Some(&(11, "tick".into())));
    }

    #[test]
    fn a_number_of_another_process_starts_anew() {
        let log = log(2);
        let events = ids(&log, 500);
        assert_eq!(events, [(0, "lost".into()), (1, "tick".into()), (2, "tick".into())]);
        assert_eq!(ids(&EventLog::new(), u64::MAX), [(0, "lost".into())]);
    }

    #[test]
    fn an_event_is_one_record_of_the_stream() {
        let log = log(1);
        let text = log.after(0, 1)[0].stream_text();
        assert!(text.starts_with("id: 1\nevent: tick\ndata: {\"id\":1,\"time\":\""), "{text}");
        assert!(text.ends_with("\"type\":\"tick\",\"n\":0}\n\n"), "{text}");
    }
}
