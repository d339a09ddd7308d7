//! Linux list format for sets of CPUs and nodes: `0-3,8`.

use anyhow::{Context, Result};

/// The numbers in a list such as `0-3,8`; the empty list is the empty text.
pub(crate) fn parse(text: &str) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 =
            first.trim().parse().with_context(|| format!("'{text}' is not a list of numbers"))?;
        let last: u32 = last.trim().parse().with_context(|| format!("'{text}' is not a list of numbers"))?;
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

/// The shortest list of `numbers`, which must be ascending.
pub(crate) fn format(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let text: Vec<String> = parts
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    text.join(",")
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn a_list_is_read_and_written_back() {
        for text in ["", "0", "0-3", "0-3,8", "0,2,4-5"] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
    }

    #[test]
    fn words_are_no_list() {
        assert!(parse("a-b").is_err());
    }
}
