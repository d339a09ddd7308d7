//! `/proc/zoneinfo`: what the kernel keeps free in each node's zones, and free pages on per-CPU lists. Other figures
//! of a node are in its `meminfo`.

use crate::host::HostError;
use crate::host::files::{MAX_ZONEINFO, each_line, refused};
use crate::host::read::MAX_PNODES;
use crate::ids::PnodeId;
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::path::Path;

/// Sizes that a kernel's pages can have, ascending: a tree may be another machine's.
const PAGE_SIZES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// The zones of one node together, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zones {
    /// Pages that the kernel manages, which are the node's `MemTotal`.
    managed: u64,
    /// Pages that it does not hand out to ordinary allocations.
    kept: u64,
    /// Free pages on the lists of CPUs.
    on_lists: u64,
}

impl Zones {
    /// What the kernel keeps free of a node of this size; `None` if it has no zone with memory.
    pub fn kept(&self, total: Bytes) -> Option<Bytes> {
        (self.managed > 0).then(|| Bytes(self.kept.saturating_mul(self.page(total))).min(total))
    }

    /// What lies free on the lists of CPUs.
    pub fn on_cpu_lists(&self, total: Bytes) -> Bytes {
        Bytes(self.on_lists.saturating_mul(self.page(total)))
    }

    /// Bytes of a page: as many pages as are managed are the node's memory.
    fn page(&self, total: Bytes) -> u64 {
        let holds = |page: &u64| self.managed.saturating_mul(*page) >= total.get() / 4 * 3;
        PAGE_SIZES.into_iter().find(holds).unwrap_or(PAGE_SIZES[0])
    }
}

/// The zone that is being read.
#[derive(Default)]
struct Zone {
    boost: u64,
    high: u64,
    protection: u64,
    present: Option<u64>,
    managed: Option<u64>,
}

impl Zone {
    /// Pages of it, and those that the kernel keeps: the `high` watermark, to which it reclaims once it began, and what
    /// allocations that could be had from a higher zone have to leave. This is what `calculate_totalreserve_pages` in
    /// `mm/page_alloc.c` counts for `MemAvailable`; a watermark that is boosted is so for a moment.
    fn pages(&self) -> (u64, u64) {
        let kept = self.high.saturating_sub(self.boost).saturating_add(self.protection);
        match self.managed.or(self.present) {
            Some(managed) => (managed, kept.min(managed)),
            None => (0, 0),
        }
    }
}

/// The zones of each node, or `None` if there is no such file.
pub fn read(path: &Path) -> Result<Option<BTreeMap<PnodeId, Zones>>, HostError> {
    let mut nodes: BTreeMap<PnodeId, Zones> = BTreeMap::new();
    let mut under_way: Option<(PnodeId, Zone)> = None;
    let end = |nodes: &mut BTreeMap<PnodeId, Zones>, zone: Option<(PnodeId, Zone)>| {
        let Some((node, zone)) = zone else { return };
        let (managed, kept) = zone.pages();
        let zones = nodes.entry(node).or_default();
        zones.managed = zones.managed.saturating_add(managed);
        zones.kept = zones.kept.saturating_add(kept);
    };
    let there = each_line(path, MAX_ZONEINFO, |line| {
        let wrong = || refused(path, line, "is not a number of pages");
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        if let Some(rest) = line.strip_prefix("Node ") {
            end(&mut nodes, under_way.take());
            let id = rest.split(',').next().and_then(|id| id.trim().parse::<u32>().ok());
            let id = PnodeId(id.ok_or_else(|| refused(path, line, "is not a zone of a node"))?);
            if nodes.len() == MAX_PNODES && !nodes.contains_key(&id) {
                return Err(refused(path, line, "must be of one of at most 1024 nodes"));
            }
            under_way = Some((id, Zone::default()));
            return Ok(());
        }
        let Some((node, zone)) = under_way.as_mut() else { return Ok(()) };
        // `high     99` is the zone's watermark, `high:  14` the length of a CPU's list.
        match line.split_once(char::is_whitespace) {
            Some(("boost", pages)) => zone.boost = number(pages)?,
            Some(("high", pages)) => zone.high = number(pages)?,
            Some(("present", pages)) => zone.present = Some(number(pages)?),
            Some(("managed", pages)) => zone.managed = Some(number(pages)?),
            Some(("protection:", list)) => {
                let list = list.trim().trim_start_matches('(').trim_end_matches(')');
                for pages in list.split(',').filter(|pages| !pages.trim().is_empty()) {
                    zone.protection = zone.protection.max(number(pages)?);
                }
            }
            Some(("count:", pages)) => {
                let zones = nodes.entry(*node).or_default();
                zones.on_lists = zones.on_lists.saturating_add(number(pages)?);
            }
            Some(_) | None => {}
        }
        Ok(())
    })?;
    end(&mut nodes, under_way);
    Ok(there.then_some(nodes))
}

