//! The complete table, and the queue with concurrent commands.

use super::{Admission, Command, Denial, MOST_WAITING, Queue, State, Verdict, verdict};

fn ticket(admission: Admission) -> super::Ticket {
    match admission {
        Admission::Wait(ticket) | Admission::Join(ticket) => ticket,
        Admission::AlreadySo | Admission::Deny(_) => panic!("{admission:?}"),
    }
}

#[test]
fn the_table_is_as_documented() {
    // One letter each: d does it, = is so already, else why not.
    let letter = |verdict| match verdict {
        Verdict::Do => 'd',
        Verdict::AlreadySo => '=',
        Verdict::Deny(Denial::NoVm) => '-',
        Verdict::Deny(Denial::VmRuns) => 'r',
        Verdict::Deny(Denial::AlreadyBooted) => 'b',
        Verdict::Deny(Denial::NotRunning) => 'n',
        Verdict::Deny(Denial::Starting) => 's',
        Verdict::Deny(Denial::Paused) => 'p',
        Verdict::Deny(Denial::QueueFull) => '!',
    };
    let row = |command| State::ALL.map(|state| letter(verdict(state, command))).iter().collect::<String>();
    let table: Vec<String> = Command::ALL.map(|command| format!("{command:?} {}", row(command))).into();
    // Absent, Defined, Starting, Running, Paused, Stopped.
    let expected = [
        "Define ddrrrd",
        "Boot -d=bbd",
        "Pause -nsd=n",
        "Resume -ns=dn",
        "Shutdown -nsdpn",
        "Reset -nsddn",
        "Delete -ddddd",
        "Affinity -nsddn",
        "Move -nsddn",
        "Look -ndddn",
    ];
    assert_eq!(table, expected);
}

#[test]
fn what_is_so_already_needs_no_turn() {
    assert_eq!(Queue::new(State::Paused).submit(Command::Pause), Admission::AlreadySo);
    assert_eq!(Queue::new(State::Running).submit(Command::Resume), Admission::AlreadySo);
    assert_eq!(Queue::new(State::Starting).submit(Command::Boot), Admission::AlreadySo);
}

#[test]
fn the_same_asked_twice_is_done_once() {
    for (state, command) in [
        (State::Defined, Command::Boot),
        (State::Running, Command::Pause),
        (State::Paused, Command::Resume),
        (State::Running, Command::Reset),
        (State::Running, Command::Shutdown),
        (State::Running, Command::Delete),
    ] {
        let mut queue = Queue::new(state);
        let first = ticket(queue.submit(command));
        assert_eq!(queue.submit(command), Admission::Join(first), "{command:?}");
        queue.finish_first();
        assert_eq!(queue.first(), None, "{command:?}");
    }
}

#[test]
fn two_definitions_or_affinities_may_differ_and_are_both_done() {
    for (state, command) in [(State::Absent, Command::Define), (State::Running, Command::Affinity)] {
        let mut queue = Queue::new(state);
        let first = ticket(queue.submit(command));
        assert!(matches!(queue.submit(command), Admission::Wait(second) if second > first), "{command:?}");
    }
}

#[test]
fn a_pause_joins_one_that_others_came_after() {
    let mut queue = Queue::new(State::Running);
    let pause = ticket(queue.submit(Command::Pause));
    queue.submit(Command::Affinity);
    assert_eq!(queue.submit(Command::Pause), Admission::Join(pause));
}

#[test]
fn pause_resume_pause_are_three_commands_in_order() {
    let mut queue = Queue::new(State::Running);
    let tickets = [Command::Pause, Command::Resume, Command::Pause].map(|c| ticket(queue.submit(c)));
    assert!(tickets.is_sorted_by(|a, b| a < b));
    for (ticket, state) in tickets.into_iter().zip([State::Paused, State::Running, State::Paused]) {
        let (first, _, verdict) = queue.first().unwrap();
        assert_eq!((first, verdict), (ticket, Verdict::Do));
        queue.set_state(state);
        queue.finish_first();
    }
}

#[test]
fn what_comes_after_a_waiting_delete_finds_no_vm() {
    for command in [Command::Boot, Command::Pause, Command::Reset, Command::Move] {
        let mut queue = Queue::new(State::Running);
        queue.submit(Command::Delete);
        assert_eq!(queue.submit(command), Admission::Deny(Denial::NoVm), "{command:?}");
    }
    let mut queue = Queue::new(State::Running);
    queue.submit(Command::Delete);
    assert!(matches!(queue.submit(Command::Define), Admission::Wait(_)));
    assert!(matches!(queue.submit(Command::Boot), Admission::Wait(_)));
}

#[test]
fn a_pause_right_after_a_boot_is_refused_and_not_kept() {
    let mut queue = Queue::new(State::Defined);
    queue.submit(Command::Boot);
    assert_eq!(queue.submit(Command::Pause), Admission::Deny(Denial::Starting));
}

#[test]
fn what_waited_is_looked_at_again_when_its_turn_comes() {
    let mut queue = Queue::new(State::Running);
    queue.submit(Command::Pause);
    queue.submit(Command::Resume);
    // The guest powers off before either.
    queue.set_state(State::Stopped);
    assert_eq!(queue.first().map(|(_, _, verdict)| verdict), Some(Verdict::Deny(Denial::NotRunning)));
    queue.finish_first();
    assert_eq!(queue.first().map(|(_, _, verdict)| verdict), Some(Verdict::Deny(Denial::NotRunning)));
}

#[test]
fn the_queue_is_bounded() {
    let mut queue = Queue::new(State::Running);
    for _ in 0..MOST_WAITING {
        assert!(matches!(queue.submit(Command::Affinity), Admission::Wait(_)));
    }
    assert_eq!(queue.submit(Command::Affinity), Admission::Deny(Denial::QueueFull));
    queue.finish_first();
    assert!(matches!(queue.submit(Command::Affinity), Admission::Wait(_)));
}
