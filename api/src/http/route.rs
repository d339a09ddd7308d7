//! Every operation with its path, method and answers: the router, the OpenAPI document and the metrics are made from
//! this one table.

use axum::http::Method;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    GetVm,
    PutVm,
    DeleteVm,
    BootVm,
    PauseVm,
    ResumeVm,
    ShutdownVm,
    ResetVm,
    GetVmPlan,
    PostPlan,
    GetHost,
    GetVnodes,
    GetVnode,
    PutMemoryTarget,
    PostReclaim,
    PostGive,
    GetReclaim,
    PostFreeMemory,
    PostDirtyRate,
    CancelReclaim,
    MoveVnode,
    SwapVnodes,
    Evacuate,
    PutAffinity,
    PutVnodeAffinity,
    GetDevices,
    PutDiskSize,
    PutNetLink,
    GetJobs,
    GetJob,
    CancelJob,
    GetEvents,
    GetHealth,
    GetVersion,
    GetMetrics,
    GetOpenapi,
}

/// What a body is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// Nothing.
    None,
    /// JSON in a schema of this name.
    Json(&'static str),
    /// Server-sent events.
    EventStream,
    /// Prometheus text.
    Prometheus,
}

/// An operation.
#[derive(Debug)]
pub struct Route {
    /// Which.
    pub op: Op,
    /// How it is asked for.
    pub method: Method,
    /// Where, in axum's syntax and OpenAPI's.
    pub path: &'static str,
    /// Its name in the OpenAPI document and in metrics.
    pub name: &'static str,
    /// What it does, in a line.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the document that the test writes"))]
    pub summary: &'static str,
    /// The body it takes.
    pub takes: Media,
    /// The statuses of success, and what they mean.
    pub gives: &'static [(u16, &'static str)],
    /// The body of those but 204.
    pub answer: Media,
    /// The statuses of the problems it can have, beside those that any request can have.
    pub problems: &'static [u16],
    /// The parameters of its query.
    pub query: &'static [(&'static str, Parameter, &'static str)],
}

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
}

#[cfg(test)]
/// Statuses of problems that any request can have: a broken request, a wrong method, a body that is late or too large,
/// a host that fails, and a server that is busy.
pub const ANY: [u16; 6] = [400, 405, 408, 413, 500, 503];

const NO_VM: &[u16] = &[404];
const NOT_NOW: &[u16] = &[404, 409];

/// What starting a VM needs of the host: see `statuses`.
const PLANNED: &[u16] = &[403, 409, 415, 422, 501, 507];
const STARTED: &[u16] = &[403, 404, 409, 422, 501, 507];
/// A host that is read.
const LOOKED_AT: &[u16] = &[501];
/// Requests that have the running VM or the host change something.
const CHANGED: &[u16] = &[403, 404, 409, 415, 422, 501, 507];
const COMMANDED: &[u16] = &[403, 404, 409, 501, 507];

const fn route(
    op: Op,
    method: Method,
    path: &'static str,
    name: &'static str,
    summary: &'static str,
) -> Route {
    Route {
        op,
        method,
        path,
        name,
        summary,
        takes: Media::None,
        gives: &[(200, "so it is")],
        answer: Media::None,
        problems: &[],
        query: &[],
    }
}

impl Route {
    const fn takes(mut self, schema: &'static str) -> Self {
        self.takes = Media::Json(schema);
        self
    }

    const fn gives(mut self, gives: &'static [(u16, &'static str)], answer: Media) -> Self {
        self.gives = gives;
        self.answer = answer;
        self
    }

    const fn fails(mut self, problems: &'static [u16]) -> Self {
        self.problems = problems;
        self
    }

    const fn query(mut self, query: &'static [(&'static str, Parameter, &'static str)]) -> Self {
        self.query = query;
        self
    }
}

const FRESH: &[(&str, Parameter, &str)] =
    &[("fresh", Parameter::Switch, "wait for a measurement of the memory that begins now")];

