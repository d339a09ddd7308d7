//! Tests of segments: slots, windows, moved and overlapping BARs.

use std::sync::mpsc;
use std::time::Duration;

use super::super::Identity;
use super::super::config::ConfigSpace;
use super::*;

const WINDOW: RangeInclusive<u64> = 0x80_0000_0000..=0x80_0000_FFFF;
const LOW: RangeInclusive<u64> = 0xC000_0000..=0xC000_7FFF;
const RAM: u64 = 0x10_0000;

type Log = Arc<Mutex<Vec<(u8, u8, Option<u64>)>>>;

/// Shows its number in its BARs and remembers the last write.
struct Plain {
    config: ConfigSpace,
    number: u8,
    log: Log,
    written: Vec<u8>,
    /// Waits here in each BAR write.
    gate: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
}

impl Plain {
    fn new(number: u8, bars: &[(u8, u64)], log: &Log) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: u16::from(number),
            revision: 0,
            class: 0xFF_00_00,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        for (index, size) in bars {
            config.add_bar(*index, *size).unwrap();
        }
        Self { config, number, log: Arc::clone(log), written: Vec::new(), gate: None }
    }
}

impl PciFunction for Plain {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_decoded(&mut self, bar: u8, address: Option<u64>) {
        lock(&self.log).push((self.number, bar, address));
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(self.number << 4 | bar);
        data[0] = u8::try_from(offset & 0xFF).unwrap();
    }

    fn bar_write(&mut self, _: u8, _: u64, data: &[u8]) {
        self.written = data.to_vec();
        if let Some((entered, leave)) = &self.gate {
            entered.send(()).unwrap();
            leave.recv().unwrap();
        }
    }
}

/// Slot 1 with BARs 0 (0x4000 bytes) and 2 (0x1000), slot 2 with BAR 0 (0x2000).
fn segment() -> (Arc<PciSegment>, Log) {
    let log = Log::default();
    let mut builder = PciSegmentBuilder::new(3, WINDOW).with_window(LOW);
    assert_eq!(builder.add(None, Box::new(Plain::new(1, &[(0, 0x4000), (2, 0x1000)], &log))), Ok(1));
    assert_eq!(builder.add(Some(2), Box::new(Plain::new(2, &[(0, 0x2000)], &log))), Ok(2));
    (builder.build(), log)
}

fn ecam(slot: u64, register: u64) -> u64 {
    slot << 15 | register
}

fn config_32(segment: &Arc<PciSegment>, slot: u64, register: u64) -> u32 {
    let mut data = [0; 4];
    segment.ecam().read(ecam(slot, register), &mut data);
    u32::from_le_bytes(data)
}

fn set_config_32(segment: &Arc<PciSegment>, slot: u64, register: u64, value: u32) {
    segment.ecam().write(ecam(slot, register), &value.to_le_bytes());
}

fn move_bar(segment: &Arc<PciSegment>, slot: u64, bar: u64, address: u64) {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    set_config_32(segment, slot, 0x10 + bar * 4, u32::from_le_bytes([a, b, c, d]));
    set_config_32(segment, slot, 0x14 + bar * 4, u32::from_le_bytes([e, f, g, h]));
}

/// Who answers at an address, as number and BAR.
fn who(segment: &Arc<PciSegment>, address: u64) -> Option<(u8, u8)> {
    let mut data = [0; 2];
    let mut windows = segment.windows().iter().zip(segment.bar_windows());
    let (window, bars) = windows.find(|(window, _)| window.contains(&address)).unwrap();
    bars.read(address - window.start(), &mut data);
    (data != [0xFF; 2]).then_some((data[1] >> 4, data[1] & 0xF))
}

const A: u64 = 0x80_0000_0000;
const B: u64 = 0x80_0000_4000;
const C: u64 = 0x80_0000_6000;

#[test]
fn the_host_bridge_is_function_0_and_absent_functions_read_all_ones() {
    let (segment, _) = segment();
    assert_eq!(config_32(&segment, 0, 0), 0x0D57_8086);
    assert_eq!(config_32(&segment, 0, 8), 0x0600_0000);
    assert_eq!(config_32(&segment, 1, 0), 0x0001_1234);
    assert_eq!(config_32(&segment, 3, 0), u32::MAX);
    // Function 1 of slot 1, and an access that would run into it.
    assert_eq!(config_32(&segment, 1, 0x1000), u32::MAX);
    let mut data = [0; 8];
    segment.ecam().read(ecam(1, 0xFFC), &mut data);
    assert_eq!(data, [0xFF; 8]);
    set_config_32(&segment, 3, 4, u32::MAX);
    assert_eq!(config_32(&segment, 3, 4), u32::MAX);
}

