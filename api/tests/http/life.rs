//! A VM's life over HTTP, and what others see of it.

use crate::support::{Server, kvm, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};

/// The data of events so far.
fn events(server: &Server, after: u64) -> Vec<Value> {
    let text = server.ask("GET", &format!("/v1/events?follow=false&after={after}")).text;
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn states(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["state"].as_str()).collect()
}

#[test]
fn a_vm_is_defined_booted_paused_reset_moved_and_deleted() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let vm = server.define();
    assert_eq!((vm.status, &vm.document["state"]), (201, &json!("defined")));
    assert_eq!(server.define().status, 200);
    let plan = server.ask("GET", "/v1/vm/plan");
    assert_eq!((plan.status, &plan.document["memory"]), (200, &json!(64 << 20)));
    assert_eq!(server.ask("GET", "/v1/vnodes").problem(), (409, "vm_not_running"));
    assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
    server.wait_state("running");

    // A busy host may not have measured within the time that the answer waits.
    let vnodes = wait_for("a measurement", || {
        let vnodes = server.ask("GET", "/v1/vnodes?fresh=true").document;
        vnodes["vnodes"][0]["residency"]["on"].is_array().then_some(vnodes)
    });
    let vnode = &vnodes["vnodes"][0];
    assert_eq!(vnode["memory"], 32 << 20);
    let on: u64 =
        vnode["residency"]["on"].as_array().unwrap().iter().map(|on| on["bytes"].as_u64().unwrap()).sum();
    let absent = vnode["residency"]["absent"].as_u64().unwrap();
    assert_eq!(on + absent, 32 << 20);
    assert_eq!(vnode["residency"]["local"], on);
    let thread = vnode["vcpus"][0]["thread"].as_u64().unwrap();
    let name = std::fs::read_to_string(format!("/proc/{}/task/{thread}/comm", server.child.id())).unwrap();
    assert_eq!(name, "vcpu0\n");
    assert_eq!(server.ask("GET", "/v1/vnodes/1").document["id"], 1);

    assert_eq!(server.ask("POST", "/v1/vm/pause").document["state"], "paused");
    assert_eq!(server.ask("POST", "/v1/vm/pause").document["state"], "paused");
    assert_eq!(server.ask("POST", "/v1/vm/resume").document["state"], "running");

    let pnode = vnode["pnodes"].as_str().unwrap();
    let job = server.json("POST", "/v1/vnodes/0/move", &json!({ "pnode": pnode }).to_string());
    assert_eq!((job.status, job.header("location")), (202, "/v1/jobs/1"));
    let job = wait_for("the move", || {
        let job = server.ask("GET", "/v1/jobs/1").document;
        (job["state"] != "running").then_some(job)
    });
    assert_eq!((&job["state"], &job["scanned"]), (&json!("done"), &json!(32 << 20)));
    assert_eq!(server.ask("DELETE", "/v1/jobs/1").problem(), (409, "job_over"));

    let vcpu = server.json("PUT", "/v1/vcpus/1/affinity", r#"{"cpus": [0]}"#);
    assert_eq!((vcpu.status, &vcpu.document["affinity"]), (200, &json!("0")));

    let before = events(&server, 0).last().unwrap()["id"].as_u64().unwrap();
    assert_eq!(server.ask("POST", "/v1/vm/reset").status, 202);
    wait_for("the reset", || (states(&events(&server, before)) == ["starting", "running"]).then_some(()));

    assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
    assert_eq!(server.ask("GET", "/v1/vm").problem(), (404, "no_vm"));
    let all = events(&server, 0);
    let expected =
        ["defined", "starting", "running", "paused", "running", "starting", "running", "stopped", "absent"];
    assert_eq!(states(&all), expected);
    let ids: Vec<u64> = all.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_vm_whose_memory_is_taken_is_deleted_before_it_runs() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let kernel = server.kernel.display();
    let spec = format!(
        r#"{{"kernel": "{kernel}", "serial": "none", "numa": [{{"id": 0, "memory": "512M", "vcpus": "0", "prefault": "on"}}]}}"#
    );
    assert_eq!(server.json("PUT", "/v1/vm", &spec).status, 201);
    // One behind the other on one connection: the second is there when the first has been carried out, and asks the VM
    // to end long before its memory is taken.
    let boot = "POST /v1/vm/boot HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let delete = "DELETE /v1/vm HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let answers = server.raw(format!("{boot}{delete}").as_bytes());
    assert!(answers.starts_with("HTTP/1.1 202") && answers.contains("HTTP/1.1 204"), "{answers}");
    let told = events(&server, 0);
    assert_eq!(states(&told), ["defined", "starting", "stopped", "absent"]);
    let end = told.iter().find(|event| event["state"] == "stopped").unwrap();
    assert_eq!(end["end"], json!({"cause": "killed"}));

    assert_eq!(server.json("PUT", "/v1/vm", &spec).status, 201);
    assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
    server.wait_state("running");
    let told = events(&server, 0);
    let last = told.iter().rfind(|event| event["type"] == "prefault").unwrap();
    assert_eq!((&last["done"], &last["total"]), (&json!(512 << 20), &json!(512 << 20)));
}

