//! Which commands are allowed in which state, and a queue that merges identical commands and rejects those that will
//! not be possible when their turn comes. Pure; `command_queue` carries commands out.

use std::collections::VecDeque;

/// Commands that wait at most; more at once is a client gone wild.
const MOST_WAITING: usize = 64;

/// The state of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Absent,
    /// It was described.
    Defined,
    /// Memory is taken and the payload loaded, for the first time or after a reset.
    Starting,
    /// vCPUs run.
    Running,
    /// vCPUs wait.
    Paused,
    /// It ran, and ended.
    Stopped,
}

impl State {
    /// All of them.
    #[cfg(test)]
    pub const ALL: [Self; 6] =
        [Self::Absent, Self::Defined, Self::Starting, Self::Running, Self::Paused, Self::Stopped];
}

/// A command for the whole VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Describe it, or describe it anew.
    Define,
    /// Start it.
    Boot,
    /// Pause all vCPUs.
    Pause,
    /// Resume all vCPUs.
    Resume,
    /// Press the power button.
    Shutdown,
    /// Reset the guest.
    Reset,
    /// End it if it runs, and forget it.
    Delete,
    /// Set the affinity of a vCPU.
    Affinity,
    /// Move a vnode's memory.
    Move,
    /// Read it while it runs, or cancel its jobs.
    Look,
}

impl Command {
    /// All of them.
    #[cfg(test)]
    pub const ALL: [Self; 10] = [
        Self::Define,
        Self::Boot,
        Self::Pause,
        Self::Resume,
        Self::Shutdown,
        Self::Reset,
        Self::Delete,
        Self::Affinity,
        Self::Move,
        Self::Look,
    ];

    /// The state of the VM after this command.
    fn leads_to(self, from: State) -> State {
        match self {
            Self::Define => State::Defined,
            Self::Boot | Self::Reset => State::Starting,
            Self::Pause => State::Paused,
            Self::Resume => State::Running,
            Self::Delete => State::Absent,
            // The guest decides what the power button does, and when.
            Self::Shutdown | Self::Affinity | Self::Move | Self::Look => from,
        }
    }
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// There is no VM.
    #[error("there is no VM, define it first")]
    NoVm,
    /// It is there already.
    #[error("the VM is running, delete it before defining another")]
    VmRuns,
    /// It runs already.
    #[error("the VM is already booted")]
    AlreadyBooted,
    /// It does not run.
    #[error("the VM is not running")]
    NotRunning,
    /// It does not run yet.
    #[error("the VM is starting, wait until it runs")]
    Starting,
    /// Its vCPUs do not run.
    #[error("the VM is paused, resume it first")]
    Paused,
    /// Too much waits already.
    #[error("{MOST_WAITING} commands are already queued")]
    QueueFull,
}

impl Denial {
    /// The stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoVm => "no_vm",
            Self::VmRuns => "vm_runs",
            Self::AlreadyBooted => "vm_already_booted",
            Self::NotRunning => "vm_not_running",
            Self::Starting => "vm_starting",
            Self::Paused => "vm_paused",
            Self::QueueFull => "queue_full",
        }
    }
}

/// What a command means in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be done.
    Do,
    /// It is so already.
    AlreadySo,
    /// It cannot be done.
    Deny(Denial),
}

/// The table.
pub fn verdict(state: State, command: Command) -> Verdict {
    use Verdict::{AlreadySo, Deny, Do};
    match (command, state) {
        (Command::Define, State::Absent | State::Defined | State::Stopped) => Do,
        (Command::Define, State::Starting | State::Running | State::Paused) => Deny(Denial::VmRuns),
        (
            Command::Boot
            | Command::Pause
            | Command::Resume
            | Command::Shutdown
            | Command::Reset
            | Command::Delete
            | Command::Affinity
            | Command::Move
            | Command::Look,
            State::Absent,
        ) => Deny(Denial::NoVm),
        (Command::Boot, State::Defined | State::Stopped) => Do,
        (Command::Boot, State::Starting) => AlreadySo,
        (Command::Boot, State::Running | State::Paused) => Deny(Denial::AlreadyBooted),
        (Command::Delete, _) => Do,
        (
            Command::Pause
            | Command::Resume
            | Command::Shutdown
            | Command::Reset
            | Command::Affinity
            | Command::Move
            | Command::Look,
            State::Defined | State::Stopped,
        ) => Deny(Denial::NotRunning),
        (
            Command::Pause
            | Command::Resume
            | Command::Shutdown
            | Command::Reset
            | Command::Affinity
            | Command::Move,
            State::Starting,
        ) => Deny(Denial::Starting),
        (Command::Pause, State::Running) | (Command::Resume, State::Paused) => Do,
        (Command::Pause, State::Paused) | (Command::Resume, State::Running) => AlreadySo,
        (Command::Shutdown, State::Running) => Do,
        (Command::Shutdown, State::Paused) => Deny(Denial::Paused),
        (Command::Look, State::Starting)
        | (
            Command::Reset | Command::Affinity | Command::Move | Command::Look,
            State::Running | State::Paused,
        ) => Do,
    }
}

/// The number of a command that was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It waits for its turn.
    Wait(Ticket),
    /// An identical command is queued: merge with it.
    Join(Ticket),
    /// Nothing is to be done.
    AlreadySo,
    /// It is refused.
    Deny(Denial),
}

/// The commands let in and not done yet, the first of them maybe being done now.
#[derive(Debug)]
pub struct Queue {
    state: State,
    waiting: VecDeque<(Ticket, Command)>,
    last: u64,
}

impl Queue {
    /// Nothing waits.
    pub fn new(state: State) -> Self {
        Self { state, waiting: VecDeque::new(), last: 0 }
    }

    /// The state of the VM.
    pub fn state(&self) -> State {
        self.state
    }

    /// The state of the VM changed.
    pub fn set_state(&mut self, state: State) {
        self.state = state;
    }

    /// Accepts or rejects a command, by the state that the VM will have after all queued ones.
    pub fn submit(&mut self, command: Command) -> Admission {
        let then = self.waiting.iter().fold(self.state, |state, (_, command)| command.leads_to(state));
        // Two resets or two presses of the button at once are one; two definitions or affinities may differ.
        let same = self.waiting.back().filter(|(_, last)| *last == command);
        if let Some((ticket, Command::Boot | Command::Reset | Command::Shutdown | Command::Delete)) = same {
            return Admission::Join(*ticket);
        }
        match verdict(then, command) {
            Verdict::Deny(denial) => Admission::Deny(denial),
            Verdict::AlreadySo => match self.waiting.iter().rfind(|(_, waiting)| *waiting == command) {
                Some((ticket, _)) => Admission::Join(*ticket),
                None => Admission::AlreadySo,
            },
            Verdict::Do if self.waiting.len() >= MOST_WAITING => Admission::Deny(Denial::QueueFull),
            Verdict::Do => {
                self.last += 1;
                self.waiting.push_back((Ticket(self.last), command));
                Admission::Wait(Ticket(self.last))
            }
        }
    }

    /// The command whose turn it is, and whether it is still to be done: what came before it may have failed.
    pub fn first(&self) -> Option<(Ticket, Command, Verdict)> {
        let (ticket, command) = self.waiting.front()?;
        Some((*ticket, *command, verdict(self.state, *command)))
    }

    /// The first was done, or will not be.
    pub fn finish_first(&mut self) {
        self.waiting.pop_front();
    }
}

#[cfg(test)]
mod tests;
