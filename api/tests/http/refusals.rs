//! What is refused, with status, code, field and rule.

use crate::support::{Server, kvm, openapi};
use serde_json::{Value, json};

#[test]
fn a_bad_body_is_refused_by_what_is_wrong_with_it() {
    let server = Server::serve();
    let large = format!("{{\"cmdline\": \"{}\"}}", "x".repeat(1 << 20));
    let cases: &[(&str, u16, &str, &str)] = &[
        ("", 400, "json_syntax", ""),
        ("{", 400, "json_syntax", ""),
        ("{} {}", 400, "json_syntax", ""),
        ("\u{feff}{}", 400, "json_syntax", ""),
        ("[]", 422, "schema", ""),
        (r#"["/some/kernel", null, null, 2, "1G"]"#, 422, "schema", ""),
        (r#"{"numa": [[0, "1G"]]}"#, 422, "schema", "numa[0]"),
        (r#"{"kernel": "x", "vsock": [3]}"#, 422, "schema", "vsock"),
        (r#"{"kernel": "x", "vsock": {"cid": 2}}"#, 422, "device", "vsock.cid"),
        ("7", 422, "schema", ""),
        (r#"{"kernal": "x"}"#, 422, "schema", "kernal"),
        (r#"{"vcpus": "two"}"#, 422, "schema", "vcpus"),
        (r#"{"vcpus": 1, "vcpus": 2}"#, 422, "schema", "vcpus"),
        (r#"{"kernel": null}"#, 422, "no_kernel", "kernel"),
        (r#"{"memory": "1.5G"}"#, 422, "schema", "memory"),
        (r#"{"numa": [{"id": 0, "policy": "strict"}]}"#, 422, "schema", "numa[0].policy"),
        (r#"{"kernel": "x", "vcpus": 0}"#, 422, "vcpu_count", "vcpus"),
        (r#"{"kernel": "x", "memory": "1M"}"#, 422, "memory_unit", "memory"),
        (
            r#"{"kernel": "x", "vnodes": 2, "distances": [{"from": 0, "to": 1, "value": 10}]}"#,
            422,
            "distance",
            "distances[0]",
        ),
        (r#"{"memory": "1G"}"#, 422, "no_kernel", "kernel"),
        (&large, 413, "too_large", ""),
    ];
    for (body, status, code, field) in cases {
        let answer = server.json("PUT", "/v1/vm", body);
        let short: String = body.chars().take(60).collect();
        assert_eq!(answer.problem(), (*status, *code), "{short}");
        if !field.is_empty() {
            assert_eq!(answer.document["field"], *field, "{short}");
            assert!(!answer.document["rule"].as_str().unwrap().is_empty(), "{short}");
        }
        let detail = answer.document["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && !detail.contains('\n'), "{detail}");
        assert_eq!(answer.document["type"], format!("urn:numavisor:problem:{code}"));
    }
    assert_eq!(server.ask("GET", "/v1/vm").problem(), (404, "no_vm"));
}

#[test]
fn null_is_a_field_left_out_whichever_it_is() {
    let server = Server::serve();
    let document = openapi();
    let fields = document["components"]["schemas"]["VmSpec"]["properties"].as_object().unwrap();
    assert!(fields.len() > 20);
    for field in fields.keys() {
        let mut spec = json!({"memory": "64M"});
        spec[field] = Value::Null;
        let answer = server.json("POST", "/v1/plan", &spec.to_string());
        // Without its memory it has 512M, for which there may be no room.
        assert!(answer.status == 200 || (field == "memory" && answer.status == 507), "{field}: {answer:?}");
    }
    let answer = server.json("POST", "/v1/plan", r#"{"memory": "64M", "vsock": {"cid": null}}"#);
    assert_eq!((answer.problem(), &answer.document["field"]), ((422, "schema"), &json!("vsock")));
}

#[test]
fn a_body_is_json_and_says_so() {
    let server = Server::serve();
    for headers in ["", "content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n"]
    {
        let answer = server.send("PUT", "/v1/vm", headers, "{}");
        assert_eq!(answer.problem(), (415, "media_type"), "{headers}");
    }
    let typed = "content-type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(server.send("POST", "/v1/plan", typed, r#"{"memory": "64M"}"#).status, 200);
}

#[test]
fn a_command_without_a_body_takes_none() {
    let server = Server::serve();
    assert_eq!(server.json("POST", "/v1/vm/boot", r#"{"now": true}"#).problem(), (400, "body_not_empty"));
    assert_eq!(server.json("POST", "/v1/vm/boot", "{}").problem(), (404, "no_vm"));
}

#[test]
fn queries_and_numbers_that_make_no_sense_are_refused() {
    let server = Server::serve();
    for (path, code) in [
        ("/v1/vm?verbose=true", "bad_parameter"),
        ("/v1/vnodes?fresh=maybe", "bad_parameter"),
        ("/v1/vnodes?fresh=true&fresh=true", "bad_parameter"),
        ("/v1/events?after=-1", "bad_id"),
        ("/v1/events?after=18446744073709551616", "bad_id"),
        ("/v1/vnodes/x", "bad_id"),
        ("/v1/vnodes/-1", "bad_id"),
        ("/v1/vnodes/4294967296", "bad_id"),
        ("/v1/jobs/%31", "no_vm"),
    ] {
        let answer = server.ask("GET", path);
        let status = if code == "no_vm" { 404 } else { 400 };
        assert_eq!(answer.problem(), (status, code), "{path}");
    }
    let answer = server.send("GET", "/v1/events", "last-event-id: first\r\n", "");
    assert_eq!(answer.problem(), (400, "bad_id"));
}

#[test]
fn a_plan_that_does_not_fit_is_a_matter_of_room_and_a_wrong_pnode_of_input() {
    let server = Server::serve();
    let answer = server.json("POST", "/v1/plan", r#"{"memory": "15T"}"#);
    assert_eq!(answer.problem(), (507, "pnode_memory_short"));
    assert_eq!(answer.document["field"], "vnodes[0].memory");
    let answer = server.json("POST", "/v1/plan", r#"{"numa": [{"id": 0, "pnode": 99999}]}"#);
    assert_eq!(answer.problem(), (422, "no_such_pnode"));
    assert_eq!(answer.document["field"], "vnodes[0].pnode");
}

#[test]
fn a_kernel_that_is_not_there_is_refused_when_it_is_booted() {
    let server = Server::serve();
    let spec = r#"{"kernel": "/no/such/kernel", "memory": "64M"}"#;
    assert_eq!(server.json("PUT", "/v1/vm", spec).status, 201);
    let answer = server.ask("POST", "/v1/vm/boot");
    assert_eq!(answer.problem(), (422, "file_not_found"));
    assert_eq!((&answer.document["field"], &answer.document["kind"]), (&json!("kernel"), &json!("invalid")));
    assert_eq!(server.ask("GET", "/v1/vm").document["state"], "defined");
}

#[test]
fn what_a_running_vm_cannot_do_is_refused() {
    if !kvm() {
        return;
    }
    let server = Server::running();
    let json = |method: &str, path: &str, body: &str| {
        let answer = server.json(method, path, body);
        let (status, code) = answer.problem();
        (status, code.to_owned())
    };
    for (method, path, body, status, code) in [
        ("PUT", "/v1/vm", r#"{"kernel": "x"}"#, 409, "vm_runs"),
        ("POST", "/v1/vm/boot", "", 409, "vm_already_booted"),
        ("POST", "/v1/vnodes/7/move", r#"{"pnode": 0}"#, 404, "no_such_vnode"),
        ("POST", "/v1/vnodes/0/move", r#"{"pnode": 4095}"#, 422, "no_such_pnode"),
        ("POST", "/v1/vnodes/0/move", r#"{"pnode": []}"#, 422, "no_pnode"),
        ("POST", "/v1/vnodes/0/move", r#"{"node": 0}"#, 422, "schema"),
        ("PUT", "/v1/vcpus/7/affinity", r#"{"cpus": 0}"#, 404, "no_such_vcpu"),
        ("PUT", "/v1/vcpus/0/affinity", r#"{"cpus": []}"#, 422, "no_such_cpu"),
        ("PUT", "/v1/vcpus/0/affinity", r#"{"cpus": "99999"}"#, 422, "no_such_cpu"),
        ("PUT", "/v1/vnodes/7/affinity", r#"{"affinity": "soft"}"#, 404, "no_such_vnode"),
        ("PUT", "/v1/vnodes/0/affinity", r#"{"affinity": "firm"}"#, 422, "schema"),
        ("PUT", "/v1/vnodes/0/affinity", r#"{"affinity": "soft", "pnode": 4095}"#, 422, "no_such_pnode"),
        ("PUT", "/v1/vnodes/7/memory-target", r#"{"target": 0}"#, 404, "no_such_vnode"),
        ("PUT", "/v1/vnodes/0/memory-target", r#"{"target": 0}"#, 422, "below_floor"),
        ("POST", "/v1/reclaim", r#"{"pnode": 0, "bytes": 0}"#, 422, "nothing_asked"),
        ("POST", "/v1/reclaim", r#"{"pnode": 4095, "bytes": 1}"#, 422, "no_such_pnode"),
        ("POST", "/v1/give", r#"{"pnode": 4095, "bytes": 1}"#, 422, "no_such_pnode"),
        ("GET", "/v1/reclaim", "", 404, "no_reclaim"),
        ("DELETE", "/v1/reclaim", "", 404, "no_reclaim"),
        ("DELETE", "/v1/jobs/9", "", 404, "no_such_job"),
    ] {
        assert_eq!(json(method, path, body), (status, code.to_owned()), "{method} {path} {body}");
    }
    assert_eq!(server.ask("POST", "/v1/vm/pause").status, 200);
    assert_eq!(json("POST", "/v1/vm/shutdown", ""), (409, "vm_paused".to_owned()));
}

#[test]
fn a_vm_does_not_boot_where_it_cannot_claim() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let server = Server::start(&["serve", "--claims-dir", file.to_str().unwrap()]);
    assert_eq!(server.define().status, 201);
    let answer = server.ask("POST", "/v1/vm/boot");
    assert_eq!(answer.problem(), (500, "claims_unsafe"));
    assert_eq!(answer.header("retry-after"), "");
    let why = "file: is not a directory; --claims-dir DIR uses another directory, --claims-dir none starts without claims";
    assert!(answer.document["detail"].as_str().unwrap().ends_with(why), "{}", answer.document);
    assert_eq!(server.ask("GET", "/v1/vm").document["state"], "defined");
}
