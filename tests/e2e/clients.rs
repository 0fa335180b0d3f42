//! XML-RPC clients that nobody wrote for us: Python's, and those of three more languages as Debian
//! packages them. Each runs a script of this folder against a node of its own.

use serde_json::json;
use tiebeam_tests::program::command;
use tiebeam_tests::{Options, TestNode, need, run};

/// Runs a script of this folder; it gets the node's address, the CA file and the password.
fn run_script(interpreter: &str, script: &str) -> String {
    let node = TestNode::start(Options::default());
    // Beyond 32 bit, which these clients can read but not send.
    node.output("config_set", json!({"path": "app/wide", "value": (1_i64 << 53) + 1}));
    let path = format!("{}/e2e/{script}", env!("CARGO_MANIFEST_DIR"));
    let address = node.address.to_string();
    let mut command = command(interpreter, &[&path, &address]);
    command.arg(&node.ca_file).arg(&node.password);
    let ended = run(&mut command, "");
    assert_eq!(ended.code, 0, "{script} failed:\n{}{}", ended.out, ended.err);
    print!("{}", ended.out);
    ended.out
}

#[test]
fn python_has_everything_it_needs_in_its_own_library() {
    if need("stock xmlrpc.client", &["python3", "-c", "import ssl, xmlrpc.client"]) {
        let out = run_script("python3", "stock_xmlrpc.py");
        assert_eq!(out.lines().count(), 4, "one line for each path");
    }
}

#[test]
fn perl_calls_by_rpc_xml() {
    if need("perl RPC::XML", &["perl", "-MRPC::XML::Client", "-MLWP::Protocol::https", "-e1"]) {
        run_script("perl", "stock_perl.pl");
    }
}

#[test]
fn ruby_calls_by_its_xmlrpc() {
    if need("ruby XMLRPC", &["ruby", "-rxmlrpc/client", "-e", "1"]) {
        run_script("ruby", "stock_ruby.rb");
    }
}

#[test]
fn php_calls_by_its_xmlrpc() {
    let probe = "exit(function_exists('xmlrpc_encode_request') ? 0 : 1);";
    if need("php xmlrpc", &["php", "-r", probe]) {
        run_script("php", "stock_php.php");
    }
}
