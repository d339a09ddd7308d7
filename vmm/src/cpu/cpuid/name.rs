//! The processor's name, as the host's own CPUID says it. It tells no more than the family and model that KVM shows.

use raw_cpuid::{CpuIdReader, CpuIdReaderNative};

const MAX_EXTENDED: u32 = 0x8000_0000;
/// Intel SDM volume 2, CPUID; AMD APM volume 3, E.4.3.
const NAME: [u32; 3] = [0x8000_0002, 0x8000_0003, 0x8000_0004];

/// The leaves of the name, each with EAX, EBX, ECX and EDX; none if the processor has no name.
pub fn name_of_host() -> Vec<(u32, [u32; 4])> {
    let leaf = |function: u32| {
        let leaf = CpuIdReaderNative.cpuid1(function);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    };
    let [most, ..] = leaf(MAX_EXTENDED);
    if most < NAME[2] { Vec::new() } else { NAME.map(|function| (function, leaf(function))).to_vec() }
}
