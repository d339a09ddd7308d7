//! The value of an option: `key=value` between commas, with doubled commas in values; or a JSON object. Other modules
//! interpret the keys.

use crate::formats::Refusal;
use crate::formats::list::{number, shown};
use crate::formats::notes::Notes;
use resources::Bytes;

/// The keys of one option, each taken out when it has been understood.
#[derive(Debug)]
pub struct Options {
    /// Where it stands.
    pub line: usize,
    /// The option, such as `-numa`.
    pub name: String,
    pairs: Vec<(String, String)>,
    /// Keys of a JSON object whose values are not plain: objects, and lists of such.
    structured: Vec<String>,
}

impl Options {
    /// Reads them; the first may stand without its key, which is then `implied`.
    pub fn read(line: usize, name: &str, text: &str, implied: &str) -> Result<Self, Refusal> {
        let read = if text.starts_with('{') { json(text) } else { Ok((pairs(text, implied), Vec::new())) };
        let (pairs, structured) = read.map_err(|why| Refusal::at(line, format_args!("{name}: {why}")))?;
        Ok(Self { line, name: name.to_owned(), pairs, structured })
    }

    /// Refuses values that no key of a machine has.
    pub fn plain_only(&self) -> Result<(), Refusal> {
        match self.structured.first() {
            None => Ok(()),
            Some(key) => Err(Refusal::at(
                self.line,
                format_args!("{}: {} is not a plain value", self.name, shown(key)),
            )),
        }
    }

    /// Takes over the keys of the same option given once more: of a key given twice the last value counts.
    pub fn merge(&mut self, later: Self) {
        self.line = later.line;
        self.pairs.extend(later.pairs);
        self.structured.extend(later.structured);
    }

    /// A refusal about one key.
    pub fn refuse(&self, key: &str, why: impl std::fmt::Display) -> Refusal {
        Refusal::at(self.line, format_args!("{} {key}: {why}", self.name))
    }

    /// All values of a key, in order.
    pub fn all(&mut self, key: &str) -> Vec<String> {
        let values = self.pairs.extract_if(.., |(name, _)| name == key);
        values.map(|(_, value)| value).collect()
    }

    /// The last value of a key, as QEMU takes it.
    pub fn take(&mut self, key: &str) -> Option<String> {
        self.all(key).pop()
    }

    /// A key that must be there.
    pub fn needed(&mut self, key: &str) -> Result<String, Refusal> {
        self.take(key).ok_or_else(|| self.refuse(key, "missing, must be given"))
    }

    /// A whole number.
    pub fn number<T: TryFrom<u64>>(&mut self, key: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.take(key) else { return Ok(None) };
        number(&text).map(Some).map_err(|why| self.refuse(key, why))
    }

    /// A size; a bare number counts `unit` bytes.
    pub fn size(&mut self, key: &str, unit: u64) -> Result<Option<Bytes>, Refusal> {
        let Some(text) = self.take(key) else { return Ok(None) };
        size(&text, unit).map(Some).map_err(|why| self.refuse(key, why))
    }

    /// `on` or `off`.
    pub fn switch(&mut self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(word) => Err(self.refuse(key, format_args!("`{}` is not one of on, off", shown(word)))),
        }
    }

    /// Notes all keys that nobody took.
    pub fn leave_rest(self, notes: &mut Notes) {
        for key in self.pairs.iter().map(|(key, _)| key).chain(&self.structured) {
            notes.at(self.line, format!("{} {} is ignored", self.name, shown(key)));
        }
    }
}

fn pairs(text: &str, implied: &str) -> Vec<(String, String)> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            (',', Some(last)) if chars.next_if_eq(&',').is_some() => last.push(','),
            (',', _) => parts.push(String::new()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    let pair = |(index, part): (usize, String)| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None if index == 0 && !implied.is_empty() => (implied.to_owned(), part),
        None => (part, "on".to_owned()),
    };
    parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()).map(pair).collect()
}

/// Keys with plain values, and the keys of all others.
type Pairs = (Vec<(String, String)>, Vec<String>);

