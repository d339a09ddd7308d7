//! How fast a guest's memory comes back: numavisor's balloon and QEMU's, on the same stock guest, in turn.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bench::{numavisor, rival};
use super::payload::Payload;
use super::vm::Vm;
use crate::guest::READY;
use crate::qmp::Qmp;

/// Memory of the guest, on both sides; three quarters of it are taken.
const MIB: u64 = 512;
const TAKEN_MIB: u64 = MIB * 3 / 4;
/// What the guest touches before, so that the host has memory to get back.
const TOUCHED_MIB: u64 = 400;
/// How often both sides are asked whether it is done.
const LOOK: Duration = Duration::from_millis(5);
/// How often ours is asked before it begins.
const IDLE_LOOKS: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(120);

/// Inflates each side in turn, `rounds` times after one that does not count; the least of each, since whatever else the
/// host does only adds.
pub(super) fn run(payload: &Payload, rounds: u32) -> Result<Value> {
    let (mut ours, mut theirs, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    let mut answers = Answers::default();
    for round in 0..=rounds {
        let (our, our_calls) = our_balloon(payload, &mut answers)?;
        let their = their_balloon(payload)?;
        println!(
            "round {round}: {TAKEN_MIB} MiB, numavisor {our:.3} s, {our_calls} calls; qemu {their:.3} s"
        );
        if round > 0 {
            ours.push(our);
            theirs.push(their);
            calls.push(our_calls / TAKEN_MIB as f64);
        }
    }
    Ok(json!({
        "mib": TAKEN_MIB,
        "seconds": { "numavisor": least(&ours), "qemu": least(&theirs) },
        "calls_per_mib": least(&calls),
        "api_p99_ms": { "idle": p99(answers.idle), "inflating": p99(answers.inflating) },
    }))
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::min)
}

/// Milliseconds that answers of the API took.
#[derive(Default)]
struct Answers {
    idle: Vec<f64>,
    inflating: Vec<f64>,
}

fn p99(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * 99 / 100).copied()
}

/// A guest with its balloon driver loaded and its free memory touched.
fn guest(payload: &Payload, mut command: Command, modules: &str) -> Result<Vm> {
    let transcript = Rc::new(RefCell::new(String::new()));
    command.current_dir(&payload.directory);
    let mut vm = Vm::spawn(command, &transcript)?;
    let began = vm
        .line("the guest's init", |line| (line == READY).then_some(()))
        .and_then(|_| vm.ask(&format!("modprobe {modules}")))
        .and_then(|_| vm.ask(&format!("alloc {TOUCHED_MIB} 0")))
        .and_then(|_| vm.ask("free"));
    began.with_context(|| transcript.borrow().clone())?;
    Ok(vm)
}

/// Seconds from the request to its end, and system calls.
fn our_balloon(payload: &Payload, answers: &mut Answers) -> Result<(f64, f64)> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api").to_string_lossy().into_owned();
    let flags = ["--vcpus", "2", "--memory", "512M", "--api-socket", &socket];
    let _vm = guest(payload, numavisor(payload, &flags), "virtio_pci virtio_balloon")?;
    let stream = Http::new(&socket);
    let look = |times: &mut Vec<f64>| -> Result<Value> {
        std::thread::sleep(LOOK);
        let asked = Instant::now();
        let vnode = stream.ask("GET", "/v1/vnodes/0", "")?;
        times.push(asked.elapsed().as_secs_f64() * 1e3);
        Ok(serde_json::from_str(&vnode)?)
    };
    for _ in 0..IDLE_LOOKS {
        look(&mut answers.idle)?;
    }
    let began = Instant::now();
    stream.ask(
        "PUT",
        "/v1/vnodes/0/memory-target",
        &json!({ "target": (MIB - TAKEN_MIB) << 20 }).to_string(),
    )?;
    loop {
        let vnode = look(&mut answers.inflating)?;
        let outcome = &vnode["balloon"]["outcome"];
        if outcome.is_null() {
            ensure!(began.elapsed() < PATIENCE, "after {PATIENCE:?}: {vnode}");
            continue;
        }
        let seconds = began.elapsed().as_secs_f64();
        ensure!(outcome["stop"] == "reached", "it ended as {vnode}");
        let metrics = stream.ask("GET", "/v1/metrics", "")?;
        let calls = metrics.lines().find_map(|line| {
            line.strip_prefix("numavisor_balloon_discards_total")
                .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
        });
        return Ok((seconds, calls.context("no count of calls")?));
    }
}

/// Plain HTTP over a unix socket, a connection for each request.
struct Http {
    socket: String,
}

impl Http {
    fn new(socket: &str) -> Self {
        Self { socket: socket.to_owned() }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket).context(self.socket.clone())?;
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: vm\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), None);
        reader.read_line(&mut line)?;
        ensure!(line.contains(" 20"), "{method} {path}: {line}");
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
        }
        let mut text = vec![0; length.context("no length")?];
        std::io::Read::read_exact(&mut reader, &mut text)?;
        Ok(String::from_utf8(text)?)
    }
}

fn their_balloon(payload: &Payload) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("qmp");
    let mut command = rival(payload);
    command.arg("-device").arg("virtio-balloon-device");
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
    let _vm = guest(payload, command, "virtio_mmio virtio_balloon")?;
    let mut qmp = Qmp::connect(&socket)?;
    let target = (MIB - TAKEN_MIB) << 20;
    let began = Instant::now();
    qmp.ask("balloon", &json!({ "value": target }))?;
    loop {
        std::thread::sleep(LOOK);
        let actual = qmp.ask("query-balloon", &json!({}))?["actual"].as_u64().unwrap_or(u64::MAX);
        if actual <= target {
            return Ok(began.elapsed().as_secs_f64());
        }
        ensure!(began.elapsed() < PATIENCE, "after {PATIENCE:?} the guest has {actual} bytes");
    }
}
