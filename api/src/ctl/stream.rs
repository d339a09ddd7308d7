//! Streaming bodies: of a known length, chunked, or up to the end of the connection; and the events in them.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;

/// Most bytes of a line of a stream.
const MOST_LINE: u64 = 1 << 20;

/// A body.
pub struct Body<R = BufReader<UnixStream>> {
    stream: R,
    left: Left,
}

enum Left {
    Bytes(u64),
    /// Of this chunk; before the first one 0.
    Chunk {
        left: u64,
        first: bool,
    },
    UntilClosed,
    Nothing,
}

impl<R: BufRead> Body<R> {
    /// A body, framed as its head says.
    pub fn new(stream: R, length: Option<u64>, chunked: bool) -> Self {
        let left = match (chunked, length) {
            (true, _) => Left::Chunk { left: 0, first: true },
            (false, Some(length)) => Left::Bytes(length),
            (false, None) => Left::UntilClosed,
        };
        Self { stream, left }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.stream).take(MOST_LINE).read_line(&mut line)?;
        if line.ends_with('\n') { Ok(line.trim_end().to_owned()) } else { Err(broken()) }
    }

    /// The length of the next chunk.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        if !first {
            self.line()?;
        }
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        u64::from_str_radix(digits, 16).map_err(|_| broken())
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer breaks off")
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Left::Chunk { left: 0, first } = self.left {
            self.left = match self.next_chunk(first)? {
                0 => Left::Nothing,
                left => Left::Chunk { left, first: false },
            };
        }
        let most = match self.left {
            Left::Bytes(0) | Left::Nothing => return Ok(0),
            Left::Bytes(left) | Left::Chunk { left, .. } => left,
            Left::UntilClosed => u64::MAX,
        };
        let length = (&mut self.stream).take(most).read(buffer)?;
        match &mut self.left {
            Left::Bytes(_) | Left::Chunk { .. } if length == 0 && !buffer.is_empty() => return Err(broken()),
            Left::Bytes(left) | Left::Chunk { left, .. } => *left -= length as u64,
            Left::UntilClosed | Left::Nothing => {}
        }
        Ok(length)
    }
}

/// The data of each event of a `text/event-stream`, without keep-alive comments.
pub fn events(body: impl Read) -> impl Iterator<Item = io::Result<String>> {
    let lines = BufReader::new(body).lines();
    lines.filter_map(|line| match line {
        Ok(line) => line.strip_prefix("data: ").map(|data| Ok(data.to_owned())),
        Err(error) => Some(Err(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::{Body, events};
    use std::io::Read;

    fn read(text: &str, length: Option<u64>, chunked: bool) -> Result<String, std::io::ErrorKind> {
        let mut all = String::new();
        let read = Body::new(text.as_bytes(), length, chunked).read_to_string(&mut all);
        read.map(|_| all).map_err(|error| error.kind())
    }

    #[test]
    fn a_body_is_read_to_its_end_and_not_beyond() {
        assert_eq!(read("hello and more", Some(5), false), Ok("hello".into()));
        assert_eq!(read("hello", None, false), Ok("hello".into()));
        assert_eq!(read("5\r\nhello\r\n3;x=y\r\n, y\r\n0\r\n\r\n", None, true), Ok("hello, y".into()));
        assert_eq!(read("", Some(0), false), Ok(String::new()));
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        for (text, length, chunked) in [
            ("hell", Some(5), false),
            ("5\r\nhel", None, true),
            ("5\r\nhello\r\n", None, true),
            ("x\r\n", None, true),
        ] {
            assert!(read(text, length, chunked).is_err(), "{text}");
        }
    }

    #[test]
    fn events_are_the_data_of_a_stream() {
        let text = ":\n\nid: 1\nevent: x\ndata: {\"id\":1}\n\n:\n\nid: 2\nevent: y\ndata: {}\n\n";
        let data: Vec<String> = events(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(data, ["{\"id\":1}", "{}"]);
    }
}
