//! Tests of configuration spaces: identity, masks, BAR sizing.

use proptest::prelude::*;

use super::*;

const IDENTITY: Identity = Identity {
    vendor: 0x1AF4,
    device: 0x1042,
    revision: 1,
    class: 0x01_00_00,
    subsystem_vendor: 0x1AF4,
    subsystem: 0x1042,
};

fn config() -> ConfigSpace {
    let mut config = ConfigSpace::new(IDENTITY);
    config.add_bar(0, 0x4000).unwrap();
    config.add_bar(2, 0x1000).unwrap();
    config.add_capability(0x11, &[1, 2, 3, 4], &[0, 0xF0]).unwrap();
    config.add_capability(0x09, &[5; 5], &[]).unwrap();
    config.place_bar(0, 0x80_0000_4000);
    config
}

fn read<const N: usize>(config: &ConfigSpace, offset: u16) -> [u8; N] {
    let mut data = [0; N];
    config.read(offset, &mut data);
    data
}

fn read_32(config: &ConfigSpace, offset: u16) -> u32 {
    u32::from_le_bytes(read(config, offset))
}

#[test]
fn the_header_says_what_the_function_is() {
    let config = config();
    assert_eq!(read_32(&config, 0), 0x1042_1AF4);
    assert_eq!(read_32(&config, 8), 0x0100_0001);
    assert_eq!(read_32(&config, 0x2C), 0x1042_1AF4);
    // Header type 0, one function; no expansion ROM; no interrupt pin to fall back to.
    assert_eq!(read::<1>(&config, 0x0E), [0]);
    assert_eq!(read_32(&config, 0x30), 0);
    assert_eq!(read::<1>(&config, 0x3D), [0]);
}

#[test]
fn capabilities_form_a_list() {
    let config = config();
    assert_eq!(read::<2>(&config, 0x06), [0x10, 0]);
    assert_eq!(read::<1>(&config, 0x34), [0x40]);
    assert_eq!(read::<6>(&config, 0x40), [0x11, 0x48, 1, 2, 3, 4]);
    assert_eq!(read::<7>(&config, 0x48), [0x09, 0, 5, 5, 5, 5, 5]);
}

#[test]
fn a_capability_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut config = config();
    let before = config.bytes.clone();
    let error = config.add_capability(0x09, &[0; 200], &[]).unwrap_err();
    assert_eq!(error, CapabilityError { id: 0x09, bytes: 202 });
    assert_eq!(error.to_string(), "capability 0x9 of 202 bytes does not fit below 0x100");
    assert_eq!(config.bytes, before);
}

#[test]
fn a_bar_is_sized_as_linux_does_it() {
    let mut config = config();
    let (low, high) = (read_32(&config, 0x10), read_32(&config, 0x14));
    assert_eq!((low, high), (0x0000_400C, 0x80));
    // __pci_read_base: decoding off, all-ones to each half, read, put back.
    config.write(0x04, &[0, 0]);
    config.write(0x10, &[0xFF; 4]);
    let size_low = read_32(&config, 0x10);
    config.write(0x10, &low.to_le_bytes());
    config.write(0x14, &[0xFF; 4]);
    let size_high = read_32(&config, 0x14);
    config.write(0x14, &high.to_le_bytes());
    config.write(0x04, &[2, 0]);
    let mask = u64::from(size_high) << 32 | u64::from(size_low & !0xF);
    assert_eq!(!mask + 1, 0x4000);
    assert_eq!(size_low & 0xF, 0xC);
    assert_eq!(config.bar_address(0), Some(0x80_0000_4000));
}

#[test]
fn registers_without_a_bar_stay_zero() {
    let mut config = config();
    config.write(0x20, &[0xFF; 4]);
    config.write(0x24, &[0xFF; 4]);
    assert_eq!(read::<8>(&config, 0x20), [0; 8]);
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let mut config = config();
    assert_eq!(config.add_bar(1, 0x1000), Err(BarError::Taken { index: 1 }));
    assert_eq!(config.add_bar(3, 0x1000), Err(BarError::Taken { index: 3 }));
    assert_eq!(config.add_bar(5, 0x1000), Err(BarError::Taken { index: 5 }));
    assert_eq!(config.add_bar(4, 0x1001), Err(BarError::Size { index: 4, size: 0x1001 }));
    assert_eq!(config.add_bar(4, 8), Err(BarError::Size { index: 4, size: 8 }));
    assert_eq!(config.add_bar(4, 16), Ok(()));
}

