//! Takes one known fault out of QEMU's x86 emulator (7.2, 10.0 and 11.0 have it), in a copy of the program: an interrupt
//! that a guest of the emulated host got may be delivered to it once more. Which program that is done to, and where the
//! copy goes, is `emulator`'s work.
//!
//! KVM injects an interrupt with VMRUN. `helper_vmrun` delivers it at once, but also leaves its vector in
//! `cpu->exception_index`. Usually the next exit or fault of the guest writes over that. If another thread asks the CPU to
//! leave its loop first, and asks in the moment between the CPU's looks at `interrupt_request` and at `exit_request`,
//! `cpu_handle_interrupt` finds an exception that seems to be pending, and the vector is delivered a second time wherever
//! the guest is, with its interrupts off or not. At the first instruction of a system call it is a frame on the user's
//! stack; in the scheduler, a lock taken twice. The moment lasts long where the CPU's thread loses its processor in it, so
//! guests die where several lab hosts share few processors.
//!
//! Where CPUs are asked for nothing, it needs no such luck. Asked some 800 times a second (`kicked`, of a soak), 11.0 brings no
//! guest up, numavisor's init never speaks; with one thread for all CPUs, which asks ten times a second by itself, none either.
//! Without the store that is one too many, and nothing else changed, guests come up and all tests pass in both cases.

use anyhow::{Context, Result, bail, ensure};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSegment, ObjectSymbol};

/// The function with the fault, and what it calls right after the store that is one too many.
const FUNCTION: &str = "helper_vmrun";
const CALLED: &str = "do_interrupt_x86_hardirq";
/// Sets the same field to -1, whose place is read from there.
const WITNESS: &str = "cpu_loop_exit_noexc";

/// The store is so near to the call.
const NEAR: usize = 64;
/// `mov %reg, disp32(%reg)`.
const STORE: u8 = 0x89;
const STORE_BYTES: usize = 6;
/// An instruction of as many bytes that does nothing (Intel SDM 2B, NOP).
const NOTHING: [u8; STORE_BYTES] = [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00];
/// The CPU's own state lies behind the part that all emulated processors share, which is no bigger than this.
const SHARED_MAX: i64 = 1 << 16;

/// The program without the fault; an error if this is not the code that is known.
pub(crate) fn fixed(program: &[u8]) -> Result<Vec<u8>> {
    let at = store(program)?;
    let mut fixed = program.to_vec();
    fixed.get_mut(at..at + STORE_BYTES).context("the store reaches past the file")?.copy_from_slice(&NOTHING);
    Ok(fixed)
}

/// Where in the file the store is.
fn store(program: &[u8]) -> Result<usize> {
    let elf: ElfFile64 = ElfFile64::parse(program)?;
    let symbol = |name: &str| {
        let found = elf.dynamic_symbols().find(|symbol| symbol.name() == Ok(name));
        found.map(|symbol| (symbol.address(), symbol.size())).with_context(|| format!("no symbol {name}"))
    };
    let (start, size) = symbol(FUNCTION)?;
    let code = bytes(&elf, start, size)?;
    let (witness, size) = symbol(WITNESS)?;
    let field = minus_one(bytes(&elf, witness, size)?).with_context(|| format!("{WITNESS} is unknown"))?;
    let call = call(code, start, symbol(CALLED)?.0)?;
    let from = call.saturating_sub(NEAR);
    // Nothing but that field lies before the CPU's own state.
    let is_it = |&at: &usize| displacement(&code[at..]).is_some_and(|to| (-SHARED_MAX..0).contains(&to));
    let found: Vec<usize> = (from..call.saturating_sub(STORE_BYTES - 1)).filter(is_it).collect();
    let [at] = found[..] else { bail!("{} stores before the call, not one", found.len()) };
    let shared = field - displacement(&code[at..]).unwrap_or_default();
    ensure!((0..SHARED_MAX).contains(&shared) && shared % 16 == 0, "the store is to another field");
    let offset = file_offset(&elf, start)?;
    Ok(offset + at)
}

