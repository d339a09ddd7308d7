//! Round trips of random VMs through each format, and malicious inputs.

use super::{Format, read, write};
use proptest::option::of;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::sample::select;
use resources::distance::DistanceSpec;
use resources::spec::{CacheAssociativity, CacheWritePolicy, Switch};
use resources::{
    AttributeSpec, Bytes, CacheSpec, MemoryPolicy, OnReset, PageSize, PinSpec, PnodeId, SerialSpec, VcpuId,
    VmSpec, VmTopology, VnodeSpec,
};
use std::collections::BTreeSet;

const ALL: [Format; 3] = [Format::Libvirt, Format::Xl, Format::Qemu];

fn vnode() -> impl Strategy<Value = VnodeSpec> {
    let where_to = (
        proptest::collection::btree_set(0u32..6, 1..3),
        select(vec![MemoryPolicy::Bind, MemoryPolicy::Preferred, MemoryPolicy::Interleave]),
    );
    let held = (
        of(select(vec![PageSize::Huge2M, PageSize::Small, PageSize::Thp])),
        of(any::<bool>()),
        of(any::<bool>()),
    );
    (1u64..2000, 0u32..3, of(where_to), held).prop_map(|(units, vcpus, place, (pages, prefault, shared))| {
        VnodeSpec {
            memory: Some(Bytes::mib(2 * units)),
            // Their number; which they are is decided when all vnodes are known.
            vcpus: Some((0..vcpus).map(VcpuId).collect()),
            pnode: place.as_ref().map(|(nodes, _)| nodes.iter().copied().map(PnodeId).collect()),
            policy: place.map(|(_, policy)| policy),
            pages,
            prefault: prefault.map(Switch),
            shared: shared.map(Switch),
            ..VnodeSpec::new(0)
        }
    })
}

fn cache() -> impl Strategy<Value = CacheSpec> {
    let words = (
        select(vec![CacheAssociativity::None, CacheAssociativity::Direct, CacheAssociativity::Complex]),
        select(vec![CacheWritePolicy::None, CacheWritePolicy::WriteBack, CacheWritePolicy::WriteThrough]),
    );
    (0u32..5, 1..=u64::MAX, any::<u16>(), words).prop_map(|(vnode, size, line, (associativity, policy))| {
        CacheSpec { vnode, size: Bytes(size), level: 1, associativity, policy, line }
    })
}

fn attribute() -> impl Strategy<Value = AttributeSpec> {
    let mib = || of((1..=u64::from(u32::MAX)).prop_map(Bytes::mib));
    (0u32..5, 0u32..5, of(1..=u32::MAX), of(1..=u32::MAX), mib(), mib()).prop_map(
        |(initiator, target, read_latency, write_latency, read_bandwidth, write_bandwidth)| AttributeSpec {
            read_latency,
            write_latency,
            read_bandwidth,
            write_bandwidth,
            ..AttributeSpec::new(initiator, target)
        },
    )
}

