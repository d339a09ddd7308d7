//! Has another process move a mapping of its own in one call of `mbind(2)`: what a VMM would do that does not go in
//! chunks. One of its threads is stopped for that by ptrace, the others run on.

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Length of the `syscall` instruction.
const INSTRUCTION: u64 = 2;
/// Where a thread's stack is free: below the 128 bytes that a function may use beyond its end.
const BELOW_STACK: u64 = 512;
/// `linux/mempolicy.h`.
const MPOL_BIND: u64 = 2;
const MPOL_MF_MOVE: u64 = 1 << 1;

/// Binds `length` bytes from `start` of the process to `node` and moves the pages that are there. Its main thread must be
/// waiting in a system call that may be interrupted.
pub(super) fn bind_and_move(pid: u32, start: u64, length: u64, node: u32) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    ptrace::seize(pid, ptrace::Options::empty()).context("ptrace")?;
    let done = call(pid, start, length, node);
    ptrace::detach(pid, None).context("ptrace")?;
    let result = done?;
    ensure!(result == 0, "mbind: {}", Errno::from_raw(i32::try_from(-result)?));
    Ok(())
}

fn call(pid: Pid, start: u64, length: u64, node: u32) -> Result<i64> {
    let wait = || waitpid(pid, Some(WaitPidFlag::__WALL));
    ptrace::interrupt(pid)?;
    wait()?;
    let before = ptrace::getregs(pid)?;
    ensure!(before.orig_rax != u64::MAX, "the thread is not in a system call");
    let mask = before.rsp - BELOW_STACK;
    ptrace::write(pid, mask as ptrace::AddressType, 1 << node)?;
    ptrace::setregs(
        pid,
        libc::user_regs_struct {
            rip: before.rip - INSTRUCTION,
            orig_rax: u64::MAX,
            rax: libc::SYS_mbind.cast_unsigned(),
            rdi: start,
            rsi: length,
            rdx: MPOL_BIND,
            r10: mask,
            // The kernel reads one bit less than it is told.
            r8: u64::from(u64::BITS) + 1,
            r9: MPOL_MF_MOVE,
            ..before
        },
    )?;
    // In, and out again.
    for _ in 0..2 {
        ptrace::syscall(pid, None)?;
        wait()?;
    }
    let result = ptrace::getregs(pid)?.rax.cast_signed();
    let interrupted = (-i64::from(libc::EINTR)).cast_unsigned();
    ptrace::setregs(pid, libc::user_regs_struct { rax: interrupted, ..before })?;
    Ok(result)
}