#[test]
fn memory_decoding_and_bus_mastering_follow_the_command_register() {
    let mut config = config();
    assert_eq!(config.command(), Command { memory: true, bus_master: false });
    config.write(0x04, &[4]);
    assert_eq!(config.command(), Command { memory: false, bus_master: true });
    assert_eq!(config.bar_address(0), None);
    // I/O space is hardwired to 0: there are no such BARs.
    config.write(0x04, &[0xFF, 0xFF]);
    assert_eq!(read::<2>(&config, 0x04), [0x46, 0x05]);
}

#[test]
fn accesses_that_leave_the_space_find_nothing() {
    let mut config = config();
    assert_eq!(read::<4>(&config, 0xFFE), [0xFF; 4]);
    config.write(0xFFE, &[0; 4]);
    assert_eq!(read::<2>(&config, 0xFFE), [0; 2]);
}

#[test]
fn only_writes_to_command_and_bars_touch_decoding() {
    let touching: Vec<u16> = (0..0x40).filter(|offset| touches_decoding(*offset, 1)).collect();
    let expected: Vec<u16> = (0x04..0x06).chain(0x10..0x28).collect();
    assert_eq!(touching, expected);
    assert!(touches_decoding(0x02, 4) && touches_decoding(0x08, 16) && !touches_decoding(0x06, 8));
}

proptest! {
    #[test]
    fn no_write_changes_what_the_function_is_and_a_reset_brings_all_back(
        writes in proptest::collection::vec((0_u16..0x110, proptest::collection::vec(any::<u8>(), 1..9)), 0..50),
    ) {
        let mut config = config();
        let before = config.bytes.clone();
        for (offset, data) in &writes {
            config.write(*offset, data);
        }
        for range in [0..4, 6..12, 13..16, 0x2C..0x3C, 0x3D..0x43, 0x44..CONFIG_BYTES] {
            prop_assert_eq!(&config.bytes[range.clone()], &before[range]);
        }
        prop_assert_eq!(config.bytes[0x10] & 0xF, 0xC);
        config.reset();
        prop_assert_eq!(&config.bytes, &before);
    }
}

#[test]
fn a_state_of_another_function_is_refused_and_changes_nothing() {
    let mut config = config();
    let before = config.bytes.clone();
    let with = |change: &dyn Fn(&mut ConfigSpaceState)| {
        let mut state = self::config().save();
        change(&mut state);
        state
    };
    for (state, text) in [
        (
            with(&|state| state.command = 1),
            "pci-config: command: 0x1, must have no bits but 1, 2, 6, 8 and 10",
        ),
        (with(&|state| state.bars.truncate(1)), "pci-config: bars: 1, must be the BARs of this function"),
        (
            with(&|state| state.bars[1].address = 0x800),
            "pci-config: bars[1].address: 0x800, must be a multiple of the BAR's size",
        ),
        (
            with(&|state| state.capabilities.clear()),
            "pci-config: capabilities: 0, must be the capabilities of this function",
        ),
        (
            with(&|state| state.capabilities[0].offset = 0x48),
            "pci-config: capabilities[0]: 0x11 at 0x48, must have the place and the size that it has here",
        ),
        (
            with(&|state| state.capabilities[0].body.0[1] = 1),
            "pci-config: capabilities[0].body: [00, 01, 00, 00], must have no bits that cannot be written",
        ),
    ] {
        assert_eq!(config.restore(&state).unwrap_err().to_string(), text);
        assert_eq!(config.bytes, before);
    }
}

proptest! {
    #[test]
    fn a_restored_space_reads_as_the_one_before_and_a_reset_as_on_the_first_day(
        writes in prop::collection::vec((0_u16..0x60, any::<[u8; 4]>()), 0..40),
    ) {
        let (mut old, mut new) = (config(), config());
        for (offset, data) in writes {
            old.write(offset, &data);
        }
        let text = serde_json::to_string(&old.save()).unwrap();
        new.restore(&serde_json::from_str(&text).unwrap()).unwrap();
        prop_assert_eq!(&new.bytes, &old.bytes);
        prop_assert_eq!(new.save(), old.save());
        new.reset();
        prop_assert_eq!(&new.bytes, &config().bytes);
    }
}
