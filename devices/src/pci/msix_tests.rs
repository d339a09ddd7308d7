//! Tests of MSI-X against a byte-level model.

use proptest::prelude::*;

use super::super::testing::TestVectors;
use super::*;

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const PBA: u64 = 3 * 16;

fn msix(count: u16) -> (Msix, Arc<TestVectors>) {
    let host = Arc::new(TestVectors::default());
    (Msix::new(count, Arc::clone(&host) as Arc<dyn MsixVectors>), host)
}

fn message(cpu: u8) -> MsiMessage {
    MsiMessage { address: 0xFEE0_0000 | u64::from(cpu) << 12, data: 0x40 + u32::from(cpu) }
}

/// As Linux does it: mask, write the message in words, unmask.
fn program(msix: &Msix, vector: u16, message: MsiMessage) {
    mask(msix, vector, true);
    let entry = u64::from(vector) * 16;
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    msix.write(entry, &[a, b, c, d]);
    msix.write(entry + 4, &[e, f, g, h]);
    msix.write(entry + 8, &message.data.to_le_bytes());
    mask(msix, vector, false);
}

fn mask(msix: &Msix, vector: u16, masked: bool) {
    msix.write(u64::from(vector) * 16 + 12, &u32::from(masked).to_le_bytes());
}

fn pending(msix: &Msix) -> u64 {
    let mut data = [0; 8];
    msix.read(u64::from(msix.count()) * 16, &mut data);
    u64::from_le_bytes(data)
}

