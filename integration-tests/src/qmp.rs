//! QEMU's own protocol: a line of JSON for each request, answer and event. What is asked is the callers' business.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// A connection that is ready for commands.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Qmp {
    /// Connects and agrees on nothing.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("QMP")?;
        let mut qmp = Self { reader: BufReader::new(stream.try_clone()?), stream };
        qmp.answer(|line| line.get("QMP").is_some())?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// A command that must be obeyed.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let answer = self.try_ask(command, arguments)?;
        ensure!(answer.get("error").is_none(), "{command}: {answer}");
        Ok(answer["return"].clone())
    }

    /// A command that may be refused: the whole answer.
    pub(crate) fn try_ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        writeln!(self.stream, "{}", json!({ "execute": command, "arguments": arguments }))?;
        self.answer(|line| line.get("return").is_some() || line.get("error").is_some())
    }

    fn answer(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                bail!("QMP ended");
            }
            let value: Value = serde_json::from_str(&line)?;
            if wanted(&value) {
                return Ok(value);
            }
        }
    }
}
