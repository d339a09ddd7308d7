//! Tests of the chain walker against a reference by the book.

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;
use crate::virtio::test_driver::{AccessCount, accesses};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const TABLE: u64 = 0x1000;
const OTHER: u64 = 0x2000;
const SIZE: u16 = 8;
/// Two regions without a gap, and nothing behind them.
const BORDER: u64 = 0x1_0000;
const END: u64 = 0x2_0000;

fn memory() -> GuestMemoryMmap<AccessCount> {
    let region = |at: u64, end: u64| (GuestAddress(at), usize::try_from(end - at).unwrap());
    GuestMemoryMmap::from_ranges(&[region(0, BORDER), region(BORDER, END)]).unwrap()
}

fn put(
    memory: &GuestMemoryMmap<AccessCount>,
    table: u64,
    index: u16,
    (address, length, flags, next): (u64, u32, u16, u16),
) {
    let descriptor = Descriptor::new(address, length, flags, next);
    memory.write_obj(descriptor, GuestAddress(table + u64::from(index) * 16)).unwrap();
}

fn walk(memory: &GuestMemoryMmap<AccessCount>, head: u16) -> Result<Chain, QueueFault> {
    walk_with(memory, head, true)
}

fn walk_with(memory: &GuestMemoryMmap<AccessCount>, head: u16, indirect: bool) -> Result<Chain, QueueFault> {
    let table = Table { address: GuestAddress(TABLE), size: SIZE, indirect };
    Chain::walk(memory, table, head, vec![Buffer { address: GuestAddress(1), length: 1 }], |_, _| {})
}

fn fault(memory: &GuestMemoryMmap<AccessCount>, head: u16) -> QueueFault {
    walk(memory, head).unwrap_err()
}

fn buffers(list: &[Buffer]) -> Vec<(u64, u32)> {
    list.iter().map(|buffer| (buffer.address.0, buffer.length)).collect()
}

#[test]
fn a_chain_has_its_buffers_in_order_and_no_empty_ones() {
    let memory = memory();
    put(&memory, TABLE, 5, (0x3000, 16, NEXT, 2));
    put(&memory, TABLE, 2, (0x9_0000, 0, NEXT, 7));
    put(&memory, TABLE, 7, (BORDER - 8, 16, NEXT | WRITE, 0));
    put(&memory, TABLE, 0, (0x4000, 1, WRITE, 99));
    let chain = walk(&memory, 5).unwrap();
    assert_eq!(chain.head(), 5);
    assert_eq!(buffers(chain.readable()), [(0x3000, 16)]);
    assert_eq!(buffers(chain.writable()), [(BORDER - 8, 16), (0x4000, 1)]);
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (16, 17));
}

#[test]
fn an_indirect_table_may_end_a_chain() {
    let memory = memory();
    put(&memory, TABLE, 0, (0x3000, 16, NEXT, 1));
    // The write flag of the descriptor that names the table means nothing.
    put(&memory, TABLE, 1, (OTHER, 32, INDIRECT | WRITE, 0));
    put(&memory, OTHER, 0, (0x4000, 8, NEXT, 1));
    put(&memory, OTHER, 1, (0x5000, 8, WRITE, 0));
    let chain = walk(&memory, 0).unwrap();
    assert_eq!(buffers(chain.readable()), [(0x3000, 16), (0x4000, 8)]);
    assert_eq!(buffers(chain.writable()), [(0x5000, 8)]);
    assert_eq!(walk_with(&memory, 0, false), Err(QueueFault::IndirectMisplaced));
}

#[test]
fn a_loop_is_found() {
    let memory = memory();
    put(&memory, TABLE, 0, (0x3000, 16, NEXT, 1));
    put(&memory, TABLE, 1, (0x3000, 16, NEXT, 0));
    assert_eq!(fault(&memory, 0), QueueFault::TooLong { limit: 8 });
    // Also one of empty buffers, and one in a table.
    put(&memory, TABLE, 2, (0x3000, 0, NEXT, 2));
    assert_eq!(fault(&memory, 2), QueueFault::TooLong { limit: 8 });
    put(&memory, TABLE, 3, (OTHER, 16, INDIRECT, 0));
    put(&memory, OTHER, 0, (0x3000, 16, NEXT, 0));
    assert_eq!(fault(&memory, 3), QueueFault::TooLong { limit: 1 });
}

#[test]
fn a_chain_may_be_as_long_as_the_queue_and_no_longer() {
    let memory = memory();
    for index in 0..SIZE {
        let flags = if index + 1 < SIZE { NEXT } else { 0 };
        put(&memory, TABLE, index, (0x3000, 1, flags, index + 1));
    }
    assert_eq!(walk(&memory, 0).unwrap().readable().len(), 8);
}

