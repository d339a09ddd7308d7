//! Golden states: one of each section as it is written, byte for byte. `UPDATE_GOLDEN=1 cargo test -p devices --test
//! state_golden` writes them anew, those of older versions stay: what an older program wrote must be read as long as
//! `State::upgrade` says so.
#![expect(clippy::unwrap_used, reason = "a test's own mistakes end the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use devices::pci::{
    BarState, CapabilityState, ConfigSpaceState, DecodedBar, FunctionState, Mechanism1State, MsixState,
    SegmentState, VectorState,
};
use devices::state::{HexBytes, Section, State, StateError};
use devices::virtio::balloon::{BalloonDriverState, BalloonState, PageRun, PagesOut};
use devices::virtio::blk::BlkState;
use devices::virtio::console::ConsoleState;
use devices::virtio::net::{NetDriverState, NetState, ReceiveState};
use devices::virtio::vsock::VsockState;
use devices::virtio::{QueuePosition, QueueState, RngState, TransportState};
use devices::{IoApicState, MsiMessage, PowerState, SerialState};

/// Decodes a section and encodes it again, with what it is now called and which version it has.
type Recode = fn(Section) -> Result<Section, StateError>;

struct Golden {
    section: Section,
    recode: Recode,
}

fn golden<S: State>(state: &S) -> (String, Golden) {
    let recode: Recode = |section| Section::of(&section.decode::<S>()?);
    let section = Section::of(state).unwrap();
    (section.name.clone(), Golden { section, recode })
}

fn serial() -> SerialState {
    SerialState {
        interrupt_enable: 5,
        receive_pending: true,
        line_control: 0x13,
        modem_control: 0x0B,
        scratch: 0x5A,
        input: HexBytes(b"ls\n".to_vec()),
        output: HexBytes(b"login: ".to_vec()),
        ..SerialState::power_on()
    }
}

fn ioapic() -> IoApicState {
    let mut state = IoApicState { select: 0x12, ..IoApicState::power_on() };
    (state.pins[4].low, state.pins[4].high) = (0x24, 0x0300_0000);
    // Level-triggered, in service, masked meanwhile.
    (state.pins[9].low, state.pins[9].asserted) = (0x0001_C031, true);
    state.pins[9].in_service = Some(MsiMessage { address: 0xFEE0_0000, data: 0xC031 });
    state
}

fn config() -> ConfigSpaceState {
    ConfigSpaceState {
        command: 6,
        cache_line_size: 16,
        interrupt_line: 0xFF,
        bars: vec![
            BarState { index: 0, address: 0x80_0000_0000 },
            BarState { index: 2, address: 0x80_0000_4000 },
        ],
        capabilities: vec![CapabilityState {
            id: 0x11,
            offset: 0x40,
            body: HexBytes(vec![0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]),
        }],
    }
}

fn msix() -> MsixState {
    let mut state = MsixState::power_on(3);
    state.vectors[0] = VectorState { address: 0xFEE0_1000, data: 0x41, masked: false, pending: false };
    state.vectors[1] = VectorState { address: 0xFEE0_2000, data: 0x42, masked: true, pending: true };
    state
}

fn transport() -> TransportState {
    TransportState {
        status: 0x0F,
        active: true,
        device_feature_select: 1,
        driver_feature_select: 1,
        driver_features: 0x1_3000_0000,
        queue_select: 1,
        config_vector: 0,
        isr: 2,
        config_generation: 3,
        config_read: Some(HexBytes(vec![0, 1, 0, 0])),
        config: HexBytes(vec![0, 2, 0, 0]),
        queues: vec![
            QueueState {
                size: 64,
                vector: 1,
                enabled: true,
                descriptors: 0x10_0000,
                available: 0x10_1000,
                used: 0x10_2000,
                position: Some(QueuePosition { next_available: 65535, next_used: 65535, broken: false }),
            },
            TransportState::power_on(&[64]).queues[0],
        ],
        ..TransportState::power_on(&[])
    }
}

