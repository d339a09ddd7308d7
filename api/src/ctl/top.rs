//! The live table: vnodes, vCPUs with their exits per second, running jobs. What is in it is read over the API, like
//! everything here.

use crate::args::TopArgs;
use crate::ctl::client::Client;
use crate::ctl::show;
use crate::exit::Failure;
use crate::files;
use crate::http::wire::{Job, JobState, Jobs, Vm, Vnode, Vnodes};
use crate::show::table::{Side, Table};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// To the upper left corner, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";
const EXITS: &str = "numavisor_vcpu_exits_total{vcpu=\"";

/// Exits by vCPU.
type Exits = BTreeMap<u32, u64>;

/// Shows it until interrupted, or as often as asked.
pub fn run(client: &Client, args: &TopArgs) -> Result<(), Failure> {
    let live = std::io::stdout().is_terminal();
    let pause = Duration::from_secs(u64::from(args.interval.max(1)));
    let mut before: Option<(Instant, Exits)> = None;
    let mut looks = 0;
    loop {
        let now = Instant::now();
        let vm: Vm = client.get("/v1/vm")?.read()?;
        let vnodes: Vnodes = client.get("/v1/vnodes")?.read()?;
        let jobs: Jobs = client.get("/v1/jobs")?.read()?;
        let exits = exits(&client.get("/v1/metrics")?.text);
        let took = before.as_ref().map(|(then, _)| now.duration_since(*then));
        let rates = before.as_ref().map(|(_, before)| rates(before, &exits, took.unwrap_or_default()));
        let text = text(&vm, &vnodes.vnodes, &jobs.jobs, &rates.unwrap_or_default());
        files::print(&if live { format!("{CLEAR}{text}") } else { format!("{text}\n") })?;
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        before = Some((now, exits));
        std::thread::sleep(pause);
    }
}

/// Exits of each vCPU, all reasons together, from the text of the metrics.
fn exits(metrics: &str) -> Exits {
    let mut all = Exits::new();
    for line in metrics.lines() {
        let Some((vcpu, rest)) = line.strip_prefix(EXITS).and_then(|rest| rest.split_once('"')) else {
            continue;
        };
        let count = rest.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        if let (Ok(vcpu), Some(count)) = (vcpu.parse(), count) {
            *all.entry(vcpu).or_default() += count;
        }
    }
    all
}

fn rates(before: &Exits, now: &Exits, took: Duration) -> BTreeMap<u32, u64> {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |(vcpu, count): (&u32, &u64)| {
        let more = count.saturating_sub(before.get(vcpu).copied().unwrap_or(*count));
        (*vcpu, more.saturating_mul(1000) / millis)
    };
    now.iter().map(rate).collect()
}

fn text(vm: &Vm, vnodes: &[Vnode], jobs: &[Job], rates: &BTreeMap<u32, u64>) -> String {
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
    let running: Vec<Job> = jobs.iter().filter(|job| job.state == JobState::Running).cloned().collect();
    let jobs = if running.is_empty() { String::new() } else { format!("\n{}", show::jobs(&running)) };
    format!("{header}\n{}\n{}{jobs}", show::memory(vnodes), vcpus.text())
}

#[cfg(test)]
mod tests {
    use super::{Exits, exits, rates};
    use std::time::Duration;

    #[test]
    fn exits_are_summed_over_reasons_and_told_per_second() {
        let text = "# TYPE x counter\nnumavisor_vcpu_exits_total{vcpu=\"1\",reason=\"port\"} 30\n\
                    numavisor_vcpu_exits_total{vcpu=\"1\",reason=\"mmio\"} 12\nother{vcpu=\"1\"} 7\n";
        let now = exits(text);
        assert_eq!(now, Exits::from([(1, 42)]));
        assert_eq!(rates(&Exits::from([(1, 2)]), &now, Duration::from_millis(500)), Exits::from([(1, 80)]));
        assert_eq!(rates(&Exits::new(), &now, Duration::ZERO), Exits::from([(1, 0)]));
    }
}
