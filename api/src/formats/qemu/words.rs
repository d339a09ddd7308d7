//! A command line split into words: in shell syntax, or from `/proc/PID/cmdline` with a NUL after each word.
//! Variables and commands are not expanded.

use crate::formats::Refusal;
use shlex::Shlex;

/// A word and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Where it ends, counted from 1.
    pub line: usize,
    /// Without quotes.
    pub text: String,
}

/// All words.
pub fn words(text: &str) -> Result<Vec<Word>, Refusal> {
    if text.contains('\0') {
        let words = text.strip_suffix('\0').unwrap_or(text).split('\0');
        return Ok(words.map(|word| Word { line: 1, text: word.to_owned() }).collect());
    }
    let text = spaced(text);
    let mut shlex = Shlex::new(&text);
    let mut words = Vec::new();
    let mut line = 1;
    while let Some(word) = shlex.next() {
        line = shlex.line_no;
        words.push(Word { line, text: word });
    }
    if shlex.had_error {
        return Err(Refusal::at(line, "unterminated quote or backslash"));
    }
    Ok(words)
}

/// A blank before each line end that ends a word, so that the end is not read with the word and lines can be told
/// apart; and a backslash that stands alone at the end of a line, which means nothing, taken out.
fn spaced(text: &str) -> String {
    #[derive(PartialEq)]
    enum Within {
        Line,
        Comment,
        Quotes(char),
    }
    let mut spaced = String::with_capacity(text.len() + text.len() / 16);
    let mut within = Within::Line;
    let mut chars = text.chars().filter(|c| *c != '\r').peekable();
    while let Some(c) = chars.next() {
        let fresh = spaced.is_empty() || spaced.ends_with([' ', '\t', '\n']);
        match (&within, c) {
            (Within::Line | Within::Comment, '\n') => {
                spaced.push(' ');
                within = Within::Line;
            }
            (Within::Line, '\\') if fresh && chars.peek() == Some(&'\n') => continue,
            (Within::Line, '#') if fresh => within = Within::Comment,
            (Within::Line, '\'' | '"') => within = Within::Quotes(c),
            (Within::Quotes(quote), _) if c == *quote => within = Within::Line,
            (Within::Line | Within::Quotes('"'), '\\') => {
                spaced.push(c);
                spaced.extend(chars.next());
                continue;
            }
            (Within::Line | Within::Comment | Within::Quotes(_), _) => {}
        }
        spaced.push(c);
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::words;

    fn read(text: &str) -> Vec<(usize, String)> {
        words(text).unwrap().into_iter().map(|word| (word.line, word.text)).collect()
    }

    #[test]
    fn a_shell_line_is_cut_as_a_shell_does() {
        let text =
            "qemu \\\n  -m 2G \\\n-append 'a \"b\"' \"$X\" -numa node,\\\nnodeid=0 x# # comment\n# comment\n";
        let words: Vec<String> = read(text).into_iter().map(|(_, word)| word).collect();
        let expected = ["qemu", "-m", "2G", "-append", "a \"b\"", "$X", "-numa", "node,nodeid=0", "x#"];
        assert_eq!(words, expected);
        assert_eq!(words_lines("a\nb \\\n c\r\n\n\n'd\n' # '\ne\\\nf"), [1, 2, 3, 7, 9]);
    }

    fn words_lines(text: &str) -> Vec<usize> {
        read(text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn a_process_has_a_nul_after_each_word() {
        assert_eq!(
            read("qemu\0-append\0a b\0\0"),
            [(1, "qemu"), (1, "-append"), (1, "a b"), (1, "")].map(|(l, w)| (l, w.to_owned()))
        );
    }

    #[test]
    fn open_quotes_are_refused() {
        let refused = words("qemu\n-append 'x").unwrap_err();
        assert_eq!(refused.to_string(), "line 2: unterminated quote or backslash");
    }
}
