//! What stands after an option: `key=value` between commas, a comma in a value written twice; or a JSON object. What the
//! keys mean is for others.

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
}

impl Options {
    /// Reads them; the first may stand without its key, which is then `implied`.
    pub fn read(line: usize, name: &str, text: &str, implied: &str) -> Result<Self, Refusal> {
        let pairs = if text.starts_with('{') { json(text) } else { Ok(pairs(text, implied)) };
        let pairs = pairs.map_err(|why| Refusal::at(line, format_args!("{name}: {why}")))?;
        Ok(Self { line, name: name.to_owned(), pairs })
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
        for (key, _) in &self.pairs {
            notes.at(self.line, format!("{} {} is left out", self.name, shown(key)));
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

/// An object of plain values, and lists of them.
fn json(text: &str) -> Result<Vec<(String, String)>, String> {
    use serde_json::Value;
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|why| format!("not a JSON object: {why}"))?;
    let plain = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Bool(on) => Some(if on { "on" } else { "off" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let mut pairs = Vec::new();
    for (key, value) in object {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let value = plain(value).ok_or_else(|| format!("{} is not a plain value", shown(&key)))?;
            pairs.push((key.clone(), value));
        }
    }
    Ok(pairs)
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
        let refused = Options::read(7, "-object", "{\"a\": {}}", "").unwrap_err().to_string();
        assert_eq!(refused, "line 7: -object: a is not a plain value");
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
