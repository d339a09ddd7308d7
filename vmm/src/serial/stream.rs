//! A descriptor that is read and written without waiting. Who waits until it is ready, and how long, is the caller's
//! business.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{read, write};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A pipe that polls writable takes this much without blocking (`PIPE_BUF`, pipe(7)).
const WRITE_MAX: usize = 4096;
/// `/dev/ptmx`: each open makes another terminal.
const PTMX: (u32, u32) = (5, 2);

/// The descriptor.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    kind: Kind,
}

/// How not to wait. O_NONBLOCK belongs to what others have open too, the shell for one, so it is never set on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Opened again, with O_NONBLOCK.
    Reopened,
    /// By a flag of each call.
    Socket,
    /// A file or a device, or one that cannot be opened again: asked before each call whether it is ready.
    Shared,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Stream {
    /// For reading what `fd` brings.
    pub fn input(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Self::of(fd.try_clone_to_owned()?, Way::In)
    }

    /// For writing to what `fd` is.
    pub fn output(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Self::of(fd.try_clone_to_owned()?, Way::Out)
    }

    /// For appending to a file, which is made if it is not there. A FIFO needs no reader: it is kept open for reading here
    /// too, and what it holds waits for the first one.
    pub fn append(path: &Path) -> io::Result<Self> {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(flags);
        let is_fifo = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
        let file = match is_fifo {
            true => options.read(true).open(path)?,
            false => options.create(true).open(path)?,
        };
        let kind = if is_fifo || file.is_terminal() { Kind::Reopened } else { Kind::Shared };
        Ok(Self { fd: file.into(), kind })
    }

    fn of(fd: OwnedFd, way: Way) -> io::Result<Self> {
        let file = File::from(fd);
        let metadata = file.metadata()?;
        let device = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        if metadata.file_type().is_socket() {
            return Ok(Self { fd: file.into(), kind: Kind::Socket });
        }
        let reopen = metadata.file_type().is_fifo() || (file.is_terminal() && device != PTMX);
        match reopen.then(|| again(&file, way)).transpose() {
            Ok(Some(again)) => Ok(Self { fd: again.into(), kind: Kind::Reopened }),
            // No /proc, or the terminal is another user's.
            Ok(None) | Err(_) => Ok(Self { fd: file.into(), kind: Kind::Shared }),
        }
    }

    /// Reads what is there; [`io::ErrorKind::WouldBlock`] if nothing is.
    pub fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(match self.kind {
            Kind::Reopened => read(&self.fd, bytes)?,
            Kind::Socket => recv(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)?,
            Kind::Shared => {
                self.ready(PollFlags::POLLIN)?;
                read(&self.fd, bytes)?
            }
        })
    }

    /// Writes what is taken at once; [`io::ErrorKind::WouldBlock`] if nothing is.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(WRITE_MAX)];
        Ok(match self.kind {
            Kind::Reopened => write(&self.fd, bytes)?,
            Kind::Socket => {
                send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?
            }
            Kind::Shared => {
                self.ready(PollFlags::POLLOUT)?;
                write(&self.fd, bytes)?
            }
        })
    }

    fn ready(&self, events: PollFlags) -> Result<(), Errno> {
        match poll(&mut [PollFd::new(self.fd.as_fd(), events)], PollTimeout::ZERO)? {
            0 => Err(Errno::EAGAIN),
            _ => Ok(()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The same pipe or terminal, opened for this process alone. Files are not: they would be written from their beginning.
fn again(file: &File, way: Way) -> io::Result<File> {
    let kept =
        OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?) & (OFlag::O_APPEND | OFlag::O_DIRECT);
    let flags = kept | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    options.read(way == Way::In).write(way == Way::Out).custom_flags(flags.bits()).open(path)
}

#[cfg(test)]
mod tests {
    use super::{Kind, Stream};
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::{ErrorKind, Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn is_nonblocking(fd: impl AsFd) -> bool {
        OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn a_full_pipe_would_block_and_stays_as_others_have_it_open() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stream = Stream::output(writer.as_fd()).unwrap();
        let mut written = 0;
        let error = loop {
            match stream.write(&[b'x'; 8192]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), is_nonblocking(&writer)), (ErrorKind::WouldBlock, false));
        reader.read_exact(&mut vec![0; written]).unwrap();
        let stdin = Stream::input(reader.as_fd()).unwrap();
        assert_eq!(stdin.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(!is_nonblocking(&reader));
        drop((stream, writer));
        assert_eq!(stdin.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn a_socket_would_block_too() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let stream = Stream::output(theirs.as_fd()).unwrap();
        let kind = loop {
            if let Err(error) = stream.write(&[0; 4096]) {
                break error.kind();
            }
        };
        assert_eq!((kind, is_nonblocking(&theirs)), (ErrorKind::WouldBlock, false));
        let stdin = Stream::input(theirs.as_fd()).unwrap();
        assert_eq!(stdin.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        ours.write_all(b"key").unwrap();
        assert_eq!(stdin.read(&mut [0; 8]).unwrap(), 3);
    }

    #[test]
    fn a_file_is_written_where_the_others_who_have_it_open_are() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"shell\n").unwrap();
        let stream = Stream::output(file.as_fd()).unwrap();
        assert_eq!((stream.kind, stream.write(b"guest\n").unwrap()), (Kind::Shared, 6));
        file.write_all(b"shell\n").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "shell\nguest\nshell\n");
    }

    #[test]
    fn a_fifo_without_a_reader_is_opened_at_once_and_keeps_what_it_takes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let stream = Stream::append(&path).unwrap();
        assert_eq!(stream.write(b"early").unwrap(), 5);
        let mut reader = std::fs::File::open(&path).unwrap();
        let mut text = [0; 5];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"early");
    }
}
