//! What is put right when the process dies of a signal that it cannot answer: the terminal's modes, so that the shell is
//! usable. What modes those are is the terminal's owner's knowledge.

use libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::termios::Termios;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Signals that end a process on the spot: aborts (a panic is one), faults, and those that one is sent to see a core.
const DEADLY: [Signal; 7] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGSEGV,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGSYS,
    Signal::SIGQUIT,
];

/// What a handler sets: one of [`KNOWN`], or null.
static MODES: AtomicPtr<libc::termios> = AtomicPtr::new(null_mut());
/// All that were ever set, each once. Never freed: a handler may be using it.
static KNOWN: Mutex<Vec<(Termios, &'static libc::termios)>> = Mutex::new(Vec::new());
/// What was done at these signals before: the standard library tells of a stack that overflowed.
static BEFORE: OnceLock<Vec<(Signal, SigAction)>> = OnceLock::new();

/// Has standard input's terminal get these modes when the process crashes; with `None` it is left alone.
pub fn restore_terminal_at_a_crash(modes: Option<&Termios>) {
    let modes = modes.map_or(null_mut(), |modes| std::ptr::from_ref(known(modes)).cast_mut());
    MODES.store(modes, Ordering::Release);
    BEFORE.get_or_init(|| DEADLY.into_iter().filter_map(|signal| Some((signal, handle(signal)?))).collect());
}

fn known(modes: &Termios) -> &'static libc::termios {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, found)) = known.iter().find(|(one, _)| one == modes) {
        return found;
    }
    let new: &'static libc::termios = Box::leak(Box::new(modes.clone().into()));
    known.push((modes.clone(), new));
    new
}

/// Gives what was done before, unless that was nothing.
fn handle(signal: Signal) -> Option<SigAction> {
    let flags = SaFlags::SA_ONSTACK | SaFlags::SA_RESETHAND | SaFlags::SA_SIGINFO;
    let action = SigAction::new(SigHandler::SigAction(crashed), flags, SigSet::empty());
    // SAFETY: the handler calls only what signal-safety(7) allows.
    let before = unsafe { sigaction(signal, &action) }.ok()?;
    if matches!(before.handler(), SigHandler::SigIgn) {
        // SAFETY: no handler at all.
        let _ = unsafe { sigaction(signal, &before) };
        return None;
    }
    Some(before)
}

extern "C" fn crashed(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    restore();
    // SAFETY: the kernel gives a valid pointer to handlers that ask for it (SA_SIGINFO).
    let by_kernel = unsafe { info.as_ref() }.is_some_and(|info| info.si_code > 0);
    let before = BEFORE.get().into_iter().flatten().find(|(one, _)| *one as c_int == signal);
    match before {
        // The instruction is tried again, and faults again.
        Some((fault @ (Signal::SIGSEGV | Signal::SIGBUS), before)) if by_kernel => {
            // SAFETY: the action that was there before; setting it is signal-safe.
            let _ = unsafe { sigaction(*fault, before) };
        }
        // The default action, once this handler returns: SA_RESETHAND.
        _ => {
            // SAFETY: any signal may be raised.
            unsafe { libc::raise(signal) };
        }
    }
}

fn restore() {
    // SAFETY: `MODES` is null or was leaked on purpose, so it stays valid.
    let Some(modes) = (unsafe { MODES.load(Ordering::Acquire).as_ref() }) else { return };
    // SAFETY: no arguments but a descriptor.
    let foreground = unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) };
    // SAFETY: no arguments.
    let own = unsafe { libc::getpgrp() };
    // Elsewhere it would stop the process instead.
    if foreground == own {
        // SAFETY: the modes are initialized and stay valid.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, modes) };
    }
}
