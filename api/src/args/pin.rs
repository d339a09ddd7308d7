//! The grammar of `--pin`: `VCPUS=CPUS`. Lists of host CPUs are parsed by `resources`.

use crate::args::{ids, shortened};
use resources::PinSpec;

/// Reads one `--pin`; an error reads on after `--pin[1]`.
pub fn parse(text: &str) -> Result<PinSpec, String> {
    let Some((vcpus, cpus)) = text.split_once('=') else {
        return Err(format!(": `{}` is not VCPUS=CPUS, such as 0-1=4-7", shortened(text)));
    };
    Ok(PinSpec {
        vcpus: ids(vcpus).map_err(|why| format!(".vcpus: {why}"))?,
        cpus: cpus.parse().map_err(|why| format!(".cpus: {why}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn vcpus_and_cpus_are_read_and_what_is_wrong_is_named() {
        let pin = parse("[0-1,3]=node:1,^9").unwrap();
        assert_eq!((pin.vcpus.to_string(), pin.cpus.to_string()), ("0-1,3".into(), "node:1,^9".into()));
        assert_eq!(parse("0"), Err(": `0` is not VCPUS=CPUS, such as 0-1=4-7".into()));
        assert!(parse("x=1").unwrap_err().starts_with(".vcpus: `x` is not a list;"));
        assert!(parse("1=x").unwrap_err().starts_with(".cpus: `x` is not a list of CPUs;"));
    }
}
