//! The state shared by all requests, and the router, built from the route table.

use crate::claims::ClaimsAt;
use crate::http::command_queue::CommandQueue;
use crate::http::events::EventLog;
use crate::http::handlers::{devices, dirty_rate, events, plans, reclaim, service, vm, vnodes};
use crate::http::metrics::Requests;
use crate::http::problem::Problem;
use crate::http::route::{Op, ROUTES, Route, find};
use crate::http::watch::Watch;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use resources::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use vmm::{Janitor, RequestError};

/// Maximum number of concurrent slow requests; further slow requests wait.
const SLOW_AT_ONCE: usize = 4;
/// Maximum number of concurrent requests that start moves. They measure the whole VM first, and change it in turn.
const MOVES_AT_ONCE: usize = 2;
/// How long a further one waits before it is rejected.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// State shared by all requests.
pub struct App {
    /// The command queue.
    pub commands: Arc<CommandQueue>,
    /// The event log.
    pub events: Arc<EventLog>,
    /// The measuring thread.
    pub watch: Arc<Watch>,
    /// Request counters.
    pub requests: Requests,
    /// True once the server is shutting down.
    pub ending: watch::Sender<bool>,
    slow: Semaphore,
    moves: Semaphore,
    move_timeout: Duration,
}

impl App {
    /// With an empty command queue, the claims directory, and the socket cleanup.
    /// `force_host`: as [`vmm::Options`] has it.
    pub fn new(claims: ClaimsAt, cleanup: Janitor, force_host: bool) -> Arc<Self> {
        Self::with_move_timeout(claims, cleanup, force_host, MOVE_TIMEOUT)
    }

    fn with_move_timeout(
        claims: ClaimsAt,
        cleanup: Janitor,
        force_host: bool,
        move_timeout: Duration,
    ) -> Arc<Self> {
        let (events, watch) = (Arc::new(EventLog::new()), Watch::new());
        let notified = Arc::clone(&watch);
        let commands =
            CommandQueue::new(Arc::clone(&events), claims, cleanup, force_host, move || notified.notify());
        let (requests, ending) = (Requests::default(), watch::Sender::new(false));
        let (slow, moves) = (Semaphore::new(SLOW_AT_ONCE), Semaphore::new(MOVES_AT_ONCE));
        Arc::new(Self { commands, events, watch, requests, ending, slow, moves, move_timeout })
    }

    /// Runs slow work in a blocking thread.
    pub async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let _turn = self.slow.acquire().await.map_err(|_| ending())?;
        in_a_thread(work).await
    }

    /// Runs very slow work, such as starting a move, separately from read-only requests.
    pub async fn as_a_move<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = tokio::time::timeout(self.move_timeout, self.moves.acquire()).await;
        let _turn = turn.map_err(|_| Problem::from(RequestError::PlacementBusy))?.map_err(|_| ending())?;
        in_a_thread(work).await
    }
}

fn ending() -> Problem {
    Problem::unavailable("ending", "this process is shutting down")
}

async fn in_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Problem::internal(error)))
}

/// The router of all operations.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        router = router.route(route.path, method(route));
    }
    router.fallback(nowhere).layer(from_fn_with_state(Arc::clone(&app), counted)).with_state(app)
}

