//! Tests of a vCPU's run loop, in the test's own thread: what it does between an exit and the next entry.

use super::Vcpu;
use crate::boot::set_boot_registers;
use crate::cpu::ExitCounters;
use crate::cpu::gate::{Gate, Wanted};
use crate::cpu::test_vm::{ENTRY, TestVm};
use crate::sys::ImmediateExit;
use devices::{BusDevice, MmioBusBuilder, PioBusBuilder, SharedDevice};
use resources::VcpuId;
use std::sync::{Arc, Mutex, OnceLock};

/// A register whose access is the moment at which somebody wants the vCPU to stop. No signal is sent.
struct Stopper {
    gate: Arc<Gate>,
    immediate_exit: Arc<OnceLock<Arc<ImmediateExit>>>,
}

impl Stopper {
    fn stop(&self) {
        self.gate.set(Wanted::End);
        self.immediate_exit.get().unwrap().set();
    }
}

impl BusDevice for Stopper {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        self.stop();
        data.copy_from_slice(&[0x78, 0x56, 0x34, 0x12][..data.len()]);
    }

    fn write(&mut self, _: u64, _: &[u8]) {
        self.stop();
    }
}

const PORT: u16 = 0x1234;
const REGISTER: u64 = 0xd000_0000;

/// EAX and EIP of a vCPU that ran `code` until it accessed the stopper.
fn stopped(code: &[u8]) -> Option<(u64, u64)> {
    let (gate, immediate_exit) = (Arc::new(Gate::new()), Arc::default());
    let stopper = Stopper { gate: Arc::clone(&gate), immediate_exit: Arc::clone(&immediate_exit) };
    let stopper: SharedDevice = Arc::new(Mutex::new(stopper));
    let (mut pio, mut mmio) = (PioBusBuilder::new(), MmioBusBuilder::new());
    pio.register("stopper", PORT..=PORT, Arc::clone(&stopper)).unwrap();
    mmio.register("stopper", REGISTER..=REGISTER + 3, stopper).unwrap();
    let vm = TestVm::new(1, code, pio, mmio)?;
    let mut vcpu = Vcpu::create(&vm.setup, &vm.plan, VcpuId(0)).unwrap();
    set_boot_registers(&vcpu.fd, ENTRY, vm.plan.cpus.max_apic_id(), &vm.ram).unwrap();
    assert!(immediate_exit.set(Arc::clone(&vcpu.immediate_exit)).is_ok());
    gate.set(Wanted::Run);
    assert!(vcpu.run(&vm.setup, &gate, &ExitCounters::default()).is_none());
    let regs = vcpu.fd.get_regs().unwrap();
    Some((regs.rax, regs.rip))
}

#[test]
fn a_vcpu_stops_with_its_last_access_finished_and_runs_no_instruction_after_it() {
    // mov eax, [REGISTER]; mov eax, 0; jmp $
    let code = [0xa1, 0, 0, 0, 0xd0, 0xb8, 0, 0, 0, 0, 0xeb, 0xfe];
    assert!(stopped(&code).is_none_or(|end| end == (0x1234_5678, 0x10_0005)));
}

#[test]
fn a_stop_that_comes_between_two_runs_needs_no_signal() {
    // mov eax, 7; mov dx, PORT; out dx, al; jmp $
    let code = [0xb8, 7, 0, 0, 0, 0x66, 0xba, 0x34, 0x12, 0xee, 0xeb, 0xfe];
    assert!(stopped(&code).is_none_or(|end| end == (7, 0x10_000a)));
}
