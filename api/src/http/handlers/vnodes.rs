//! Vnodes, vCPUs, and the jobs that move them.

use super::json;
use super::plans::look;
use crate::http::admission::Command;
use crate::http::app::App;
use crate::http::body::{self, Query, number};
use crate::http::command_queue::Task;
use crate::http::convert;
use crate::http::problem::Problem;
use crate::http::{procfs, wire};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use resources::replacement::ReplacementError;
use resources::{CpuSet, ErrorKind, HostTopology, PnodeId, VcpuId, VnodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use vmm::{JobId, VmHandle};

type Answer = Result<Response, Problem>;

/// `GET /v1/vnodes`.
pub async fn all(State(app): State<Arc<App>>, request: Request) -> Answer {
    let fresh = Query::of(&request, &["fresh"])?.switch("fresh", false)?;
    let vnodes = seen(&app, fresh).await?;
    let pnodes = convert::pnodes(&vnodes);
    Ok(json(StatusCode::OK, &wire::Vnodes { vnodes, pnodes }))
}

/// `GET /v1/vnodes/{id}`.
pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    let fresh = Query::of(&request, &["fresh"])?.switch("fresh", false)?;
    let id: u32 = number("id", &id)?;
    let vnodes = seen(&app, fresh).await?;
    let vnode = vnodes.iter().find(|vnode| vnode.id == id);
    Ok(json(StatusCode::OK, vnode.ok_or_else(|| no_such_vnode(VnodeId(id)))?))
}

async fn seen(app: &App, fresh: bool) -> Result<Vec<wire::Vnode>, Problem> {
    let handle = app.commands.handle(Command::Look)?;
    let samples = app.watch.samples(fresh).await;
    let (view, jobs, memory) = (handle.view(), handle.jobs(), handle.memory());
    // A file in /proc per vCPU: microseconds each, but there may be thousands.
    app.slowly(move || {
        let counts = |vnode| handle.move_counts(vnode);
        let ran_on = procfs::ran_on;
        let mut vnodes = convert::vnodes(handle.plan(), &view, &jobs, &memory, &samples, counts, ran_on);
        let exits: BTreeMap<u32, u64> =
            handle.exits().iter().map(|(vcpu, exits)| (vcpu.0, exits.all())).collect();
        for vcpu in vnodes.iter_mut().flat_map(|vnode| &mut vnode.vcpus) {
            vcpu.exits = exits.get(&vcpu.id).copied();
        }
        Ok(vnodes)
    })
    .await
}

fn no_such_vnode(id: VnodeId) -> Problem {
    ReplacementError::NoSuchVnode(id).into()
}

fn require_vnode(handle: &VmHandle, id: VnodeId) -> Result<(), Problem> {
    handle.plan().topology.vnode(id).map(drop).ok_or_else(|| no_such_vnode(id))
}

/// `PUT /v1/vnodes/{id}/memory-target`.
pub async fn memory_target(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let id = VnodeId(number("id", &id)?);
    let wanted: wire::TargetRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Look)?;
    require_vnode(&handle, id)?;
    // A target is of one vnode, so no other is to lose a page for it.
    let ask = vmm::Request::MemoryTarget { vnode: id, keep: wanted.target, exact: true };
    app.slowly(move || Ok(handle.ask(ask)?)).await?;
    app.watch.notify();
    let vnodes = seen(&app, false).await?;
    let vnode = vnodes.iter().find(|vnode| vnode.id == id.0);
    Ok(json(StatusCode::ACCEPTED, vnode.ok_or_else(|| no_such_vnode(id))?))
}