fn segment() -> SegmentState {
    let decoded = vec![DecodedBar { index: 0, address: 0x80_0000_0000 }];
    let bridge = ConfigSpaceState { bars: vec![], capabilities: vec![], ..config() };
    let bridge = vec![Section::of(&bridge).unwrap()];
    let disk = BlkState { writeback: None };
    let disk = vec![
        Section::of(&config()).unwrap(),
        Section::of(&msix()).unwrap(),
        Section::of(&transport()).unwrap(),
        Section::of(&disk).unwrap(),
    ];
    SegmentState {
        functions: vec![
            FunctionState { slot: 0, decoded: vec![], sections: bridge },
            FunctionState { slot: 1, decoded, sections: disk },
        ],
    }
}

fn net() -> NetState {
    let waiting = ReceiveState { frame: HexBytes(vec![0; 16]), most_chains: 128 };
    let receive = vec![waiting, ReceiveState::default()];
    NetState { driver: Some(NetDriverState { queue_pairs: 2, offloads: 0x82, receive }) }
}

fn balloon() -> BalloonState {
    let driver = BalloonDriverState {
        target: 600,
        highest_target: 700,
        exact: true,
        target_read: true,
        turned_round_at: Some(512),
        off_node_before: 3,
        hint_round: 2,
        hint_command: 1,
        pages: vec![
            PagesOut { first: 0x1000, count: 512, kept: false },
            PagesOut { first: 7, count: 1, kept: true },
        ],
        waited_for: Some(vec![PageRun { first: 9, count: 4 }]),
    };
    BalloonState { actual: 513, poison: 0xAA, driver: Some(driver) }
}

fn goldens() -> BTreeMap<String, Golden> {
    BTreeMap::from([
        golden(&serial()),
        golden(&PowerState { sleep_type: 5, events: 1 }),
        golden(&ioapic()),
        golden(&Mechanism1State { address: 0x8000_0808 }),
        golden(&config()),
        golden(&msix()),
        golden(&segment()),
        golden(&transport()),
        golden(&BlkState { writeback: Some(false) }),
        golden(&net()),
        golden(&VsockState {}),
        golden(&ConsoleState { backlog: HexBytes(b"login: ".to_vec()) }),
        golden(&RngState {}),
        golden(&balloon()),
    ])
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn file(section: &Section) -> PathBuf {
    directory().join(format!("{}-v{}.json", section.name, section.version))
}

fn text(section: &Section) -> String {
    serde_json::to_string_pretty(section).unwrap() + "\n"
}

#[test]
fn states_are_written_as_their_golden_files_say() {
    for golden in goldens().values() {
        let (file, text) = (file(&golden.section), text(&golden.section));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(directory()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, expected, "{} differs; UPDATE_GOLDEN=1 writes it anew", file.display());
    }
}

/// Older ones too. A file of this version must come out as it went in, an older one as this version has it.
#[test]
fn every_golden_file_there_is_can_be_read() {
    let goldens = goldens();
    let mut files = 0;
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let written = fs::read_to_string(&path).unwrap();
        let section: Section = serde_json::from_str(&written).unwrap();
        assert_eq!(file(&section), path);
        let golden = goldens.get(&section.name).expect("a section that there is");
        assert!(section.version <= golden.section.version, "{}", path.display());
        let version = section.version;
        let again = (golden.recode)(section).unwrap();
        assert_eq!(again.version, golden.section.version);
        if version == again.version {
            assert_eq!(text(&again), written, "{}", path.display());
        }
        files += 1;
    }
    assert!(files >= goldens.len(), "{files} files");
}

#[test]
fn a_newer_version_is_refused_and_so_is_what_has_other_fields() {
    for (name, Golden { section, recode }) in goldens() {
        let newer = Section { version: section.version + 1, ..section.clone() };
        let refused = recode(newer).unwrap_err();
        assert_eq!(refused.code(), "state_version", "{name}");
        let mut more = section.clone();
        more.state.as_object_mut().unwrap().insert("colour".into(), "blue".into());
        let refused = recode(more).unwrap_err();
        assert!(refused.to_string().starts_with(&format!("{name}: colour: unknown field")), "{refused}");
    }
}
