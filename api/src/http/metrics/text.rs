//! Prometheus text format (version 0.0.4): families, labels, escaping. The caller decides what to export.

use std::fmt::Display;
use std::time::Duration;

/// Metrics text under construction.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Starts a metric family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = escaped(help, false);
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample of the current family.
    pub fn line(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let label =
            |(key, value): &(&str, &dyn Display)| format!("{key}=\"{}\"", escaped(&value.to_string(), true));
        let labels: Vec<String> = labels.iter().map(label).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.0.push_str(&format!("{name}{labels} {value}\n"));
    }

    /// A family with a single sample.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(name, &[], value);
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Escapes special characters.
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

/// A duration in seconds, without trailing zeros.
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
