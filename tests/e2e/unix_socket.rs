//! The unix socket (ruling 3): the kernel says who is calling.

use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use tiebeam_tests::program::command;
use tiebeam_tests::{Login, Options, TestNode, Wire, need, run};

/// A call over the socket, by a process that first becomes the user with this id. Prints the
/// status and the body.
const CALL: &str = r#"
import os, socket, sys
path, uid, body = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
os.setgid(uid), os.setuid(uid)
client = socket.socket(socket.AF_UNIX)
client.connect(path)
head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
client.sendall(head.encode() + body)
answer = b""
while block := client.recv(65536):
    answer += block
head, _, body = answer.partition(b"\r\n\r\n")
print(head.split()[1].decode(), body.decode())
"#;

fn call_as(node: &TestNode, uid: u32, body: &str) -> String {
    let socket = node.socket().display().to_string();
    run(&mut command("python3", &["-c", CALL, &socket, &uid.to_string(), body]), "").ok()
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

#[test]
fn the_callers_of_the_socket_are_who_the_kernel_says() {
    if !need("unix socket", &["python3", "-c", "import socket"]) {
        return;
    }
    if !is_root() {
        tiebeam_tests::need::not_run("unix socket", "it takes root to call as other users");
        return;
    }
    let node = TestNode::start(Options::default());
    let mode = std::fs::metadata(node.socket()).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut wire = Wire::unix(&node.socket()).expect("a connection");
    let state = wire.call(&Login::None, "user_state", json!([])).expect("root is user root");
    assert_eq!((&state["user"], &state["via"]), (&json!("root"), &json!("unix")), "{state}");
    let health = wire.request("GET", "/health/ready", &Login::None, &[], b"").expect("an answer");
    assert_eq!((health.status, health.json()["ready"].clone()), (200, json!(true)));

    // The modes keep others out; with the way open, the daemon still does.
    for (path, mode) in [(&node.data, 0o711), (&node.socket(), 0o666)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("root may");
    }
    let ask = r#"{"jsonrpc":"2.0","id":1,"method":"user_state"}"#;
    let stranger = call_as(&node, 65534, ask);
    assert!(stranger.starts_with("403 "), "{stranger}");
    // A cluster user with that id but another name is a stranger too; with the name it is he.
    node.user("somebody_else", 65534, "exausers");
    assert!(call_as(&node, 65534, ask).starts_with("403 "));
    node.output("user_delete", json!({"username": "somebody_else"}));
    node.user("nobody", 65534, "exausers");
    let nobody = call_as(&node, 65534, ask);
    assert!(nobody.starts_with("200 ") && nobody.contains(r#""user":"nobody""#), "{nobody}");
    node.output("user_modify", json!({"username": "nobody", "login_enabled": false}));
    assert!(call_as(&node, 65534, ask).starts_with("403 "), "who may not log in is a stranger");
}

#[test]
fn jobs_by_the_socket_name_their_process() {
    let node = TestNode::start(Options::default());
    if !is_root() {
        tiebeam_tests::need::not_run("unix socket records", "the caller is user root for uid 0");
        return;
    }
    let mut wire = Wire::unix(&node.socket()).expect("a connection");
    let done = wire.call(&Login::None, "job_exec", json!(["db_list"])).expect("a result");
    let info = wire.call(&Login::None, "job_info", json!([done["result_jobid"]])).expect("one");
    let peer = format!("unix:11:0:{}", std::process::id());
    assert_eq!((&info["user"], &info["request"]["peer"]), (&json!("root"), &json!(peer)));
}
