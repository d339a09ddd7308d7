//! Port accesses of string instructions: KVM hands over many elements in one exit, and only `kvm_run` says how wide
//! each is.

use super::guest_vm::GuestVcpu;
use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_IO_IN};

/// The elements of a port access.
pub enum Pio<'a> {
    /// The guest writes these.
    Out(u16, std::slice::Chunks<'a, u8>),
    /// The guest reads what is put here.
    In(u16, std::slice::ChunksMut<'a, u8>),
}

/// The port access that ended the last KVM_RUN.
pub fn pio_exit(vcpu: &mut GuestVcpu) -> Option<Pio<'_>> {
    let run_size = vcpu.run_size();
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: the union's members are plain integers, and after KVM_EXIT_IO this is the one that KVM wrote.
    let io = unsafe { run.__bindgen_anon_1.io };
    let width = usize::from(io.size);
    let length = width.checked_mul(usize::try_from(io.count).ok()?)?;
    let offset = usize::try_from(io.data_offset).ok()?;
    if width == 0 || offset.checked_add(length)? > run_size {
        return None;
    }
    let start = std::ptr::from_mut(run).cast::<u8>().wrapping_add(offset);
    // SAFETY: `kvm_run` heads a mapping of `run_size` bytes that lives as long as the vCPU, which stays borrowed.
    let data = unsafe { std::slice::from_raw_parts_mut(start, length) };
    Some(if u32::from(io.direction) == KVM_EXIT_IO_IN {
        Pio::In(io.port, data.chunks_mut(width))
    } else {
        Pio::Out(io.port, data.chunks(width))
    })
}
