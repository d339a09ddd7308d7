//! Tiny guests on `/dev/kvm`: the whole way from plan to exit, in milliseconds. Skipped, and said so, where there is
//! no usable KVM; `NUMAVISOR_NO_SKIPS=1` makes that a failure.

use crate::test_kernel::{outs, pvh_elf};
use crate::{Error, Exit, Options, Payload, run};
use resources::{HostTopology, OnReset, Plan, SerialSpec, VmSpec};
use std::path::Path;

const COM1: u16 = 0x3f8;
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;
const KEYBOARD: u16 = 0x64;
/// SLP_TYP 5, SLP_EN.
const POWER_OFF: u8 = 5 << 2 | 1 << 5;

/// `None` when this machine cannot run any guest.
fn boot(spec: &VmSpec, code: &[u8]) -> Option<(Result<Exit, Error>, String)> {
    if let Err(error) = kvm_ioctls::Kvm::new() {
        assert!(std::env::var_os("NUMAVISOR_NO_SKIPS").is_none(), "no /dev/kvm: {error}");
        eprintln!("skipped: no /dev/kvm: {error}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (kernel, output) = (dir.path().join("kernel"), dir.path().join("serial"));
    std::fs::write(&kernel, pvh_elf(code, true)).unwrap();
    let plan = Plan::new(spec, &HostTopology::read(Path::new("/sys")).unwrap()).unwrap();
    let payload = Payload { kernel, initramfs: None, cmdline: String::new() };
    let options =
        Options { serial: SerialSpec::File(output.clone()), on_reset: OnReset::Exit, progress: None };
    let exit = run(plan, payload, options);
    Some((exit, std::fs::read_to_string(output).unwrap()))
}

#[test]
fn a_guest_writes_to_its_serial_port_and_powers_off() {
    let code = outs(&[(COM1, b'h'), (COM1, b'i'), (COM1, b'\n'), (SLEEP_CONTROL, POWER_OFF)]);
    if let Some((exit, output)) = boot(&VmSpec::default(), &code) {
        assert_eq!((exit.unwrap(), output.as_str()), (Exit::PowerOff, "hi\n"));
    }
}

#[test]
fn string_output_arrives_byte_by_byte() {
    // mov esi, text; mov ecx, 4; mov dx, COM1; rep outsb
    let mut code = vec![0xbe, 23, 0, 0x10, 0, 0xb9, 4, 0, 0, 0, 0x66, 0xba, 0xf8, 0x03, 0xf3, 0x6e];
    let off = outs(&[(SLEEP_CONTROL, POWER_OFF)]);
    code.extend(&off[..7]);
    assert_eq!(code.len(), 23);
    code.extend(b"rep\n");
    if let Some((exit, output)) = boot(&VmSpec::default(), &code) {
        assert_eq!((exit.unwrap(), output.as_str()), (Exit::PowerOff, "rep\n"));
    }
}

#[test]
fn resets_end_the_vm_with_their_own_cause() {
    for write in [(RESET, 0x52), (KEYBOARD, 0xfe)] {
        if let Some((exit, _)) = boot(&VmSpec::default(), &outs(&[write])) {
            assert_eq!(exit.unwrap(), Exit::Reset);
        }
    }
}

#[test]
fn many_vcpus_start_and_stop() {
    let spec = VmSpec { vcpus: Some(16), vnodes: Some(4), ..VmSpec::default() };
    if let Some((exit, _)) = boot(&spec, &outs(&[(SLEEP_CONTROL, POWER_OFF)])) {
        assert_eq!(exit.unwrap(), Exit::PowerOff);
    }
}

#[test]
fn accesses_to_nothing_are_all_ones_and_harmless() {
    // mov dx, 0x1234; in al, dx; not al; mov dx, COM1; out dx, al: a NUL on the line.
    let mut code = vec![0x66, 0xba, 0x34, 0x12, 0xec, 0xf6, 0xd0, 0x66, 0xba, 0xf8, 0x03, 0xee];
    code.extend(outs(&[(COM1, b'\n'), (SLEEP_CONTROL, POWER_OFF)]));
    if let Some((exit, output)) = boot(&VmSpec::default(), &code) {
        assert_eq!((exit.unwrap(), output.as_str()), (Exit::PowerOff, "\0\n"));
    }
}
