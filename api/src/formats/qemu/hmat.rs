//! `-numa hmat-lb` and `-numa hmat-cache`: latency, bandwidth and memory-side caches.

use crate::formats::Refusal;
use crate::formats::list::shown;
use crate::formats::notes::Notes;
use crate::formats::qemu::options::Options;
use resources::spec::{CacheAssociativity, CacheWritePolicy};
use resources::{AttributeSpec, CacheSpec};
use std::collections::BTreeMap;

/// What was said so far.
#[derive(Default)]
pub struct Hmat {
    pairs: BTreeMap<(u32, u32), AttributeSpec>,
    caches: Vec<CacheSpec>,
}

const KINDS: &str =
    "access-latency, read-latency, write-latency, access-bandwidth, read-bandwidth, write-bandwidth";

impl Hmat {
    /// Reads one `hmat-lb`. Zero means that nothing is known; caches' figures have no word here.
    pub fn locality(
        &mut self,
        (initiator, target): (u32, u32),
        options: &mut Options,
        notes: &mut Notes,
    ) -> Result<(), Refusal> {
        let kind = options.needed("data-type")?;
        let (latency, bandwidth) = (options.number("latency")?, options.size("bandwidth", 1)?);
        let hierarchy = options.needed("hierarchy")?;
        if ["first-level", "second-level", "third-level"].contains(&hierarchy.as_str()) {
            notes.at(
                options.line,
                format!(
                    "-numa hmat-lb hierarchy {hierarchy} is ignored: only values of memory are supported"
                ),
            );
            return Ok(());
        }
        if hierarchy != "memory" {
            let what = format!(
                "`{}` is not one of memory, first-level, second-level, third-level",
                shown(&hierarchy)
            );
            return Err(options.refuse("hierarchy", what));
        }
        let pair =
            self.pairs.entry((initiator, target)).or_insert_with(|| AttributeSpec::new(initiator, target));
        let missing = |key| options.refuse(key, format_args!("missing, {kind} needs it"));
        let twice = match kind.as_str() {
            "access-latency" | "read-latency" | "write-latency" => {
                let field = match kind.as_str() {
                    "access-latency" => &mut pair.latency,
                    "read-latency" => &mut pair.read_latency,
                    _ => &mut pair.write_latency,
                };
                let latency: u32 = latency.ok_or_else(|| missing("latency"))?;
                latency > 0 && field.replace(latency).is_some()
            }
            "access-bandwidth" | "read-bandwidth" | "write-bandwidth" => {
                let field = match kind.as_str() {
                    "access-bandwidth" => &mut pair.bandwidth,
                    "read-bandwidth" => &mut pair.read_bandwidth,
                    _ => &mut pair.write_bandwidth,
                };
                let bandwidth = bandwidth.ok_or_else(|| missing("bandwidth"))?;
                bandwidth.get() > 0 && field.replace(bandwidth).is_some()
            }
            _ => {
                return Err(
                    options.refuse("data-type", format_args!("`{}` is not one of {KINDS}", shown(&kind)))
                );
            }
        };
        match twice {
            true => {
                let what = format!("{kind} of {initiator}:{target} is given twice, must be given once");
                Err(options.refuse("data-type", what))
            }
            false => Ok(()),
        }
    }

    /// Reads one `hmat-cache`.
    pub fn cache(&mut self, vnode: u32, options: &mut Options) -> Result<(), Refusal> {
        let associativity = match options.take("associativity").as_deref() {
            None | Some("none") => CacheAssociativity::None,
            Some("direct") => CacheAssociativity::Direct,
            Some("complex") => CacheAssociativity::Complex,
            Some(word) => {
                let what = format!("`{}` is not one of none, direct, complex", shown(word));
                return Err(options.refuse("associativity", what));
            }
        };
        let policy = match options.take("policy").as_deref() {
            None | Some("none") => CacheWritePolicy::None,
            Some("write-back") => CacheWritePolicy::WriteBack,
            Some("write-through") => CacheWritePolicy::WriteThrough,
            Some(word) => {
                let what = format!("`{}` is not one of none, write-back, write-through", shown(word));
                return Err(options.refuse("policy", what));
            }
        };
        let missing = |options: &Options, key| options.refuse(key, "missing, must be given");
        let size = options.size("size", 1)?;
        let level = options.number("level")?;
        self.caches.push(CacheSpec {
            vnode,
            size: size.ok_or_else(|| missing(options, "size"))?,
            level: level.ok_or_else(|| missing(options, "level"))?,
            associativity,
            policy,
            line: options.number("line")?.unwrap_or(0),
        });
        Ok(())
    }

    /// Pairs of which something is known, and caches.
    pub fn finish(self) -> (Vec<AttributeSpec>, Vec<CacheSpec>) {
        let known = |pair: &AttributeSpec| *pair != AttributeSpec::new(pair.initiator, pair.target);
        (self.pairs.into_values().filter(known).collect(), self.caches)
    }
}
