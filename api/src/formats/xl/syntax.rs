//! The syntax of xl.cfg(5): `NAME = VALUE` per line or between semicolons; values are quoted strings, numbers and
//! lists. `read` interprets the names. There is no crate for it, and the syntax is small.

use crate::formats::Refusal;
use crate::formats::list::shown;
use std::iter::Peekable;
use std::str::CharIndices;

/// Deepest lists: `vnuma` has two levels.
const MAX_DEPTH: usize = 8;

/// A value, and the line it starts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Counted from 1.
    pub line: usize,
    /// The value.
    pub what: What,
}

/// What a value can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// In quotes, which are gone.
    Text(String),
    /// As written: decimal, octal with a leading 0, or hexadecimal with a leading 0x.
    Number(String),
    /// In brackets.
    List(Vec<Value>),
}

/// One `NAME = VALUE`.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where the name stands.
    pub line: usize,
    /// The name.
    pub name: String,
    /// Whether it was `+=`.
    pub appends: bool,
    /// The value.
    pub value: Value,
}

/// Reads all settings, in order.
pub fn settings(text: &str) -> Result<Vec<Setting>, Refusal> {
    let mut parser = Parser { text, chars: text.char_indices().peekable(), line: 1 };
    let mut settings = Vec::new();
    loop {
        parser.skip(true);
        while parser.take(';') {
            parser.skip(true);
        }
        match parser.setting()? {
            Some(setting) => settings.push(setting),
            None => return Ok(settings),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    line: usize,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn next(&mut self) -> Option<char> {
        let next = self.chars.next().map(|(_, c)| c);
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn take(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.next();
        }
        there
    }

    /// Blanks and comments; line ends too where they mean nothing.
    fn skip(&mut self, line_ends: bool) {
        while let Some(next) = self.peek() {
            match next {
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                '\n' if !line_ends => return,
                c if c.is_whitespace() => {
                    self.next();
                }
                _ => return,
            }
        }
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let start = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        while self.peek().is_some_and(&belongs) {
            self.next();
        }
        let end = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        &self.text[start..end]
    }

    fn refuse<T>(&mut self, wanted: &str) -> Result<T, Refusal> {
        let line = self.line;
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(_) => format!("`{}`", shown(self.word(|c| c != '\n').trim_end())),
        };
        Err(Refusal::at(line, format_args!("{found} is not {wanted}")))
    }

    fn setting(&mut self) -> Result<Option<Setting>, Refusal> {
        let line = self.line;
        if self.peek().is_none() {
            return Ok(None);
        }
        if !self.peek().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') {
            return self.refuse("NAME = VALUE");
        }
        let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_').to_owned();
        self.skip(false);
        let appends = self.take('+');
        if !self.take('=') {
            return self.refuse(&format!("= after `{}`", shown(&name)));
        }
        self.skip(false);
        let value = self.value(0)?;
        self.skip(false);
        if !matches!(self.peek(), None | Some('\n' | ';')) {
            return self.refuse("the end of the line or ;");
        }
        Ok(Some(Setting { line, name, appends, value }))
    }

    fn value(&mut self, depth: usize) -> Result<Value, Refusal> {
        let line = self.line;
        let what = match self.peek() {
            Some(quote @ ('"' | '\'')) => What::Text(self.quoted(quote)?),
            Some('[') if depth == MAX_DEPTH => {
                return Err(Refusal::at(line, format_args!("lists are nested deeper than {MAX_DEPTH}")));
            }
            Some('[') => What::List(self.list(depth)?),
            Some(c) if c.is_ascii_digit() => {
                What::Number(self.word(|c| c.is_ascii_alphanumeric()).to_owned())
            }
            _ => return self.refuse("a text in quotes, a number or a list"),
        };
        Ok(Value { line, what })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, Refusal> {
        self.next();
        let mut values = Vec::new();
        loop {
            self.skip(true);
            if self.take(']') {
                return Ok(values);
            }
            values.push(self.value(depth + 1)?);
            self.skip(true);
            if !self.take(',') && self.peek() != Some(']') {
                return self.refuse(", or ] in a list");
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, Refusal> {
        let line = self.line;
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => {
                    return Err(Refusal::at(line, format_args!("a text has no closing {quote}")));
                }
                Some(c) if c == quote => {
                    self.next();
                    return Ok(text);
                }
                Some('\\') => {
                    self.next();
                    text.push(self.escape()?);
                }
                Some(c) => {
                    text.push(c);
                    self.next();
                }
            }
        }
    }

    /// What stands after a backslash, as in C.
    fn escape(&mut self) -> Result<char, Refusal> {
        let line = self.line;
        let digits = |parser: &mut Self, radix: u32, most: usize| {
            let mut value = 0;
            for _ in 0..most {
                let Some(digit) = parser.peek().and_then(|c| c.to_digit(radix)) else { break };
                value = value * radix + digit;
                parser.next();
            }
            let fits = char::from_u32(value).filter(|c| c.is_ascii() && *c != '\0');
            fits.ok_or_else(|| Refusal::at(line, "an escape in a text is not an ASCII character"))
        };
        match self.peek() {
            Some('0'..='7') => digits(self, 8, 3),
            Some('x') => {
                self.next();
                digits(self, 16, 2)
            }
            Some('\n') | None => Err(Refusal::at(line, "a text ends after a backslash")),
            Some(c) => {
                self.next();
                Ok(match c {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    other => other,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{What, settings};
    use proptest::prelude::{any, proptest};

    fn read(text: &str) -> Vec<(usize, String, What)> {
        let lines = settings(text).unwrap().into_iter();
        lines.map(|s| (s.line, s.name + if s.appends { "+" } else { "" }, s.value.what)).collect()
    }

    fn text(text: &str) -> What {
        What::Text(text.into())
    }

    #[test]
    fn settings_stand_on_lines_or_between_semicolons() {
        let expected = [
            (1, "name".into(), text("h0")),
            (1, "memory".into(), What::Number("0x400".into())),
            (3, "extra+".into(), text("a \"b\" \\ c\t!")),
        ];
        assert_eq!(
            read("name='h0' ; memory = 0x400;; # more\n\nextra += \"a \\\"b\\\" \\\\ c\\t\\x21\" # end"),
            expected
        );
        assert_eq!(read(""), []);
        assert_eq!(read("# only this"), []);
    }

    #[test]
    fn lists_span_lines_nest_and_may_end_in_a_comma() {
        let [setting] = settings("l = [ # first\n [ 'a', 1 ],\n [],\n]").unwrap().try_into().unwrap();
        let What::List(outer) = setting.value.what else { panic!() };
        assert_eq!(outer.iter().map(|value| value.line).collect::<Vec<_>>(), [2, 3]);
        let What::List(inner) = &outer[0].what else { panic!() };
        assert_eq!(inner[0].what, text("a"));
        assert_eq!(outer[1].what, What::List(vec![]));
    }

    #[test]
    fn what_is_not_the_syntax_is_refused_with_its_line() {
        let cases = [
            ("\n= 1", "line 2: `= 1` is not NAME = VALUE"),
            ("a", "line 1: the end is not = after `a`"),
            ("a =\n1", "line 1: the end of the line is not a text in quotes, a number or a list"),
            ("a = b", "line 1: `b` is not a text in quotes, a number or a list"),
            ("a = 1 2", "line 1: `2` is not the end of the line or ;"),
            ("a = [1 2]", "line 1: `2]` is not , or ] in a list"),
            ("a = [1,", "line 1: the end is not a text in quotes, a number or a list"),
            ("a = \"b\nc\"", "line 1: a text has no closing \""),
            ("a = 'b", "line 1: a text has no closing '"),
            ("a = '\\", "line 1: a text ends after a backslash"),
            ("a = '\\377'", "line 1: an escape in a text is not an ASCII character"),
            ("a = [[[[[[[[[", "line 1: lists are nested deeper than 8"),
        ];
        for (text, expected) in cases {
            assert_eq!(settings(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_not_a_panic(text in any::<String>(), like in "[a=\\['\",;\\]\\\\# \n0x+]{0,60}") {
            let _ = settings(&text);
            let _ = settings(&like);
        }
    }
}