#[test]
fn a_stream_of_events_goes_on_where_it_left_off() {
    if !kvm() {
        return;
    }
    let server = Server::running();
    let mut stream = server.connect();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\nlast-event-id: 1\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next = || lines.by_ref().find_map(|line| line.strip_prefix("id: ").map(str::to_owned)).unwrap();
    assert_eq!((next(), next()), ("2".to_owned(), "3".to_owned()));
    assert_eq!(server.ask("POST", "/v1/vm/pause").status, 200);
    assert_eq!(next(), "4");
}

#[test]
fn a_job_that_is_slow_is_cancelled_and_vcpus_stay() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let host = server.ask("GET", "/v1/host").document;
    let pnodes = host["pnodes"].as_array().unwrap();
    let [from, to] = [0, 1].map(|at| pnodes.get(at).and_then(|pnode| pnode["id"].as_u64()));
    let (Some(from), Some(to)) = (from, to) else {
        testing::skip("nothing can be moved on a host with one node");
        return;
    };
    let kernel = server.kernel.display();
    let vnode = json!({"id": 0, "memory": "64M", "vcpus": "0-1", "pnode": from, "prefault": true});
    let spec = json!({"kernel": kernel.to_string(), "serial": "none", "numa": [vnode]});
    assert_eq!(server.json("PUT", "/v1/vm", &spec.to_string()).status, 201);
    assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
    server.wait_state("running");
    let affinities = || {
        let vcpus = server.ask("GET", "/v1/vnodes/0").document["vcpus"].take();
        let each = vcpus.as_array().unwrap().iter().map(|vcpu| vcpu["affinity"].clone());
        each.collect::<Vec<_>>()
    };
    let before = affinities();
    // A page would take an hour.
    let body = json!({"pnode": to, "bandwidth": 1}).to_string();
    assert_eq!(server.json("POST", "/v1/vnodes/0/move", &body).status, 202);
    assert_eq!(server.ask("DELETE", "/v1/jobs/1").status, 202);
    let job = over(&server);
    assert_eq!(job["state"], "cancelled");
    assert!(job["moved"].as_u64().unwrap() < 64 << 20, "{job}");
    assert_eq!(affinities(), before);
    assert_eq!(server.ask("DELETE", "/v1/jobs/1").problem(), (409, "job_over"));
}

/// The first job, once it is over.
fn over(server: &Server) -> Value {
    wait_for("the end of the job", || {
        let job = server.ask("GET", "/v1/jobs/1").document;
        (job["state"] != "running").then_some(job)
    })
}

