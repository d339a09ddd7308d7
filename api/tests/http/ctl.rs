//! `numavisor ctl` from outside: tables, raw answers, statuses.

use crate::support::{Server, kvm, wait_for};
use serde_json::Value;

fn printed(server: &Server, args: &[&str]) -> String {
    let output = server.ctl(args);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let output = server.ctl(args);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn nothing_reclaimed() -> String {
    "numavisor: nothing was reclaimed or given yet (no_reclaim)\n".to_owned()
}

#[test]
fn every_command_shows_a_table_or_the_raw_answer() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let kernel = server.kernel.display().to_string();
    let vm = ["--kernel", &kernel, "--memory", "64M", "--vcpus", "2", "--vnodes", "2", "--serial", "none"];
    let defined = printed(&server, &[&["define"], &vm[..]].concat());
    assert!(defined.starts_with("state    defined\nmemory   64M\n"), "{defined}");
    assert!(printed(&server, &["plan"]).starts_with("VNODE  MEMORY"));
    assert!(printed(&server, &["plan", "--memory", "128M"]).contains("128M"));
    assert!(printed(&server, &["boot"]).starts_with("state    running"));
    let vnodes = printed(&server, &["vnodes", "--fresh"]);
    assert!(vnodes.starts_with("VNODE  PNODES  POLICY  MEMORY  TARGET  ACTUAL"), "{vnodes}");
    assert!(vnodes.contains("VCPU  VNODE  THREAD  CPU  AFFINITY"), "{vnodes}");
    let raw: Value = serde_json::from_str(&printed(&server, &["--json", "vnodes"])).unwrap();
    assert_eq!(raw["vnodes"].as_array().unwrap().len(), 2);
    let raw: Value = serde_json::from_str(&printed(&server, &["vnodes", "1", "--json"])).unwrap();
    assert_eq!(raw["id"], 1);
    for (command, state) in [("pause", "paused"), ("resume", "running"), ("info", "running")] {
        assert!(printed(&server, &[command]).starts_with(&format!("state    {state}")), "{command}");
    }
    let moved = printed(&server, &["move", "1", "--pnode", raw["pnodes"].as_str().unwrap()]);
    assert!(moved.contains("done"), "{moved}");
    assert_eq!(printed(&server, &["affinity", "0", "0"]), "vCPU 0 may run on 0\n");
    let held = printed(&server, &["vnode-affinity", "0", "hard", "--pnode", raw["pnodes"].as_str().unwrap()]);
    assert!(held.starts_with("VCPU  VNODE  THREAD  CPU  AFFINITY"), "{held}");
    let raw: Value = serde_json::from_str(&printed(&server, &["vnodes", "0", "--json"])).unwrap();
    assert_eq!(raw["affinity"], "hard");
    assert!(printed(&server, &["jobs"]).contains("done"));
    assert!(printed(&server, &["jobs", "1"]).contains("done"));
    assert!(printed(&server, &["host"]).starts_with("PNODE"));
    assert!(printed(&server, &["metrics"]).contains("# TYPE numavisor_vm_state gauge"));
    assert!(printed(&server, &["openapi"]).contains("\"openapi\""));
    let top = printed(&server, &["top", "--count", "2"]);
    assert_eq!(top.matches("EXITS/s").count(), 2, "{top}");
    // This guest has no driver, which shows after a while.
    let set = server.ctl(&["mem-set", "0", "24M"]);
    assert_eq!(set.status.code(), Some(6), "{set:?}");
    let line = String::from_utf8(set.stderr).unwrap();
    assert_eq!(line, "numavisor: vnode 0: no_driver, it keeps 32M\n");
    assert_eq!(refused(&server, &["mem-set", "0", "1M"]).0, Some(2));
    // Told four times a second, before the next target.
    let told = || printed(&server, &["events", "--no-follow"]).contains("outcome=no_driver").then_some(());
    wait_for("the event", told);
    assert!(printed(&server, &["mem-set", "0", "28M", "--detach"]).contains("28M"));
    let pnode = raw["pnodes"].as_str().unwrap();
    assert_eq!(refused(&server, &["reclaim", "--last"]), (Some(2), nothing_reclaimed()));
    let asked = printed(&server, &["reclaim", "--pnode", pnode, "4M", "--detach"]);
    let head = format!("pnode {pnode}: 0 of 4M");
    assert!(
        asked.starts_with(&head) && printed(&server, &["reclaim", "--last"]).starts_with(&head),
        "{asked}"
    );
    let cancelled = server.ctl(&["reclaim", "--cancel"]);
    assert!(matches!(cancelled.status.code(), Some(0 | 6)), "{cancelled:?}");
    assert_eq!(refused(&server, &["reclaim", "--cancel", "--pnode", "0"]).0, Some(2));
    assert_eq!(refused(&server, &["reclaim", "4M"]).0, Some(2));
    assert!(printed(&server, &["reset"]).starts_with("state"));
    server.wait_state("running");
    assert!(printed(&server, &["shutdown"]).starts_with("state    running"));
    let events = printed(&server, &["events", "--no-follow"]);
    assert!(events.lines().next().unwrap().ends_with(" 1 vm_state state=defined"), "{events}");
    let after = printed(&server, &["events", "--no-follow", "--after", "2", "--json"]);
    let first: Value = serde_json::from_str(after.lines().next().unwrap()).unwrap();
    assert_eq!(first["id"], 3);
    assert_eq!(printed(&server, &["delete"]), "");
}

#[test]
fn statuses_say_whose_fault_it_is() {
    let server = Server::serve();
    let (status, line) = refused(&server, &["info"]);
    assert_eq!(
        (status, line.as_str()),
        (Some(2), "numavisor: there is no VM, it has to be defined first (no_vm)\n")
    );
    assert_eq!(refused(&server, &["define", "--vcpus", "0", "--kernel", "x"]).0, Some(2));
    assert_eq!(refused(&server, &["plan", "--memory", "15T"]).0, Some(3));
    assert_eq!(refused(&server, &["vnodes", "x"]).0, Some(2));
    server.define();
    assert_eq!(refused(&server, &["pause"]).0, Some(6));
    let nobody = std::process::Command::new(env!("CARGO_BIN_EXE_numavisor"))
        .args(["ctl", "--api-socket", "/no/such.sock", "info"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(3));
}

#[test]
fn completions_and_the_manual_know_ctl() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_numavisor")).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let script = run(&["completions", "bash"]);
    assert!(script.contains("mem-set") && script.contains("--api-socket-mode"));
    assert!(run(&["man"]).contains("ctl"));
}
