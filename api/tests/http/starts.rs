//! Starts that cannot be: `plan`, `run`, `POST /v1/plan`, a boot over HTTP and `ctl` refuse the same with the same code,
//! field and status, before anything is taken.

use crate::support::{Answer, Server, kvm};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use vmm::test_kernel::{bzimage, linux_elf, outs};

/// What every way of asking has to say.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Refusal {
    code: String,
    kind: String,
    field: Option<String>,
}

impl Refusal {
    fn of(document: &Value) -> Self {
        let text = |key: &str| document[key].as_str().map(str::to_owned);
        Self { code: text("code").unwrap(), kind: text("kind").unwrap(), field: text("field") }
    }
}

fn numavisor(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// The line of JSON on standard error, and the exit status.
fn failed(output: &Output) -> (Value, i32) {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON: {text}"));
    let document: Value = serde_json::from_str(line).unwrap();
    let status = output.status.code().unwrap();
    assert_eq!(document["exit_status"], status, "{document}");
    (document, status)
}

/// What all of them say of a VM, with the HTTP status and the exit status.
fn refused_alike(server: &Server, spec: &Value) -> (Refusal, u16, i32) {
    let file = server.dir().join("vm.json");
    std::fs::write(&file, spec.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let (planned, plan_status) = failed(&numavisor(&["plan", "--json", "--config", file]));
    let (run, run_status) = failed(&numavisor(&["run", "--json", "--config", file]));
    let expected = Refusal::of(&planned);
    assert_eq!((Refusal::of(&run), run_status), (expected.clone(), plan_status), "{spec}");

    let answer = server.json("POST", "/v1/plan", &spec.to_string());
    assert_eq!(Refusal::of(&answer.document), expected, "{spec}");
    assert_eq!(answer.header("retry-after"), "");
    let defined = server.json("PUT", "/v1/vm", &spec.to_string());
    let boot = if defined.status < 300 { server.ask("POST", "/v1/vm/boot") } else { defined };
    assert_eq!((Refusal::of(&boot.document), boot.status), (expected.clone(), answer.status), "{spec}");
    assert_eq!(boot.header("retry-after"), "");
    let (told, ctl_status) = failed(&server.ctl(&["--json", "plan", "--config", file]));
    assert_eq!((Refusal::of(&told), ctl_status), (expected.clone(), run_status), "{spec}");
    (expected, answer.status, run_status)
}

/// Each file is locked as another VM would have it.
fn locked(path: &Path) -> File {
    std::fs::write(path, [0; 4096]).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let lock = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).unwrap(),
        l_whence: i16::try_from(nix::libc::SEEK_SET).unwrap(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}

#[test]
fn every_way_to_start_refuses_alike_what_can_be_known_beforehand() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let at = |name: &str| server.dir().join(name).display().to_string();
    std::fs::write(at("junk"), "not a kernel").unwrap();
    std::fs::write(at("qcow2"), [b"QFI\xfb".as_slice(), &[0; 4092]].concat()).unwrap();
    std::fs::write(at("short"), [0; 100]).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    nix::unistd::mkfifo(&server.dir().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _held = locked(&server.dir().join("locked"));
    let _listener = UnixListener::bind(at("taken")).unwrap();
    let kernel = server.kernel.display().to_string();
    let many: Vec<Value> = (0..40).map(|n| json!({"path": at(&format!("disk{n}"))})).collect();

    let cases = [
        (json!({"kernel": at("none")}), "file_not_found", "kernel", 422, 2),
        (json!({"kernel": at("directory")}), "file_unusable", "kernel", 422, 2),
        (json!({"kernel": at("fifo")}), "file_unusable", "kernel", 422, 2),
        (json!({"initramfs": at("fifo")}), "file_unusable", "initramfs", 422, 2),
        (json!({"disks": [{"path": at("fifo")}]}), "disk_kind", "disks[0].path", 422, 2),
        (json!({"kernel": at("junk")}), "kernel_image", "kernel", 422, 2),
        (json!({"kernel": at("junk/x")}), "file_unusable", "kernel", 422, 2),
        (json!({"initramfs": at("none")}), "file_not_found", "initramfs", 422, 2),
        (json!({"cmdline": "x".repeat(70_000)}), "cmdline", "cmdline", 422, 2),
        (json!({"disks": [{"path": at("none")}]}), "file_not_found", "disks[0].path", 422, 2),
        (json!({"disks": [{"path": at("directory")}]}), "disk_kind", "disks[0].path", 422, 2),
        (json!({"disks": [{"path": "/dev/null"}]}), "disk_kind", "disks[0].path", 422, 2),
        (json!({"disks": [{"path": at("qcow2")}]}), "disk_format", "disks[0].path", 422, 2),
        (json!({"disks": [{"path": at("short")}]}), "disk_short", "disks[0].path", 422, 2),
        (json!({"disks": [{"path": at("locked")}]}), "disk_locked", "disks[0].path", 409, 2),
        (json!({"disks": many}), "device", "disks[30].vnode", 422, 2),
        (json!({"nets": [{"fd": 77, "mac": "02:00:00:00:00:01"}]}), "tap_unusable", "nets[0].fd", 422, 2),
        (json!({"nets": [{"tap": "lo"}]}), "tap_unusable", "nets[0].tap", 422, 2),
        (json!({"vsock": {"cid": 3, "socket": at("none/s")}}), "file_not_found", "vsock.socket", 422, 2),
        (json!({"vsock": {"cid": 3, "socket": at("junk")}}), "not_a_socket", "vsock.socket", 422, 2),
        (json!({"vsock": {"cid": 3, "socket": at("taken")}}), "socket_in_use", "vsock.socket", 409, 2),
        (
            json!({"vsock": {"cid": 3, "socket": at(&"x".repeat(200))}}),
            "file_unusable",
            "vsock.socket",
            422,
            2,
        ),
        (json!({"vsock": {"cid": 1}}), "device", "vsock.cid", 422, 2),
        (json!({"console": {"socket": at("taken")}}), "socket_in_use", "console.socket", 409, 2),
        (json!({"console": {"file": at("none/c")}}), "file_not_found", "console.file", 422, 2),
        (json!({"console": {"file": at("directory")}}), "file_unusable", "console.file", 422, 2),
        (json!({"serial": format!("file={}", at("none/c"))}), "file_not_found", "serial", 422, 2),
        (json!({"vcpus": 4096}), "kvm_vcpus", "vcpus", 422, 2),
        (json!({"memory": "15T"}), "pnode_memory_short", "vnodes[0].memory", 507, 3),
        (json!({"numa": [{"id": 0, "pnode": 1023}]}), "no_such_pnode", "vnodes[0].pnode", 422, 2),
    ];
    for (fields, code, field, http, exit) in cases {
        if field == "nets[0].tap" && !Path::new("/dev/net/tun").exists() {
            testing::skip("no /dev/net/tun");
            continue;
        }
        let mut spec = json!({"kernel": kernel, "memory": "64M", "serial": "none"});
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        if fields.get("numa").is_some() {
            spec.as_object_mut().unwrap().remove("memory");
        }
        let (refusal, status, exited) = refused_alike(&server, &spec);
        let found = (refusal.code.as_str(), refusal.field.as_deref(), status, exited);
        assert_eq!(found, (code, Some(field), http, exit), "{fields}");
    }
    for made in ["none", "disk0"] {
        assert!(!server.dir().join(made).exists(), "{made} was made");
    }
    assert_eq!(server.ask("GET", "/v1/vm").document["state"], "defined");
}

#[test]
fn a_plan_leaves_locks_sockets_and_files_as_they_are() {
    let server = Server::serve();
    let at = |name: &str| server.dir().join(name).display().to_string();
    std::fs::write(at("disk"), [0; 4096]).unwrap();
    let spec = json!({
        "kernel": server.kernel, "memory": "64M", "serial": format!("file={}", at("serial")),
        "disks": [{"path": at("disk")}], "vsock": {"cid": 3, "socket": at("v")},
        "console": {"file": at("console")}, "rng": true,
    });
    // Somebody who reads it is not in the way of a plan that only reads it.
    let reading = json!({"memory": "64M", "disks": [{"path": at("disk"), "readonly": true}]});
    for spec in [&spec, &reading, &spec] {
        let answer = server.json("POST", "/v1/plan", &spec.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for name in ["serial", "v", "console"] {
        assert!(!Path::new(&at(name)).exists(), "{name} was made");
    }
    let locks = format!("/proc/{}/fdinfo", server.child.id());
    for info in std::fs::read_dir(locks).unwrap().flatten() {
        let text = std::fs::read_to_string(info.path()).unwrap_or_default();
        assert!(!text.contains("OFDLCK"), "{text}");
    }
}

#[test]
fn a_host_that_may_not_use_kvm_is_told_so_once_and_for_all() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        testing::skip("not root, so nobody else to be");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, vmm::test_kernel::pvh_elf(&outs(&[]), true)).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // Where only some may start programs of ours, or all may use KVM, there is nothing to see.
    let binary = dir.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_numavisor"), &binary).unwrap();
    let nobody = |args: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(args).uid(NOBODY).gid(NOBODY).current_dir(dir.path()).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", dir.path());
        command
    };
    let run = nobody(&["run", "--json", "--kernel", "kernel", "--memory", "64M"]).output().unwrap();
    let (document, status) = failed(&run);
    let code = document["code"].as_str().unwrap();
    if !["kvm_forbidden", "kvm_missing"].contains(&code) {
        testing::skip(format_args!("everybody may use /dev/kvm here: {document}"));
        return;
    }
    assert_eq!(status, 3);
    let socket = dir.path().join("s");
    let mut server = nobody(&["serve", "--api-socket", "s"]).spawn().unwrap();
    let ask = |method: &str, path: &str, body: &str| Answer::from(&socket, method, path, body);
    crate::support::wait_for("the socket", || std::os::unix::net::UnixStream::connect(&socket).ok());
    assert_eq!(ask("PUT", "/v1/vm", r#"{"kernel": "kernel", "memory": "64M"}"#).status, 201);
    let answer = ask("POST", "/v1/vm/boot", "");
    let http = if code == "kvm_forbidden" { 403 } else { 501 };
    assert_eq!(answer.problem(), (http, code));
    assert_eq!(answer.header("retry-after"), "");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A kernel that needs a CPU's help, on a host whose KVM has none to give.
#[test]
fn linux_is_refused_at_once_where_kvm_only_emulates_unless_that_is_wanted() {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = cpus.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let hardware = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    if !kvm() || hardware || !Path::new("/sys/module/kvm_pvm").exists() {
        testing::skip("this host's KVM has the help of its CPUs, or there is none");
        return;
    }
    let server = Server::serve();
    let (elf, image) = (server.dir().join("vmlinux"), server.dir().join("vmlinuz"));
    std::fs::write(&elf, linux_elf(&outs(&[(0x3f8, b'!')]))).unwrap();
    std::fs::write(&image, bzimage()).unwrap();
    for kernel in [&elf, &image] {
        let spec = json!({"kernel": kernel, "memory": "64M", "serial": "none"});
        let (refusal, status, exited) = refused_alike(&server, &spec);
        let found = (refusal.code.as_str(), refusal.field.as_deref(), status, exited);
        assert_eq!(found, ("kvm_without_hardware", Some("kernel"), 501, 3));
    }
    // This one says that it is Linux, and needs nothing that is missing.
    let forced = Server::start(&["serve", "--force-host"]);
    let spec = json!({"kernel": elf, "memory": "64M", "serial": "none"}).to_string();
    assert_eq!(forced.json("POST", "/v1/plan", &spec).status, 200);
    assert_eq!(forced.json("PUT", "/v1/vm", &spec).status, 201);
    assert_eq!(forced.ask("POST", "/v1/vm/boot").status, 202);
    forced.wait_state("running");
    let plan = numavisor(&["plan", "--force-host", "--memory", "64M", "--kernel", elf.to_str().unwrap()]);
    assert!(plan.status.success(), "{plan:?}");
}

#[test]
fn a_start_that_fails_later_has_code_and_field_in_end_event_and_on_standard_error() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let kernel = server.kernel.display().to_string();
    let link = server.dir().join("serial");
    let spec = json!({"kernel": kernel, "memory": "64M", "serial": format!("file={}", link.display())});
    // A link to nothing is left to the start, and where it leads nothing can be made.
    std::os::unix::fs::symlink("/proc/1/no/such", &link).unwrap();
    assert_eq!(server.json("PUT", "/v1/vm", &spec.to_string()).status, 201);
    assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
    let vm = server.wait_state("stopped");
    let end = &vm["end"];
    assert_eq!(
        (&end["cause"], &end["code"], &end["kind"]),
        (&json!("failed"), &json!("file_not_found"), &json!("invalid"))
    );
    assert_eq!(end["field"], "serial");
    let events = server.ask("GET", "/v1/events?follow=false").text;
    let stopped = events.lines().find(|line| line.contains("\"stopped\"")).unwrap();
    let event: Value = serde_json::from_str(stopped.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(&event["end"], end);
    let (document, status) = failed(&server.ctl(&["--json", "boot"]));
    assert_eq!(
        (&document["code"], &document["field"], status),
        (&json!("file_not_found"), &json!("serial"), 2)
    );
    let file = server.dir().join("vm.json");
    std::fs::write(&file, spec.to_string()).unwrap();
    let (document, status) = failed(&numavisor(&["run", "--json", "--config", file.to_str().unwrap()]));
    assert_eq!(
        (&document["code"], &document["field"], status),
        (&json!("file_not_found"), &json!("serial"), 2)
    );
}
