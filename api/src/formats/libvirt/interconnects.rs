//! `<interconnects>`: latency in nanoseconds and bandwidth of pairs of cells, for all accesses or for reads and
//! writes.

use crate::formats::Refusal;
use crate::formats::libvirt::numa::node;
use crate::formats::libvirt::xml::Element;
use crate::formats::list::shown;
use crate::formats::notes::Notes;
use resources::AttributeSpec;
use std::collections::BTreeMap;

/// Reads them, one entry per pair. Figures of memory-side caches have no word here.
pub fn interconnects(
    list: Element<'_>,
    count: u32,
    notes: &mut Notes,
) -> Result<Vec<AttributeSpec>, Refusal> {
    let mut pairs = BTreeMap::new();
    for element in list.children() {
        let latency = match element.name() {
            "latency" => true,
            "bandwidth" => false,
            _ => {
                element.left_out(notes);
                continue;
            }
        };
        let (initiator, target) = (node(element, "initiator", count)?, node(element, "target", count)?);
        if element.attribute("cache").is_some() {
            element.note("/@cache is ignored: only values of memory are supported", notes);
            continue;
        }
        let pair = pairs.entry((initiator, target)).or_insert_with(|| AttributeSpec::new(initiator, target));
        let kind = element.needed("type")?;
        let twice = if latency {
            let field = match kind {
                "access" => &mut pair.latency,
                "read" => &mut pair.read_latency,
                "write" => &mut pair.write_latency,
                _ => return Err(unknown(element, kind)),
            };
            field.replace(element.number("value")?).is_some()
        } else {
            let field = match kind {
                "access" => &mut pair.bandwidth,
                "read" => &mut pair.read_bandwidth,
                "write" => &mut pair.write_bandwidth,
                _ => return Err(unknown(element, kind)),
            };
            field.replace(element.size("value", "KiB")?).is_some()
        };
        if twice {
            let what = format!("{kind} of {initiator}:{target} is given twice, must be given once");
            return Err(element.refuse_attribute("type", what));
        }
    }
    Ok(pairs.into_values().collect())
}

fn unknown(element: Element<'_>, kind: &str) -> Refusal {
    element.refuse_attribute("type", format_args!("`{}` is not one of access, read, write", shown(kind)))
}
