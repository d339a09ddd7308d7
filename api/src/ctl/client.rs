//! One HTTP request over a unix socket, without an async runtime: connect, send, receive, close.

use crate::ctl::stream::Body;
use crate::exit::{Failure, Status};
use crate::http::problem::Document;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The longest answer to wait for: a VM that is ended while its memory is taken.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Most bytes of an answer that is not a stream: jobs, vnodes and vCPUs of the largest VM.
const MOST: u64 = 64 << 20;
/// Most bytes of the head of an answer.
const MOST_HEAD: u64 = 64 << 10;

/// The server.
pub struct Client {
    socket: PathBuf,
}

/// What came back: a success, read to its end.
pub struct Answer {
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as what it should be.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| {
            Failure::new(Status::Internal, format_args!("the answer makes no sense: {error}"))
        })
    }
}

impl Client {
    /// Asks there.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    fn failed(&self, what: &str, why: impl Display) -> Failure {
        Failure::new(Status::Host, format_args!("--api-socket: {}: {what}: {why}", self.socket.display()))
    }

    /// Asks and reads the answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer, Failure> {
        let (status, mut body) = self.send(method, path, body, &[])?;
        let mut bytes = Vec::new();
        (&mut body).take(MOST).read_to_end(&mut bytes).map_err(|error| self.failed("read", error))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if (200..300).contains(&status) { Ok(Answer { text }) } else { Err(refused(status, &text)) }
    }

    /// Asks for something and reads it.
    pub fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.ask("GET", path, None)
    }

    /// Asks for a stream; its body comes as it is sent.
    pub fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Result<Body, Failure> {
        let (status, mut body) = self.send("GET", path, None, headers)?;
        if status == 200 {
            return Ok(body);
        }
        let mut text = String::new();
        (&mut body).take(MOST).read_to_string(&mut text).map_err(|error| self.failed("read", error))?;
        Err(refused(status, &text))
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Body), Failure> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| self.failed("connect", error))?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| self.failed("setsockopt", error))?;
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            let length = body.len();
            text.push_str(&format!("content-type: application/json\r\ncontent-length: {length}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body.unwrap_or_default());
        // A server that rejects a request early also closes early, after its response.
        let sent = stream.write_all(text.as_bytes());
        let (status, body) = head(BufReader::new(stream)).map_err(|why| match &sent {
            Ok(()) => self.failed("read", why),
            Err(error) => self.failed("write", error),
        })?;
        Ok((status, body))
    }
}

/// Reads the head of an answer.
fn head(mut stream: BufReader<UnixStream>) -> Result<(u16, Body), String> {
    let mut left = MOST_HEAD;
    let mut line = |stream: &mut BufReader<UnixStream>| {
        let mut line = String::new();
        let length = stream.take(left).read_line(&mut line).map_err(|error| error.to_string())?;
        left = left.saturating_sub(length as u64);
        if line.ends_with('\n') {
            Ok(line.trim_end().to_owned())
        } else {
            Err("the answer breaks off".to_owned())
        }
    };
    let first = line(&mut stream)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or("the answer is not HTTP")?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let line = line(&mut stream)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    // No answer to DELETE has a body, and neither length nor chunks then.
    let length = if status == 204 { Some(0) } else { length };
    Ok((status, Body::new(stream, length, chunked)))
}

/// A problem in one line, and whose fault it is.
fn refused(status: u16, text: &str) -> Failure {
    let problem: Option<Document> = serde_json::from_str(text).ok();
    let Some(problem) = problem else {
        let whose = if (400..500).contains(&status) { Status::Input } else { Status::Host };
        return Failure::new(whose, format_args!("HTTP status {status}"));
    };
    let line = format!("{} ({})", problem.detail, problem.code);
    Failure::reported(&problem.kind, Some(problem.code), problem.field, line)
}
