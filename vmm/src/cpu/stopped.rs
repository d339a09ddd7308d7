//! A vCPU that stopped by itself, as far as KVM still knows it: registers, pending events and its last exits, as one line
//! of bounded length. What the stop means for the VM is the control loop's decision.

use super::exits::ExitRun;
use crate::sys::GuestVcpu;
use kvm_bindings::kvm_vcpu_events;
use std::fmt;

/// Protected mode (Intel SDM 3A, 2.5).
const CR0_PE: u64 = 1;
/// Where a processor begins after INIT (AMD APM volume 2, 14.1.3; Intel SDM 3A, 10.1.4).
const INIT_RIP: u64 = 0xfff0;
const INIT_CS: u16 = 0xf000;

/// The state of a vCPU after KVM_RUN returned for the last time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoppedVcpu {
    registers: Option<Registers>,
    events: Option<PendingEvents>,
    exits: Vec<ExitRun>,
}

/// Where it was, and in which mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Registers {
    rip: u64,
    rsp: u64,
    rflags: u64,
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    cs: u16,
    efer: u64,
}

/// What KVM would have delivered to it next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct PendingEvents {
    exception: Option<u8>,
    error_code: Option<u32>,
    interrupt: Option<u8>,
    nmi: bool,
    smi: bool,
    triple_fault: bool,
    /// Interrupts wait for the end of the next instruction.
    shadow: bool,
}

impl StoppedVcpu {
    /// Asks KVM; what it refuses to say is left out.
    pub(super) fn of(vcpu: &GuestVcpu, exits: Vec<ExitRun>) -> Box<Self> {
        let registers = vcpu.get_regs().ok().zip(vcpu.get_sregs().ok()).map(|(regs, sregs)| Registers {
            rip: regs.rip,
            rsp: regs.rsp,
            rflags: regs.rflags,
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            cs: sregs.cs.selector,
            efer: sregs.efer,
        });
        let events = vcpu.get_vcpu_events().ok().map(PendingEvents::from);
        Box::new(Self { registers, events, exits })
    }
}

impl Registers {
    /// AMD's KVM resets a vCPU that shut down: its state is undefined by then.
    fn are_those_of_init(&self) -> bool {
        self.cr0 & CR0_PE == 0 && self.rip == INIT_RIP && self.cs == INIT_CS
    }
}

impl From<kvm_vcpu_events> for PendingEvents {
    fn from(events: kvm_vcpu_events) -> Self {
        let exception = events.exception;
        let waits = exception.injected | exception.pending != 0;
        Self {
            exception: waits.then_some(exception.nr),
            error_code: (waits && exception.has_error_code != 0).then_some(exception.error_code),
            interrupt: (events.interrupt.injected != 0).then_some(events.interrupt.nr),
            nmi: events.nmi.injected | events.nmi.pending != 0,
            smi: events.smi.pending != 0,
            triple_fault: events.triple_fault.pending != 0,
            shadow: events.interrupt.shadow != 0,
        }
    }
}

impl fmt::Display for StoppedVcpu {
    /// Goes on a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registers) = &self.registers {
            let note = if registers.are_those_of_init() { "registers as KVM reset them: " } else { "" };
            write!(f, "; {note}{registers}")?;
        }
        if let Some(events) = &self.events {
            write!(f, "; pending: {events}")?;
        }
        f.write_str("; last exits:")?;
        for (at, exit) in self.exits.iter().enumerate() {
            write!(f, "{} {exit}", if at == 0 { "" } else { "," })?;
        }
        if self.exits.is_empty() { f.write_str(" none") } else { Ok(()) }
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rip, rsp, rflags, cr0, cr2, cr3, cr4, cs, efer } = self;
        write!(
            f,
            "rip {rip:#x} rsp {rsp:#x} rflags {rflags:#x} cr0 {cr0:#x} cr2 {cr2:#x} cr3 {cr3:#x} cr4 {cr4:#x} cs {cs:#x} \
             efer {efer:#x}"
        )
    }
}

