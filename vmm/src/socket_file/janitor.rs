//! A small process that outlives a killed VMM and removes the files of its sockets: nobody else is left to. It knows of
//! nothing but what it is told, over a channel whose end is the VMM's end, however that comes.

use super::{Identity, is_stale, lock};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::close;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What `ps -o comm` shows; at most 15 bytes.
const NAME: &std::ffi::CStr = c"socket-janitor";
/// First byte of a record of a file that came.
const CAME: u8 = b'+';
/// First byte of a record of a file that went.
const WENT: u8 = b'-';
/// The longest message: its first byte, device and inode, `PATH_MAX` (limits.h).
const LONGEST: usize = 1 + 16 + 4096;
/// How long a VMM's last descriptors may stay open after the first is closed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long its process may take to end once it has nothing to do.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Starts the process when there is a first socket, tells it of each, and ends it with the last. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Janitor(Option<Arc<Mutex<Staff>>>);

#[derive(Debug)]
struct Staff {
    /// Makes a process that calls [`sweep`].
    command: fn() -> Command,
    process: Option<Process>,
    /// Sockets that are made just now.
    making: usize,
    /// It was said that there is none: a guest that resets all the time must not have it said again.
    missed: bool,
    /// Files that are to be removed, as records.
    files: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Process {
    channel: OwnedFd,
    child: Child,
}

/// Somebody makes a socket: the process is there before the file is.
pub(super) struct Ready<'a>(&'a Janitor);

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        if let Some(mut staff) = self.0.staff() {
            staff.making -= 1;
            staff.rest();
        }
    }
}

impl Ready<'_> {
    /// Told of the file, which is removed after a kill from here on.
    pub(super) fn keep(&self, path: &Path, identity: Identity) -> Janitor {
        // Its working directory is another one.
        let record = std::path::absolute(path).map(|path| record(&path, identity));
        if let (Some(mut staff), Ok(record)) = (self.0.staff(), record) {
            staff.tell(CAME, &record);
            staff.files.push(record);
        }
        self.0.clone()
    }
}

impl Janitor {
    /// One whose process is `command`: it must call [`sweep`] and nothing else. The child's environment, working
    /// directory, process group and standard files are not the caller's.
    pub fn new(command: fn() -> Command) -> Self {
        let staff = Staff { command, process: None, making: 0, missed: false, files: Vec::new() };
        Self(Some(Arc::new(Mutex::new(staff))))
    }

    fn staff(&self) -> Option<MutexGuard<'_, Staff>> {
        self.0.as_ref().map(|staff| staff.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn ready(&self) -> Ready<'_> {
        if let Some(mut staff) = self.staff() {
            staff.making += 1;
            staff.start();
        }
        Ready(self)
    }

    /// The file is gone.
    pub(super) fn forget(&self, path: &Path, identity: Identity) {
        let record = std::path::absolute(path).map(|path| record(&path, identity));
        if let (Some(mut staff), Ok(record)) = (self.staff(), record) {
            staff.files.retain(|known| *known != record);
            staff.tell(WENT, &record);
            staff.rest();
        }
    }
}

impl Staff {
    /// One that was killed is replaced.
    fn start(&mut self) {
        if let Some(process) = &mut self.process
            && matches!(process.child.try_wait(), Ok(None))
        {
            return;
        }
        match Process::start((self.command)()) {
            Ok(process) => {
                self.process = Some(process);
                for record in std::mem::take(&mut self.files) {
                    self.tell(CAME, &record);
                    self.files.push(record);
                }
            }
            Err(error) => self.miss(&error),
        }
    }

    fn tell(&mut self, what: u8, record: &[u8]) {
        let Some(process) = &self.process else { return };
        let message = [&[what], record].concat();
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        if let Err(error) = send(process.channel.as_raw_fd(), &message, flags) {
            self.miss(&error.into());
            if let Some(process) = self.process.take() {
                process.end();
            }
        }
    }

    fn miss(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.missed, true) {
            tracing::warn!(%error, "cannot start the socket cleanup process; socket files may stay behind");
        }
    }

    fn rest(&mut self) {
        if self.making == 0
            && self.files.is_empty()
            && let Some(process) = self.process.take()
        {
            process.end();
        }
    }
}

impl Process {
    fn start(mut command: Command) -> io::Result<Self> {
        let (channel, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // In a group of its own, neither Ctrl-C nor what ends the VMM's group ends it.
        command.env_clear().current_dir("/").process_group(0);
        let child = command.stdin(other).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { channel, child })
    }

    /// It ends by itself when the channel does; waited for, so that nothing of the VMM is left when it is gone.
    fn end(mut self) {
        drop(self.channel);
        let deadline = Instant::now() + LAST_WORDS;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn record(path: &Path, identity: Identity) -> Vec<u8> {
    let head = [identity.device.to_ne_bytes(), identity.inode.to_ne_bytes()];
    [head.as_flattened(), path.as_os_str().as_bytes()].concat()
}

/// What the process does: hears on standard input of files, until the other end is gone, and then removes those that are
/// still the same and on which nobody listens. Blocks all signals, and closes every other descriptor first.
///
/// # Errors
/// Standard input is not what a [`Janitor`] gives it.
pub fn sweep() -> io::Result<()> {
    SigSet::all().thread_block()?;
    prctl::set_name(NAME)?;
    // Whoever started the VMM may have left others open, such as those of a tap.
    let others: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in others {
        // The one of the listing is closed already.
        let _ = close(fd);
    }
    let mut files: Vec<Vec<u8>> = Vec::new();
    let mut message = [0; LONGEST];
    loop {
        let length = match recv(0, &mut message, MsgFlags::empty()) {
            Ok(0) => break,
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        match message[..length].split_first() {
            Some((&CAME, record)) => files.push(record.to_vec()),
            Some((&WENT, record)) => files.retain(|known| known != record),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    files
        .iter()
        .filter_map(|record| parse(record))
        .for_each(|(path, identity)| remove(&path, identity, PATIENCE));
    Ok(())
}

fn parse(record: &[u8]) -> Option<(PathBuf, Identity)> {
    let (device, rest) = record.split_first_chunk()?;
    let (inode, path) = rest.split_first_chunk()?;
    let identity = Identity { device: u64::from_ne_bytes(*device), inode: u64::from_ne_bytes(*inode) };
    Some((OsStr::from_bytes(path).into(), identity))
}

/// Removes a file if it is still that one. The next VMM may have made another at its path, with the same number if that
/// was free again: hence nobody may listen, and nobody be about to.
pub(super) fn remove(path: &Path, identity: Identity, patience: Duration) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if !Identity::at(path).is_ok_and(|now| now == identity) {
            return;
        }
        // Without it nothing can be known for sure; the next start replaces the file.
        let Ok(only_one) = lock(path) else { return };
        let removed = Identity::at(path).is_ok_and(|now| now == identity) && is_stale(path);
        if removed {
            let _ = std::fs::remove_file(path);
        }
        only_one.remove();
        if removed {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
