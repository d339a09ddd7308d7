//! Bytes that are no request, or hardly one: they are answered or cut off, and nobody else notices.

use crate::support::{Server, wait_for};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const FINE: &str = "GET /v1/jobs HTTP/1.1\r\nhost: x\r\n\r\n";

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn alive(server: &Server) {
    assert_eq!(server.ask("GET", "/v1/openapi.json").status, 200);
}

#[test]
fn what_is_not_http_is_answered_with_400_or_closed() {
    let server = Server::serve();
    let cases: [&[u8]; 18] = [
        b"",
        b"\r\n\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/vm\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/vm HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /v1/vm HTTP/1.1\r\n: x\r\n\r\n",
        b"GET /v1/vm HTTP/1.1\r\na\0b: x\r\n\r\n",
        b"G\xffT /v1/vm HTTP/1.1\r\n\r\n",
        b"PUT /v1/vm HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"PUT /v1/vm HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"PUT /v1/vm HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"PUT /v1/vm HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"PUT /v1/vm HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
        b"PUT /v1/vm HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ];
    for bytes in cases {
        let answer = server.raw(bytes);
        let status = status(&answer);
        let shown = String::from_utf8_lossy(bytes);
        assert!(matches!(status, None | Some(400..=499)), "{shown:?}: {answer}");
        alive(&server);
    }
}

#[test]
fn lengths_and_chunks_are_taken_at_their_word() {
    let server = Server::serve();
    let head = "PUT /v1/vm HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let (json, half) = ("{\"kernel\":\"k\"}", "{\"kernel");
    let whole = format!("{chunked}e\r\n{json}\r\n0\r\n\r\n");
    assert_eq!(status(&server.raw(whole.as_bytes())), Some(201));
    let pieces = format!("{chunked}8\r\n{half}\r\n6;x=y\r\n{}\r\n0\r\ntrailer: t\r\n\r\n", &json[8..]);
    assert_eq!(status(&server.raw(pieces.as_bytes())), Some(200));
    let short = format!("{head}content-length: 99\r\n\r\n{json}");
    assert!(matches!(status(&server.raw(short.as_bytes())), None | Some(400)));
    let broken = format!("{chunked}e\r\n{half}");
    assert!(matches!(status(&server.raw(broken.as_bytes())), None | Some(400)));
    let endless = format!("{chunked}{}", format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(64));
    assert!(matches!(status(&server.raw(endless.as_bytes())), None | Some(413)), "chunks without end");
    let said = format!("{head}content-length: 1048577\r\n\r\n");
    assert_eq!(status(&server.raw(said.as_bytes())), Some(413));
    alive(&server);
}

#[test]
fn chunks_beat_a_length_and_nothing_behind_them_is_a_request() {
    let server = Server::serve();
    let body = "e\r\n{\"kernel\":\"k\"}\r\n0\r\n\r\n";
    let (chunked, mut expected) = ("transfer-encoding: chunked", 201);
    for length in [3, 40, 99_999_999] {
        let length = format!("content-length: {length}");
        for headers in [[&length, chunked], [chunked, &length]] {
            let head = "PUT /v1/vm HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
            let text = format!("{head}\r\n{}\r\n\r\n{body}{FINE}", headers.join("\r\n"));
            let answer = server.raw(text.as_bytes());
            assert_eq!(status(&answer), Some(expected), "{headers:?}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{headers:?}: {answer}");
            assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
            expected = 200;
        }
    }
    alive(&server);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::serve();
    let last = "GET /v1/nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = server.raw(format!("{}{last}", FINE.repeat(50)).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 404").count(), 51);
    assert!(answer.rfind("no_such_path") > answer.rfind("no_vm"), "{answer}");
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let server = Server::serve();
    // `raw` closes its sending side at once.
    assert_eq!(status(&server.raw(FINE.as_bytes())), Some(404));
}

#[test]
fn a_head_of_10_mib_is_cut_off() {
    let server = Server::serve();
    for bytes in [
        format!("GET /v1/vm HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(10 << 20)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(10 << 20)),
        format!("GET /v1/vm HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(10 << 20 >> 3)),
    ] {
        let answer = server.raw(bytes.as_bytes());
        assert!(matches!(status(&answer), None | Some(400..=499)), "{answer}");
        alive(&server);
    }
    let rss = std::fs::read_to_string(format!("/proc/{}/statm", server.child.id())).unwrap();
    let pages: u64 = rss.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(pages * 4096 < 64 << 20, "{pages} pages");
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let server = Server::serve();
    let mut stream = server.connect();
    let head =
        "PUT /v1/vm HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let began = Instant::now();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(began.elapsed() > Duration::from_secs(5));
}

#[test]
fn a_head_that_does_not_come_and_an_idle_connection_are_closed() {
    let server = Server::serve();
    let mut silent = server.connect();
    let mut slow = server.connect();
    slow.write_all(b"GET /v1/vm HTTP/1.1\r\nho").unwrap();
    let mut idle = server.connect();
    idle.write_all(FINE.as_bytes()).unwrap();
    let mut buffer = [0; 4096];
    assert!(idle.read(&mut buffer).unwrap() > 0);
    for stream in [&mut silent, &mut slow, &mut idle] {
        // An error for who broke off, or nothing: closed in either case.
        wait_for("the end of a connection", || {
            matches!(stream.read(&mut buffer), Ok(0) | Err(_)).then_some(())
        });
    }
    alive(&server);
}
