//! `numavisor ctl`: sends requests to a running VM over its socket and prints the responses.

use crate::args::{CtlArgs, CtlCommand, LinkState, MemSetArgs, MoveArgs, VmFlags};
use crate::ctl::client::{Answer, Client};
use crate::ctl::{show, show_events, stream, top};
use crate::exit::{Failure, Status};
use crate::files;
use crate::http::wire;
use crate::show::{host, plan};
use indicatif::{ProgressBar, ProgressStyle};
use resources::{Bytes, VmSpec};
use serde::Serialize;
use serde_json::Value;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// How often a job or a start is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Asks, shows, and gives the status.
pub fn run(args: CtlArgs) -> Result<ExitCode, Failure> {
    let ctl = Ctl { client: Client::new(args.socket()?), json: args.json };
    match args.command {
        CtlCommand::Info => ctl.vm("GET", ""),
        CtlCommand::Pause => ctl.vm("POST", "/pause"),
        CtlCommand::Resume => ctl.vm("POST", "/resume"),
        CtlCommand::Shutdown(shutdown) => match shutdown.timeout {
            None => ctl.vm("POST", "/shutdown"),
            Some(seconds) => ctl.shut_down(Duration::from_secs(seconds.into())),
        },
        CtlCommand::Reset => ctl.vm("POST", "/reset"),
        CtlCommand::Define(flags) => ctl.define(&flags),
        CtlCommand::Boot(boot) => ctl.boot(boot.detach),
        CtlCommand::Delete => {
            ctl.client.ask("DELETE", "/v1/vm", None)?;
            Ok(Status::Done.into())
        }
        CtlCommand::Vnodes(vnodes) => {
            let fresh = if vnodes.fresh { "?fresh=true" } else { "" };
            match vnodes.vnode {
                Some(id) => ctl
                    .print(&ctl.client.get(&format!("/v1/vnodes/{id}{fresh}"))?, |vnode: wire::Vnode| {
                        show::vnodes(&[vnode])
                    }),
                None => ctl.print(&ctl.client.get(&format!("/v1/vnodes{fresh}"))?, |all: wire::Vnodes| {
                    format!("{}\n{}", show::vnodes(&all.vnodes), show::pnodes(&all.pnodes))
                }),
            }
        }
        CtlCommand::Plan(flags) => ctl.plan(&flags),
        CtlCommand::Host => ctl.print(&ctl.client.get("/v1/host")?, |host: Value| host::text(&host)),
        CtlCommand::MemSet(set) => ctl.set_memory(&set),
        CtlCommand::Reclaim(wanted) => match wanted.pnode.zip(wanted.size) {
            Some((pnode, bytes)) => {
                let body = wire::ReclaimRequest { pnode, bytes, exact: wanted.exact };
                ctl.reclaim(ctl.send("POST", "/v1/reclaim", &body)?, wanted.detach)
            }
            None => {
                let method = if wanted.cancel { "DELETE" } else { "GET" };
                let answer = ctl.client.ask(method, "/v1/reclaim", None)?;
                ctl.print(&answer, |reclaim: wire::Reclaim| show::reclaim(&reclaim))
            }
        },
        CtlCommand::Give(give) => {
            let body = wire::GiveRequest { pnode: give.pnode, bytes: give.size };
            ctl.reclaim(ctl.send("POST", "/v1/give", &body)?, give.detach)
        }
        CtlCommand::FreeMemory => {
            let answer = ctl.client.ask("POST", "/v1/free-memory", None)?;
            ctl.print(&answer, |free: wire::FreeMemory| show::free_memory(&free))
        }
        CtlCommand::DirtyRate(rate) => {
            let body = wire::DirtyRateRequest { milliseconds: rate.milliseconds };
            let answer = ctl.send("POST", "/v1/dirty-rate", &body)?;
            ctl.print(&answer, |rate: wire::DirtyRate| show::dirty_rate(&rate))
        }
        CtlCommand::Move(wanted) => ctl.start_move(&wanted),
        CtlCommand::Swap(wanted) => {
            let vnodes = [wanted.vnode, wanted.with];
            let body = wire::SwapRequest { vnodes, bandwidth: wanted.bandwidth };
            ctl.follow(&ctl.send("POST", "/v1/swap", &body)?, wanted.detach)
        }
        CtlCommand::Evacuate(wanted) => {
            let body = wire::EvacuateRequest { pnode: wanted.pnode, bandwidth: wanted.bandwidth };
            ctl.follow(&ctl.send("POST", "/v1/evacuate", &body)?, wanted.detach)
        }
        CtlCommand::Affinity(wanted) => {
            let body = wire::AffinityRequest { cpus: wanted.cpus };
            let answer = ctl.send("PUT", &format!("/v1/vcpus/{}/affinity", wanted.vcpu), &body)?;
            ctl.print(&answer, |vcpu: wire::Vcpu| {
                format!("vCPU {} may run on {}\n", vcpu.id, show::dash(&vcpu.affinity))
            })
        }
        CtlCommand::VnodeAffinity(wanted) => {
            let body = wire::VnodeAffinityRequest { affinity: wanted.affinity, pnode: wanted.pnode };
            let answer = ctl.send("PUT", &format!("/v1/vnodes/{}/affinity", wanted.vnode), &body)?;
            ctl.print(&answer, |vnode: wire::Vnode| show::vcpus(&[vnode]))
        }
        CtlCommand::Devices => {
            ctl.print(&ctl.client.get("/v1/devices")?, |all: wire::Devices| show::devices(&all.devices))
        }
        CtlCommand::Link(wanted) => {
            let body = wire::NetLinkRequest { up: wanted.state == LinkState::Up };
            let answer = ctl.send("PUT", &format!("/v1/nets/{}/link", wanted.net), &body)?;
            ctl.print(&answer, |link: wire::NetLink| {
                format!("net {}: link {}\n", link.id, if link.up { "up" } else { "down" })
            })
        }
        CtlCommand::DiskResize(wanted) => {
            let body = wire::DiskSizeRequest { size: wanted.size };
            let answer = ctl.send("PUT", &format!("/v1/disks/{}/size", wanted.disk), &body)?;
            ctl.print(&answer, |disk: wire::DiskSize| {
                format!("disk {} has {} bytes for the guest\n", disk.id, disk.size)
            })
        }
        CtlCommand::Jobs(jobs) => match jobs.job {
            Some(id) => {
                ctl.print(&ctl.client.get(&format!("/v1/jobs/{id}"))?, |job: wire::Job| show::jobs(&[job]))
            }
            None => ctl.print(&ctl.client.get("/v1/jobs")?, |all: wire::Jobs| show::jobs(&all.jobs)),
        },
        CtlCommand::Cancel(cancel) => {
            let answer = ctl.client.ask("DELETE", &format!("/v1/jobs/{}", cancel.job), None)?;
            ctl.print(&answer, |job: wire::Job| show::jobs(&[job]))
        }
        CtlCommand::Events(events) => ctl.events(events.after, !events.no_follow),
        CtlCommand::Top(args) => top::run(&ctl.client, &args, ctl.json).map(|()| Status::Done.into()),
        CtlCommand::Metrics => files::print(&ctl.client.get("/v1/metrics")?.text),
        CtlCommand::Openapi => files::print(&ctl.client.get("/v1/openapi.json")?.text),
    }
}

