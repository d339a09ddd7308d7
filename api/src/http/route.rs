//! All operations with path, method and responses. The router, the OpenAPI document and the metrics are generated from
//! this one table.

use axum::http::Method;

/// An operation of the API.
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

/// The media type of a body.
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
    /// Number.
    pub op: Op,
    /// The HTTP method.
    pub method: Method,
    /// The path, in axum's and OpenAPI's syntax.
    pub path: &'static str,
    /// Its name in the OpenAPI document and in metrics.
    pub name: &'static str,
    /// The summary, one line.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the document that the test writes"))]
    pub summary: &'static str,
    /// The request body.
    pub takes: Media,
    /// The success statuses and their descriptions.
    pub gives: &'static [(u16, &'static str)],
    /// The response body, except for 204.
    pub answer: Media,
    /// The problem statuses, other than those of every request.
    pub problems: &'static [u16],
    /// The query parameters.
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
/// Problem statuses of every request: a malformed request, a wrong method, a body that is late or too large,
/// a host failure, a busy server.
pub const ANY: [u16; 6] = [400, 405, 408, 413, 500, 503];

const NO_VM: &[u16] = &[404];
const NOT_NOW: &[u16] = &[404, 409];

/// Starting a VM: see `statuses`.
const PLANNED: &[u16] = &[403, 409, 415, 422, 501, 507];
const STARTED: &[u16] = &[403, 404, 409, 422, 501, 507];
/// Reading the host.
const LOOKED_AT: &[u16] = &[501];
/// Requests that change the running VM or the host.
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
        gives: &[(200, "success")],
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
    &[("fresh", Parameter::Switch, "wait for a new measurement of the memory")];

