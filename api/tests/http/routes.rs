//! Every operation of the OpenAPI document, with and without a VM; every method that a path does not have.

use crate::support::{Answer, Server, kvm, openapi};
use serde_json::{Value, json};

const METHODS: [&str; 6] = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"];

fn operations() -> Vec<(String, String, Value)> {
    let document = openapi();
    let paths = document["paths"].as_object().unwrap();
    let each = |(path, item): (&String, &Value)| {
        let path = path.clone();
        let operations = item.as_object().unwrap().clone();
        operations
            .into_iter()
            .map(move |(method, operation)| (path.clone(), method.to_uppercase(), operation))
    };
    paths.iter().flat_map(each).collect()
}

/// The answer is one that the document has, in a media type that it has for it.
fn documented(operation: &Value, answer: &Answer) {
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{}: {answer:?}", operation["operationId"]);
    let Some(content) = response.get("content") else {
        assert_eq!(answer.text, "", "{}", operation["operationId"]);
        return;
    };
    let media = answer.header("content-type").split(';').next().unwrap();
    assert!(content.get(media).is_some(), "{}: {media} not in {content}", operation["operationId"]);
}

fn body(operation: &Value) -> &'static str {
    match operation["operationId"].as_str().unwrap() {
        "putMemoryTarget" => r#"{"target": "32M"}"#,
        "postReclaim" => r#"{"pnode": 0, "bytes": "2M"}"#,
        "moveVnode" => r#"{"pnode": [0], "bandwidth": "1G"}"#,
        "putDiskSize" => r#"{"size": "1G"}"#,
        "putNetLink" => r#"{"up": false}"#,
        "swapVnodes" => r#"{"vnodes": [0, 0]}"#,
        "evacuate" => r#"{"pnode": 4096}"#,
        "putAffinity" => r#"{"cpus": 0}"#,
        "putVnodeAffinity" => r#"{"affinity": "soft"}"#,
        "postPlan" => r#"{"memory": "64M"}"#,
        "postDirtyRate" => r#"{"milliseconds": 10}"#,
        "postGive" => r#"{"pnode": 0, "bytes": "1M"}"#,
        "putVm" => r#"{"kernel": "kernel", "memory": "64M"}"#,
        _ => "",
    }
}

fn ask(server: &Server, path: &str, method: &str, operation: &Value) -> Answer {
    let path = path.replace("{id}", "0");
    let query = if path == "/v1/events" { "?follow=false" } else { "" };
    let answer = match body(operation) {
        "" => server.ask(method, &format!("{path}{query}")),
        body => server.json(method, &path, body),
    };
    documented(operation, &answer);
    answer
}

#[test]
fn every_operation_answers_as_documented_without_a_vm() {
    let server = Server::serve();
    for (path, method, operation) in operations() {
        let name = operation["operationId"].as_str().unwrap();
        let status = ask(&server, &path, &method, &operation).status;
        let expected = match name {
            "getHost" | "getEvents" | "getMetrics" | "getOpenapi" | "postPlan" | "getHealth"
            | "getVersion" => 200,
            "putVm" => 201,
            _ => 404,
        };
        assert_eq!(status, expected, "{name}");
        if name == "putVm" {
            assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
        }
    }
}

#[test]
fn every_operation_answers_as_documented_with_a_vm_that_runs() {
    if !kvm() {
        return;
    }
    let server = Server::running();
    for (path, method, operation) in operations() {
        let name = operation["operationId"].as_str().unwrap();
        if name == "deleteVm" {
            continue;
        }
        server.wait_state("running");
        let status = ask(&server, &path, &method, &operation).status;
        if matches!(name, "postReclaim" | "cancelReclaim") {
            // The one before may be at it still, or be over already.
            assert!([202, 409].contains(&status), "{name}: {status}");
            continue;
        }
        let expected = match name {
            // This guest has no driver that could say.
            "putVm" | "bootVm" | "postFreeMemory" => 409,
            "postGive" | "putMemoryTarget" | "shutdownVm" | "resetVm" | "moveVnode" => 202,
            // A vnode with itself, and a pnode that no host has.
            "swapVnodes" | "evacuate" => 422,
            // Jobs count from 1.
            "getJob" | "cancelJob" => 404,
            // It has none.
            "putDiskSize" | "putNetLink" => 404,
            _ => 200,
        };
        assert_eq!(status, expected, "{name}");
        if name == "pauseVm" {
            assert_eq!(server.ask("POST", "/v1/vm/resume").status, 200);
        }
    }
    assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
}

#[test]
fn health_and_version_say_what_runs_here() {
    let server = Server::serve();
    assert_eq!(server.ask("GET", "/v1/health").document, json!({"status": "ok"}));
    assert_eq!(server.define().status, 201);
    assert_eq!(server.ask("GET", "/v1/health").document, json!({"status": "ok", "vm": "defined"}));
    let version = server.ask("GET", "/v1/version").document;
    let expected = json!({"version": env!("CARGO_PKG_VERSION"), "api": 1, "pid": server.child.id()});
    assert_eq!(version, expected);
    assert_eq!(server.ask("GET", "/v1/health?deep=true").problem(), (400, "bad_parameter"));
}

#[test]
fn a_path_accepts_exactly_its_methods() {
    let server = Server::serve();
    let operations = operations();
    for (path, ..) in &operations {
        let has = |method: &str| operations.iter().any(|(other, its, _)| other == path && its == method);
        let mut methods: Vec<&str> = METHODS.into_iter().filter(|method| has(method)).collect();
        for method in METHODS.into_iter().filter(|method| !has(method)) {
            let answer = server.ask(method, &path.replace("{id}", "0"));
            assert_eq!(answer.problem(), (405, "method_not_allowed"), "{method} {path}");
            let mut allowed: Vec<&str> = answer.header("allow").split(", ").collect();
            allowed.sort_unstable();
            methods.sort_unstable();
            let expected: Vec<String> = methods
                .iter()
                .flat_map(|method| if *method == "GET" { vec!["GET", "HEAD"] } else { vec![*method] })
                .map(str::to_ascii_lowercase)
                .collect();
            assert_eq!(allowed, expected, "{method} {path}");
        }
    }
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::serve();
    let answer = server.ask("HEAD", "/v1/openapi.json");
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    let length: usize = answer.header("content-length").parse().unwrap();
    assert_eq!(length, server.ask("GET", "/v1/openapi.json").text.len());
}

#[test]
fn what_is_nowhere_is_not_found() {
    let server = Server::serve();
    for path in
        ["/", "/v1", "/v1/", "/v1/vm/", "/v2/vm", "/v1/vnodes/0/move/now", "/v1/../v1/vm", "//v1/vm", "/%00"]
    {
        assert_eq!(server.ask("GET", path).problem(), (404, "no_such_path"), "{path}");
    }
}

#[test]
fn the_document_served_is_the_one_that_is_kept() {
    let server = Server::serve();
    assert_eq!(server.ask("GET", "/v1/openapi.json").document, openapi());
}