/// Any machine; what does not fit the vnodes there are is taken out.
fn machine() -> impl Strategy<Value = VmSpec> {
    let boot = (of("[ -~é]{1,20}"), of("/[ -~]{0,20}"), of("/[ -~]{1,20}"), any::<bool>());
    let parts = (
        proptest::collection::vec(vnode(), 1..5),
        proptest::collection::vec((0u32..5, 0u32..5, prop_oneof![11u64..255, 255u64..=255]), 0..6),
        proptest::collection::vec(attribute(), 0..4),
        proptest::collection::vec(cache(), 0..3),
        proptest::collection::btree_map(0u32..8, proptest::collection::btree_set(0u32..70, 1..5), 0..4),
        of(0u32..5),
    );
    (boot, parts).prop_map(
        |((cmdline, kernel, serial, reboot), (mut numa, distances, pairs, caches, pins, initiator))| {
            let mut first = 0;
            for (id, vnode) in (0u32..).zip(&mut numa) {
                vnode.id = id;
                let own = u32::try_from(vnode.vcpus.as_ref().unwrap().len()).unwrap().max(u32::from(id == 0));
                vnode.vcpus = Some((first..first + own).map(VcpuId).collect());
                first += own;
            }
            let count = u32::try_from(numa.len()).unwrap();
            let has_vcpus = |id: u32| id < count && !numa[id as usize].vcpus.as_ref().unwrap().is_empty();
            let mut attributes: Vec<AttributeSpec> = pairs
                .into_iter()
                .filter(|p| {
                    has_vcpus(p.initiator)
                        && p.target < count
                        && *p != AttributeSpec::new(p.initiator, p.target)
                })
                .collect();
            attributes.sort_by_key(|pair| (pair.initiator, pair.target));
            attributes.dedup_by_key(|pair| (pair.initiator, pair.target));
            let mut caches: Vec<CacheSpec> = caches.into_iter().filter(|cache| cache.vnode < count).collect();
            caches.sort_by_key(|cache| cache.vnode);
            caches.dedup_by_key(|cache| cache.vnode);
            let pins = pins.into_iter().filter(|(vcpu, _)| *vcpu < first).map(|(vcpu, cpus)| PinSpec {
                vcpus: vcpu.to_string().parse().unwrap(),
                cpus: cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",").parse().unwrap(),
            });
            let last = count - 1;
            let attached = initiator.filter(|i| has_vcpus(*i) && !has_vcpus(last));
            let mut pairs = BTreeSet::new();
            let distances = distances.into_iter().filter(|(from, to, _)| {
                from != to && *from < count && *to < count && pairs.insert((*from, *to))
            });
            let mut spec = VmSpec {
                cmdline: cmdline.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
                kernel: kernel.map(|path| path.trim().into()),
                serial: serial.map_or(SerialSpec::None, |path| SerialSpec::File(path.trim().into())),
                on_reset: if reboot { OnReset::Reboot } else { OnReset::Exit },
                distances: distances.map(|(from, to, value)| DistanceSpec { from, to, value }).collect(),
                attributes,
                caches,
                pins: pins.collect(),
                numa,
                ..VmSpec::default()
            };
            spec.numa[last as usize].initiator = attached;
            spec
        },
    )
}

/// The same machine in the words that a format has: the losses that docs/formats.md names.
fn in_words_of(format: Format, mut spec: VmSpec) -> VmSpec {
    let pool = |vnode: &VnodeSpec| vnode.pages.and_then(PageSize::pool).is_some();
    let prefault = |vnode: &VnodeSpec| vnode.prefault.map_or(pool(vnode), |Switch(on)| on);
    let same = spec.numa.iter().all(prefault) || !spec.numa.iter().any(prefault);
    for vnode in &mut spec.numa {
        match format {
            Format::Libvirt => {
                vnode.initiator = None;
                vnode.prefault = vnode.prefault.filter(|_| same);
            }
            Format::Xl => {
                vnode.pnode = vnode.pnode.as_ref().map(|nodes| nodes.first().into_iter().collect());
                (vnode.policy, vnode.pages, vnode.prefault, vnode.initiator) = (None, None, None, None);
                vnode.shared = None;
            }
            Format::Qemu => vnode.pages = vnode.pages.filter(|pages| *pages != PageSize::Small),
        }
    }
    match format {
        Format::Libvirt => {}
        Format::Xl => (spec.attributes, spec.caches) = (vec![], vec![]),
        Format::Qemu => spec.pins = vec![],
    }
    spec
}

/// Everything that a spec means, whatever words it was said in.
fn meaning(spec: &VmSpec) -> impl PartialEq + std::fmt::Debug + use<> {
    let topology = VmTopology::try_from(spec).unwrap();
    let (kernel, initramfs, cmdline) = (spec.kernel.clone(), spec.initramfs.clone(), spec.cmdline.clone());
    let told = (topology.vnodes().to_vec(), topology.distances().clone(), topology.attributes().cloned());
    let held = (topology.caches().to_vec(), topology.pins().clone());
    (told, held, kernel, initramfs, cmdline, (spec.serial.clone(), spec.on_reset))
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, ..Default::default() })]
    #[test]
    fn what_is_written_reads_back_as_the_same_machine(spec in machine()) {
        for format in ALL {
            let mut spec = spec.clone();
            if format == Format::Xl {
                // xl has to be told.
                spec.numa.iter_mut().for_each(|vnode| _ = vnode.pnode.get_or_insert_with(|| "3".parse().unwrap()));
            }
            let (text, _) = write(format, &spec).unwrap();
            let (again, _) = read(format, &text).unwrap_or_else(|why| panic!("{format:?}: {why}\n{text}"));
            assert_eq!(meaning(&again), meaning(&in_words_of(format, spec)), "{format:?}\n{text}");
            // And what was read is written the same.
            assert_eq!(write(format, &again).unwrap().0, text, "{format:?}");
        }
    }

    #[test]
    fn any_text_is_an_answer_not_a_panic(text in any::<String>(), cut in any::<proptest::sample::Index>()) {
        for format in ALL {
            let _ = read(format, &text);
            let spec: VmSpec = serde_json::from_str(r#"{"vnodes": 2, "numa": [{"id": 0, "pnode": 0}, {"id": 1, "pnode": 1}]}"#).unwrap();
            let good = write(format, &spec).unwrap().0;
            let cut = cut.index(good.len());
            if good.is_char_boundary(cut) {
                let _ = read(format, &good[..cut]);
                let _ = read(format, &format!("{}{text}{}", &good[..cut], &good[cut..]));
            }
        }
    }
}