#[test]
fn no_table_makes_a_chain_of_more_descriptors_than_are_allowed_even_if_they_are_empty() {
    for length in [1, 0] {
        let memory = memory();
        put(&memory, TABLE, 0, (OTHER, 1025 * 16, INDIRECT, 0));
        for index in 0..1025 {
            let flags = if index < 1024 { NEXT } else { 0 };
            put(&memory, OTHER, index, (0x8000, length, flags, index + 1));
        }
        assert_eq!(fault(&memory, 0), QueueFault::TooLong { limit: 1024 });
        put(&memory, OTHER, 1023, (0x8000, length, 0, 0));
        let chain = walk(&memory, 0).unwrap();
        assert_eq!((chain.descriptors(), chain.readable().len() as u64), (1024, u64::from(length) * 1024));
        // What comes before the table counts as well.
        put(&memory, TABLE, 1, (0x8000, length, NEXT, 0));
        assert_eq!(fault(&memory, 1), QueueFault::TooLong { limit: 1024 });
    }
}

#[test]
fn a_loop_in_a_table_of_four_gigabytes_is_found_as_soon_as_in_a_small_one() {
    let memory = memory();
    put(&memory, TABLE, 0, (OTHER, 0xFFFF_FFF0, INDIRECT, 0));
    put(&memory, OTHER, 0, (0, 0, NEXT, 0));
    let before = accesses(&memory);
    assert_eq!(fault(&memory, 0), QueueFault::TooLong { limit: 1024 });
    assert!(accesses(&memory) - before <= 1025, "{} accesses", accesses(&memory) - before);
}

#[test]
fn descriptors_that_do_not_exist_are_faults() {
    let memory = memory();
    assert_eq!(fault(&memory, SIZE), QueueFault::DescriptorIndex { index: 8, size: 8 });
    put(&memory, TABLE, 0, (0x3000, 1, NEXT, 0xFFFF));
    assert_eq!(fault(&memory, 0), QueueFault::DescriptorIndex { index: 0xFFFF, size: 8 });
    put(&memory, TABLE, 0, (OTHER, 32, INDIRECT, 0));
    put(&memory, OTHER, 0, (0x3000, 1, NEXT, 2));
    assert_eq!(fault(&memory, 0), QueueFault::DescriptorIndex { index: 2, size: 2 });
}

#[test]
fn tables_that_make_no_sense_are_faults() {
    let memory = memory();
    for length in [0, 8, 17] {
        put(&memory, TABLE, 0, (OTHER, length, INDIRECT, 0));
        assert_eq!(fault(&memory, 0), QueueFault::IndirectLength { length });
    }
    put(&memory, TABLE, 0, (OTHER, 16, INDIRECT | NEXT, 1));
    assert_eq!(fault(&memory, 0), QueueFault::IndirectMisplaced);
    put(&memory, TABLE, 0, (OTHER, 16, INDIRECT, 0));
    put(&memory, OTHER, 0, (OTHER, 16, INDIRECT, 0));
    assert_eq!(fault(&memory, 0), QueueFault::IndirectMisplaced);
    for address in [END, END - 8, u64::MAX - 7] {
        put(&memory, TABLE, 0, (address, 16, INDIRECT, 0));
        assert_eq!(fault(&memory, 0), QueueFault::TableOutside { address });
    }
    // The whole table need not be in memory, what is used of it must.
    put(&memory, TABLE, 0, (END - 16, 0xFFFF_FFF0, INDIRECT, 0));
    put(&memory, END - 16, 0, (0x3000, 1, NEXT, 1));
    assert_eq!(fault(&memory, 0), QueueFault::TableOutside { address: END });
}

#[test]
fn buffers_outside_of_memory_are_faults() {
    let memory = memory();
    for (address, length) in [(END, 1), (END - 1, 2), (0, u32::MAX), (u64::MAX, 1), (u64::MAX - 15, 32)] {
        put(&memory, TABLE, 0, (address, length, WRITE, 0));
        assert_eq!(fault(&memory, 0), QueueFault::BufferOutside { address, length });
    }
    put(&memory, TABLE, 0, (END - 1, 1, 0, 0));
    assert!(walk(&memory, 0).is_ok());
}

#[test]
fn a_buffer_to_read_after_one_to_write_is_a_fault() {
    let memory = memory();
    put(&memory, TABLE, 0, (0x3000, 1, NEXT | WRITE, 1));
    put(&memory, TABLE, 1, (0x3000, 1, 0, 0));
    assert_eq!(fault(&memory, 0), QueueFault::ReadableAfterWritable);
}

