//! What a guest makes of its CPUID, for tests: decoded from the manuals and from Linux, without any of the code that
//! writes it.

use kvm_bindings::kvm_cpuid_entry2;

/// CPUID of one vCPU.
pub struct GuestView<'a>(pub &'a [kvm_cpuid_entry2]);

/// A level of leaf 0xB or 0x1F: how far to shift the x2APIC id, processors below, type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub shift: u32,
    pub processors: u32,
    pub kind: u32,
}

/// A cache and how many APIC ids share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    pub level: u32,
    pub sharing: u32,
    pub cores_in_package: u32,
    pub bytes: u64,
}

impl GuestView<'_> {
    /// EAX, EBX, ECX, EDX; as KVM answers: an entry without the flag for any subleaf.
    pub fn leaf(&self, function: u32, index: u32) -> Option<[u32; 4]> {
        let found: Vec<_> = self
            .0
            .iter()
            .filter(|e| e.function == function && (e.flags & 1 == 0 || e.index == index))
            .map(|e| [e.eax, e.ebx, e.ecx, e.edx])
            .collect();
        assert!(found.len() < 2, "leaf {function:#x}.{index} is there {} times", found.len());
        found.first().copied()
    }

    pub fn vendor(&self) -> String {
        let [_, ebx, ecx, edx] = self.leaf(0, 0).unwrap();
        String::from_utf8([ebx, edx, ecx].iter().flat_map(|r| r.to_le_bytes()).collect()).unwrap()
    }

    /// The highest leaf, ordinary or extended.
    pub fn highest(&self, range: u32) -> u32 {
        self.leaf(range, 0).map_or(0, |[eax, ..]| eax)
    }

    /// Leaf 1 EBX: the low byte of the APIC id, ids per package; EDX: whether that is told.
    pub fn legacy(&self) -> (u32, u32, bool) {
        let [_, ebx, _, edx] = self.leaf(1, 0).unwrap();
        (ebx >> 24, ebx >> 16 & 0xff, edx & 1 << 28 != 0)
    }

    /// The x2APIC id and the levels below the package (Intel SDM volume 2, leaves 0BH and 1FH).
    pub fn levels(&self, function: u32) -> (u32, Vec<Level>) {
        let mut levels = Vec::new();
        let mut id = None;
        for index in 0.. {
            let [eax, ebx, ecx, edx] = self.leaf(function, index).expect("a subleaf of type 0 ends the leaf");
            assert_eq!(ecx & 0xff, index, "leaf {function:#x} tells its subleaf");
            assert_eq!(*id.get_or_insert(edx), edx, "leaf {function:#x} tells one id in each subleaf");
            if ecx >> 8 & 0xff == 0 {
                assert_eq!((eax, ebx), (0, 0));
                break;
            }
            levels.push(Level { shift: eax & 0x1f, processors: ebx & 0xffff, kind: ecx >> 8 & 0xff });
        }
        (id.unwrap(), levels)
    }

    /// The caches of leaf 4 (Intel) or 0x8000001D (AMD): the same layout, but for the cores in EAX.
    pub fn caches(&self, function: u32) -> Vec<Cache> {
        let cache = |[eax, ebx, ecx, _]: [u32; 4]| Cache {
            level: eax >> 5 & 7,
            sharing: (eax >> 14 & 0xfff) + 1,
            cores_in_package: (eax >> 26) + 1,
            bytes: [ebx >> 22, ebx >> 12 & 0x3ff, ebx & 0xfff, ecx]
                .iter()
                .map(|n| u64::from(*n) + 1)
                .product(),
        };
        (0..)
            .map_while(|index| self.leaf(function, index).filter(|[eax, ..]| eax & 0x1f != 0))
            .map(cache)
            .collect()
    }
}

/// Which group of APIC ids shares a cache: Linux shifts by the number of bits that hold `sharing` ids
/// (`cpu_cacheinfo`, Intel SDM volume 3, 9.9.3).
pub fn group(apic_id: u32, sharing: u32) -> u32 {
    apic_id >> (32 - (sharing - 1).leading_zeros())
}
