//! The grammar of `--distance`: `F:T=V`. `resources` completes the list.

use crate::args::{count, shortened};
use resources::distance::DistanceSpec;

/// Reads one `--distance`; an error reads on after `--distance[1]`.
pub fn parse(text: &str) -> Result<DistanceSpec, String> {
    let syntax = || format!(": `{}` is not F:T=V, such as 0:1=21", shortened(text));
    let (pair, value) = text.split_once('=').ok_or_else(syntax)?;
    let (from, to) = pair.split_once(':').ok_or_else(syntax)?;
    let number = |text: &str| count(text).map_err(|why| format!(": {why}"));
    Ok(DistanceSpec { from: number(from)?, to: number(to)?, value: u64::from(number(value)?) })
}

#[cfg(test)]
mod tests {
    use super::parse;
    use resources::distance::DistanceSpec;

    #[test]
    fn from_to_and_value_are_read() {
        assert_eq!(parse("0:12=21"), Ok(DistanceSpec { from: 0, to: 12, value: 21 }));
        assert_eq!(parse("0:1=266"), Ok(DistanceSpec { from: 0, to: 1, value: 266 }));
    }

    #[test]
    fn what_is_not_a_distance_is_refused() {
        for text in ["", "0:1", "0=1", "0-1=2", ":=", "a:1=20", "0:1=-1", "0:1=20,1:0=30"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("0:1"), Err(": `0:1` is not F:T=V, such as 0:1=21".into()));
        assert_eq!(parse("0:1=x"), Err(": `x` is not a whole number".into()));
    }
}