#[test]
fn copies_stop_where_the_chain_does() {
    let memory = memory();
    put(&memory, TABLE, 0, (0x3000, 2, NEXT, 1));
    put(&memory, TABLE, 1, (0x4000, 2, NEXT, 2));
    put(&memory, TABLE, 2, (0x5000, 3, WRITE, 0));
    memory.write_slice(&[1, 2], GuestAddress(0x3000)).unwrap();
    memory.write_slice(&[3, 4], GuestAddress(0x4000)).unwrap();
    let chain = walk(&memory, 0).unwrap();
    let mut data = [0; 8];
    assert_eq!((chain.read(&memory, 1, &mut data), data), (3, [2, 3, 4, 0, 0, 0, 0, 0]));
    assert_eq!(chain.read(&memory, 4, &mut data), 0);
    assert_eq!(chain.read(&memory, u64::MAX, &mut data), 0);
    assert_eq!(chain.write(&memory, 1, &[7, 8, 9]), 2);
    assert_eq!(chain.write(&memory, 3, &[7]), 0);
    let written: [u8; 4] = memory.read_obj(GuestAddress(0x5000)).unwrap();
    assert_eq!(written, [0, 7, 8, 0]);
}

/// What the chain is by the letter of the specification, step by step over all descriptors, and within our own limit.
fn by_the_book(memory: &GuestMemoryMmap<AccessCount>, head: u16) -> Option<Vec<(u64, u32, bool)>> {
    let (mut table, mut size, mut index, mut nested) = (TABLE, u32::from(SIZE), head, false);
    let (mut list, mut steps, mut all, mut total) = (Vec::new(), 0_u32, 0_u32, 0_u64);
    loop {
        if u32::from(index) >= size || steps >= size || all >= MAX_CHAIN_DESCRIPTORS {
            return None;
        }
        let at = table.checked_add(u64::from(index) * 16)?;
        let descriptor: Descriptor = memory.read_obj(GuestAddress(at)).ok()?;
        let (length, flags) = (descriptor.len(), descriptor.flags());
        if flags & INDIRECT != 0 {
            if nested || flags & NEXT != 0 || length == 0 || length % 16 != 0 {
                return None;
            }
            (table, size, index, nested, steps) = (descriptor.addr().0, length / 16, 0, true, 0);
            continue;
        }
        (steps, all) = (steps + 1, all + 1);
        total += u64::from(length);
        let write = flags & WRITE != 0;
        let misplaced = !write && list.iter().any(|(_, _, write)| *write);
        let end = descriptor.addr().0.checked_add(u64::from(length))?;
        if misplaced || total > 1 << 32 || (length > 0 && end > END) {
            return None;
        }
        if length > 0 {
            list.push((descriptor.addr().0, length, write));
        }
        if flags & NEXT == 0 {
            return Some(list);
        }
        index = descriptor.next();
    }
}

fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        4 => 0x3000..END,
        2 => (0_u64..9).prop_map(|i| TABLE + i * 16),
        2 => (0_u64..9).prop_map(|i| OTHER + i * 16),
        1 => any::<u64>(),
    ];
    let length = prop_oneof![
        4 => (0_u32..9).prop_map(|n| n * 16),
        2 => Just(0),
        2 => 0_u32..0x1000,
        1 => any::<u32>(),
        1 => any::<u32>().prop_map(|n| n & !0xF),
    ];
    let flags = prop_oneof![2 => Just(NEXT), 2 => Just(NEXT | WRITE), 1 => Just(INDIRECT), 2 => 0_u16..8];
    (address, length, flags, prop_oneof![9 => 0_u16..SIZE, 1 => any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn a_chain_is_what_the_specification_says_or_a_fault(
        direct in proptest::collection::vec(descriptor(), 8),
        other in proptest::collection::vec(descriptor(), 8),
        head in 0_u16..9,
    ) {
        let memory = memory();
        for (index, (first, second)) in (0..).zip(direct.into_iter().zip(other)) {
            put(&memory, TABLE, index, first);
            put(&memory, OTHER, index, second);
        }
        let before = accesses(&memory);
        let found = walk(&memory, head).ok().map(|chain| {
            let list = |buffers: &[Buffer], write| {
                buffers.iter().map(|buffer| (buffer.address.0, buffer.length, write)).collect::<Vec<_>>()
            };
            [list(chain.readable(), false), list(chain.writable(), true)].concat()
        });
        // A descriptor may lie across the border.
        prop_assert!(accesses(&memory) - before <= 2 * u64::from(MAX_CHAIN_DESCRIPTORS + 1));
        prop_assert_eq!(found, by_the_book(&memory, head));
    }
}
