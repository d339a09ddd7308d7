//! The socket's file from outside: who may connect, what is replaced, what is left behind.

use crate::support::{Server, kvm, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

fn serve(socket: &Path, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
    command.arg("serve").arg("--api-socket").arg(socket).args(more).stdin(Stdio::null()).output().unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_mode_is_as_asked_and_narrow_if_not() {
    assert_eq!(mode(&Server::serve().socket), 0o600);
    assert_eq!(mode(&Server::start(&["serve", "--api-socket-mode", "660"]).socket), 0o660);
}

#[test]
fn a_socket_in_use_and_a_file_are_left_alone() {
    let server = Server::serve();
    let output = serve(&server.socket, &[]);
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("another process is listening there"), "{line}");
    assert_eq!(server.ask("GET", "/v1/openapi.json").status, 200);
    let file = server.dir().join("file");
    std::fs::write(&file, "keep").unwrap();
    assert_eq!(serve(&file, &[]).status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep");
    let output = serve(&server.dir().join("new"), &["--api-socket-group", "no-such-group"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(serve(Path::new("/proc/1/x"), &[]).status.code(), Some(3));
}

/// The process that removes a server's sockets should that be killed.
fn cleanup_process_of(server: &Server) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", server.child.id());
    wait_for("the cleanup process", || {
        let children = std::fs::read_to_string(&children).unwrap();
        let pid = children.split_whitespace().next()?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name == "socket-janitor\n").then(|| Pid::from_raw(pid.parse().unwrap()))
    })
}

fn is_gone(pid: Pid) -> Option<()> {
    (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
}

/// With a socket for its guest, too.
fn two_sockets(more: &[&str]) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let vsock = format!("cid=3,socket={}", dir.path().join("v.sock").display());
    let flags = ["run", "--memory", "64M", "--serial", "none", "--vsock", &*vsock];
    (Server::start(&[&flags, more].concat()), dir)
}

#[test]
fn a_kill_leaves_no_socket_but_those_of_others() {
    if !kvm() {
        return;
    }
    let (mut server, dir) = two_sockets(&[]);
    server.wait_state("running");
    let others = UnixListener::bind(dir.path().join("v.sock_52")).unwrap();
    let cleanup = cleanup_process_of(&server);
    // What a terminal's Ctrl-C and most services' ends are to it.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        kill(cleanup, signal).unwrap();
    }
    let open = |fd: &str| std::fs::read_link(format!("/proc/{cleanup}/fd/{fd}")).unwrap();
    assert!(open("0").to_str().unwrap().starts_with("socket:"));
    assert_eq!((open("1"), open("2")), ("/dev/null".into(), "/dev/null".into()));
    assert_eq!(std::fs::read_dir(format!("/proc/{cleanup}/fd")).unwrap().count(), 3);
    assert_eq!(std::fs::read_link(format!("/proc/{cleanup}/cwd")).unwrap(), Path::new("/"));
    assert!(server.socket.exists() && dir.path().join("v.sock").exists());
    server.child.kill().unwrap();
    wait_for("its end", || is_gone(cleanup));
    let left = |dir: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        entries.collect()
    };
    assert_eq!((left(dir.path()), left(server.dir())), (vec!["v.sock_52".into()], vec!["kernel".into()]));
    drop(others);
}

/// The threads of the machine's vCPUs; another machine has others.
fn vcpus(server: &Server) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap().flatten();
    let is_vcpu =
        |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("vcpu"));
    let paths = tasks.map(|task| task.path()).filter(|path| is_vcpu(path));
    paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn sockets_and_their_cleanup_process_stay_over_resets_and_end_before_the_vmm() {
    if !kvm() {
        return;
    }
    let (mut server, dir) = two_sockets(&["--on-reset", "reboot"]);
    server.wait_state("running");
    let (cleanup, socket) = (cleanup_process_of(&server), dir.path().join("v.sock"));
    let made =
        || std::fs::metadata(&socket).map(|socket| (socket.ino(), socket.modified().unwrap())).unwrap();
    let before = made();
    for _ in 0..3 {
        let threads = vcpus(&server);
        assert_eq!(server.ask("POST", "/v1/vm/reset").status, 202);
        server.wait_state("running");
        assert_eq!(vcpus(&server), threads, "vCPUs have other threads");
        assert_eq!((cleanup_process_of(&server), made()), (cleanup, before));
        UnixStream::connect(&socket).unwrap();
    }
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGINT);
    server.end();
    assert_eq!(is_gone(cleanup), Some(()));
    assert!(!server.socket.exists() && !socket.exists());
}

#[test]
fn vms_that_come_and_go_take_their_sockets_with_them_and_a_kill_takes_the_last() {
    if !kvm() {
        return;
    }
    let mut server = Server::serve();
    let cleanup = cleanup_process_of(&server);
    let (kernel, vsock) = (server.kernel.display().to_string(), server.dir().join("v.sock"));
    let spec = format!(
        r#"{{"kernel": "{kernel}", "memory": "64M", "vcpus": 1, "serial": "none",
            "vsock": {{"cid": 3, "socket": "{}"}}}}"#,
        vsock.display()
    );
    for _ in 0..2 {
        assert_eq!(server.json("PUT", "/v1/vm", &spec).status, 201);
        assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
        server.wait_state("running");
        assert!(vsock.exists());
        assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
        assert!(!vsock.exists() && cleanup_process_of(&server) == cleanup);
    }
    assert_eq!(server.json("PUT", "/v1/vm", &spec).status, 201);
    assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
    server.wait_state("running");
    server.child.kill().unwrap();
    wait_for("its end", || is_gone(cleanup));
    assert!(!vsock.exists() && !server.socket.exists());
}

#[test]
fn a_socket_left_behind_by_a_kill_is_replaced() {
    let mut server = Server::serve();
    // As where all processes are killed at once.
    kill(cleanup_process_of(&server), Signal::SIGKILL).unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(server.socket.exists());
    let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
    let command = command.arg("serve").arg("--api-socket").arg(&server.socket);
    server.child = command.spawn().unwrap();
    wait_for("the new socket", || UnixStream::connect(&server.socket).ok());
    assert_eq!(server.ask("GET", "/v1/openapi.json").status, 200);
}

/// As systemd passes it: descriptor 3, LISTEN_PID, LISTEN_FDS. The shell's `exec` keeps the process id.
#[test]
fn a_socket_that_was_passed_is_served_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passed.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --api-socket systemd";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_numavisor")]);
    let mut child = command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener))).spawn().unwrap();
    let ctl = Command::new(env!("CARGO_BIN_EXE_numavisor"))
        .args(["ctl", "--api-socket"])
        .arg(&path)
        .arg("host")
        .output()
        .unwrap();
    assert_eq!(ctl.status.code(), Some(0), "{ctl:?}");
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(path.exists());
    let output = serve(Path::new("systemd"), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
