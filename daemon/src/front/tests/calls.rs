//! The protocols: what a call becomes and what comes back.

use super::client::{admin, collect, start};
use serde_json::{Value, json};
use tiebeam_proto::xml;

fn call(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

#[tokio::test]
async fn any_id_comes_back_as_it_was_sent() {
    let running = start().await;
    for id in ["1", "-1", "1.5", "null", "\"x\"", "18446744073709551615", "-9223372036854775808"] {
        let got = running.post("/rpc2", Some(&admin()), &call(id, "echo", "[1]")).await;
        assert!(got.body.contains(&format!("\"id\":{id},")), "{id}: {}", got.body);
        assert_eq!(got.json()["result"]["params"], json!([1]), "{id}");
        assert_eq!(got.headers["content-type"], "application/json");
        let got = running.post("/rpc2", Some(&admin()), &call(id, "none", "[1]")).await;
        assert!(got.body.contains(&format!("\"id\":{id},")), "{id}: {}", got.body);
        assert_eq!(got.json()["error"]["code"], -32601, "{id}");
    }
}

#[tokio::test]
async fn every_rpc_path_answers_json_and_xml_whatever_the_content_type_says() {
    let running = start().await;
    for path in ["/", "/rpc2", "/RPC2", "/rpc"] {
        let got = running.post(path, Some(&admin()), &call("1", "job_list", "[]")).await;
        assert_eq!(got.json()["result"], json!(["node_list"]), "{path}");
        assert_eq!(got.headers["tiebeam-applied"], "42");
        let body = format!("\n  {}", String::from_utf8(xml::write_call("job_list", &[])).unwrap());
        let got = running.post(path, Some(&admin()), &body).await;
        assert_eq!(got.headers["content-type"], "text/xml");
        let value = xml::parse_response(got.body.as_bytes());
        assert_eq!(value, Ok(json!(["node_list"])), "{path}");
    }
}

#[tokio::test]
async fn a_batch_runs_at_the_same_time_and_is_answered_in_order() {
    let running = start().await;
    let members = [
        call("3", "meet", "[]"),
        r#"{"jsonrpc":"2.0","method":"echo","params":{"note":true}}"#.to_owned(),
        call("-2", "meet", "[]"),
        "7".to_owned(),
        call("\"last\"", "none", "[]"),
    ];
    let got = running.post("/", Some(&admin()), &format!("[{}]", members.join(","))).await;
    let answers = got.json();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [&json!(3), &json!(-2), &Value::Null, &json!("last")]);
    assert_eq!(answers[0]["result"], "met");
    assert_eq!(answers[2]["error"]["code"], -32600);
    assert_eq!(answers[3]["error"]["data"]["name"], "unknown_method");
    assert!(running.double.started().contains(&"echo".to_owned()), "the notification was run");
}

#[tokio::test]
async fn a_notification_is_run_and_not_answered() {
    let running = start().await;
    let body = r#"{"jsonrpc":"2.0","method":"echo"}"#;
    let got = running.post("/", Some(&admin()), body).await;
    assert_eq!((got.status, got.body.as_str()), (204, ""));
    let got = running.post("/", Some(&admin()), &format!("[{body},{body}]")).await;
    assert_eq!((got.status, got.body.as_str()), (204, ""));
    assert_eq!(running.double.started(), ["echo", "echo", "echo"]);
}