struct Ctl {
    client: Client,
    json: bool,
}

impl Ctl {
    /// Prints an answer, as it came or as text.
    fn print<T: serde::de::DeserializeOwned>(
        &self,
        answer: &Answer,
        text: impl FnOnce(T) -> String,
    ) -> Result<ExitCode, Failure> {
        match self.json {
            true => files::print(&format!("{}\n", answer.text.trim_end())),
            false => files::print(&text(answer.read()?)),
        }
    }

    fn send(&self, method: &str, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_string(body).map_err(|error| Failure::new(Status::Internal, error))?;
        self.client.ask(method, path, Some(&body))
    }

    fn vm(&self, method: &str, command: &str) -> Result<ExitCode, Failure> {
        let answer = self.client.ask(method, &format!("/v1/vm{command}"), None)?;
        self.print(&answer, |vm: wire::Vm| show::vm(&vm))
    }

    fn define(&self, flags: &VmFlags) -> Result<ExitCode, Failure> {
        let answer = self.send("PUT", "/v1/vm", &seen_from_here(flags.spec()?)?)?;
        self.print(&answer, |vm: wire::Vm| show::vm(&vm))
    }

    fn plan(&self, flags: &VmFlags) -> Result<ExitCode, Failure> {
        let spec = flags.spec()?;
        let answer = match spec == VmSpec::default() {
            true => self.client.get("/v1/vm/plan")?,
            false => self.send("POST", "/v1/plan", &seen_from_here(spec)?)?,
        };
        self.print(&answer, |plan: Value| plan::text(&plan))
    }

