//! Clients of other languages: Python's standard library and `requests`, curl, and schemathesis if it is installed.

use crate::support::{Server, kvm};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

fn installed(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        testing::skip(format_args!("{program} is not installed"));
    }
    there
}

#[test]
fn a_python_client_written_from_the_document_works() {
    if installed("python3") {
        // Without what is installed beside it.
        python("python3", &["-I", "-S"], "http.client");
    }
}

/// The environment that schemathesis is in has `requests`, on which it is built.
#[test]
fn the_same_client_by_requests_works() {
    let beside =
        std::env::var_os("SCHEMATHESIS").map(|program| PathBuf::from(program).with_file_name("python3"));
    let interpreter = beside.as_deref().and_then(|path| path.to_str()).unwrap_or("python3");
    if Command::new(interpreter).args(["-c", "import requests"]).output().is_ok_and(|o| o.status.success()) {
        python(interpreter, &[], "requests");
    } else {
        testing::skip(format_args!("{interpreter} has no requests"));
    }
}

fn python(interpreter: &str, flags: &[&str], by: &str) {
    let server = Server::serve();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/client.py");
    let mut command = Command::new(interpreter);
    command.args(flags);
    command.arg(script).arg(&server.socket);
    if kvm() {
        command.arg(&server.kernel);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!((said.as_ref(), errors.as_ref()), (format!("ok by {by}\n").as_str(), ""));
}

#[test]
fn curl_works() {
    if !installed("curl") {
        return;
    }
    let server = Server::serve();
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-w", "%{http_code}", "-o", "/dev/null", "--unix-socket"]).arg(&server.socket);
        String::from_utf8(command.args(args).output().unwrap().stdout).unwrap()
    };
    let spec = format!("{{\"kernel\": \"{}\"}}", server.kernel.display());
    let json = "content-type: application/json";
    assert_eq!(curl(&["http://localhost/v1/host"]), "200");
    assert_eq!(curl(&["-X", "PUT", "-H", json, "-d", &spec, "http://localhost/v1/vm"]), "201");
    assert_eq!(curl(&["-X", "PUT", "-d", &spec, "http://localhost/v1/vm"]), "415");
    assert_eq!(curl(&["-X", "DELETE", "http://localhost/v1/vm"]), "204");
    assert_eq!(curl(&["--http1.0", "http://localhost/v1/host"]), "200");
    assert_eq!(
        curl(&["-H", "expect: 100-continue", "-X", "PUT", "-H", json, "-d", &spec, "http://localhost/v1/vm"]),
        "201"
    );
}

fn copy(mut from: impl Read, mut to: impl Write, close: impl FnOnce()) {
    let _ = std::io::copy(&mut from, &mut to);
    close();
}

/// A port that leads to the socket.
fn port(socket: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let both = move |tcp: TcpStream| {
        let unix = UnixStream::connect(&socket).unwrap();
        let (tcp_in, unix_in) = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
        let (tcp_end, unix_end) = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
        std::thread::spawn(move || copy(tcp_in, unix, || drop(unix_end.shutdown(std::net::Shutdown::Write))));
        std::thread::spawn(move || copy(unix_in, tcp, || drop(tcp_end.shutdown(std::net::Shutdown::Both))));
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(both));
    port
}

/// Fuzzes a live server from its own document. The stream of events never ends and is ignored; 501, 503 and 507 are
/// documented answers.
#[test]
fn schemathesis_finds_no_crash_and_no_surprise() {
    let program = std::env::var("SCHEMATHESIS").unwrap_or_else(|_| "schemathesis".to_owned());
    if !installed(&program) {
        return;
    }
    let mut server = if kvm() { Server::running() } else { Server::serve() };
    let config = server.dir().join("schemathesis.toml");
    let text =
        "[checks]\nnot_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", 501, 503, 507]\n";
    std::fs::write(&config, text).unwrap();
    let port = port(server.socket.clone());
    let output = Command::new(&program)
        .arg("--config-file")
        .arg(&config)
        .arg("run")
        .arg(format!("http://127.0.0.1:{port}/v1/openapi.json"))
        .args(["--exclude-path", "/v1/events", "--no-color", "--max-examples", "25", "--checks"])
        .arg(
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        )
        .current_dir(server.dir())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
    assert!(server.child.try_wait().unwrap().is_none(), "the server ended");
    eprintln!(
        "{}",
        report.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    );
}