/// `POST /v1/vnodes/{id}/move`.
pub async fn start_move(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let id = VnodeId(number("id", &id)?);
    let wanted: wire::MoveRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Move)?;
    require_vnode(&handle, id)?;
    let job = app
        .as_a_move(move || {
            let job = handle.move_vnode(id, &wanted.pnode, wanted.bandwidth, &seen_host)?;
            find_job(&handle, job)
        })
        .await?;
    let mut response = json(StatusCode::ACCEPTED, &job);
    if let Ok(location) = HeaderValue::try_from(format!("/v1/jobs/{}", job.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `POST /v1/swap`.
pub async fn swap(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let wanted: wire::SwapRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Move)?;
    let vnodes = wanted.vnodes.map(VnodeId);
    let jobs = app
        .as_a_move(move || {
            let first = handle.swap(vnodes, wanted.bandwidth, &seen_host)?.0;
            [first, first + 1].iter().map(|id| find_job(&handle, JobId(*id))).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    Ok(json(StatusCode::ACCEPTED, &wire::Jobs { jobs }))
}

/// `POST /v1/evacuate`.
pub async fn evacuate(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let wanted: wire::EvacuateRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Move)?;
    let jobs = app
        .as_a_move(move || {
            let ids = handle.evacuate(PnodeId(wanted.pnode), wanted.bandwidth, &seen_host)?;
            ids.into_iter().map(|id| find_job(&handle, id)).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    Ok(json(StatusCode::ACCEPTED, &wire::Jobs { jobs }))
}

/// The host, for a request that changes the placement.
fn seen_host() -> Result<HostTopology, vmm::RequestError> {
    look().map_err(|error| vmm::RequestError::Look(error.text, error.diagnosis))
}

/// `PUT /v1/vcpus/{id}/affinity`.
pub async fn affinity(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let id = VcpuId(number("id", &id)?);
    let wanted: wire::AffinityRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Affinity)?;
    if !handle.plan().topology.vcpus().any(|(vcpu, _)| vcpu == id) {
        return Err(vmm::RequestError::NoSuchVcpu(id).into());
    }
    let cpus = wanted.cpus.clone();
    app.slowly(move || require_cpus(&cpus, &look()?)).await?;
    app.commands.ask(Task::Affinity(id, wanted.cpus)).await?;
    let view = handle.view();
    let vcpu = view.vcpus.iter().find(|vcpu| vcpu.id == id);
    let vcpu = vcpu.ok_or_else(|| Problem::from(crate::http::admission::Denial::NotRunning))?;
    let (thread, affinity) = (Some(vcpu.thread), vcpu.affinity.clone());
    let exits = handle.exits().iter().find(|(vcpu, _)| *vcpu == id).map(|(_, exits)| exits.all());
    Ok(json(
        StatusCode::OK,
        &wire::Vcpu { id: id.0, thread, affinity, cpu: procfs::ran_on(vcpu.thread), exits },
    ))
}

/// `PUT /v1/vnodes/{id}/affinity`.
pub async fn vnode_affinity(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let id = VnodeId(number("id", &id)?);
    let wanted: wire::VnodeAffinityRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Affinity)?;
    require_vnode(&handle, id)?;
    let event = serde_json::json!({"vnode": id, "affinity": wanted.affinity});
    app.as_a_move(move || {
        Ok(handle.set_vnode_affinity(id, wanted.affinity, wanted.pnode.as_ref(), &seen_host)?)
    })
    .await?;
    app.events.add("affinity", event);
    let vnodes = seen(&app, false).await?;
    let vnode = vnodes.iter().find(|vnode| vnode.id == id.0);
    Ok(json(StatusCode::OK, vnode.ok_or_else(|| no_such_vnode(id))?))
}

fn require_cpus(cpus: &CpuSet, host: &HostTopology) -> Result<(), Problem> {
    let refused = |rule: String| {
        let detail = format!("cpus: {rule}");
        Err(Problem::typed("no_such_cpu", detail))
    };
    let there = host.pnodes().iter().fold(CpuSet::new(), |all, pnode| all.union(&pnode.cpus));
    let missing = cpus.difference(&there);
    match (cpus.is_empty(), missing.is_empty()) {
        (true, _) => refused("the list is empty, must name a CPU".to_owned()),
        (_, true) => Ok(()),
        (_, false) => refused(format!("{missing} not among {there}, where this process may run")),
    }
}

/// `GET /v1/jobs`.
pub async fn jobs(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    app.commands.spec()?;
    let views = app.commands.last_handle().map(|handle| handle.jobs()).unwrap_or_default();
    Ok(json(StatusCode::OK, &wire::Jobs { jobs: views.iter().map(convert::job).collect() }))
}

/// `GET /v1/jobs/{id}`.
pub async fn job(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let id = JobId(number("id", &id)?);
    app.commands.spec()?;
    let handle = app.commands.last_handle().ok_or_else(|| no_such_job(id))?;
    Ok(json(StatusCode::OK, &find_job(&handle, id)?))
}

/// `DELETE /v1/jobs/{id}`.
pub async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let id = JobId(number("id", &id)?);
    body::none(request).await?;
    app.commands.spec()?;
    let handle = app.commands.last_handle().ok_or_else(|| no_such_job(id))?;
    let job = find_job(&handle, id)?;
    match handle.cancel(id) {
        true => Ok(json(StatusCode::ACCEPTED, &find_job(&handle, id)?)),
        false => {
            let detail = format!("job {} has ended, it cannot be cancelled", job.id);
            Err(Problem::new(ErrorKind::Conflict, "job_over", detail))
        }
    }
}

fn find_job(handle: &VmHandle, id: JobId) -> Result<wire::Job, Problem> {
    handle.job(id).as_ref().map(convert::job).ok_or_else(|| no_such_job(id))
}

fn no_such_job(id: JobId) -> Problem {
    Problem::not_found(
        "no_such_job",
        format_args!("job {}: does not exist, or is no longer remembered", id.0),
    )
}
