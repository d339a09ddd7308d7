//! The thread of the serial port's host side: writes what the guest prints, hands over what is typed, and has the terminal.
//! It lives as long as the VM, guests come and go. When to print is `devices`' and the guest's business.

use super::backlog::{Backlog, Sink, wake_fd};
use super::input::Input;
use super::stream::Stream;
use super::terminal::Terminal;
use crate::inbox::{Event, Notifier};
use crate::sys::spawn_without_signals;
use devices::{Serial, SerialHost};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use resources::SerialSpec;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a line that is not complete waits for the rest: a prompt shows at once, and a line is one write.
const GATHER: Duration = Duration::from_millis(5);
/// Until a port that a vCPU is using is tried again.
const BUSY: Duration = Duration::from_millis(5);
/// Until a reader is tried again that polls as if it took something and takes nothing.
const STUCK: Duration = Duration::from_millis(50);
/// Between two looks at a terminal that another process group has.
const TERMINAL: Duration = Duration::from_millis(500);
/// At the end a reader that takes nothing for so long is not waited for.
const LAST_READ: Duration = Duration::from_millis(200);
/// Nor is one that takes longer for everything.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A thread that takes longer still hangs in the kernel, in a file of a server that is gone for one.
const HANGS: Duration = Duration::from_secs(1);
/// Bytes written at once, at most.
const CHUNK: usize = 4096;

/// The guest that has the port now.
struct Guest {
    serial: Arc<Mutex<Serial>>,
    notifier: Notifier,
}

/// What other threads have to do with the port: none of it waits, but for a vCPU that prints more than is read.
pub struct SerialLink {
    backlog: Arc<Backlog>,
    wake: Arc<EventFd>,
    guest: Mutex<Option<Guest>>,
    /// Bytes of a line that is not complete wait in the device.
    gathering: AtomicBool,
    ending: AtomicBool,
}

impl SerialLink {
    fn new() -> io::Result<Arc<Self>> {
        let wake = Arc::new(wake_fd()?);
        Ok(Arc::new(Self {
            backlog: Arc::new(Backlog::new(Arc::clone(&wake))),
            wake,
            guest: Mutex::default(),
            gathering: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }))
    }

    /// Where the device writes to.
    pub fn sink(&self) -> Box<dyn Write + Send> {
        Box::new(Sink(Arc::clone(&self.backlog)))
    }

    /// A guest has the port from now on; `notifier` hears that the user quits.
    pub fn connect(&self, serial: Arc<Mutex<Serial>>, notifier: Notifier) {
        *self.lock() = Some(Guest { serial, notifier });
        self.backlog.let_guest_wait(true);
        self.wake();
    }

    /// The guest ends: nothing is typed for it any more, and no vCPU waits for a reader.
    pub fn disconnect(&self) {
        self.backlog.let_guest_wait(false);
        *self.lock() = None;
        self.wake();
    }

    /// Whether a vCPU may wait for a slow reader: not while all are to stop.
    pub fn let_guest_wait(&self, waits: bool) {
        self.backlog.let_guest_wait(waits);
    }

