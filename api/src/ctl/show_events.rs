//! Events as text. Unknown fields are printed too, since fields may be added.

use crate::show::document::word;
use serde_json::Value;

/// An event in a line.
pub fn event(event: &Value) -> String {
    let mut line = format!("{} {} {}", word(&event["time"]), word(&event["id"]), word(&event["type"]));
    for (name, value) in event.as_object().into_iter().flatten() {
        match name.as_str() {
            "time" | "id" | "type" => {}
            "job" => line.push_str(&job(value)),
            "balloon" => line.push_str(&balloon(value)),
            name => line.push_str(&format!(" {name}={}", word(value))),
        }
    }
    line
}

fn balloon(balloon: &Value) -> String {
    let fields = ["request", "phase", "returned", "partial"];
    let fields: String = fields.iter().map(|name| format!(" {name}={}", word(&balloon[*name]))).collect();
    format!("{fields} outcome={}", word(&balloon["outcome"]["stop"]))
}

fn job(job: &Value) -> String {
    let fields = ["id", "vnode", "from", "to", "state", "scanned", "total", "moved"];
    fields.iter().map(|name| format!(" {name}={}", word(&job[*name]))).collect()
}

#[cfg(test)]
mod tests {
    use super::event;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line() {
        let document = json!({"id": 3, "time": "t", "type": "vm_state", "state": "running"});
        assert_eq!(event(&document), "t 3 vm_state state=running");
    }
}