#[tokio::test]
async fn what_is_no_call_has_its_own_error_and_http_200() {
    let running = start().await;
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let many = format!("[{}]", vec![call("1", "echo", "[]"); 101].join(","));
    let cases = [
        ("{", -32700),
        ("", -32700),
        (deep.as_str(), -32700),
        ("[]", -32600),
        ("7", -32600),
        (r#"{"id":1,"method":"echo"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"echo"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":7}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (many.as_str(), -32009),
    ];
    for (body, code) in cases {
        let got = running.post("/", Some(&admin()), body).await;
        assert_eq!(got.status, 200, "{body}");
        assert_eq!(got.json()["error"]["code"], code, "{body}: {}", got.body);
    }
    assert!(running.double.started().is_empty());
    for body in ["<methodCall>", "<!DOCTYPE x [<!ENTITY a \"b\">]><methodCall/>"] {
        let got = running.post("/", Some(&admin()), body).await;
        let fault = xml::parse_response(got.body.as_bytes()).unwrap_err();
        assert!(matches!(fault, xml::ResponseError::Fault(_)), "{body}: {}", got.body);
    }
}

#[tokio::test]
async fn a_panic_is_answered_and_the_connection_lives() {
    let running = start().await;
    let mut sender = running.h2().await;
    for (method, key) in [("panic", "error"), ("echo", "result")] {
        let body = call("1", method, "[]").into_bytes();
        let request = running.h2_post("/rpc2", Some(&admin()), body);
        let (status, body) = collect(sender.send_request(request).await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(body.contains(&format!("\"{key}\":")), "{body}");
        assert!(!body.contains("nobody may see"), "{body}");
    }
}

#[tokio::test]
async fn multicall_runs_in_order_and_leaves_faults_in_their_place() {
    let running = start().await;
    let calls = json!([[
        {"methodName": "echo", "params": [1]},
        {"methodName": "none", "params": []},
        {"methodName": "system.multicall", "params": [[]]},
        {"methodName": "job_list"},
        {"methodName": "panic", "params": []},
        7,
    ]]);
    let body = xml::write_call("system.multicall", calls.as_array().unwrap());
    let body = String::from_utf8(body).unwrap();
    let got = running.post("/RPC2", Some(&admin()), &body).await;
    let results = xml::parse_response(got.body.as_bytes()).unwrap();
    assert_eq!(results[0][0]["params"], json!([1]));
    assert_eq!(results[1]["faultCode"], -32601);
    assert_eq!(results[2]["faultCode"], -32600);
    assert_eq!(results[3], json!([["node_list"]]));
    assert_eq!(results[4]["faultCode"], -32603);
    assert_eq!(results[5]["faultCode"], -32600);
    assert_eq!(running.double.started(), ["echo", "job_list", "panic"]);

    let many = json!([vec![json!({"methodName": "echo", "params": []}); 101]]);
    let body = call("1", "system.multicall", &many.to_string());
    let got = running.post("/", Some(&admin()), &body).await;
    assert_eq!(got.json()["error"]["code"], -32009);
}

#[tokio::test]
async fn introspection_needs_no_master_and_knows_every_method() {
    let running = start().await;
    running.double.moves_to(crate::front::seam::Place::NoMaster);
    let ask = async |method: &str, params: &str| {
        running.post("/", Some(&admin()), &call("1", method, params)).await.json()
    };
    let listed = ask("system.listMethods", "[]").await;
    for method in listed["result"].as_array().unwrap() {
        let help = ask("system.methodHelp", &json!([method]).to_string()).await;
        assert!(help["result"].is_string(), "{method}: {help}");
        let signature = ask("system.methodSignature", &json!([method]).to_string()).await;
        assert!(signature["result"][0][0].is_string(), "{method}: {signature}");
    }
    assert_eq!(ask("system.methodHelp", r#"["none"]"#).await["error"]["code"], -32602);
    assert_eq!(ask("system.methodHelp", "{}").await["error"]["code"], -32602);
    assert!(ask("system.getCapabilities", "[]").await["result"]["xmlrpc"].is_object());
    assert_eq!(ask("rpc.discover", "[]").await["result"]["openrpc"], "1.3.2");
    assert_eq!(ask("subscribe", "[{}]").await["error"]["code"], -32601);
}

#[tokio::test]
async fn rest_takes_both_forms() {
    let running = start().await;
    let rest = async |body: &str| running.post("/rest", Some(&admin()), body).await;
    let kwargs = r#"{"params":{},"dry_run":false,"volatile":false}"#;
    let got =
        rest(&format!(r#"{{"method":"job_start","job":"node_list","params":{kwargs}}}"#)).await;
    let kwargs: Value = serde_json::from_str(kwargs).unwrap();
    assert_eq!(got.json()["method"], "job_start");
    assert_eq!(got.json()["params"], json!(["node_list", kwargs]));
    let got = rest(r#"{"method":"job_result","params":{"job_id":"11.3"}}"#).await;
    assert_eq!(got.json()["params"], json!({"id": "11.3"}));
    let got = rest(r#"{"method":"none"}"#).await;
    assert_eq!(got.status, 200);
    assert_eq!(got.json()["error"]["data"]["name"], "unknown_method");
    assert_eq!(rest("{").await.json()["error"]["code"], -32700);

    let form_2 = |method: &str, params: &str| call("\"x\"", method, params);
    let got = rest(&form_2("node_list", "{}")).await.json();
    let expected = json!({"method": "job_exec", "params": ["node_list", {"params": {}}],
        "user": "admin"});
    assert_eq!(got, json!({"jsonrpc": "2.0", "id": "x", "result": expected}));
    let got = rest(&form_2("node_list", r#"{"params":{"a":1},"volatile":true}"#)).await.json();
    let kwargs = json!({"params": {"a": 1}, "volatile": true});
    assert_eq!(got["result"]["params"], json!(["node_list", kwargs]));
    let got = rest(&form_2("job_list", "[]")).await.json();
    assert_eq!(got["result"], json!(["node_list"]));
    let got = rest(&form_2("node_lost", "{}")).await.json();
    assert_eq!((&got["error"]["code"], &got["id"]), (&json!(-32001), &json!("x")));
}

#[tokio::test]
async fn the_record_keeps_the_request_without_its_secrets() {
    let running = start().await;
    let body = call("1", "echo", "[]");
    let request = format!(
        "POST /rpc2?secret=1 HTTP/1.1\r\nHost: 127.0.0.1:20003\r\nAuthorization: {}\r\n\
         User-Agent: {}\r\nCookie: secret\r\nX-Request-Id: a\tb\r\n\
         Content-Length: {}\r\n\r\n{body}",
        admin(),
        "x".repeat(300),
        body.len()
    );
    assert_eq!(running.send(&request).await.status, 200);
    let facts = running.double.facts.lock().unwrap().clone();
    assert_eq!(facts["protocol"], "json-rpc");
    assert_eq!(facts["path"], "/rpc2");
    assert_eq!(facts["tls"]["version"], "TLSv1.3");
    assert!(facts["tls"]["cipher"].as_str().unwrap().starts_with("TLS_"), "{facts}");
    assert!(facts["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(facts["bytes"], body.len());
    assert_eq!(facts["user_agent"].as_str().unwrap().len(), 256);
    assert_eq!(facts["headers"]["authorization"], "Basic admin");
    assert_eq!(facts["headers"]["x-request-id"], "ab");
    assert_eq!(facts["headers"]["host"], "127.0.0.1:20003");
    assert!(!facts.to_string().contains("secret"), "{facts}");
    let got = running.post("/", Some("Bearer tb1.good"), &body).await;
    assert_eq!(got.status, 200);
    let facts = running.double.facts.lock().unwrap().clone();
    assert_eq!(facts["headers"]["authorization"], "Bearer bob");
}
