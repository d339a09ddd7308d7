//! The event stream, metrics, and the OpenAPI document.

use crate::http::app::App;
use crate::http::body::{Query, number};
use crate::http::events::EventLog;
use crate::http::metrics;
use crate::http::problem::Problem;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Streams at once; each may wait for a client that does not read.
const MOST_STREAMS: usize = 64;
/// Events in one piece of a stream.
const PIECE: usize = 64;
/// Interval of keep-alive comments.
const ALIVE: Duration = Duration::from_secs(15);

/// The document that `http::openapi`'s test writes.
const OPENAPI: &str = include_str!("../openapi.json");

/// `GET /v1/events`.
pub async fn stream(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let query = Query::of(&request, &["after", "follow"])?;
    let follow = query.switch("follow", true)?;
    let asked = query.number("after")?;
    let resumed = request.headers().get("last-event-id").map(|id| id.to_str().unwrap_or("?"));
    let resumed = resumed.map(|id| number("Last-Event-ID", id)).transpose()?;
    let after = resumed.or(asked).unwrap_or(0);
    if app.requests.streams.fetch_add(1, Ordering::Relaxed) >= MOST_STREAMS {
        app.requests.streams.fetch_sub(1, Ordering::Relaxed);
        let detail = format!("{MOST_STREAMS} event streams are open, which is the maximum");
        return Err(Problem::unavailable("too_many_streams", detail));
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        feed(&app.events, after, follow, app.ending.subscribe(), sender).await;
        app.requests.streams.fetch_sub(1, Ordering::Relaxed);
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((head, Body::new(Stream(receiver))).into_response())
}

async fn feed(
    events: &EventLog,
    mut after: u64,
    follow: bool,
    mut ending: watch::Receiver<bool>,
    sender: mpsc::Sender<Bytes>,
) {
    let mut news = events.subscribe();
    // So that the client has the head of the answer at once.
    let mut piece = ":\n\n".to_owned();
    loop {
        news.mark_unchanged();
        let next = events.after(after, PIECE);
        if let Some(last) = next.last() {
            after = last.id;
            piece.extend(next.iter().map(|event| event.stream_text()));
        }
        if !piece.is_empty() {
            let piece = Bytes::from(std::mem::take(&mut piece));
            if sender.send(piece).await.is_err() {
                return;
            }
            continue;
        }
        if !follow || *ending.borrow() {
            return;
        }
        tokio::select! {
            _ = news.changed() => {}
            _ = ending.changed() => {}
            () = sender.closed() => return,
            () = tokio::time::sleep(ALIVE) => piece.push_str(":\n\n"),
        }
    }
}

/// A body that comes piece by piece.
struct Stream(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// `GET /v1/metrics`.
pub async fn metrics(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    let samples = match app.commands.last_handle() {
        Some(_) => app.watch.scraped().await,
        None => Default::default(),
    };
    let text = {
        let app = Arc::clone(&app);
        app.clone()
            .slowly(move || Ok(metrics::text(&app.commands, &app.events, &app.requests, &samples)))
            .await?
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// `GET /v1/openapi.json`.
pub async fn openapi(request: Request) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    Ok(([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response())
}