    /// Does something with the guest's port; nothing if there is none. If a vCPU has it the error says how soon to try
    /// again, `None` if that vCPU waits for the reader.
    fn with_port(&self, act: impl FnOnce(&mut Serial)) -> Result<(), Option<Duration>> {
        let guest = self.lock();
        let Some(guest) = &*guest else { return Ok(()) };
        match guest.serial.try_lock() {
            Ok(mut serial) => act(&mut serial),
            Err(TryLockError::Poisoned(poisoned)) => act(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => return Err(self.backlog.has_room().then_some(BUSY)),
        }
        Ok(())
    }

    fn quit(&self) {
        if let Some(guest) = &*self.lock() {
            guest.notifier.send(Event::Quit);
        }
    }

    fn wake(&self) {
        // Cannot block: the counter would have to be at 2^64 - 2.
        let _ = self.wake.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Guest>> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SerialHost for SerialLink {
    fn input_room(&self) {
        self.wake();
    }

    fn output_waiting(&self) {
        self.gathering.store(true, Ordering::Release);
        self.wake();
    }
}

/// The port. Dropping it writes what a reader takes at once, and leaves the terminal as it was.
pub struct SerialPort {
    link: Arc<SerialLink>,
    terminal: Arc<Terminal>,
    thread: Option<(JoinHandle<()>, mpsc::Receiver<()>)>,
}

impl SerialPort {
    /// Opens what was asked for, and serves it from now on.
    pub fn open(spec: &SerialSpec) -> io::Result<Self> {
        let terminal = Arc::<Terminal>::default();
        let (output, input) = match spec {
            SerialSpec::Stdio => {
                (Stream::output(io::stdout().as_fd())?, Some(Input::stdin(Arc::clone(&terminal))?))
            }
            SerialSpec::File(path) => (Stream::append(path)?, None),
            SerialSpec::None => {
                let link = SerialLink::new()?;
                link.backlog.close();
                return Ok(Self { link, terminal, thread: None });
            }
        };
        Self::serve(output, input, terminal)
    }

    fn serve(output: Stream, input: Option<Input>, terminal: Arc<Terminal>) -> io::Result<Self> {
        let link = SerialLink::new()?;
        let (done, ended) = mpsc::channel::<()>();
        let mut server = Server::new(Arc::clone(&link), output, input, Arc::clone(&terminal));
        // SIGTTIN and SIGTTOU among them: nothing that it does stops the process.
        let thread = spawn_without_signals("serial", move || {
            server.run();
            drop(done);
        })?;
        Ok(Self { link, terminal, thread: Some((thread, ended)) })
    }

    /// For those who have to do with it.
    pub fn link(&self) -> &Arc<SerialLink> {
        &self.link
    }
}

impl Drop for SerialPort {
    fn drop(&mut self) {
        self.link.disconnect();
        self.link.ending.store(true, Ordering::Release);
        self.link.wake();
        if let Some((thread, ended)) = self.thread.take() {
            match ended.recv_timeout(LAST_WORDS + HANGS) {
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    tracing::warn!("serial: output blocked, dropping the rest");
                }
                Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => drop(thread.join()),
            }
        }
        self.terminal.leave();
    }
}

/// What the thread has.
struct Server {
    link: Arc<SerialLink>,
    output: Stream,
    input: Option<Input>,
    terminal: Arc<Terminal>,
    /// There was a guest at the last look.
    connected: bool,
    /// When to have the device hand over a line that is not complete.
    flush_at: Option<Instant>,
    /// When to look who has the terminal.
    look_at: Option<Instant>,
    /// Until when not to write.
    stuck: Option<Instant>,
    lost: u64,
}

impl Server {
    fn new(link: Arc<SerialLink>, output: Stream, input: Option<Input>, terminal: Arc<Terminal>) -> Self {
        Self {
            link,
            output,
            input,
            terminal,
            connected: false,
            flush_at: None,
            look_at: None,
            stuck: None,
            lost: 0,
        }
    }

    fn run(&mut self) {
        while !self.link.ending.load(Ordering::Acquire) {
            let now = Instant::now();
            self.stuck = self.stuck.filter(|until| *until > now);
            let times = [self.follow_terminal(now), self.flush(now), self.hand_over(now), self.stuck];
            if let Err(error) = self.wait(times.into_iter().flatten().min()) {
                tracing::error!(%error, "serial port stopped working");
                break;
            }
        }
        self.last_words();
        self.link.backlog.close();
        self.terminal.leave();
    }

    /// The terminal is raw while a guest has it and this process is in its foreground. When to look again.
    fn follow_terminal(&mut self, now: Instant) -> Option<Instant> {
        let connected = self.link.lock().is_some();
        let input = self.input.as_mut()?;
        let changed = std::mem::replace(&mut self.connected, connected) != connected;
        if !connected {
            if changed {
                self.terminal.leave();
            }
            return None;
        }
        if changed || self.look_at.is_some_and(|at| at <= now) {
            input.look_at_terminal();
            self.look_at = None;
        }
        if input.is_in_background() {
            self.look_at.get_or_insert(now + TERMINAL);
        }
        self.look_at
    }

    /// Has the device hand over a line that is not complete, when it had its time. When to look again.
    fn flush(&mut self, now: Instant) -> Option<Instant> {
        if !self.link.gathering.load(Ordering::Acquire) {
            self.flush_at = None;
            return None;
        }
        let at = *self.flush_at.get_or_insert(now + GATHER);
        if now < at {
            return Some(at);
        }
        let link = Arc::clone(&self.link);
        let flushed = link.with_port(|serial| {
            // Nobody else fills it while the port is locked.
            if link.backlog.has_room() {
                link.gathering.store(false, Ordering::Release);
                serial.flush();
            }
        });
        self.flush_at = match flushed {
            Ok(()) => None,
            Err(again) => again.map(|after| now + after),
        };
        self.flush_at
    }

    /// Gives the guest what is typed, as much as it takes. When to try again.
    fn hand_over(&mut self, now: Instant) -> Option<Instant> {
        let input = self.input.as_mut().filter(|input| input.has_waiting())?;
        // What does not fit waits for `input_room`.
        let given = self.link.with_port(|serial| input.give(|bytes| serial.enqueue(bytes)));
        given.err().flatten().map(|after| now + after)
    }

    /// Waits until there is something to do, and reads and writes.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let writes = self.stuck.is_none() && !self.link.backlog.is_empty();
        let output = writes.then(|| PollFd::new(self.output.as_fd(), PollFlags::POLLOUT));
        let source = self.input.as_ref().filter(|_| self.connected).and_then(Input::source);
        let input = source.map(|source| PollFd::new(source, PollFlags::POLLIN));
        let reads = input.is_some();
        let wake = PollFd::new(self.link.wake.as_fd(), PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> = std::iter::once(wake).chain(output).chain(input).collect();
        match poll(&mut fds, timeout(until)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        let (woken, write, read) = (ready(0), writes && ready(1), reads && ready(if writes { 2 } else { 1 }));
        drop(fds);
        if woken {
            let _ = self.link.wake.read();
        }
        if write {
            self.write();
        }
        if read && self.input.as_mut().is_some_and(Input::read) {
            self.link.quit();
        }
        Ok(())
    }

    /// Writes once; whether anything was taken.
    fn write(&mut self) -> bool {
        let mut bytes = [0; CHUNK];
        let count = self.link.backlog.peek(&mut bytes);
        match self.output.write(&bytes[..count]) {
            Ok(taken @ 1..) => {
                self.link.backlog.drop_first(taken);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) => self.stuck = Some(Instant::now() + STUCK),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.stuck = Some(Instant::now() + STUCK),
            Err(error) => {
                let bytes = self.link.backlog.clear();
                if self.lost == 0 {
                    tracing::warn!(%error, bytes, "serial: output lost; further losses are not logged");
                }
                self.lost = self.lost.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            }
        }
        false
    }

    /// What a reader takes at once is still written.
    fn last_words(&mut self) {
        let (began, mut read) = (Instant::now(), Instant::now());
        while !self.link.backlog.is_empty() && began.elapsed() < LAST_WORDS && read.elapsed() < LAST_READ {
            let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, timeout(Some(read + LAST_READ))) {
                Ok(0) => return,
                Ok(_) if self.write() => read = Instant::now(),
                Ok(_) | Err(Errno::EINTR) => std::thread::sleep(BUSY),
                Err(_) => return,
            }
        }
    }
}

/// Rounded up: a wait that ends early would only be repeated.
fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
#[path = "port_tests.rs"]
mod tests;
