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
    "numavisor: there was no reclaim or give yet (no_reclaim)\n".to_owned()
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
    assert!(printed(&server, &["plan"]).starts_with("2 vnodes, 2 vCPUs, 64M memory\n\nVNODE  MEMORY"));
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
    assert_eq!(refused(&server, &["reclaim", "--last"]), (Some(6), nothing_reclaimed()));
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
fn plans_and_hosts_are_shown_as_the_commands_without_a_server_show_them() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_numavisor")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // Free memory changes all the time; its figures are ignored.
    let shape = |text: &str| {
        let words = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.join(" ").chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect::<String>()
        };
        text.lines().map(words).collect::<Vec<_>>()
    };
    let server = Server::serve();
    assert_eq!(shape(&printed(&server, &["host"])), shape(&run(&["host"])));
    let disk = server.dir().join("disk");
    std::fs::write(&disk, [0; 512]).unwrap();
    let disk = format!("--disk=path={},readonly=on", disk.display());
    let vm = ["--vcpus=2", "--memory=64M", &disk, "--net=tap=tap9", "--rng"];
    let planned = printed(&server, &[&["plan"], &vm[..]].concat());
    assert_eq!(shape(&planned), shape(&run(&[&["plan"], &vm[..]].concat())));
    let address =
        |text: &str| text.lines().find_map(|line| Some(line.split_once("tap tap9, ")?.1.to_owned()));
    assert_eq!(address(&planned).unwrap().len(), 17, "{planned}");
    assert_eq!(address(&planned), address(&run(&[&["plan"], &vm[..]].concat())));
}

#[test]
fn statuses_say_whose_fault_it_is() {
    let server = Server::serve();
    let (status, line) = refused(&server, &["info"]);
    assert_eq!((status, line.as_str()), (Some(6), "numavisor: there is no VM, define it first (no_vm)\n"));
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

/// `again: mov dx, EVENT; in al, dx; test al, BUTTON; jz again; mov dx, port; mov al, value; out dx, al; jmp $`
fn answers_the_button(port: u16, value: u8) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0x04, 0x06, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba];
    code.extend(port.to_le_bytes());
    code.extend([0xb0, value, 0xee, 0xeb, 0xfe]);
    code
}

#[test]
fn shutdown_with_a_timeout_waits_for_the_end_and_has_its_status() {
    if !kvm() {
        return;
    }
    let (power_off, reset) = (answers_the_button(0x600, 5 << 2 | 1 << 5), answers_the_button(0x602, 0x52));
    for (code, status, cause) in [(power_off, 0, "power_off"), (reset, 4, "reset")] {
        let server = Server::serve();
        std::fs::write(&server.kernel, vmm::test_kernel::pvh_elf(&code, true)).unwrap();
        assert!(refused(&server, &["shutdown", "--timeout", "1"]).1.contains("(no_vm)"));
        server.define();
        assert_eq!(refused(&server, &["shutdown", "--timeout", "1"]).0, Some(6), "it does not run");
        printed(&server, &["boot"]);
        let ended = server.ctl(&["shutdown", "--timeout", "60"]);
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        assert_eq!(String::from_utf8(ended.stdout).unwrap(), format!("the VM ended: {cause}\n"));
        assert_eq!(server.ask("GET", "/v1/vm").document["end"]["cause"], cause);
    }
    // This one does not listen.
    let server = Server::running();
    let late = refused(&server, &["shutdown", "--timeout", "0"]);
    assert_eq!(late, (Some(6), "numavisor: the VM did not end within 0 s\n".to_owned()));
    // One whose process ends with it.
    let mut server = Server::start(&["run", "--memory", "32M"]);
    server.wait_state("running");
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| server.ctl(&["shutdown", "--timeout", "60", "--json"]));
        wait_for("the button", || {
            let asked = |line: &str| line.contains("_count{operation=\"shutdownVm\",status=\"202\"}");
            server.ask("GET", "/v1/metrics").text.lines().any(asked).then_some(())
        });
        assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
        waits.join().unwrap()
    });
    assert_eq!((waits.status.code(), waits.stdout), (Some(143), b"{\"cause\":\"killed\"}\n".to_vec()));
    assert_eq!(server.end().code(), Some(143));
}

#[test]
fn the_socket_is_named_before_or_after_the_command_or_by_the_environment() {
    let server = Server::serve();
    let socket = server.socket.to_str().unwrap();
    let ctl = |args: &[&str], environment: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_numavisor"));
        command.arg("ctl").args(args).env("NUMAVISOR_SOCKET", environment);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    for (args, environment) in [
        (&["--api-socket", socket, "host"][..], ""),
        (&["host", "--api-socket", socket], ""),
        (&["-s", socket, "host"], "/nowhere"),
        (&["host", "-s", socket], ""),
        (&["host"], socket),
        (&["host", "--json"], socket),
    ] {
        let (status, text) = ctl(args, environment);
        assert_eq!(status, Some(0), "{args:?}: {text}");
    }
    let missing = "numavisor: --api-socket: missing, must be given unless NUMAVISOR_SOCKET is set; see numavisor ctl --help\n";
    assert_eq!(ctl(&["host"], ""), (Some(2), missing.to_owned()));
    assert_eq!(ctl(&["host"], "/nowhere").0, Some(3));
}

#[test]
fn the_live_table_is_json_too_and_waits_for_a_vm_that_does_not_run() {
    let server = Server::serve();
    server.define();
    let text = printed(&server, &["top", "--count", "1"]);
    assert!(text.starts_with("numavisor ") && text.contains("defined"), "{text}");
    let look: Value = serde_json::from_str(&printed(&server, &["top", "--count", "1", "--json"])).unwrap();
    assert_eq!((&look["vm"]["state"], &look["vnodes"]), (&"defined".into(), &serde_json::json!([])));
    if !kvm() {
        return;
    }
    printed(&server, &["boot"]);
    let text = printed(&server, &["--json", "top", "--count", "2"]);
    let looks: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 2, "{text}");
    assert_eq!(looks[0]["exits_per_second"], serde_json::json!({}));
    assert!(
        looks[1]["exits_per_second"]["0"].is_u64() && looks[1]["exits_per_second"]["1"].is_u64(),
        "{text}"
    );
    let vcpu = &looks[1]["vnodes"][0]["vcpus"][0];
    assert!(vcpu["exits"].as_u64().unwrap() >= 3, "it printed three bytes: {vcpu}");
}

#[test]
fn other_words_for_commands_and_help_in_words() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_numavisor")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (words, same) in [
        (&["help", "run"][..], &["run", "--help"][..]),
        (&["help", "ctl", "reclaim"], &["ctl", "reclaim", "--help"]),
        (&["ctl", "help", "reclaim"], &["ctl", "reclaim", "--help"]),
        (&["help"], &["--help"]),
        (&["ctl", "set-memory", "--help"], &["ctl", "mem-set", "--help"]),
        (&["ctl", "return", "--help"], &["ctl", "give", "--help"]),
        (&["ctl", "set-affinity", "--help"], &["ctl", "affinity", "--help"]),
    ] {
        assert_eq!(run(words), run(same), "{words:?}");
    }
    let version = run(&["--version"]);
    assert!(version.starts_with(concat!("numavisor ", env!("CARGO_PKG_VERSION"))), "{version}");
}
