//! Warnings about ignored settings, one line each: no duplicates, and a limited number.

use std::collections::BTreeSet;

/// Most lines; a description can name many things that have no word here.
const MAX_NOTES: usize = 100;

/// Lines so far.
#[derive(Debug, Default)]
pub struct Notes {
    /// Those of the whole description come first.
    lines: Vec<(usize, String)>,
    seen: BTreeSet<String>,
    more: usize,
}

impl Notes {
    /// Something at a line of the description; said once, for the first line it is true of.
    pub fn at(&mut self, line: usize, what: impl Into<String>) {
        let what = what.into();
        let text = format!("line {line}: {what}");
        self.push(line, what, text);
    }

    /// Something of the whole description.
    pub fn of(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.push(0, what.clone(), what);
    }

    fn push(&mut self, line: usize, what: String, text: String) {
        if self.seen.contains(&what) {
            return;
        }
        if self.lines.len() == MAX_NOTES {
            self.more += 1;
            return;
        }
        self.seen.insert(what);
        self.lines.push((line, text));
    }

    /// All lines, in the order of the description.
    pub fn lines(mut self) -> Vec<String> {
        self.lines.sort_by_key(|(line, _)| *line);
        let mut lines: Vec<String> = self.lines.into_iter().map(|(_, text)| text).collect();
        if self.more > 0 {
            lines.push(format!("{} more are not shown", self.more));
        }
        lines
    }
}

/// Turns places in a text into lines.
#[derive(Debug)]
pub struct LineIndex {
    /// Where each line but the first starts.
    starts: Vec<usize>,
}

impl LineIndex {
    /// The lines of a text.
    pub fn new(text: &str) -> Self {
        Self { starts: text.match_indices('\n').map(|(at, _)| at + 1).collect() }
    }

    /// The line of a byte, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::{LineIndex, MAX_NOTES, Notes};

    #[test]
    fn what_is_left_out_is_said_once_and_not_without_end() {
        let mut notes = Notes::default();
        notes.at(3, "disk is ignored");
        notes.at(9, "disk is ignored");
        assert_eq!(notes.lines(), ["line 3: disk is ignored"]);
        let mut notes = Notes::default();
        (0..MAX_NOTES + 7).for_each(|n| notes.of(n.to_string()));
        let lines = notes.lines();
        assert_eq!((lines.len(), lines[MAX_NOTES].as_str()), (MAX_NOTES + 1, "7 more are not shown"));
    }

    #[test]
    fn lines_are_counted_from_one() {
        let index = LineIndex::new("ab\n\ncd");
        let lines: Vec<_> = (0..6).map(|at| index.line(at)).collect();
        assert_eq!(lines, [1, 1, 1, 2, 3, 3]);
    }
}
