//! The socket's file from outside: who may connect, what is replaced, what is left behind.

use crate::support::{Server, wait_for};
use std::os::unix::fs::PermissionsExt;
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
    assert!(line.contains("another process listens there"), "{line}");
    assert_eq!(server.ask("GET", "/v1/openapi.json").status, 200);
    let file = server.dir().join("file");
    std::fs::write(&file, "keep").unwrap();
    assert_eq!(serve(&file, &[]).status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep");
    let output = serve(&server.dir().join("new"), &["--api-socket-group", "no-such-group"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(serve(Path::new("/proc/1/x"), &[]).status.code(), Some(3));
}

#[test]
fn a_socket_left_behind_by_a_kill_is_replaced() {
    let mut server = Server::serve();
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
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(path.exists());
    let output = serve(Path::new("systemd"), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