fn refused(format: Format, text: &str) -> String {
    let start = std::time::Instant::now();
    let refusal = read(format, text).unwrap_err().to_string();
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    refusal
}

const MIB: usize = 1 << 20;

#[test]
fn entities_and_document_types_are_refused() {
    let bomb = "<!DOCTYPE d [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'><!ENTITY c '&b;&b;&b;&b;'>]>\n<domain>&c;</domain>";
    let why = "document types and entities are not allowed";
    assert_eq!(refused(Format::Libvirt, bomb), why);
    let outside = "<!DOCTYPE d [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>\n<domain><name>&a;</name></domain>";
    assert_eq!(refused(Format::Libvirt, outside), why);
    let unknown = refused(Format::Libvirt, "<domain>\n<name>&a;</name></domain>");
    assert!(unknown.starts_with("line 2: not XML: "), "{unknown}");
}

#[test]
fn depth_and_number_are_bounded() {
    let deep = refused(Format::Libvirt, &"<a>".repeat(MIB / 3));
    assert!(deep == "more than 262144 elements and texts" || deep.starts_with("line 1: not XML: "), "{deep}");
    let closed = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    let closed = refused(Format::Libvirt, &closed);
    assert!(closed.starts_with("line 1: "), "{closed}");
    let wide = format!("<domain>{}</domain>", "<a/>".repeat(MIB / 4 - 5));
    let _ = read(Format::Libvirt, &wide);
    let names: String = (0..50_000).map(|n| format!("<a{n}/>")).collect();
    let (_, warnings) = read(Format::Libvirt, &format!("<domain>{names}</domain>")).unwrap();
    assert_eq!((warnings.len(), warnings[100].as_str()), (101, "49900 more are not shown"));
    assert_eq!(
        refused(Format::Xl, &format!("a = {}", "[".repeat(MIB))),
        "line 1: lists are nested deeper than 8"
    );
    let json = "{\"a\":".repeat(MIB / 8);
    let unquoted = refused(Format::Qemu, &format!("qemu -object {json}"));
    assert!(unquoted.starts_with("line 1: -object: a JSON object without its quotes"), "{unquoted}");
    let quoted = refused(Format::Qemu, &format!("qemu -object '{json}'"));
    assert!(quoted.starts_with("line 1: -object: not a JSON object: "), "{quoted}");
    let cells = "<cell memory='2048'/>".repeat(300);
    let cells = format!("<domain><cpu><numa>{cells}</numa></cpu></domain>");
    assert_eq!(refused(Format::Libvirt, &cells), "line 1: cpu/numa: 300 cells, must be at most 256");
}

#[test]
fn large_inputs_of_any_kind_are_quick() {
    let start = std::time::Instant::now();
    let texts = [
        "a=1\n".repeat(MIB / 4),
        format!("vnuma=[{}]", "['size=1'],".repeat(MIB / 12)),
        format!("cpus='{}'", "1,".repeat(MIB / 2)),
        format!("cpus=[{}]", "'0-99999',".repeat(MIB / 11)),
        format!("maxvcpus=4096\ncpus='{}1'", "1,3,".repeat(1000)),
        "-numa node ".repeat(MIB / 12),
        format!("-numa node{}", ",cpus=1".repeat(MIB / 8)),
        format!("-smp {}", ",sockets=9".repeat(MIB / 10)),
        format!("<domain><vcpu cpuset='{}'>4096</vcpu></domain>", "9,".repeat(MIB / 3)),
        format!(
            "<domain><cputune>{}</cputune></domain>",
            "<vcpupin vcpu='0' cpuset='1'/>\n".repeat(MIB / 32)
        ),
    ];
    for text in texts {
        for format in ALL {
            let _ = read(format, &text);
        }
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
