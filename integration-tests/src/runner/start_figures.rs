//! Many parallel starts on a host of several nodes, again and again: how many nodes are promised more than they have,
//! and whether CPUs are shared while others are unclaimed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::payload::{GuestKernel, Payload};
use crate::lab::job::Event;
use crate::sys;

const STARTS: usize = 50;
/// A start holds its claim or is refused within this.
const PATIENCE: Duration = Duration::from_secs(240);

/// Starts 50 at once, `rounds` times, each time with other sizes; says how often a node was overbooked.
pub(super) fn run(payload: &Payload, rounds: u32) -> Result<i32> {
    let (mut overbooked, mut stacked, mut least, mut most) = (0u64, 0u64, STARTS, 0);
    for round in 0..rounds {
        // From what the kernel's image needs, so that all fit, to more than the host has.
        let mib = 72 + 16 * (round % 5);
        let found = once(payload, mib).with_context(|| format!("round {round}"))?;
        println!("round {round}: {mib} MiB each: {found}");
        overbooked += found["overbooked"].as_u64().unwrap_or(u64::MAX);
        stacked += u64::from(found["stacked"] == true);
        let living = usize::try_from(found["living"].as_u64().unwrap_or(0))?;
        (least, most) = (least.min(living), most.max(living));
    }
    Event::Bench(json!({
        "rounds": rounds, "starts": STARTS, "overbooked_nodes": overbooked, "rounds_with_stacked_vcpus": stacked,
        "least_started": least, "most_started": most,
    }))
    .say();
    Ok(0)
}

fn once(payload: &Payload, mib: u32) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let claims = directory.path().join("claims");
    let available = pnodes(payload, &claims, "memory_available")?;
    let mut children: Vec<Child> =
        (0..STARTS).map(|n| start(payload, &claims, directory.path(), n, mib)).collect::<Result<_>>()?;
    let found = settled(payload, &claims, &mut children).and_then(|living| {
        let host = host(payload, &claims)?;
        let (mut overbooked, mut shared, mut unclaimed) = (Vec::new(), false, false);
        for pnode in host["pnodes"].as_array().context("no pnodes")? {
            let number = |value: &Value| value.as_u64().unwrap_or(0);
            let (id, claimed) = (number(&pnode["id"]), number(&pnode["claimed"]["memory"]));
            if claimed > available.get(&id).copied().unwrap_or(0) {
                overbooked.push(id);
            }
            let cpus = crate::rangelist::parse(pnode["cpus"].as_str().unwrap_or_default())?.len() as u64;
            let vcpus = number(&pnode["claimed"]["vcpus"]);
            shared |= vcpus > cpus;
            unclaimed |= vcpus < cpus;
        }
        if let Some(refusal) = refusal(directory.path()) {
            println!("refused: {refusal}");
        }
        Ok(json!({ "living": living, "overbooked": overbooked.len(), "stacked": shared && unclaimed }))
    });
    for child in &mut children {
        let _ = child.kill();
    }
    for child in &mut children {
        let _ = child.wait();
    }
    // Those that were killed have nothing any more.
    let left = pnodes(payload, &claims, "claimed")?;
    ensure!(left.values().all(|claimed| *claimed == 0), "claims are left: {left:?}");
    found
}

/// Waits until each start has its claim or is over; how many have one.
fn settled(payload: &Payload, claims: &Path, children: &mut [Child]) -> Result<usize> {
    let began = Instant::now();
    loop {
        let mut over = 0;
        for child in children.iter_mut() {
            over += usize::from(child.try_wait()?.is_some());
        }
        let living = host(payload, claims)?["claims"].as_array().map_or(0, Vec::len);
        if living + over >= children.len() {
            return Ok(living);
        }
        ensure!(began.elapsed() < PATIENCE, "{living} have a claim, {over} are over");
        thread::sleep(Duration::from_millis(200));
    }
}

fn start(payload: &Payload, claims: &Path, directory: &Path, number: usize, mib: u32) -> Result<Child> {
    let said = fs::File::create(directory.join(format!("start-{number}")))?;
    let mut command = Command::new(payload.numavisor());
    command.arg("run").arg("--kernel").arg(payload.kernel(GuestKernel::StockBzImage));
    command.arg("--claims-dir").arg(claims).args(["--serial", "none", "--vcpus", "1"]);
    // A guest without memory enough for its image stands still and does not end.
    command.args(["--memory", &format!("{mib}M"), "--cmdline", "panic=0"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
    sys::die_with_parent(&mut command).spawn().context("starting numavisor")
}

/// What one that was refused said.
fn refusal(directory: &Path) -> Option<String> {
    let said = (0..STARTS).filter_map(|n| fs::read_to_string(directory.join(format!("start-{n}"))).ok());
    let refused = |line: &str| !line.starts_with("numavisor: warn");
    said.filter_map(|text| text.lines().last().filter(|line| refused(line)).map(str::to_owned)).next()
}

fn host(payload: &Payload, claims: &Path) -> Result<Value> {
    let mut command = Command::new(payload.numavisor());
    command.args(["host", "--json", "--claims", "--claims-dir"]).arg(claims);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A figure of each pnode.
fn pnodes(payload: &Payload, claims: &Path, key: &str) -> Result<BTreeMap<u64, u64>> {
    let host = host(payload, claims)?;
    let one = |pnode: &Value| {
        let value = if key == "claimed" { &pnode[key]["memory"] } else { &pnode[key] };
        Some((pnode["id"].as_u64()?, value.as_u64().unwrap_or(0)))
    };
    Ok(host["pnodes"].as_array().context("no pnodes")?.iter().filter_map(one).collect())
}