#[test]
fn bars_are_placed_as_firmware_would_and_answer_there() {
    let (segment, log) = segment();
    assert_eq!(*lock(&log), [(1, 0, Some(A)), (1, 2, Some(B)), (2, 0, Some(C))]);
    assert_eq!(config_32(&segment, 2, 0x10), 0x0000_600C);
    assert_eq!(config_32(&segment, 2, 0x14), 0x80);
    assert_eq!(
        [A, A + 0x3FFE, B, C, C + 0x1FFE].map(|at| who(&segment, at)),
        [Some((1, 0)), Some((1, 0)), Some((1, 2)), Some((2, 0)), Some((2, 0))]
    );
    assert_eq!(who(&segment, B + 0x1000), None);
}

#[test]
fn a_bar_may_be_moved_to_the_window_below_4_gib() {
    let (segment, _) = segment();
    let low = *LOW.start() + 0x4000;
    move_bar(&segment, 2, 0, low);
    assert_eq!(
        [A, C, low, low + 0x1FFE].map(|at| who(&segment, at)),
        [Some((1, 0)), None, Some((2, 0)), Some((2, 0))]
    );
}

#[test]
fn a_bar_that_is_moved_answers_at_its_new_place_only() {
    let (segment, log) = segment();
    lock(&log).clear();
    move_bar(&segment, 2, 0, 0x80_0000_8000);
    assert_eq!((who(&segment, C), who(&segment, 0x80_0000_8000)), (None, Some((2, 0))));
    assert_eq!(*lock(&log), [(2, 0, None), (2, 0, Some(0x80_0000_8000))]);
}

#[test]
fn sizing_as_linux_does_it_leaves_the_bar_where_it_was() {
    let (segment, _) = segment();
    let command = config_32(&segment, 2, 4);
    set_config_32(&segment, 2, 4, command & !2);
    assert_eq!(who(&segment, C), None);
    move_bar(&segment, 2, 0, u64::MAX);
    assert_eq!((config_32(&segment, 2, 0x10), config_32(&segment, 2, 0x14)), (0xFFFF_E00C, u32::MAX));
    move_bar(&segment, 2, 0, C);
    set_config_32(&segment, 2, 4, command);
    assert_eq!(who(&segment, C), Some((2, 0)));
}

#[test]
fn a_bar_over_another_one_over_ram_or_outside_does_not_answer() {
    let (segment, log) = segment();
    for address in [A, B, RAM, 0, 0x80_0001_0000, !0x1FFF] {
        move_bar(&segment, 2, 0, address);
        lock(&log).clear();
        assert_eq!([A, B].map(|at| who(&segment, at)), [Some((1, 0)), Some((1, 2))]);
        assert_eq!(who(&segment, C), None);
        assert_eq!(*lock(&log), []);
    }
    move_bar(&segment, 2, 0, C);
    assert_eq!(who(&segment, C), Some((2, 0)));
}

#[test]
fn a_bar_that_had_to_wait_answers_when_the_other_goes_away() {
    let (segment, log) = segment();
    move_bar(&segment, 2, 0, A);
    lock(&log).clear();
    // Decoding of slot 1 off.
    set_config_32(&segment, 1, 4, 0);
    assert_eq!(who(&segment, A), Some((2, 0)));
    assert_eq!(*lock(&log), [(1, 0, None), (1, 2, None), (2, 0, Some(A))]);
}