fn method(route: &Route) -> MethodRouter<Arc<App>> {
    // The table has no other methods; one that it had would be found by the first test.
    let filter = MethodFilter::try_from(route.method.clone()).unwrap_or(MethodFilter::TRACE);
    match route.op {
        Op::GetVm => on(filter, vm::get),
        Op::PutVm => on(filter, vm::put),
        Op::DeleteVm => on(filter, vm::delete),
        Op::BootVm => on(filter, vm::boot),
        Op::PauseVm => on(filter, vm::pause),
        Op::ResumeVm => on(filter, vm::resume),
        Op::ShutdownVm => on(filter, vm::shutdown),
        Op::ResetVm => on(filter, vm::reset),
        Op::GetVmPlan => on(filter, plans::of_vm),
        Op::PostPlan => on(filter, plans::of_body),
        Op::GetHost => on(filter, plans::host),
        Op::GetVnodes => on(filter, vnodes::all),
        Op::GetVnode => on(filter, vnodes::one),
        Op::PutMemoryTarget => on(filter, vnodes::memory_target),
        Op::PostReclaim => on(filter, reclaim::take),
        Op::PostGive => on(filter, reclaim::give),
        Op::PostFreeMemory => on(filter, reclaim::free_memory),
        Op::PostDirtyRate => on(filter, dirty_rate::measure),
        Op::GetReclaim => on(filter, reclaim::get),
        Op::CancelReclaim => on(filter, reclaim::cancel),
        Op::MoveVnode => on(filter, vnodes::start_move),
        Op::SwapVnodes => on(filter, vnodes::swap),
        Op::Evacuate => on(filter, vnodes::evacuate),
        Op::PutAffinity => on(filter, vnodes::affinity),
        Op::PutVnodeAffinity => on(filter, vnodes::vnode_affinity),
        Op::GetDevices => on(filter, devices::all),
        Op::PutNetLink => on(filter, devices::net_link),
        Op::PutDiskSize => on(filter, devices::disk_size),
        Op::GetJobs => on(filter, vnodes::jobs),
        Op::GetJob => on(filter, vnodes::job),
        Op::CancelJob => on(filter, vnodes::cancel),
        Op::GetEvents => on(filter, events::stream),
        Op::GetHealth => on(filter, service::health),
        Op::GetVersion => on(filter, service::version),
        Op::GetMetrics => on(filter, events::metrics),
        Op::GetOpenapi => on(filter, events::openapi),
    }
}

async fn nowhere(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(80).collect();
    Problem::not_found("no_such_path", format_args!("{path}: no such path"))
}

/// Counts a request, and turns axum's plain errors into problem documents.
async fn counted(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let route = path.as_deref().and_then(|path| find(path, &method));
    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let here = ROUTES.iter().filter(|route| path.as_deref() == Some(route.path));
        let mut methods: Vec<&str> = here.map(|route| route.method.as_str()).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        let methods = methods.join(", ");
        let detail = format!("{method} is not one of {methods}");
        let problem = Problem::new(ErrorKind::Malformed, "method_not_allowed", detail);
        response = problem.with_status(StatusCode::METHOD_NOT_ALLOWED).into_response();
        response
            .headers_mut()
            .extend(HeaderValue::try_from(methods).ok().map(|allow| (header::ALLOW, allow)));
    }
    if chunked {
        // There may have been a length as well, and somebody before us who went by that (RFC 9112, 6.3).
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    app.requests.count(route.map_or("none", |route| route.name), response.status().as_u16(), began.elapsed());
    response
}

#[cfg(test)]
mod tests {
    use super::{App, MOVES_AT_ONCE};
    use crate::claims::ClaimsAt;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;
    use vmm::Janitor;

    #[test]
    fn moves_that_take_long_keep_nobody_who_looks() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let app = App::with_move_timeout(ClaimsAt::default(), Janitor::default(), false, Duration::ZERO);
            let (started, running) = channel();
            let mut ends = Vec::new();
            let mut start = || {
                let (app, started, (end, wait)) = (Arc::clone(&app), started.clone(), channel::<()>());
                ends.push(end);
                let work = move |wait: Receiver<()>| {
                    started.send(()).unwrap();
                    let _ = wait.recv();
                    Ok(())
                };
                tokio::spawn(async move { app.as_a_move(move || work(wait)).await })
            };
            let moves: Vec<_> = (0..MOVES_AT_ONCE).map(|_| start()).collect();
            for _ in 0..MOVES_AT_ONCE {
                while running.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
            }
            let more = start();
            assert_eq!(app.slowly(|| Ok(7)).await, Ok(7));
            let refused = more.await.unwrap().unwrap_err();
            assert_eq!((refused.status, refused.code.as_str()), (503, "placement_busy"));
            ends.clear();
            for done in moves {
                assert_eq!(done.await.unwrap(), Ok(()));
            }
            assert_eq!(app.as_a_move(|| Ok(8)).await, Ok(8));
        });
    }
}
