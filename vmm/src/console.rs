//! The host's end of a virtio console: a unix socket that one client at a time attaches to, or a file.

use crate::access::can_append;
use crate::diagnosis::of_file;
use crate::socket_file::{Access, Janitor, SocketFile, SocketFileError, is_hung_up};
use crate::sys::HostError;
use devices::virtio::console::ConsoleHost;
use resources::Diagnosis;
use resources::devices::ConsoleEnd;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// What a client reads that comes while another is attached, before it is sent away.
const TAKEN: &[u8] = b"numavisor: another client is attached to this console\r\n";

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The socket cannot be made.
    #[error("console.socket: {0}")]
    Socket(#[from] SocketFileError),
    /// The file does not open.
    #[error("console: open for {path}: {source}", path = path.display())]
    File {
        /// As typed.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The host refused.
    #[error("console: {0}")]
    Host(#[from] HostError),
}

impl ConsoleError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Socket(error) => error.diagnosis().at("console.socket"),
            Self::File { source, .. } => of_file(source).at("console.file"),
            Self::Host(error) => error.diagnosis(),
        }
    }
}

/// Makes the socket, or opens the file.
pub fn open(end: &ConsoleEnd, janitor: &Janitor) -> Result<Box<dyn ConsoleHost>, ConsoleError> {
    Ok(match end {
        ConsoleEnd::Socket(path) => Box::new(Terminal::bind(path, janitor)?),
        ConsoleEnd::File(path) => Box::new(Log::open(path)?),
    })
}

/// Why [`open`] would refuse now.
pub fn check(end: &ConsoleEnd) -> Result<(), ConsoleError> {
    match end {
        ConsoleEnd::Socket(path) => Ok(SocketFile::check(path)?),
        ConsoleEnd::File(path) => can_append(path).map_err(|error| unusable(path, error)),
    }
}

fn unusable(path: &Path, source: io::Error) -> ConsoleError {
    ConsoleError::File { path: path.to_owned(), source }
}

/// A socket for this user alone.
struct Terminal {
    listener: UnixListener,
    attached: Option<UnixStream>,
    /// The last client that came could not be let in; said once.
    refused: bool,
    _file: SocketFile,
}

impl Terminal {
    fn bind(path: &Path, janitor: &Janitor) -> Result<Self, ConsoleError> {
        let (listener, file) = SocketFile::listen(path, Access::OWNER, janitor)?;
        listener.set_nonblocking(true).map_err(|error| HostError::new("ioctl(FIONBIO)", error))?;
        Ok(Self { listener, attached: None, refused: false, _file: file })
    }

    fn stream(&mut self) -> io::Result<&mut UnixStream> {
        self.attached.as_mut().ok_or_else(|| ErrorKind::WouldBlock.into())
    }
}

impl ConsoleHost for Terminal {
    fn listener(&self) -> Option<RawFd> {
        Some(self.listener.as_raw_fd())
    }

    fn attach(&mut self) -> io::Result<bool> {
        let mut stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(%error, "console: cannot accept clients for now");
                }
                return Err(error);
            }
        };
        self.refused = false;
        stream.set_nonblocking(true)?;
        if self.attached.as_ref().is_some_and(|attached| !is_hung_up(attached)) {
            let _ = stream.write(TAKEN);
            return Ok(false);
        }
        self.attached = Some(stream);
        Ok(true)
    }

    fn attached(&self) -> Option<RawFd> {
        self.attached.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream()?;
        match stream.read(data)? {
            0 if is_hung_up(stream) => Err(ErrorKind::ConnectionReset.into()),
            count => Ok(count),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.stream()?.write(data)
    }

    fn detach(&mut self) {
        self.attached = None;
    }
}

/// A file that takes output and types nothing.
struct Log {
    file: File,
    failing: bool,
}

impl Log {
    fn open(path: &Path) -> Result<Self, ConsoleError> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Ok(Self { file: file.map_err(|error| unusable(path, error))?, failing: false })
    }
}

impl ConsoleHost for Log {
    fn listener(&self) -> Option<RawFd> {
        None
    }

    fn attach(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    fn attached(&self) -> Option<RawFd> {
        None
    }

    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let result = self.file.write(data);
        match &result {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(%error, "console: output lost; further losses are only counted");
            }
            Err(_) => {}
            Ok(_) => self.failing = false,
        }
        result
    }

    fn detach(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::{TAKEN, Terminal, open};
    use crate::socket_file::Janitor;
    use devices::virtio::console::ConsoleHost;
    use resources::devices::ConsoleEnd;
    use std::io::{ErrorKind, Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    fn terminal(path: &Path) -> Terminal {
        Terminal::bind(path, &Janitor::default()).unwrap()
    }

    #[test]
    fn one_at_a_time_types_and_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let mut terminal = terminal(&path);
        let mut data = [0; 8];
        assert!(!terminal.attach().unwrap(), "nobody came");
        assert_eq!(terminal.read(&mut data).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(terminal.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);

        let mut first = UnixStream::connect(&path).unwrap();
        assert!(terminal.attach().unwrap());
        first.write_all(b"ls\n").unwrap();
        assert_eq!((terminal.read(&mut data).unwrap(), &data[..3]), (3, b"ls\n".as_slice()));
        assert_eq!(terminal.read(&mut data).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(terminal.write(b"bin").unwrap(), 3);
        first.read_exact(&mut data[..3]).unwrap();
        assert_eq!(&data[..3], b"bin");

        let mut second = UnixStream::connect(&path).unwrap();
        assert!(!terminal.attach().unwrap());
        let mut told = Vec::new();
        second.read_to_end(&mut told).unwrap();
        assert_eq!(told, TAKEN);

        // Who types no more still reads; who is gone makes room, noticed or not.
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(terminal.read(&mut data).unwrap(), 0);
        assert!(terminal.write(b"y").is_ok());
        drop(first);
        assert_eq!(terminal.read(&mut data).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let _third = UnixStream::connect(&path).unwrap();
        assert!(terminal.attach().unwrap());
        terminal.detach();
        assert_eq!(terminal.attached(), None);
        drop(terminal);
        assert!(!path.exists());
    }

    #[test]
    fn a_reader_who_does_not_read_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let mut terminal = terminal(&path);
        let _silent = UnixStream::connect(&path).unwrap();
        assert!(terminal.attach().unwrap());
        let error = loop {
            if let Err(error) = terminal.write(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_file_is_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let mut log = open(&ConsoleEnd::File(path.clone()), &Janitor::default()).unwrap();
        assert_eq!(log.write(b"new\n").unwrap(), 4);
        assert_eq!((log.listener(), log.attached(), log.attach().unwrap()), (None, None, false));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
    }

    #[test]
    fn what_cannot_be_is_said_in_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let said = |end: ConsoleEnd| {
            let error = open(&end, &Janitor::default()).err().unwrap();
            let found = error.diagnosis();
            (error.to_string().replace(&directory.path().display().to_string(), "D"), found.code, found.field)
        };
        let [in_file, in_socket] = ["console.file", "console.socket"].map(|field| Some(field.to_owned()));
        let missing = directory.path().join("no/such");
        let text = "console: open for D/no/such: No such file or directory (os error 2)".to_owned();
        assert_eq!(said(ConsoleEnd::File(missing)), (text, "file_not_found", in_file));
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let text = "console.socket: D/file: exists and is not a socket, must be a socket or a new path";
        assert_eq!(said(ConsoleEnd::Socket(file)), (text.to_owned(), "not_a_socket", in_socket));
    }
}