#[cfg(test)]
mod tests {
    use super::{Zones, read};
    use crate::units::Bytes;

    /// Two nodes of a machine with 4 GiB each: 5.10 with min_free_kbytes=67584, lists shortened.
    const ZONEINFO: &str = "\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 12
      nr_free_cma  0
  pages free     3840
        boost    0
        min      66
        low      82
        high     98
        spanned  4095
        present  3998
        managed  3840
        cma      0
        protection: (0, 2980, 3936, 3936, 3936)
      nr_free_pages 3840
  pagesets
    cpu: 0
              count: 0
              high:  0
              batch: 1
  vm stats threshold: 4
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone    DMA32
  pages free     700000
        boost    1000
        min      13000
        low      16000
        high     19000
        spanned  1044480
        present  782288
        managed  763000
        protection: (0, 0, 956, 956, 956)
  pagesets
    cpu: 0
              count: 7
              high:  378
    cpu: 1
              count: 40
              high:  378
Node 0, zone   Normal
        high     6000
        present  262144
        managed  244900
        protection: (0, 0, 0, 0, 0)
Node 0, zone  Movable
  pages free     0
        min      32
        low      32
        high     32
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0, 0)
Node 1, zone   Normal
        high     20000
        present  1048576
        managed  1030000
        protection: (0, 0, 0)
  pagesets
    cpu: 0
              count: 2
";

    fn zones(text: &str) -> Result<Vec<(u32, Zones)>, String> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("zoneinfo");
        std::fs::write(&path, text).unwrap();
        match read(&path) {
            Ok(zones) => Ok(zones.unwrap().into_iter().map(|(id, zones)| (id.0, zones)).collect()),
            Err(error) => Err(error.to_string().replace(path.to_str().unwrap(), "zoneinfo")),
        }
    }

    #[test]
    fn what_is_kept_is_watermark_and_protection_of_each_zone_but_no_more_than_it_has() {
        // All of zone DMA is kept, the boost is not.
        let kept = 3840 + (19_000 - 1000 + 956) + 6000;
        let first = Zones { managed: 3840 + 763_000 + 244_900, kept, on_lists: 47 };
        let second = Zones { managed: 1_030_000, kept: 20_000, on_lists: 2 };
        assert_eq!(zones(ZONEINFO), Ok(vec![(0, first), (1, second)]));
        assert_eq!(zones(""), Ok(vec![]));
        assert_eq!(zones("\n\0\0\0"), Ok(vec![]));
        assert_eq!(zones(&format!("{ZONEINFO}{}", "\0".repeat(20_000))), zones(ZONEINFO));
    }

    #[test]
    fn a_page_is_as_large_as_makes_the_managed_pages_the_nodes_memory() {
        let zones = Zones { managed: 1_000_000, kept: 1000, on_lists: 10 };
        let of = |page: u64| {
            let total = Bytes(zones.managed * page);
            (zones.kept(total).unwrap().get() / page, zones.on_cpu_lists(total).get() / page)
        };
        assert_eq!([4096, 16_384, 65_536].map(of), [(1000, 10); 3]);
        assert_eq!(zones.kept(Bytes::mib(1)), Some(Bytes::mib(1)), "of a node that is smaller than that");
        assert_eq!(Zones::default().kept(Bytes::gib(1)), None);
    }

    #[test]
    fn what_is_no_zoneinfo_is_refused_and_no_number_overflows() {
        let wrong = |text: &str| zones(text).unwrap_err();
        assert_eq!(wrong("Node x, zone DMA"), "zoneinfo: `Node x, zone DMA` is not a zone of a node");
        let line = |line: &str| format!("Node 0, zone DMA\n {line}\n");
        assert_eq!(wrong(&line("high -1")), "zoneinfo: `high -1` is not a number of pages");
        assert_eq!(
            wrong(&line("protection: (0, x)")),
            "zoneinfo: `protection: (0, x)` is not a number of pages"
        );
        let long = wrong(&line(&"x".repeat(5000)));
        assert!(long.ends_with("must not be longer than 4K"), "{long}");
        let many: String = (0..1025).map(|id| format!("Node {id}, zone Normal\n")).collect();
        assert!(wrong(&many).ends_with("must be of one of at most 1024 nodes"));
        let most = u64::MAX;
        let text = format!("high {most}\nmanaged {most}\nprotection: ({most})\ncount: {most}\n");
        let all = zones(&line(&text).repeat(2)).unwrap();
        assert_eq!(all, [(0, Zones { managed: most, kept: most, on_lists: most })]);
        assert_eq!(all[0].1.kept(Bytes(most)), Some(Bytes(most)));
        assert_eq!(read(std::path::Path::new("/nowhere/zoneinfo")), Ok(None));
    }
}
