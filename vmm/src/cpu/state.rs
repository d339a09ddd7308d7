//! All that KVM holds of a vCPU, as a value: read while the vCPU is at rest, and given back in an order that KVM accepts
//! (Linux `Documentation/virt/kvm/api.rst` and `devices/vcpu.rst`; one thing may change another, so MP state is read first
//! and events are written last).

use crate::sys::{GuestVcpu, HostError};
use kvm_bindings::{
    Msrs, Xsave, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::KvmNestedStateBuffer;

/// `IA32_TIME_STAMP_COUNTER`.
const TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`: a timer that is armed by a write, so it comes when all else is there.
const TSC_DEADLINE: u32 = 0x6e0;
/// Registers of one call.
const MSRS_AT_ONCE: usize = 256;

/// A vCPU's state.
pub struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Xsave,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    nested: Option<Nested>,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

/// That the vCPU has begun no guest of its own.
struct Nested {
    flags: u16,
    format: u16,
    header: kvm_bindings::kvm_nested_state__bindgen_ty_1,
}

impl VcpuState {
    /// Reads it, with those of the registers `msrs` that this vCPU has. The vCPU has no guest of its own, as one that never
    /// ran.
    pub fn save(vcpu: &GuestVcpu, msrs: &[u32]) -> Result<Self, HostError> {
        Ok(Self {
            mp_state: vcpu.get_mp_state().map_err(HostError::kvm("KVM_GET_MP_STATE"))?,
            regs: vcpu.get_regs().map_err(HostError::kvm("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(HostError::kvm("KVM_GET_SREGS"))?,
            xsave: vcpu.xsave()?,
            xcrs: vcpu.get_xcrs().map_err(HostError::kvm("KVM_GET_XCRS"))?,
            debug_regs: vcpu.get_debug_regs().map_err(HostError::kvm("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.get_lapic().map_err(HostError::kvm("KVM_GET_LAPIC"))?,
            nested: nested(vcpu)?,
            msrs: read_msrs(vcpu, msrs)?,
            events: vcpu.get_vcpu_events().map_err(HostError::kvm("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Gives it back.
    pub fn restore(&self, vcpu: &GuestVcpu) -> Result<(), HostError> {
        // Has KVM take an INIT or a SIPI that waits, which would come later otherwise.
        vcpu.get_mp_state().map_err(HostError::kvm("KVM_GET_MP_STATE"))?;
        vcpu.set_mp_state(self.mp_state).map_err(HostError::kvm("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs).map_err(HostError::kvm("KVM_SET_REGS"))?;
        self.leave_nested(vcpu)?;
        // With the mode of the APIC, before its registers.
        vcpu.set_sregs(&self.sregs).map_err(HostError::kvm("KVM_SET_SREGS"))?;
        vcpu.set_xsave(&self.xsave)?;
        // None of a CPU without XSAVE, where KVM refuses even that.
        if self.xcrs.nr_xcrs > 0 {
            vcpu.set_xcrs(&self.xcrs).map_err(HostError::kvm("KVM_SET_XCRS"))?;
        }
        vcpu.set_debug_regs(&self.debug_regs).map_err(HostError::kvm("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&self.lapic).map_err(HostError::kvm("KVM_SET_LAPIC"))?;
        let (deadline, others): (Vec<_>, Vec<_>) =
            self.msrs.iter().copied().partition(|entry| entry.index == TSC_DEADLINE);
        write_msrs(vcpu, &others)?;
        write_msrs(vcpu, &deadline)?;
        vcpu.set_vcpu_events(&self.events).map_err(HostError::kvm("KVM_SET_VCPU_EVENTS"))
    }

    fn leave_nested(&self, vcpu: &GuestVcpu) -> Result<(), HostError> {
        let Some(Nested { flags, format, header }) = self.nested else { return Ok(()) };
        let mut state = Box::new(KvmNestedStateBuffer::empty());
        (state.flags, state.format, state.hdr) = (flags, format, header);
        state.size = NESTED_HEADER;
        vcpu.set_nested_state(&state).map_err(HostError::kvm("KVM_SET_NESTED_STATE"))
    }

    /// The time stamp counter, as it is to be written by [`restore`](Self::restore). KVM takes counters for one only if the
    /// same is written to all vCPUs of a VM.
    pub fn set_tsc(&mut self, value: u64) {
        self.msrs.iter_mut().filter(|entry| entry.index == TSC).for_each(|entry| entry.data = value);
    }
}

/// `sizeof(struct kvm_nested_state)`.
const NESTED_HEADER: u32 = 128;

/// `None` where KVM has no guests in guests.
fn nested(vcpu: &GuestVcpu) -> Result<Option<Nested>, HostError> {
    let mut state = Box::new(KvmNestedStateBuffer::empty());
    match vcpu.nested_state(&mut state) {
        Ok(_) => Ok(Some(Nested { flags: state.flags, format: state.format, header: state.hdr })),
        Err(error) if matches!(error.errno(), libc::EINVAL | libc::ENOTTY) => Ok(None),
        Err(error) => Err(HostError::kvm("KVM_GET_NESTED_STATE")(error)),
    }
}

/// Those that can be read. KVM names more than each vCPU has.
fn read_msrs(vcpu: &GuestVcpu, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, HostError> {
    let mut all = Vec::with_capacity(indices.len());
    in_parts(indices, |part| {
        let entries: Vec<_> =
            part.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = of(&entries)?;
        let count = vcpu.get_msrs(&mut msrs).map_err(HostError::kvm("KVM_GET_MSRS"))?;
        all.extend_from_slice(msrs.as_slice().get(..count).unwrap_or_default());
        Ok(count)
    })?;
    Ok(all)
}

/// Those that can be written; what KVM sets by itself it refuses.
fn write_msrs(vcpu: &GuestVcpu, entries: &[kvm_msr_entry]) -> Result<(), HostError> {
    in_parts(entries, |part| vcpu.set_msrs(&of(part)?).map_err(HostError::kvm("KVM_SET_MSRS")))
}

fn of(entries: &[kvm_msr_entry]) -> Result<Msrs, HostError> {
    Msrs::from_entries(entries)
        .map_err(|_| HostError::new("KVM_SET_MSRS", std::io::Error::from_raw_os_error(libc::E2BIG)))
}

/// Does `act` with parts of `all`; it says how many it did, and is not tried with the next one after those again.
fn in_parts<T>(
    mut all: &[T],
    mut act: impl FnMut(&[T]) -> Result<usize, HostError>,
) -> Result<(), HostError> {
    while !all.is_empty() {
        let part = all.get(..MSRS_AT_ONCE).unwrap_or(all);
        let done = act(part)?;
        let refused = usize::from(done < part.len());
        all = all.get(done + refused..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{MSRS_AT_ONCE, VcpuState, in_parts, read_msrs};
    use crate::cpu::test_vm::TestVm;
    use devices::{MmioBusBuilder, PioBusBuilder};

    #[test]
    fn all_are_tried_in_parts_and_those_that_are_refused_once() {
        let all: Vec<u32> = (0..700).collect();
        let (mut done, mut calls) = (Vec::new(), 0);
        in_parts(&all, |part| {
            calls += 1;
            assert!(part.len() <= MSRS_AT_ONCE);
            let refused = part.iter().position(|value| [0, 5, 6, 300, 699].contains(value));
            let count = refused.unwrap_or(part.len());
            done.extend_from_slice(&part[..count]);
            Ok(count)
        })
        .unwrap();
        let wanted: Vec<u32> = (0..700).filter(|value| ![0, 5, 6, 300, 699].contains(value)).collect();
        assert_eq!(done, wanted);
        assert_eq!(calls, 7);
    }

    #[test]
    fn a_vcpu_that_was_changed_is_as_it_was_when_its_state_is_given_back() {
        let Some(vm) = TestVm::new(1, &[0xf4], PioBusBuilder::new(), MmioBusBuilder::new()) else { return };
        let msrs = &vm.setup.msrs;
        const DEFAULT_TYPE: u32 = 0x2ff;
        assert!(msrs.contains(&DEFAULT_TYPE));
        let vcpu = vm.setup.vm.create_vcpu(0).unwrap();
        let cpuid = vm.setup.cpuid.for_vcpu(resources::VcpuId(0), &vm.plan.cpus).unwrap();
        vcpu.set_cpuid2(&cpuid).unwrap();
        let state = VcpuState::save(&vcpu, msrs).unwrap();
        let registers = || {
            (
                vcpu.get_regs().unwrap(),
                vcpu.get_sregs().unwrap(),
                vcpu.get_lapic().unwrap().regs,
                vcpu.get_mp_state().unwrap(),
                vcpu.get_xcrs().unwrap(),
                vcpu.get_debug_regs().unwrap(),
                vcpu.xsave().unwrap().as_fam_struct_ref().xsave.region,
            )
        };
        let before = registers();
        let (mut regs, mut lapic, mut debug) = (before.0, before.2, before.5);
        (regs.rip, regs.rax) = (0x1234, 7);
        vcpu.set_regs(&regs).unwrap();
        crate::boot::set_boot_registers(&vcpu, crate::cpu::test_vm::ENTRY, resources::ApicId(0), &vm.ram)
            .unwrap();
        vcpu.set_fpu_control(0x33f).unwrap();
        crate::cpu::msrs::set_boot_msrs(&vcpu, resources::VcpuId(0));
        debug.db[0] = 0x4321;
        vcpu.set_debug_regs(&debug).unwrap();
        // The spurious interrupt vector, and with it the APIC, on.
        lapic[0xf0] = 0x5f;
        lapic[0xf1] = 1;
        vcpu.set_lapic(&kvm_bindings::kvm_lapic_state { regs: lapic }).unwrap();
        assert!(registers() != before, "nothing was changed");
        state.restore(&vcpu).unwrap();
        let after = registers();
        assert_eq!(
            (after.0, after.1, after.3, after.4, after.5),
            (before.0, before.1, before.3, before.4, before.5)
        );
        assert!(after.2 == before.2, "its local APIC differs");
        assert!(after.6 == before.6, "what XSAVE saves differs");
        let again = read_msrs(&vcpu, msrs).unwrap();
        let differ: Vec<u32> = (again.iter().zip(&state.msrs))
            .filter(|(now, then)| now.data != then.data && now.index != super::TSC)
            .map(|(now, _)| now.index)
            .collect();
        assert!(again.len() == state.msrs.len() && differ.is_empty(), "{differ:x?}");
    }
}