impl fmt::Display for PendingEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some(number) = self.exception {
            let code = self.error_code.map_or_else(String::new, |code| format!(" code {code:#x}"));
            words.push(format!("exception {number}{code}"));
        }
        words.extend(self.interrupt.map(|vector| format!("interrupt {vector:#x}")));
        let flags = [
            (self.nmi, "nmi"),
            (self.smi, "smi"),
            (self.triple_fault, "triple fault"),
            (self.shadow, "interrupt shadow"),
        ];
        words.extend(flags.iter().filter(|(is, _)| *is).map(|(_, word)| (*word).to_owned()));
        if words.is_empty() { f.write_str("nothing") } else { f.write_str(&words.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::{PendingEvents, Registers, StoppedVcpu};
    use crate::cpu::exits::{ExitHistory, ExitReason};
    use kvm_bindings::kvm_vcpu_events;

    const LONG_MODE: Registers = Registers {
        rip: 0xffff_ffff_8100_0010,
        rsp: 0xffff_c900_0000_3f58,
        rflags: 0x1_0046,
        cr0: 0x8005_0033,
        cr2: 0x7ffd_1000,
        cr3: 0x1_0123_4000,
        cr4: 0x37_06b0,
        cs: 0x10,
        efer: 0xd01,
    };

    #[test]
    fn a_line_has_registers_events_and_exits() {
        let mut history = ExitHistory::default();
        for _ in 0..3 {
            history.add(ExitReason::Port, 0x3f8);
        }
        history.add(ExitReason::Mmio, 0xd000_0000);
        history.add(ExitReason::Other, 0);
        let mut events = kvm_vcpu_events::default();
        (events.exception.injected, events.exception.nr) = (1, 14);
        (events.exception.has_error_code, events.exception.error_code) = (1, 2);
        (events.interrupt.injected, events.interrupt.nr) = (1, 0xec);
        let stopped = StoppedVcpu {
            registers: Some(LONG_MODE),
            events: Some(events.into()),
            exits: history.runs().collect(),
        };
        assert_eq!(
            stopped.to_string(),
            "; rip 0xffffffff81000010 rsp 0xffffc90000003f58 rflags 0x10046 cr0 0x80050033 cr2 0x7ffd1000 \
             cr3 0x101234000 cr4 0x3706b0 cs 0x10 efer 0xd01; pending: exception 14 code 0x2, interrupt 0xec; \
             last exits: port 0x3f8 x3, mmio 0xd0000000, other"
        );
    }

    #[test]
    fn registers_after_a_reset_by_kvm_are_called_so() {
        let zero = Registers {
            rip: 0xfff0,
            rsp: 0,
            rflags: 2,
            cr0: 0x10,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cs: 0xf000,
            efer: 0,
        };
        let text = |registers| {
            StoppedVcpu { registers: Some(registers), events: None, exits: Vec::new() }.to_string()
        };
        let after = "rip 0xfff0 rsp 0x0 rflags 0x2 cr0 0x10 cr2 0x0 cr3 0x0 cr4 0x0 cs 0xf000 efer 0x0; last exits: none";
        assert_eq!(text(zero), format!("; registers as KVM reset them: {after}"));
        // In protected mode the same address is an ordinary one.
        assert!(!text(Registers { cr0: 0x11, ..zero }).contains("reset"));
    }

    #[test]
    fn an_exception_that_was_delivered_is_not_pending() {
        let mut events = kvm_vcpu_events::default();
        (events.exception.nr, events.exception.has_error_code) = (14, 1);
        assert_eq!(PendingEvents::from(events), PendingEvents::default());
        assert_eq!(PendingEvents::from(events).to_string(), "nothing");
        events.triple_fault.pending = 1;
        events.interrupt.shadow = 1;
        events.nmi.pending = 1;
        events.smi.pending = 1;
        assert_eq!(PendingEvents::from(events).to_string(), "nmi, smi, triple fault, interrupt shadow");
    }
}