/// All operations, those of one path together.
pub static ROUTES: [Route; 36] = [
    route(Op::GetVm, Method::GET, "/v1/vm", "getVm", "Get the VM and its state")
        .gives(&[(200, "the VM")], Media::Json("Vm"))
        .fails(NO_VM),
    route(Op::PutVm, Method::PUT, "/v1/vm", "putVm", "Define the VM, or redefine it while it is not running")
        .takes("VmSpec")
        .gives(&[(200, "the VM was redefined"), (201, "the VM was defined")], Media::Json("Vm"))
        .fails(&[409, 415, 422]),
    route(
        Op::DeleteVm,
        Method::DELETE,
        "/v1/vm",
        "deleteVm",
        "Stop the VM if it is running, and delete its definition",
    )
    .gives(&[(204, "the VM was deleted")], Media::None)
    .fails(NO_VM),
    route(Op::BootVm, Method::POST, "/v1/vm/boot", "bootVm", "Boot the VM")
        .gives(&[(202, "the VM is starting")], Media::Json("Vm"))
        .fails(STARTED),
    route(Op::PauseVm, Method::POST, "/v1/vm/pause", "pauseVm", "Pause all vCPUs")
        .gives(&[(200, "the VM is paused")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(Op::ResumeVm, Method::POST, "/v1/vm/resume", "resumeVm", "Resume all vCPUs")
        .gives(&[(200, "the VM is running")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(Op::ShutdownVm, Method::POST, "/v1/vm/shutdown", "shutdownVm", "Press the guest's power button")
        .gives(&[(202, "the guest was notified")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(Op::ResetVm, Method::POST, "/v1/vm/reset", "resetVm", "Reset the guest")
        .gives(&[(202, "the guest is being reset")], Media::Json("Vm"))
        .fails(COMMANDED),
    route(
        Op::GetVmPlan,
        Method::GET,
        "/v1/vm/plan",
        "getVmPlan",
        "Get the plan of the VM; before boot, the plan as of now",
    )
    .gives(&[(200, "the plan")], Media::Json("Plan"))
    .fails(STARTED),
    route(Op::PostPlan, Method::POST, "/v1/plan", "postPlan", "Plan a VM without starting it")
        .takes("VmSpec")
        .gives(&[(200, "the plan")], Media::Json("Plan"))
        .fails(PLANNED),
    route(
        Op::GetHost,
        Method::GET,
        "/v1/host",
        "getHost",
        "Get the nodes, CPUs, memory and distances of the host",
    )
    .gives(&[(200, "the host")], Media::Json("Host"))
    .fails(LOOKED_AT),
    route(
        Op::GetVnodes,
        Method::GET,
        "/v1/vnodes",
        "getVnodes",
        "List the vnodes with their memory and vCPUs",
    )
    .gives(&[(200, "the vnodes")], Media::Json("Vnodes"))
    .fails(NOT_NOW)
    .query(FRESH),
    route(Op::GetVnode, Method::GET, "/v1/vnodes/{id}", "getVnode", "Get a vnode with its memory and vCPUs")
        .gives(&[(200, "the vnode")], Media::Json("Vnode"))
        .fails(NOT_NOW)
        .query(FRESH),
    route(
        Op::PutMemoryTarget,
        Method::PUT,
        "/v1/vnodes/{id}/memory-target",
        "putMemoryTarget",
        "Set the balloon target of a vnode",
    )
    .takes("TargetRequest")
    .gives(&[(202, "ballooning started")], Media::Json("Vnode"))
    .fails(CHANGED),
    route(
        Op::PostReclaim,
        Method::POST,
        "/v1/reclaim",
        "postReclaim",
        "Reclaim memory of a pnode from the guest",
    )
    .takes("ReclaimRequest")
    .gives(&[(202, "ballooning started")], Media::Json("Reclaim"))
    .fails(CHANGED),
    route(Op::PostGive, Method::POST, "/v1/give", "postGive", "Give memory of a pnode back to the guest")
        .takes("GiveRequest")
        .gives(&[(202, "ballooning started")], Media::Json("Reclaim"))
        .fails(CHANGED),
    route(
        Op::GetReclaim,
        Method::GET,
        "/v1/reclaim",
        "getReclaim",
        "Get the status of the last reclaim or give",
    )
    .gives(&[(200, "the status")], Media::Json("Reclaim"))
    .fails(NO_VM),
    route(
        Op::PostFreeMemory,
        Method::POST,
        "/v1/free-memory",
        "postFreeMemory",
        "Request the free memory of each vnode from the guest",
    )
    .gives(&[(200, "the free memory")], Media::Json("FreeMemory"))
    .fails(COMMANDED),
    route(
        Op::PostDirtyRate,
        Method::POST,
        "/v1/dirty-rate",
        "postDirtyRate",
        "Measure how much memory of each vnode is written",
    )
    .takes("DirtyRateRequest")
    .gives(&[(200, "bytes written")], Media::Json("DirtyRate"))
    .fails(CHANGED),
    route(Op::CancelReclaim, Method::DELETE, "/v1/reclaim", "cancelReclaim", "Cancel the reclaim")
        .gives(
            &[(202, "the reclaim is being cancelled; memory reclaimed so far is kept")],
            Media::Json("Reclaim"),
        )
        .fails(&[404, 409]),
    route(Op::MoveVnode, Method::POST, "/v1/vnodes/{id}/move", "moveVnode", "Move a vnode to other pnodes")
        .takes("MoveRequest")
        .gives(&[(202, "a job was started")], Media::Json("Job"))
        .fails(CHANGED),
    route(Op::SwapVnodes, Method::POST, "/v1/swap", "swapVnodes", "Swap the pnodes of two vnodes")
        .takes("SwapRequest")
        .gives(&[(202, "two jobs were started")], Media::Json("Jobs"))
        .fails(CHANGED),
    route(
        Op::Evacuate,
        Method::POST,
        "/v1/evacuate",
        "evacuate",
        "Move all vnodes off a pnode to the best other pnodes",
    )
    .takes("EvacuateRequest")
    .gives(&[(202, "a job per vnode was started")], Media::Json("Jobs"))
    .fails(CHANGED),
    route(
        Op::PutAffinity,
        Method::PUT,
        "/v1/vcpus/{id}/affinity",
        "putAffinity",
        "Set the host CPUs that a vCPU may run on",
    )
    .takes("AffinityRequest")
    .gives(&[(200, "the affinity was set")], Media::Json("Vcpu"))
    .fails(CHANGED),
    route(
        Op::PutVnodeAffinity,
        Method::PUT,
        "/v1/vnodes/{id}/affinity",
        "putVnodeAffinity",
        "Set the affinity of all vCPUs of a vnode, and their pnodes",
    )
    .takes("VnodeAffinityRequest")
    .gives(&[(200, "the affinity of vCPUs and device workers was set")], Media::Json("Vnode"))
    .fails(CHANGED),
    route(
        Op::GetDevices,
        Method::GET,
        "/v1/devices",
        "getDevices",
        "List the virtio devices and their counters",
    )
    .gives(&[(200, "the devices")], Media::Json("Devices"))
    .fails(NOT_NOW),
    route(
        Op::PutDiskSize,
        Method::PUT,
        "/v1/disks/{id}/size",
        "putDiskSize",
        "Grow a disk, or notify the guest of its new size",
    )
    .takes("DiskSizeRequest")
    .gives(&[(200, "the guest was notified")], Media::Json("DiskSize"))
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
    route(
        Op::GetJobs,
        Method::GET,
        "/v1/jobs",
        "getJobs",
        "List the running jobs and the last finished ones",
    )
    .gives(&[(200, "the jobs")], Media::Json("Jobs"))
    .fails(NO_VM),
    route(Op::GetJob, Method::GET, "/v1/jobs/{id}", "getJob", "Get a job")
        .gives(&[(200, "the job")], Media::Json("Job"))
        .fails(NO_VM),
    route(Op::CancelJob, Method::DELETE, "/v1/jobs/{id}", "cancelJob", "Cancel a job")
        .gives(&[(202, "the job ends after the current chunk")], Media::Json("Job"))
        .fails(NOT_NOW),
    route(Op::GetEvents, Method::GET, "/v1/events", "getEvents", "Stream past and new events")
        .gives(&[(200, "events, oldest first, until the client disconnects")], Media::EventStream)
        .query(&[
            ("after", Parameter::Number, "only events after this ID; the header Last-Event-ID overrides it"),
            ("follow", Parameter::Switch, "whether to keep streaming new events (default true)"),
        ]),
    route(
        Op::GetHealth,
        Method::GET,
        "/v1/health",
        "getHealth",
        "Check whether the service accepts requests",
    )
    .gives(&[(200, "the service accepts requests")], Media::Json("Health")),
    route(Op::GetVersion, Method::GET, "/v1/version", "getVersion", "Get the versions of program and API")
        .gives(&[(200, "the versions")], Media::Json("Version")),
    route(Op::GetMetrics, Method::GET, "/v1/metrics", "getMetrics", "Get metrics in Prometheus format")
        .gives(&[(200, "the metrics")], Media::Prometheus),
    route(Op::GetOpenapi, Method::GET, "/v1/openapi.json", "getOpenapi", "Get this document")
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