    fn boot(&self, detach: bool) -> Result<ExitCode, Failure> {
        let mut answer = self.client.ask("POST", "/v1/vm/boot", None)?;
        let mut vm: wire::Vm = answer.read()?;
        while vm.state == wire::VmState::Starting && !detach {
            std::thread::sleep(LOOK);
            answer = self.client.get("/v1/vm")?;
            vm = answer.read()?;
        }
        let failed = vm.end.as_ref().filter(|end| end.cause == wire::EndCause::Failed);
        if let Some(end) = failed {
            let why = end.error.as_deref().unwrap_or("the VM did not start");
            let kind = end.kind.as_deref().unwrap_or_default();
            return Err(Failure::reported(kind, end.code.clone(), end.field.clone(), why));
        }
        self.print(&answer, |vm: wire::Vm| show::vm(&vm))
    }

    /// Presses the power button and waits for the end, which determines the status. Events report it even if the process
    /// ends with its VM.
    fn shut_down(&self, timeout: Duration) -> Result<ExitCode, Failure> {
        let so_far = stream::events(self.client.stream("/v1/events?follow=false", &[])?);
        let last = so_far.map_while(Result::ok).filter_map(|data| parsed(&data)["id"].as_u64()).last();
        let last = last.unwrap_or(0).to_string();
        let events = stream::events(self.client.stream("/v1/events", &[("last-event-id", last.as_str())])?);
        self.client.ask("POST", "/v1/vm/shutdown", None)?;
        let (sender, ends) = std::sync::mpsc::channel();
        let follow = move || {
            let events = events.map_while(Result::ok).map(|data| parsed(&data));
            let mut ends = events.filter_map(|event| serde_json::from_value(event["end"].clone()).ok());
            ends.next().map(|end: wire::End| sender.send(end))
        };
        std::thread::spawn(follow);
        let end = ends.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                let seconds = timeout.as_secs();
                Failure::new(Status::Conflict, format_args!("the VM did not end within {seconds} s"))
            }
            RecvTimeoutError::Disconnected => {
                Failure::new(Status::Host, "the VM's process exited without reporting how the VM ended")
            }
        })?;
        let text = match self.json {
            true => serde_json::to_string(&end).map_err(|error| Failure::new(Status::Internal, error))?,
            false => format!("the VM ended: {}", show::cause_word(end.cause)),
        };
        files::print(&format!("{text}\n"))?;
        match (end.error, end.cause) {
            (Some(error), _) => Err(Failure::new(Status::Host, error)),
            (None, wire::EndCause::PowerOff) => Ok(Status::Done.into()),
            (None, wire::EndCause::Reset) => Ok(Status::Reset.into()),
            (None, wire::EndCause::TripleFault) => Ok(Status::Crash.into()),
            (None, wire::EndCause::Killed) => Ok(Status::Killed.into()),
            (None, wire::EndCause::Failed) => Ok(Status::Host.into()),
        }
    }

    fn set_memory(&self, wanted: &MemSetArgs) -> Result<ExitCode, Failure> {
        let path = format!("/v1/vnodes/{}", wanted.vnode);
        let body = wire::TargetRequest { target: wanted.size };
        let mut answer = self.send("PUT", &format!("{path}/memory-target"), &body)?;
        let mut vnode: wire::Vnode = answer.read()?;
        let request = vnode.balloon.as_ref().map_or(0, |balloon| balloon.request);
        let before = vnode.actual;
        let bar = std::io::stderr().is_terminal().then(|| bar("ballooning", before.abs_diff(vnode.target)));
        // A request that took the place of this one ends it too.
        let ended = |vnode: &wire::Vnode| {
            vnode
                .balloon
                .as_ref()
                .is_none_or(|balloon| balloon.request != request || balloon.outcome.is_some())
        };
        while !wanted.detach && !ended(&vnode) {
            std::thread::sleep(LOOK);
            answer = self.client.get(&path)?;
            vnode = answer.read()?;
            if let Some(bar) = &bar {
                bar.set_position(before.abs_diff(vnode.actual));
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let done = self.print(&answer, |vnode: wire::Vnode| show::vnodes(&[vnode]))?;
        let stop = vnode.balloon.and_then(|balloon| match balloon.request == request {
            true => balloon.outcome.map(|outcome| outcome.stop),
            false => Some("replaced".to_owned()),
        });
        match stop.filter(|stop| stop != "reached" && !wanted.detach) {
            Some(stop) => {
                let why = match stop == "off_node" && vnode.vcpus.is_empty() {
                    true => " (it has no vCPUs, so the guest would inflate pages of other vnodes)",
                    false => "",
                };
                let keeps = Bytes(vnode.actual).human();
                let line = format!("vnode {}: {stop}{why}, it keeps {keeps}", vnode.id);
                Err(Failure::new(Status::Conflict, line))
            }
            None => Ok(done),
        }
    }

    /// Waits for a reclaim and reports its outcome; anything but `reached` is a conflict.
    fn reclaim(&self, mut answer: Answer, detach: bool) -> Result<ExitCode, Failure> {
        let mut now: wire::Reclaim = answer.read()?;
        let (id, bar) = (now.id, std::io::stderr().is_terminal().then(|| bar("reclaiming", now.requested)));
        while now.state == wire::JobState::Running && now.id == id && !detach {
            std::thread::sleep(LOOK);
            answer = self.client.get("/v1/reclaim")?;
            now = answer.read()?;
            if let Some(bar) = &bar {
                bar.set_position(now.reached);
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let done = self.print(&answer, |reclaim: wire::Reclaim| show::reclaim(&reclaim))?;
        match (now.error, now.stop) {
            (Some(error), _) => Err(Failure::new(Status::Host, error)),
            (None, Some(stop)) if stop != "reached" => {
                let had = Bytes(now.reached).human();
                Err(Failure::new(
                    Status::Conflict,
                    format_args!("pnode {}: {stop}, {had} reclaimed", now.pnode),
                ))
            }
            (None, _) => Ok(done),
        }
    }

    fn start_move(&self, wanted: &MoveArgs) -> Result<ExitCode, Failure> {
        let body = wire::MoveRequest { pnode: wanted.pnode.clone(), bandwidth: wanted.bandwidth };
        let mut answer = self.send("POST", &format!("/v1/vnodes/{}/move", wanted.vnode), &body)?;
        let mut job: wire::Job = answer.read()?;
        let bar = std::io::stderr().is_terminal().then(|| bar("moving", job.total));
        while job.state == wire::JobState::Running && !wanted.detach {
            std::thread::sleep(LOOK);
            answer = self.client.get(&format!("/v1/jobs/{}", job.id))?;
            job = answer.read()?;
            if let Some(bar) = &bar {
                bar.set_length(job.total);
                bar.set_position(job.scanned);
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let done = self.print(&answer, |job: wire::Job| show::jobs(&[job]))?;
        ended(&job).map_or(Ok(done), Err)
    }

    /// Waits for jobs that go together.
    fn follow(&self, answer: &Answer, detach: bool) -> Result<ExitCode, Failure> {
        let mut all: wire::Jobs = answer.read()?;
        let total = |jobs: &[wire::Job]| jobs.iter().map(|job| job.total).sum();
        let bar = std::io::stderr().is_terminal().then(|| bar("moving", total(&all.jobs)));
        while all.jobs.iter().any(|job| job.state == wire::JobState::Running) && !detach {
            std::thread::sleep(LOOK);
            for job in &mut all.jobs {
                *job = self.client.get(&format!("/v1/jobs/{}", job.id))?.read()?;
            }
            if let Some(bar) = &bar {
                bar.set_length(total(&all.jobs));
                bar.set_position(all.jobs.iter().map(|job| job.scanned).sum());
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let text = match self.json {
            true => {
                serde_json::to_string(&all).map_err(|error| Failure::new(Status::Internal, error))? + "\n"
            }
            false if all.jobs.is_empty() => "nothing of the VM is on that pnode\n".to_owned(),
            false => show::jobs(&all.jobs),
        };
        let done = files::print(&text)?;
        all.jobs.iter().find_map(ended).map_or(Ok(done), Err)
    }

    fn events(&self, after: Option<u64>, follow: bool) -> Result<ExitCode, Failure> {
        let path = if follow { "/v1/events" } else { "/v1/events?follow=false" };
        let after = after.map(|after| after.to_string());
        let headers: Vec<(&str, &str)> =
            after.iter().map(|after| ("last-event-id", after.as_str())).collect();
        for data in stream::events(self.client.stream(path, &headers)?) {
            let data = data.map_err(|error| Failure::new(Status::Host, format_args!("events: {error}")))?;
            let line = match (self.json, serde_json::from_str(&data)) {
                (false, Ok(event)) => show_events::event(&event),
                (true, _) | (_, Err(_)) => data,
            };
            files::print(&format!("{line}\n"))?;
        }
        Ok(Status::Done.into())
    }
}

/// An event; null for what is none.
fn parsed(data: &str) -> Value {
    serde_json::from_str(data).unwrap_or_default()
}

/// Why a job that is over did not reach its end.
fn ended(job: &wire::Job) -> Option<Failure> {
    match job.state {
        wire::JobState::Running | wire::JobState::Done => None,
        wire::JobState::Cancelled => Some(Failure::new(Status::Conflict, "the move was cancelled")),
        wire::JobState::Failed => Some(Failure::new(Status::Host, job.error.clone().unwrap_or_default())),
    }
}

/// Paths as typed here, for a server that may have another working directory.
fn seen_from_here(mut spec: VmSpec) -> Result<VmSpec, Failure> {
    let failed = |error| Failure::new(Status::Host, format_args!("working directory: {error}"));
    let here = std::env::current_dir().map_err(failed)?;
    let absolute = |path: &mut PathBuf| *path = here.join(&path);
    let disks = spec.disks.iter_mut().map(|disk| &mut disk.path);
    let vsock = spec.vsock.as_mut().and_then(|vsock| vsock.socket.as_mut());
    let console = spec.console.as_mut().and_then(|it| it.socket.as_mut().or(it.file.as_mut()));
    let serial = match &mut spec.serial {
        resources::SerialSpec::File(path) => Some(path),
        resources::SerialSpec::Stdio | resources::SerialSpec::None => None,
    };
    disks
        .chain(vsock)
        .chain(console)
        .chain(serial)
        .chain(&mut spec.kernel)
        .chain(&mut spec.initramfs)
        .for_each(absolute);
    Ok(spec)
}

fn bar(doing: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    match ProgressStyle::with_template(&format!(
        "{doing} [{{wide_bar}}] {{bytes}}/{{total_bytes}}, {{eta}} left"
    )) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