#[test]
fn the_capability_tells_size_and_places() {
    let (msix, _) = msix(3);
    let (body, writable) = msix.capability(2);
    assert_eq!(body, [2, 0, 2, 0, 0, 0, 2 | 48, 0, 0, 0]);
    assert_eq!(writable, [0, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(msix.bar_bytes(), 4096);
    assert_eq!(self::msix(2048).0.bar_bytes(), 0x1_0000);
}

#[test]
fn every_vector_is_masked_in_the_beginning() {
    let (msix, host) = msix(3);
    msix.set_control(ENABLE, true);
    let mut entry = [0; 16];
    msix.read(16, &mut entry);
    assert_eq!(entry, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    msix.trigger(1).unwrap();
    assert_eq!(host.take(), []);
    assert_eq!(pending(&msix), 0b010);
}

#[test]
fn an_unmasked_vector_is_sent_to_where_the_guest_says() {
    let (msix, host) = msix(3);
    msix.set_control(ENABLE, true);
    program(&msix, 2, message(3));
    assert_eq!(msix.message(2), Some(message(3)));
    assert_eq!(msix.message(2).unwrap().destination(), 3);
    msix.trigger(2).unwrap();
    assert_eq!(host.take(), [(2, message(3))]);
    assert_eq!(pending(&msix), 0);
}

#[test]
fn what_is_triggered_while_masked_is_sent_once_on_unmask() {
    let (msix, host) = msix(3);
    msix.set_control(ENABLE, true);
    program(&msix, 0, message(1));
    mask(&msix, 0, true);
    assert_eq!((msix.message(0), host.route(0)), (None, None));
    msix.trigger(0).unwrap();
    msix.trigger(0).unwrap();
    assert_eq!(pending(&msix), 1);
    program(&msix, 0, message(2));
    assert_eq!(host.take(), [(0, message(2))]);
    assert_eq!(pending(&msix), 0);
}

#[test]
fn the_function_mask_and_the_bus_master_bit_hold_all_vectors() {
    for (control, bus_master) in [(ENABLE | FUNCTION_MASK, true), (ENABLE, false)] {
        let (msix, host) = msix(3);
        msix.set_control(control, bus_master);
        program(&msix, 0, message(0));
        program(&msix, 1, message(1));
        msix.trigger(1).unwrap();
        msix.trigger(0).unwrap();
        assert_eq!((msix.message(0), host.take()), (None, vec![]));
        assert_eq!(pending(&msix), 0b011);
        msix.set_control(ENABLE, true);
        assert_eq!(host.take(), [(0, message(0)), (1, message(1))]);
    }
}

#[test]
fn with_msix_off_a_trigger_is_lost() {
    let (msix, host) = msix(3);
    program(&msix, 0, message(0));
    assert!(!msix.is_enabled());
    msix.trigger(0).unwrap();
    msix.set_control(ENABLE, true);
    assert!(msix.is_enabled());
    assert_eq!((host.take(), pending(&msix)), (vec![], 0));
    mask(&msix, 0, true);
    msix.trigger(0).unwrap();
    msix.set_control(0, true);
    assert_eq!(pending(&msix), 0);
}

#[test]
fn a_message_that_is_no_interrupt_goes_nowhere() {
    let (msix, host) = msix(3);
    msix.set_control(ENABLE, true);
    program(&msix, 0, MsiMessage { address: 0x10_0000, data: 0x41 });
    program(&msix, 1, MsiMessage { address: 0x1_FEE0_0000, data: 0x41 });
    msix.trigger(0).unwrap();
    msix.trigger(1).unwrap();
    assert_eq!((host.take(), host.route(0), pending(&msix)), (vec![], None, 0));
}

#[test]
fn pending_bits_and_reserved_bits_cannot_be_written() {
    let (msix, _) = msix(3);
    msix.set_control(ENABLE, true);
    msix.trigger(0).unwrap();
    msix.write(PBA, &[0xFF; 8]);
    assert_eq!(pending(&msix), 1);
    msix.write(0, &[0xFF; 8]);
    msix.write(12, &[0xFE, 0xFF, 0xFF, 0xFF]);
    let mut entry = [0; 16];
    msix.read(0, &mut entry);
    assert_eq!(entry, [0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_host_that_refuses_is_counted_and_tried_again() {
    let (msix, host) = msix(3);
    msix.set_control(ENABLE, true);
    host.fail(true);
    program(&msix, 0, message(0));
    assert_eq!((msix.failures(), msix.message(0)), (1, None));
    msix.trigger(0).unwrap();
    host.fail(false);
    mask(&msix, 0, false);
    assert_eq!(host.take(), [(0, message(0))]);
    host.fail(true);
    assert!(msix.trigger(0).is_err());
    assert_eq!(msix.failures(), 2);
}

#[test]
fn there_is_no_vector_past_the_last() {
    let (msix, host) = msix(3);
    msix.set_control(ENABLE, true);
    msix.trigger(3).unwrap();
    msix.trigger(0xFFFF).unwrap();
    assert_eq!((msix.message(3), msix.eventfd(3).is_some(), msix.eventfd(2).is_some()), (None, false, true));
    assert_eq!((host.take(), pending(&msix)), (vec![], 0));
}

#[test]
fn a_reset_masks_everything_and_forgets_what_was_pending() {
    let (msix, host) = msix(3);
    msix.set_control(ENABLE, true);
    program(&msix, 0, message(0));
    msix.trigger(1).unwrap();
    msix.reset();
    assert_eq!((host.route(0), pending(&msix), msix.is_enabled()), (None, 0, false));
    let mut entry = [0; 16];
    msix.read(0, &mut entry);
    assert_eq!(entry[12], 1);
}

#[derive(Debug, Clone)]
enum Step {
    Write { offset: u64, data: Vec<u8> },
    Control { enabled: bool, masked: bool, bus_master: bool },
    Trigger(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..64, proptest::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(offset, data)| Step::Write { offset, data }),
        (0_u64..3, any::<bool>()).prop_map(|(vector, masked)| Step::Write {
            offset: vector * 16 + 12,
            data: vec![u8::from(masked), 0, 0, 0]
        }),
        (0_u64..3)
            .prop_map(|vector| Step::Write { offset: vector * 16, data: vec![0, 0, 0xE0, 0xFE, 0, 0, 0, 0] }),
        (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(enabled, masked, bus_master)| Step::Control { enabled, masked, bus_master }),
        (0_u16..4).prop_map(Step::Trigger),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_or_invented_whatever_the_guest_writes(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let (msix, host) = msix(3);
        // The table as plain bytes, and what is pending.
        let mut table = [0_u8; 48];
        for vector in 0..3 {
            table[vector * 16 + 12] = 1;
        }
        let (mut waiting, mut gate) = ([false; 3], (false, false));
        for step in steps {
            let mut expected = vec![];
            let live = |table: &[u8; 48], gate: (bool, bool), vector: usize| {
                let address = u64::from_le_bytes(table[vector * 16..][..8].try_into().unwrap());
                let data = u32::from_le_bytes(table[vector * 16 + 8..][..4].try_into().unwrap());
                let good = gate == (true, true) && table[vector * 16 + 12] == 0 && address >> 20 == 0xFEE;
                good.then_some(MsiMessage { address, data })
            };
            match step {
                Step::Write { offset, data } => {
                    msix.write(offset, &data);
                    for (byte, at) in data.iter().zip(usize::try_from(offset).unwrap()..48) {
                        table[at] = match at % 16 {
                            0 => byte & !3,
                            12 => byte & 1,
                            13.. => 0,
                            _ => *byte,
                        };
                    }
                }
                Step::Control { enabled, masked, bus_master } => {
                    let control = u16::from(enabled) << 15 | u16::from(masked) << 14;
                    msix.set_control(control, bus_master);
                    gate = (enabled, !masked && bus_master);
                    if !enabled {
                        waiting = [false; 3];
                    }
                }
                Step::Trigger(vector) => {
                    msix.trigger(vector).unwrap();
                    let index = usize::from(vector);
                    if index < 3 && gate.0 {
                        match live(&table, gate, index) {
                            Some(message) => expected.push((vector, message)),
                            None => waiting[index] |= table[index * 16 + 12] == 1 || !gate.1,
                        }
                    }
                }
            }
            for vector in 0..3_u16 {
                let index = usize::from(vector);
                let now = live(&table, gate, index);
                prop_assert_eq!(msix.message(vector), now);
                prop_assert_eq!(host.route(vector), now);
                if let (Some(message), true) = (now, waiting[index]) {
                    waiting[index] = false;
                    expected.push((vector, message));
                }
            }
            prop_assert_eq!(host.take(), expected);
            let bits = waiting.iter().rev().fold(0, |bits, bit| bits << 1 | u64::from(*bit));
            prop_assert_eq!(pending(&msix), bits);
            let mut read = [0; 48];
            msix.read(0, &mut read);
            prop_assert_eq!(read, table);
        }
    }
}

#[test]
fn a_state_of_other_vectors_is_refused_and_changes_nothing() {
    let (msix, host) = msix(2);
    program(&msix, 1, message(1));
    let before = msix.save();
    let mut odd = MsixState::power_on(2);
    odd.vectors[1].address = 0xFEE0_0002;
    for (state, text) in [
        (MsixState::power_on(3), "msix: vectors: 3, must be the function's vectors"),
        (odd, "msix: vectors[1].address: 0xfee00002, must be a multiple of 4"),
    ] {
        assert_eq!(msix.restore(&state).unwrap_err().to_string(), text);
    }
    assert_eq!((msix.save(), host.take()), (before, vec![]));
}

#[test]
fn what_is_pending_is_sent_once_control_allows_and_not_with_msix_off() {
    let mut state = MsixState::power_on(1);
    state.vectors[0] = VectorState { address: 0xFEE0_0000, data: 0x40, masked: false, pending: true };
    let (msix, host) = msix(1);
    msix.restore(&state).unwrap();
    assert_eq!(host.take(), []);
    msix.set_control(ENABLE | FUNCTION_MASK, true);
    assert_eq!((host.take(), pending(&msix)), (vec![], 1));
    msix.set_control(ENABLE, true);
    assert_eq!((host.take(), pending(&msix)), (vec![(0, message(0))], 0));
    msix.restore(&state).unwrap();
    msix.set_control(0, true);
    msix.set_control(ENABLE, true);
    assert_eq!(host.take(), []);
}

proptest! {
    #[test]
    fn restored_vectors_cannot_be_told_from_those_that_ran_on(
        script in prop::collection::vec((0_u8..6, 0_u16..3, any::<u32>(), any::<bool>()), 0..100),
    ) {
        let ((plain, plain_host), (mut other, mut host)) = (msix(3), msix(3));
        let (mut control, mut bus_master) = (0, false);
        for (action, vector, value, save) in script {
            if save {
                let text = serde_json::to_string(&other.save()).unwrap();
                (other, host) = msix(3);
                other.restore(&serde_json::from_str(&text).unwrap()).unwrap();
                other.set_control(control, bus_master);
                prop_assert_eq!(host.take(), vec![]);
            }
            for msix in [&plain, &other] {
                let entry = u64::from(vector) * 16;
                match action {
                    0 => {
                        (control, bus_master) = (u16::try_from(value >> 16).unwrap() & 0xC000, value & 3 != 0);
                        msix.set_control(control, bus_master);
                    }
                    1 => mask(msix, vector, value.is_multiple_of(2)),
                    2 => msix.write(entry, &(0xFEE0_0000 | value & 0xFF000).to_le_bytes()),
                    3 => msix.write(entry + u64::from(value % 4) * 4, &value.to_le_bytes()),
                    _ => msix.trigger(vector).unwrap(),
                }
            }
            prop_assert_eq!(plain_host.take(), host.take());
            prop_assert_eq!((plain.save(), pending(&plain)), (other.save(), pending(&other)));
        }
        other.reset();
        prop_assert_eq!(other.save(), MsixState::power_on(3));
    }
}
