//! The live table: vnodes, vCPUs with their exits per second, running jobs. All data comes from the API.

use crate::args::TopArgs;
use crate::ctl::client::{Answer, Client};
use crate::ctl::show;
use crate::exit::{Failure, Status};
use crate::files;
use crate::http::wire::{Job, JobState, Jobs, Vm, Vnode, Vnodes};
use crate::show::table::{Side, Table};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// To the upper left corner, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Exits by vCPU.
type Exits = BTreeMap<u32, u64>;

/// One look.
#[derive(Serialize)]
struct Look {
    vm: Vm,
    vnodes: Vec<Vnode>,
    /// Those that run.
    jobs: Vec<Job>,
    /// By vCPU; nothing at the first look.
    exits_per_second: Exits,
}

/// Shows the table until interrupted, or a number of times; as JSON, one line per refresh.
pub fn run(client: &Client, args: &TopArgs, json: bool) -> Result<(), Failure> {
    let live = std::io::stdout().is_terminal();
    let pause = Duration::from_secs(u64::from(args.interval.max(1)));
    let mut before: Option<(Instant, Exits)> = None;
    let mut looks = 0;
    loop {
        let now = Instant::now();
        let vm: Vm = client.get("/v1/vm")?.read()?;
        let vnodes: Vnodes = while_it_runs(client.get("/v1/vnodes"))?;
        let mut jobs: Jobs = while_it_runs(client.get("/v1/jobs"))?;
        jobs.jobs.retain(|job| job.state == JobState::Running);
        let exits = exits(&vnodes.vnodes);
        let took = before.as_ref().map(|(then, _)| now.duration_since(*then));
        let rates = before.as_ref().map(|(_, before)| rates(before, &exits, took.unwrap_or_default()));
        let exits_per_second = rates.unwrap_or_default();
        let look = Look { vm, vnodes: vnodes.vnodes, jobs: jobs.jobs, exits_per_second };
        files::print(&match (json, live) {
            (true, _) => {
                serde_json::to_string(&look).map_err(|error| Failure::new(Status::Internal, error))? + "\n"
            }
            (false, true) => format!("{CLEAR}{}", text(&look)),
            (false, false) => format!("{}\n", text(&look)),
        })?;
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        before = Some((now, exits));
        std::thread::sleep(pause);
    }
}

/// What a VM has only while it runs; it may start while one looks.
fn while_it_runs<T: DeserializeOwned + Default>(answer: Result<Answer, Failure>) -> Result<T, Failure> {
    match answer {
        Err(failure) if failure.status == Status::Conflict => Ok(T::default()),
        answer => answer?.read(),
    }
}

/// Exits of each vCPU, all reasons together.
fn exits(vnodes: &[Vnode]) -> Exits {
    vnodes.iter().flat_map(|vnode| &vnode.vcpus).filter_map(|vcpu| Some((vcpu.id, vcpu.exits?))).collect()
}

fn rates(before: &Exits, now: &Exits, took: Duration) -> BTreeMap<u32, u64> {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |(vcpu, count): (&u32, &u64)| {
        let more = count.saturating_sub(before.get(vcpu).copied().unwrap_or(*count));
        (*vcpu, more.saturating_mul(1000) / millis)
    };
    now.iter().map(rate).collect()
}

fn text(Look { vm, vnodes, jobs, exits_per_second: rates }: &Look) -> String {
    let header = format!("numavisor {}, pid {}, {}\n", vm.version, vm.pid, vm.state.name());
    let mut vcpus = Table::new(["VCPU", "VNODE", "PNODES", "CPU", "AFFINITY", "EXITS/s"].map(|title| {
        let side = if matches!(title, "AFFINITY" | "PNODES") { Side::Left } else { Side::Right };
        (title.to_owned(), side)
    }));
    for vnode in vnodes {
        for vcpu in &vnode.vcpus {
            vcpus.row([
                vcpu.id.to_string(),
                vnode.id.to_string(),
                vnode.cpu_pnodes.to_string(),
                show::dash(vcpu.cpu.map(|cpu| cpu.to_string()).unwrap_or_default()),
                show::dash(&vcpu.affinity),
                show::dash(rates.get(&vcpu.id).map(u64::to_string).unwrap_or_default()),
            ]);
        }
    }
    if vnodes.is_empty() {
        return header;
    }
    let jobs = if jobs.is_empty() { String::new() } else { format!("\n{}", show::jobs(jobs)) };
    format!("{header}\n{}\n{}{jobs}", show::memory(vnodes), vcpus.text())
}

#[cfg(test)]
mod tests {
    use super::{Exits, rates};
    use std::time::Duration;

    #[test]
    fn exits_are_told_per_second() {
        let now = Exits::from([(1, 42)]);
        assert_eq!(rates(&Exits::from([(1, 2)]), &now, Duration::from_millis(500)), Exits::from([(1, 80)]));
        assert_eq!(rates(&Exits::new(), &now, Duration::ZERO), Exits::from([(1, 0)]));
    }
}
