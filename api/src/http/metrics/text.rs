//! Prometheus' text format (version 0.0.4): families, labels, escapes. What is in it is decided elsewhere.

use std::fmt::Display;
use std::time::Duration;

/// Lines of text.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Begins a family; its lines come next.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = escaped(help, false);
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A line of the family that was begun last.
    pub fn line(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let label =
            |(key, value): &(&str, &dyn Display)| format!("{key}=\"{}\"", escaped(&value.to_string(), true));
        let labels: Vec<String> = labels.iter().map(label).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.0.push_str(&format!("{name}{labels} {value}\n"));
    }

    /// A family of one line.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(name, &[], value);
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.0
    }
}

/// What the format has another meaning for, written so that it has not.
fn escaped(text: &str, quoted: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quoted => escaped.push_str("\\\""),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A time in seconds, as few digits as say it.
pub fn seconds(duration: Duration) -> String {
    let (whole, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let text = format!("{whole}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Text, seconds};
    use std::time::Duration;

    #[test]
    fn what_the_format_has_a_meaning_for_is_escaped() {
        let mut text = Text::default();
        text.family("a_info", "gauge", "One \\ and\ntwo \"lines\".");
        text.line("a_info", &[("path", &"C:\\x\n\"y\""), ("é", &7)], 1);
        let expected = "# HELP a_info One \\\\ and\\ntwo \"lines\".\n# TYPE a_info gauge\n\
                        a_info{path=\"C:\\\\x\\n\\\"y\\\"\",é=\"7\"} 1\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn times_are_seconds() {
        let cases = [
            (0, "0"),
            (1, "0.000000001"),
            (100_000, "0.0001"),
            (1_500_000_000, "1.5"),
            (10_000_000_000, "10"),
        ];
        for (nanos, text) in cases {
            assert_eq!(seconds(Duration::from_nanos(nanos)), text);
        }
    }
}