#[test]
fn a_reset_puts_all_bars_back() {
    let (segment, _) = segment();
    move_bar(&segment, 1, 0, 0x80_0000_C000);
    set_config_32(&segment, 2, 4, 0);
    segment.reset();
    assert_eq!([A, B, C].map(|at| who(&segment, at)), [Some((1, 0)), Some((1, 2)), Some((2, 0))]);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let log = Log::default();
    let mut builder = PciSegmentBuilder::new(3, WINDOW);
    let plain = |bars: &[(u8, u64)]| Box::new(Plain::new(1, bars, &log));
    let slot = builder.add(Some(0), plain(&[])).unwrap_err();
    assert_eq!(slot.to_string(), "segment 3: slot 0 is taken, must be a free one of 1 to 31");
    assert_eq!(builder.add(Some(32), plain(&[])).unwrap_err().code(), "pci_slot_taken");
    let full = builder.add(None, plain(&[(0, 0x1000), (2, 0x1_0000)])).unwrap_err();
    assert_eq!(
        full.to_string(),
        "segment 3: slot 1: no room for a bar of 0x10000 bytes in 0x8000000000 to 0x800000ffff"
    );
    // What was refused took nothing.
    assert_eq!(builder.add(None, plain(&[(0, 0x1_0000)])), Ok(1));
    for slot in 2..32 {
        assert_eq!(builder.add(None, plain(&[])), Ok(slot));
    }
    assert_eq!(builder.add(None, plain(&[])), Err(SegmentError::Full { segment: 3 }));
}

#[test]
fn a_window_at_the_end_of_all_addresses_can_be_filled() {
    let log = Log::default();
    let mut builder = PciSegmentBuilder::new(0, !0xFFF..=u64::MAX);
    assert_eq!(builder.add(None, Box::new(Plain::new(1, &[(0, 0x1000)], &log))), Ok(1));
    let full = builder.add(None, Box::new(Plain::new(2, &[(0, 0x10)], &log))).unwrap_err();
    assert_eq!(full.code(), "pci_window_full");
    assert_eq!(*lock(&log), []);
    let _segment = builder.build();
    assert_eq!(*lock(&log), [(1, 0, Some(!0xFFF))]);
}

#[test]
fn functions_of_a_segment_do_not_wait_for_each_other() {
    let log = Log::default();
    let (entered, enters) = mpsc::channel();
    let (leaves, leave) = mpsc::channel();
    let mut slow = Plain::new(1, &[(0, 0x1000)], &log);
    slow.gate = Some((entered, leave));
    let mut builder = PciSegmentBuilder::new(0, WINDOW);
    builder.add(None, Box::new(slow)).unwrap();
    builder.add(None, Box::new(Plain::new(2, &[(0, 0x1000)], &log))).unwrap();
    let segment = builder.build();
    let busy = Arc::clone(&segment);
    let thread = std::thread::spawn(move || busy.bar_window().write(0, &[1]));
    enters.recv_timeout(Duration::from_secs(10)).unwrap();
    // With the first function held: BARs, configuration space and decoding of the second.
    assert_eq!(who(&segment, A + 0x1000), Some((2, 0)));
    move_bar(&segment, 2, 0, A + 0x8000);
    assert_eq!(who(&segment, A + 0x8000), Some((2, 0)));
    leaves.send(()).unwrap();
    thread.join().unwrap();
}

fn saved(segment: &Arc<PciSegment>) -> SegmentState {
    let text = serde_json::to_string(&segment.save().unwrap()).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn of_two_bars_at_one_address_the_same_answers_after_a_restore() {
    let (old, _) = segment();
    // The first slot's comes second.
    move_bar(&old, 1, 2, A + 0x8000);
    move_bar(&old, 1, 0, B);
    assert_eq!((who(&old, B), who(&old, C)), (None, Some((2, 0))));
    let (new, log) = segment();
    log.lock().unwrap().clear();
    new.restore(saved(&old)).unwrap();
    assert_eq!((who(&new, C), who(&new, A), who(&new, A + 0x8000)), (Some((2, 0)), None, Some((1, 2))));
    assert_eq!(saved(&new), saved(&old));
    // And the other one as soon as it can.
    set_config_32(&new, 2, 4, 0);
    assert_eq!(who(&new, C), Some((1, 0)));
}

#[test]
fn a_state_of_other_slots_is_refused_and_so_is_one_with_more_sections() {
    let (segment, _) = segment();
    let mut state = saved(&segment);
    let sections = state.functions[1].sections.clone();
    state.functions[1].sections.extend(sections);
    let text = segment.restore(state.clone()).unwrap_err().to_string();
    assert_eq!(text, "pci-config: unknown or duplicate section");
    state.functions[1].sections.clear();
    let text = segment.restore(state.clone()).unwrap_err().to_string();
    assert_eq!(text, "pci-config: the section is missing");
    state.functions[1].slot = 3;
    let text = segment.restore(state).unwrap_err().to_string();
    assert_eq!(
        text,
        "pci-segment: functions: slots [0, 3, 2], must be the slots of this segment's functions, ascending"
    );
}