/// An object: its plain values, also in lists, and the keys of all others.
fn json(text: &str) -> Result<Pairs, String> {
    use serde_json::Value;
    let unquoted = text[1..].trim_start().starts_with(|c: char| c.is_ascii_alphabetic());
    if unquoted {
        return Err(
            "a JSON object without its quotes, as `ps` prints it; give the words of /proc/PID/cmdline, \
                    or put the object in single quotes"
                .to_owned(),
        );
    }
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|why| format!("not a JSON object: {why}"))?;
    let plain = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Bool(on) => Some(if on { "on" } else { "off" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let (mut pairs, mut structured) = (Vec::new(), Vec::new());
    for (key, value) in object {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            match plain(value) {
                Some(value) => pairs.push((key.clone(), value)),
                None => structured.push(key.clone()),
            }
        }
    }
    structured.dedup();
    Ok((pairs, structured))
}

/// A size as QEMU reads it: with a fraction if it has a unit, powers of 1024.
pub fn size(text: &str, unit: u64) -> Result<Bytes, String> {
    let wrong = || format!("`{}` is not a size, such as 512M", shown(text));
    let text = text.trim();
    let (digits, scale) = match text.char_indices().last() {
        Some((at, letter)) if letter.is_ascii_alphabetic() => {
            let shift = match letter.to_ascii_uppercase() {
                'B' => 0,
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                'P' => 50,
                'E' => 60,
                _ => return Err(wrong()),
            };
            (&text[..at], 1 << shift)
        }
        _ => (text, unit),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty()
        || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
        || fraction.len() > 9
    {
        return Err(wrong());
    }
    let tenths: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let part =
        u128::from(tenths) * u128::from(scale) / 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let large = || format!("{} does not fit in 64 bits", shown(text));
    let whole: u64 = whole.parse().map_err(|_| large())?;
    let total = u128::from(whole) * u128::from(scale) + part;
    u64::try_from(total).map(Bytes).map_err(|_| large())
}

#[cfg(test)]
mod tests {
    use super::{Options, size};
    use resources::Bytes;

    #[test]
    fn values_may_have_commas_and_the_first_no_key() {
        let mut options =
            Options::read(1, "-object", "ram,id=a,,b,on,host-nodes=0,host-nodes=2-3", "type").unwrap();
        assert_eq!(options.take("type").as_deref(), Some("ram"));
        assert_eq!(options.take("id").as_deref(), Some("a,b"));
        assert_eq!(options.switch("on"), Ok(Some(true)));
        assert_eq!(options.all("host-nodes"), ["0", "2-3"]);
        assert_eq!(options.take("host-nodes"), None);
    }

    #[test]
    fn json_is_the_same_as_text() {
        let text = r#"{"qom-type":"memory-backend-ram","size":1024,"host-nodes":[0,1],"prealloc":true}"#;
        let mut options = Options::read(1, "-object", text, "qom-type").unwrap();
        assert_eq!(options.size("size", 1), Ok(Some(Bytes(1024))));
        assert_eq!(options.all("host-nodes"), ["0", "1"]);
        assert_eq!(options.switch("prealloc"), Ok(Some(true)));
        let options = Options::read(7, "-object", r#"{"a": {}, "b": [[1]]}"#, "").unwrap();
        assert_eq!(options.plain_only().unwrap_err().to_string(), "line 7: -object: a is not a plain value");
        let refused =
            Options::read(7, "-object", "{qom-type:memory-backend-ram}", "").unwrap_err().to_string();
        assert!(refused.starts_with("line 7: -object: a JSON object without its quotes"), "{refused}");
    }

    #[test]
    fn sizes_have_units_fractions_and_an_end() {
        assert_eq!(size("2", 1 << 20), Ok(Bytes::mib(2)));
        assert_eq!(size("1.5G", 1 << 20), Ok(Bytes::mib(1536)));
        assert_eq!(size("4096b", 1 << 20), Ok(Bytes(4096)));
        assert_eq!(size("16E", 1), Err("16E does not fit in 64 bits".into()));
        for text in ["", "M", "-1", "1.", "x", "1X", "1.2.3"] {
            let refused = size(text, 1);
            assert!(refused.is_err() || text == "1.", "{text}");
        }
    }
}