/// All operations, those of one path together.
pub static ROUTES: [Route; 36] = [
    route(Op::GetVm, Method::GET, "/v1/vm", "getVm", "The VM and its state")
        .gives(&[(200, "the VM")], Media::Json("Vm"))
        .fails(NO_VM),
    route(
        Op::PutVm,
        Method::PUT,
        "/v1/vm",
        "putVm",
        "Define the VM, or define it anew while it does not run",
    )
    .takes("VmSpec")
    .gives(&[(200, "it is defined anew"), (201, "it is defined")], Media::Json("Vm"))
    .fails(&[409, 415, 422]),
    route(Op::DeleteVm, Method::DELETE, "/v1/vm", "deleteVm", "End the VM if it runs, and forget it")
        .gives(&[(204, "there is none any more")], Media::None)
        .fails(NO_VM),
    route(Op::BootVm, Method::POST, "/v1/vm/boot", "bootVm", "Start the VM")
        .gives(&[(202, "it is starting")], Media::Json("Vm"))
        .fails(STARTED),
    route(Op::PauseVm, Method::POST, "/v1/vm/pause", "pauseVm", "Have the vCPUs wait")
        .gives(&[(200, "they wait")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(Op::ResumeVm, Method::POST, "/v1/vm/resume", "resumeVm", "Let the vCPUs run again")
        .gives(&[(200, "they run")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(Op::ShutdownVm, Method::POST, "/v1/vm/shutdown", "shutdownVm", "Press the guest's power button")
        .gives(&[(202, "it is pressed; the guest decides")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(Op::ResetVm, Method::POST, "/v1/vm/reset", "resetVm", "Reset the guest; it starts again")
        .gives(&[(202, "it starts again")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(
        Op::GetVmPlan,
        Method::GET,
        "/v1/vm/plan",
        "getVmPlan",
        "What was decided for the VM, or would be now",
    )
    .gives(&[(200, "the plan")], Media::Json("Plan"))
    .fails(STARTED),
    route(
        Op::PostPlan,
        Method::POST,
        "/v1/plan",
        "postPlan",
        "What would be decided for a VM; touches nothing",
    )
    .takes("VmSpec")
    .gives(&[(200, "the plan")], Media::Json("Plan"))
    .fails(PLANNED),
    route(
        Op::GetHost,
        Method::GET,
        "/v1/host",
        "getHost",
        "The nodes, CPUs, memory and distances of the host",
    )
    .gives(&[(200, "the host")], Media::Json("Host"))
    .fails(LOOKED_AT),
    route(Op::GetVnodes, Method::GET, "/v1/vnodes", "getVnodes", "All vnodes and where they lie")
        .gives(&[(200, "the vnodes")], Media::Json("Vnodes"))
        .fails(NOT_NOW)
        .query(FRESH),
    route(Op::GetVnode, Method::GET, "/v1/vnodes/{id}", "getVnode", "A vnode and where it lies")
        .gives(&[(200, "the vnode")], Media::Json("Vnode"))
        .fails(NOT_NOW)
        .query(FRESH),
    route(
        Op::PutMemoryTarget,
        Method::PUT,
        "/v1/vnodes/{id}/memory-target",
        "putMemoryTarget",
        "Say what a vnode should keep of its memory",
    )
    .takes("TargetRequest")
    .gives(&[(202, "the balloon is at it")], Media::Json("Vnode"))
    .fails(CHANGED),
    route(Op::PostReclaim, Method::POST, "/v1/reclaim", "postReclaim", "Get memory back from a pnode")
        .takes("ReclaimRequest")
        .gives(&[(202, "the balloons are at it")], Media::Json("Reclaim"))
        .fails(CHANGED),
    route(Op::PostGive, Method::POST, "/v1/give", "postGive", "Give memory of a pnode back to the guest")
        .takes("GiveRequest")
        .gives(&[(202, "the balloons are at it")], Media::Json("Reclaim"))
        .fails(CHANGED),
    route(Op::GetReclaim, Method::GET, "/v1/reclaim", "getReclaim", "How the last reclaim or give stands")
        .gives(&[(200, "its state")], Media::Json("Reclaim"))
        .fails(NO_VM),
    route(
        Op::PostFreeMemory,
        Method::POST,
        "/v1/free-memory",
        "postFreeMemory",
        "Have the guest say what it has free of each vnode",
    )
    .gives(&[(200, "what it says")], Media::Json("FreeMemory"))
    .fails(COMMANDED),
    route(
        Op::PostDirtyRate,
        Method::POST,
        "/v1/dirty-rate",
        "postDirtyRate",
        "Measure how much memory of each vnode is written",
    )
    .takes("DirtyRateRequest")
    .gives(&[(200, "what was written")], Media::Json("DirtyRate"))
    .fails(CHANGED),
    route(Op::CancelReclaim, Method::DELETE, "/v1/reclaim", "cancelReclaim", "Ask the reclaim to end")
        .gives(&[(202, "it ends soon; what was had is kept")], Media::Json("Reclaim"))
        .fails(&[404, 409]),
    route(Op::MoveVnode, Method::POST, "/v1/vnodes/{id}/move", "moveVnode", "Move a vnode to other pnodes")
        .takes("MoveRequest")
        .gives(&[(202, "a job is at it")], Media::Json("Job"))
        .fails(CHANGED),
    route(Op::SwapVnodes, Method::POST, "/v1/swap", "swapVnodes", "Move two vnodes into each other's places")
        .takes("SwapRequest")
        .gives(&[(202, "two jobs are at it")], Media::Json("Jobs"))
        .fails(CHANGED),
    route(
        Op::Evacuate,
        Method::POST,
        "/v1/evacuate",
        "evacuate",
        "Move every vnode that has anything on a pnode to the best other places",
    )
    .takes("EvacuateRequest")
    .gives(&[(202, "a job for each of them is at it")], Media::Json("Jobs"))
    .fails(CHANGED),
    route(Op::PutAffinity, Method::PUT, "/v1/vcpus/{id}/affinity", "putAffinity", "Say where a vCPU may run")
        .takes("AffinityRequest")
        .gives(&[(200, "it runs there")], Media::Json("Vcpu"))
        .fails(CHANGED),
    route(
        Op::PutVnodeAffinity,
        Method::PUT,
        "/v1/vnodes/{id}/affinity",
        "putVnodeAffinity",
        "Say how the vCPUs of a vnode are held, and on which pnodes",
    )
    .takes("VnodeAffinityRequest")
    .gives(&[(200, "they run there, and what works for the vnode too")], Media::Json("Vnode"))
    .fails(CHANGED),
    route(
        Op::GetDevices,
        Method::GET,
        "/v1/devices",
        "getDevices",
        "The virtio devices, and what they count",
    )
    .gives(&[(200, "the devices")], Media::Json("Devices"))
    .fails(NOT_NOW),
    route(
        Op::PutDiskSize,
        Method::PUT,
        "/v1/disks/{id}/size",
        "putDiskSize",
        "Make a disk longer, or tell the guest how long it has become",
    )
    .takes("DiskSizeRequest")
    .gives(&[(200, "the guest was told")], Media::Json("DiskSize"))
    .fails(CHANGED),
    route(
        Op::PutNetLink,
        Method::PUT,
        "/v1/nets/{id}/link",
        "putNetLink",
        "Take the link of a network interface up or down",
    )
    .takes("NetLinkRequest")
    .gives(&[(200, "the guest was notified")], Media::Json("NetLink"))
    .fails(CHANGED),
    route(Op::GetJobs, Method::GET, "/v1/jobs", "getJobs", "The jobs that run, and the last that ended")
        .gives(&[(200, "the jobs")], Media::Json("Jobs"))
        .fails(NO_VM),
    route(Op::GetJob, Method::GET, "/v1/jobs/{id}", "getJob", "A job")
        .gives(&[(200, "the job")], Media::Json("Job"))
        .fails(NO_VM),
    route(Op::CancelJob, Method::DELETE, "/v1/jobs/{id}", "cancelJob", "Ask a job to end")
        .gives(&[(202, "it ends after the chunk it is at")], Media::Json("Job"))
        .fails(NOT_NOW),
    route(
        Op::GetEvents,
        Method::GET,
        "/v1/events",
        "getEvents",
        "What happened, and what happens from now on",
    )
    .gives(&[(200, "events, oldest first, until the client goes away")], Media::EventStream)
    .query(&[
        ("after", Parameter::Number, "events after this number; the header Last-Event-ID wins"),
        ("follow", Parameter::Switch, "whether to stay for what happens from now on (default true)"),
    ]),
    route(Op::GetHealth, Method::GET, "/v1/health", "getHealth", "Whether the service takes requests")
        .gives(&[(200, "it does")], Media::Json("Health")),
    route(Op::GetVersion, Method::GET, "/v1/version", "getVersion", "The versions of program and API")
        .gives(&[(200, "the versions")], Media::Json("Version")),
    route(Op::GetMetrics, Method::GET, "/v1/metrics", "getMetrics", "Figures for Prometheus")
        .gives(&[(200, "the figures")], Media::Prometheus),
    route(Op::GetOpenapi, Method::GET, "/v1/openapi.json", "getOpenapi", "This document")
        .gives(&[(200, "the document")], Media::Json("OpenApi")),
];

/// The operation of a path and a method.
pub fn find(path: &str, method: &Method) -> Option<&'static Route> {
    // HEAD is GET without the body.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    ROUTES.iter().find(|route| route.path == path && route.method == *method)
}

#[cfg(test)]
mod tests {
    use super::ROUTES;
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_has_one_name_and_one_place() {
        let names: BTreeSet<_> = ROUTES.iter().map(|route| route.name).collect();
        let places: BTreeSet<_> = ROUTES.iter().map(|route| (route.path, route.method.as_str())).collect();
        let ops: BTreeSet<_> = ROUTES.iter().map(|route| route.op).collect();
        assert_eq!((names.len(), places.len(), ops.len()), (ROUTES.len(), ROUTES.len(), ROUTES.len()));
    }

    #[test]
    fn the_documentation_names_every_operation() {
        let page = include_str!("../../../docs/api.md");
        for route in &ROUTES {
            let line = format!("`{} {}", route.method, route.path);
            assert!(page.contains(&line), "{line}");
        }
    }
}
