//! Many clients at once, and some that only hold the others up, or try to.

use crate::support::{Server, kvm};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const CROWD: usize = 1000;
/// What a request may take on a host that has other things to do; the figures are printed.
const BEARABLE: Duration = Duration::from_secs(2);

fn raise_limit() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(4096.min(hard)), hard).unwrap();
}

fn answer(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    // Who is turned away before it was read gets the answer and then an error.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_thousand_clients_are_answered() {
    raise_limit();
    let server = Server::serve();
    let began = Instant::now();
    let mut crowd: Vec<UnixStream> = (0..CROWD).map(|_| server.connect()).collect();
    for stream in &mut crowd {
        stream.write_all(b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    }
    for stream in &mut crowd {
        let text = answer(stream);
        assert!(text.starts_with("HTTP/1.1 200"), "{text:.100}");
    }
    eprintln!("{CROWD} clients in {:?}", began.elapsed());
}

#[test]
fn one_connection_too_many_is_told_so() {
    raise_limit();
    let server = Server::serve();
    let crowd: Vec<UnixStream> = (0..1024).map(|_| server.connect()).collect();
    // The last of them is let in after the others, so whoever comes then finds no room.
    let mut late = server.connect();
    let text = answer(&mut late);
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("too_many_connections"), "{text}");
    drop(crowd);
    crate::support::wait_for("room", || {
        let mut stream = server.connect();
        stream.write_all(b"GET /v1/host HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        answer(&mut stream).starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn silent_slow_and_deaf_clients_hold_nobody_up() {
    if !kvm() {
        return;
    }
    raise_limit();
    let server = Server::running();
    let silent: Vec<UnixStream> = (0..300).map(|_| server.connect()).collect();
    let mut slow: Vec<UnixStream> = (0..100).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"PUT /v1/vm HTTP/1.1\r\ncontent-length: 1000\r\n").unwrap();
    }
    // These ask for much and read nothing.
    let mut deaf: Vec<UnixStream> = (0..50).map(|_| server.connect()).collect();
    let request = "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
    for stream in &mut deaf {
        stream.write_all(request.as_bytes()).unwrap();
    }
    let mut listeners: Vec<UnixStream> = (0..60).map(|_| server.connect()).collect();
    for stream in &mut listeners {
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    }
    let mut times: Vec<Duration> = (0..300)
        .map(|n| {
            let began = Instant::now();
            let path = ["/v1/vm", "/v1/vnodes", "/v1/jobs", "/v1/metrics"][n % 4];
            assert_eq!(server.ask("GET", path).status, 200);
            if n % 50 == 0 {
                assert_eq!(server.ask("POST", "/v1/vm/pause").status, 200);
                assert_eq!(server.ask("POST", "/v1/vm/resume").status, 200);
            }
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    eprintln!("among 510 other clients: median {median:?}, p99 {p99:?}");
    assert!(p99 < BEARABLE, "{p99:?}");
    drop((silent, slow, deaf, listeners));
}

#[test]
fn the_sixty_fifth_stream_is_refused_and_the_first_end_with_their_clients() {
    let server = Server::serve();
    let open = || {
        let mut stream = server.connect();
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        (head == *b"HTTP/1.1 200").then_some(stream)
    };
    let streams: Vec<UnixStream> = (0..64).map(|_| open().unwrap()).collect();
    assert_eq!(server.ask("GET", "/v1/events").problem(), (503, "too_many_streams"));
    drop(streams);
    crate::support::wait_for("a free stream", open);
}