fn bytes<'a>(elf: &ElfFile64<'a>, address: u64, size: u64) -> Result<&'a [u8]> {
    let found = elf.segments().find_map(|segment| segment.data_range(address, size).ok().flatten());
    found.with_context(|| format!("no code at {address:#x}"))
}

fn file_offset(elf: &ElfFile64, address: u64) -> Result<usize> {
    let holds = |segment: &object::read::elf::ElfSegment64<'_, '_>| {
        (segment.address()..segment.address() + segment.size()).contains(&address)
    };
    let segment = elf.segments().find(holds).with_context(|| format!("no segment at {address:#x}"))?;
    Ok(usize::try_from(segment.file_range().0 + (address - segment.address()))?)
}

/// The only call of `target`, as an offset in the code that is at `start`.
fn call(code: &[u8], start: u64, target: u64) -> Result<usize> {
    const CALL: u8 = 0xe8;
    let is_it = |&at: &usize| {
        let next = start.wrapping_add(at as u64 + 5);
        code[at] == CALL
            && word(&code[at + 1..]).is_some_and(|by| next.wrapping_add_signed(by.into()) == target)
    };
    let found: Vec<usize> = (0..code.len()).filter(is_it).collect();
    let [at] = found[..] else { bail!("{} calls of {CALLED}, not one", found.len()) };
    Ok(at)
}

/// The field that `movl $-1, disp32(%rdi)` writes.
fn minus_one(code: &[u8]) -> Option<i64> {
    let at = code.windows(10).find(|code| code.starts_with(&[0xc7, 0x87]) && code[6..] == [0xff; 4])?;
    word(&at[2..]).map(i64::from)
}

/// By how much a store is from its register, if this is one: with a displacement of 32 bits and no index.
fn displacement(code: &[u8]) -> Option<i64> {
    let [STORE, operands, rest @ ..] = code else { return None };
    let plain = operands >> 6 == 0b10 && operands & 0b111 != 0b100;
    plain.then(|| word(rest).map(i64::from)).flatten()
}

fn word(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{NOTHING, call, displacement, fixed, minus_one};

    /// As Debian's 10.0.2 has it.
    const INJECTION: [u8; 30] = [
        0x41, 0x0f, 0xb6, 0xf4, // movzbl %r12b,%esi
        0x44, 0x89, 0xab, 0xe0, 0x33, 0x00, 0x00, // mov %r13d,0x33e0(%rbx)
        0x89, 0xb3, 0x10, 0xd7, 0xff, 0xff, // mov %esi,-0x28f0(%rbx)
        0x48, 0x89, 0xdf, // mov %rbx,%rdi
        0xe8, 0xe7, 0x00, 0x00, 0x00, // call 0x1100
        0x0f, 0x1f, 0x44, 0x00, 0x00, // nopl 0x0(%rax,%rax,1)
    ];

    #[test]
    fn the_store_before_the_call_is_told_from_others() {
        assert_eq!(call(&INJECTION, 0x1000, 0x1100).unwrap(), 20);
        assert!(call(&INJECTION, 0x1000, 0x1101).is_err());
        let stores: Vec<(usize, i64)> =
            (0..20).filter_map(|at| Some((at, displacement(&INJECTION[at..])?))).collect();
        assert_eq!(stores, [(5, 0x33e0), (11, -0x28f0)]);
        let witness = [0x48, 0x83, 0xec, 0x08, 0xc7, 0x87, 0xd0, 0x02, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(minus_one(&witness), Some(0x2d0));
        assert_eq!(NOTHING.len(), super::STORE_BYTES);
    }

    #[test]
    fn a_program_that_is_not_known_stays_as_it_is() {
        assert!(fixed(b"\x7fELF").is_err());
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(fixed(&own).unwrap_err().to_string(), "no symbol helper_vmrun");
    }
}
