//! A server to ask, and a client that says exactly what it is told to.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use vmm::test_kernel::{outs, pvh_elf};

/// Longer than anything takes on a busy host.
pub const LONG: Duration = Duration::from_secs(60);
const COM1: u16 = 0x3f8;

/// The document that describes the API.
pub fn openapi() -> Value {
    serde_json::from_str(include_str!("../../src/http/openapi.json")).unwrap()
}

pub use testing::kvm;

/// Waits until something is so.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process with a socket.
pub struct Server {
    /// The process.
    pub child: Child,
    /// Its socket.
    pub socket: PathBuf,
    /// A guest that writes three bytes and halts.
    pub kernel: PathBuf,
    dir: tempfile::TempDir,
    messages: Option<BufReader<ChildStderr>>,
}

impl Server {
    /// `numavisor serve`.
    pub fn serve() -> Self {
        Self::start(&["serve"])
    }

    /// A command with a socket and a kernel for it at hand.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, Stdio::inherit())
    }

    /// One whose messages can be waited for with [`said`](Self::said).
    pub fn heard(args: &[&str]) -> Self {
        Self::start_with(args, Stdio::piped())
    }

    fn start_with(args: &[&str], stderr: Stdio) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, kernel) = (dir.path().join("api.sock"), dir.path().join("kernel"));
        std::fs::write(&kernel, pvh_elf(&outs(&[(COM1, b'u'), (COM1, b'p'), (COM1, b'\n')]), true)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
        command.args(args).arg("--api-socket").arg(&socket);
        if args.first() == Some(&"run") {
            command.arg("--kernel").arg(&kernel);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        wait_for("the socket", || UnixStream::connect(&socket).ok());
        let messages = child.stderr.take().map(BufReader::new);
        Self { child, socket, kernel, dir, messages }
    }

    /// Waits until a message has these words.
    pub fn said(&mut self, words: &str) {
        let messages = self.messages.as_mut().unwrap();
        let mut lines = messages.lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(words)), "it ended without `{words}`");
    }

    /// Somewhere for files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends bytes, and no more; reads until the other side closes.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // Who is refused early need not have taken everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A request without a body.
    pub fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, "", "")
    }

    /// A request with JSON.
    pub fn json(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(method, path, "content-type: application/json\r\n", body)
    }

    /// A request with headers of its own.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let text = self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
            )
            .as_bytes(),
        );
        Answer::new(&text)
    }

    /// Defines a small VM.
    pub fn define(&self) -> Answer {
        let kernel = self.kernel.display();
        let spec = format!(
            r#"{{"kernel": "{kernel}", "memory": "64M", "vcpus": 2, "vnodes": 2, "serial": "none"}}"#
        );
        self.json("PUT", "/v1/vm", &spec)
    }

    /// Waits until the VM stands so.
    pub fn wait_state(&self, state: &str) -> Value {
        wait_for(state, || {
            let vm = self.ask("GET", "/v1/vm").document;
            (vm["state"] == state).then_some(vm)
        })
    }

    /// Defines a VM, boots it, and waits until it runs.
    pub fn running() -> Self {
        let server = Self::serve();
        server.boot();
        server
    }

    /// The same with this server.
    pub fn boot(&self) {
        assert_eq!(self.define().status, 201);
        assert_eq!(self.ask("POST", "/v1/vm/boot").status, 202);
        self.wait_state("running");
    }

    /// `numavisor ctl` for this server.
    pub fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
        command.arg("ctl").arg("--api-socket").arg(&self.socket).args(args).output().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        wait_for("the end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Head, with names in lower case.
    pub head: String,
    /// The body as text, chunks joined.
    pub text: String,
    /// The body, if it is JSON.
    pub document: Value,
}

impl Answer {
    /// What a server at another socket says; a body is JSON.
    pub fn from(socket: &Path, method: &str, path: &str, body: &str) -> Self {
        let length = body.len();
        let typed = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{typed}");
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Self::new(&answer)
    }

    fn new(answer: &str) -> Self {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
        let head = head.to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let text = if head.contains("transfer-encoding: chunked") { joined(body) } else { body.to_owned() };
        let document = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status: status.unwrap_or_else(|| panic!("no answer: {answer:?}")), head, text, document }
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_default()
    }

    /// Status and code of a problem.
    pub fn problem(&self) -> (u16, &str) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.document["status"], self.status, "{self:?}");
        (self.status, self.document["code"].as_str().unwrap())
    }
}

fn joined(mut chunks: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    text
}
