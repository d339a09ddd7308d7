//! The server: one thread with a small runtime for all connections, one for commands, one that measures. `app`
//! handles the requests.

use crate::descriptors;
use crate::http::app::{App, router};
use crate::http::problem::Problem;
use crate::http::socket::Socket;
use crate::http::write_timeout::WriteTimeout;
use axum::Router;
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Maximum number of connections. The next one gets a 503 and is closed.
const MOST_CONNECTIONS: usize = 1024;
/// Descriptors that the rest of the process may need beside those of connections.
const OTHER_DESCRIPTORS: u64 = 1024;
/// How long a client may take to send a head, or to begin with the next one.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Write timeout.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Most bytes of a head.
const MOST_HEAD: usize = 64 << 10;
/// How long answers under way are waited for at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Threads for what has to wait for the kernel.
const SLOW_THREADS: usize = 8;
/// How long such a thread waits for more.
const SLOW_THREAD_IDLE: Duration = Duration::from_secs(5);
/// How long to wait when the process has no descriptor for a new connection.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);

/// A server that runs; ended and waited for when dropped.
pub struct Server {
    app: Arc<App>,
    threads: Vec<JoinHandle<()>>,
    // The file is removed with the listener.
    _socket: Socket,
}

impl Server {
    /// Starts serving.
    pub fn start(app: &Arc<App>, mut socket: Socket) -> io::Result<Self> {
        // More connections than many hosts give a process descriptors at first.
        descriptors::make_room(MOST_CONNECTIONS as u64 + OTHER_DESCRIPTORS);
        let listener = socket.listener()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(SLOW_THREADS)
            .thread_keep_alive(SLOW_THREAD_IDLE)
            .thread_name("api-slow")
            .build()?;
        let mut server = Self { app: Arc::clone(app), threads: Vec::new(), _socket: socket };
        let events = Arc::clone(&server.app.events);
        crate::log::listen(move |level, text| {
            events.add("warning", serde_json::json!({"level": level, "text": text}));
        });
        let app = Arc::clone(&server.app);
        server.spawn("api", move || {
            runtime.block_on(async {
                if let Err(error) = serve(listener, app).await {
                    tracing::error!(%error, "API server failed");
                }
            });
            runtime.shutdown_timeout(LAST_WORDS);
        })?;
        let commands = Arc::clone(&server.app.commands);
        server.spawn("api-commands", move || commands.work())?;
        let app = Arc::clone(&server.app);
        server.spawn("api-watch", move || app.watch.work(&app.commands, &app.events))?;
        Ok(server)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let body = move || {
            // Those are for the threads that answer them. No others: a VM's threads inherit this, and one signal is
            // what gets them out of the guest.
            let _ = vmm::end_signals().thread_block();
            work();
        };
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(body)?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.commands.close();
        self.app.watch.stop();
        self.app.ending.send_replace(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: UnixListener, app: Arc<App>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let router = router(Arc::clone(&app));
    let mut ending = app.ending.subscribe();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &router, &app),
                // No descriptor, or the client went away: others can be answered in the meantime.
                Err(_) => tokio::time::sleep(NO_DESCRIPTOR).await,
            },
            _ = ending.wait_for(|ending| *ending) => break,
        }
    }
    drop(listener);
    let idle = async {
        while app.requests.connections.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    // A client that does not read had its time.
    let _ = tokio::time::timeout(LAST_WORDS, idle).await;
    Ok(())
}

fn admit(stream: UnixStream, router: &Router, app: &Arc<App>) {
    if app.requests.connections.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
        app.requests.connections.fetch_sub(1, Ordering::Relaxed);
        return refuse(&stream);
    }
    let (router, app) = (router.clone(), Arc::clone(app));
    tokio::spawn(async move {
        connection(stream, router, app.ending.subscribe()).await;
        app.requests.connections.fetch_sub(1, Ordering::Relaxed);
    });
}

async fn connection(stream: UnixStream, router: Router, mut ending: watch::Receiver<bool>) {
    let io = TokioIo::new(WriteTimeout::new(stream, READ_WITHIN));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MOST_HEAD)
        .half_close(true)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // A client that breaks the protocol is answered by hyper as far as it can be, and is nobody's loss.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ending.wait_for(|ending| *ending) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// One connection too many: it gets a 503, if that does not block.
fn refuse(stream: &UnixStream) {
    let detail = format!("{MOST_CONNECTIONS} connections are open, that is the most");
    let problem = Problem::unavailable("too_many_connections", detail);
    let body = serde_json::to_string(problem.document()).unwrap_or_default();
    let head = problem.into_response();
    let status = head.status();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.try_write(text.as_bytes());
}