#[test]
fn a_job_that_may_be_over_is_cancelled_or_done_and_listed_once() {
    if !kvm() {
        return;
    }
    let server = Server::running();
    let pnode = server.ask("GET", "/v1/vnodes/0").document["pnodes"].take();
    let body = json!({"pnode": pnode, "bandwidth": 1}).to_string();
    assert_eq!(server.json("POST", "/v1/vnodes/0/move", &body).status, 202);
    // Nothing has to move to where it is, so this comes too late or just in time.
    let answer = server.ask("DELETE", "/v1/jobs/1");
    let ended = over(&server)["state"].take();
    match answer.status {
        202 => assert!(ended == "cancelled" || ended == "done", "{ended}"),
        _ => assert_eq!((answer.problem(), &ended), ((409, "job_over"), &json!("done"))),
    }
    let jobs = server.ask("GET", "/v1/jobs").document;
    assert_eq!((jobs["jobs"].as_array().unwrap().len(), &jobs["jobs"][0]["state"]), (1, &ended));
}

#[test]
fn metrics_are_lines_with_types_and_the_figures_of_the_vm() {
    if !kvm() {
        return;
    }
    let server = Server::running();
    server.ask("GET", "/v1/vnodes?fresh=true");
    let answer = server.ask("GET", "/v1/metrics");
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let mut typed = Vec::new();
    for line in answer.text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.push(rest.split(' ').next().unwrap().to_owned());
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let family = typed.last().unwrap();
            assert!(name.starts_with(family.as_str()), "{line} under {family}");
        }
    }
    for line in [
        "numavisor_vm_state{state=\"running\"} 1",
        "numavisor_vcpu_exits_total{vcpu=\"0\",reason=\"port\"} 3",
        "numavisor_lost_interrupts_total{from=\"ioapic\"} 0",
        "numavisor_lost_interrupts_total{from=\"serial\"} 0",
        "numavisor_serial_lost_bytes_total 0",
        "numavisor_vnode_memory_bytes{vnode=\"1\"} 33554432",
        "numavisor_http_request_duration_seconds_bucket{operation=\"getVnodes\",status=\"200\",le=\"+Inf\"} 1",
    ] {
        assert!(answer.text.lines().any(|other| other == line), "{line} not in {}", answer.text);
    }
}

#[test]
fn run_serves_meanwhile_and_delete_ends_it() {
    if !kvm() {
        return;
    }
    let mut server = Server::start(&["run", "--memory", "32M"]);
    server.wait_state("running");
    assert_eq!(server.ask("POST", "/v1/vm/pause").status, 200);
    assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
    assert_eq!(server.end().code(), Some(143));
    assert!(!server.socket.exists());
}

#[test]
fn serve_ends_at_once_without_a_guest_and_at_the_second_signal_with_one() {
    let mut server = Server::serve();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    assert!(!server.socket.exists());
    if !kvm() {
        return;
    }
    let mut server = Server::heard(&["serve", "--log", "info"]);
    server.boot();
    server.signal(Signal::SIGTERM);
    // By then the button was pressed; the guest does not listen to it, and all goes on.
    server.said("requesting guest power-off; a second signal kills the VM");
    assert_eq!(server.ask("GET", "/v1/vm").document["state"], "running");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(143));
    assert!(!server.socket.exists());
}

#[test]
fn a_client_that_goes_away_in_the_middle_leaves_nothing_half_done() {
    if !kvm() {
        return;
    }
    let server = Server::running();
    for command in ["pause", "resume", "pause", "resume", "reset"] {
        let mut stream = server.connect();
        let text = format!("POST /v1/vm/{command} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
    }
    server.wait_state("running");
    // Half of a definition is none.
    let mut stream = server.connect();
    stream
        .write_all(b"PUT /v1/vm HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"ke")
        .unwrap();
    drop(stream);
    assert_eq!(server.ask("GET", "/v1/vm").document["memory"], 64 << 20);
}
