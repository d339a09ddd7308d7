//! How long answers take while the VM is busy: four clients ask again and again while a VM starts (taking its memory),
//! waits and goes on, and has a vnode's pages looked at by a move. `cargo bench -p api --bench latency`

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "the client of the tests, beside which nobody waits"
)]

#[path = "../tests/http/support.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Server, kvm, wait_for};

const CLIENTS: usize = 4;
const PATHS: [&str; 4] = ["/v1/vm", "/v1/vnodes", "/v1/metrics", "/v1/jobs"];
/// Taken at each start.
const MEMORY: &str = "2G";
const REST: Duration = Duration::from_millis(1);

/// Asks over one connection until told to stop; how long each answer took.
fn client(server: &Server, stop: &AtomicBool) -> Vec<Duration> {
    let mut stream = BufReader::new(server.connect());
    let mut took = Vec::new();
    for path in PATHS.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        let mut length = 0;
        for line in stream.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
        took.push(began.elapsed());
        std::thread::sleep(REST);
    }
    took
}

/// Has the clients ask while `work` is done, and prints what they saw.
fn during(server: &Server, what: &str, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(server, &stop))).collect();
        work();
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 1000].as_secs_f64() * 1e3;
    println!(
        "{what:28} {:6} answers  p50 {:7.3} ms  p99 {:7.3} ms  p99.9 {:7.3} ms  longest {:7.3} ms",
        took.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
}

fn main() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let (pause, kernel) = (Duration::from_secs(3), server.kernel.display().to_string());
    during(&server, "without a VM", || std::thread::sleep(pause));
    let spec = format!(
        r#"{{"kernel": "{kernel}", "serial": "none",
            "numa": [{{"id": 0, "memory": "{MEMORY}", "vcpus": "0-1", "prefault": "on"}}]}}"#
    );
    during(&server, &format!("starts, {MEMORY} taken, 3 times"), || {
        for _ in 0..3 {
            assert!(server.json("PUT", "/v1/vm", &spec).status < 300);
            assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
            server.wait_state("running");
            assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
        }
    });
    assert!(server.json("PUT", "/v1/vm", &spec).status < 300);
    assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
    server.wait_state("running");
    during(&server, "running", || std::thread::sleep(pause));
    during(&server, "pause and resume, 200 times", || {
        for _ in 0..200 {
            assert_eq!(server.ask("POST", "/v1/vm/pause").status, 200);
            assert_eq!(server.ask("POST", "/v1/vm/resume").status, 200);
        }
    });
    let pnodes = server.ask("GET", "/v1/vnodes/0").document["pnodes"].as_str().unwrap().to_owned();
    during(&server, "moves of a vnode, 10 times", || {
        for job in 1..=10 {
            let body = format!(r#"{{"pnode": "{pnodes}"}}"#);
            assert_eq!(server.json("POST", "/v1/vnodes/0/move", &body).status, 202);
            wait_for("the move", || {
                let state = &server.ask("GET", &format!("/v1/jobs/{job}")).document["state"];
                (state != "running").then_some(())
            });
        }
    });
}
