//! `tiebeamd`'s commands as scripts use them (wire.md section 10).

use serde_json::Value;
use tiebeam_tests::node::{own_place, read};
use tiebeam_tests::program::tiebeamd_command;
use tiebeam_tests::{Ended, Options, TestNode, run};

fn tiebeamd(arguments: &[&str]) -> Ended {
    run(tiebeamd_command().args(arguments), "")
}

#[test]
fn dev_runs_a_command_against_a_cluster_and_ends_with_its_status() {
    let (address, folder) = own_place();
    let data = folder.join("dev").display().to_string();
    let exec = r#"cat "$TIEBEAM_DEV" && test -s "$TIEBEAM_CA" && test -s "$TIEBEAM_PASSWORD_FILE" \
        && echo "$TIEBEAM_URL $TIEBEAM_USER" >&2 && exit 7"#;
    let listen = address.to_string();
    let options = ["dev", "--nodes", "1", "--data", &data, "--listen", &listen, "--exec", exec];
    let ended = tiebeamd(&options);
    assert_eq!(ended.code, 7, "{}{}", ended.out, ended.err);
    let url = format!("https://{address}");
    assert!(ended.err.contains(&format!("{url} admin")), "{}", ended.err);
    let dev: Value = serde_json::from_str(&read(&folder.join("dev/dev.json"))).expect("JSON");
    let node = &dev["nodes"][0];
    assert_eq!((&node["id"], &node["name"]), (&Value::from(11), &Value::from("n11")));
    assert_eq!((&node["url"], &dev["user"]), (&Value::from(url), &Value::from("admin")));
    for file in [&dev["ca"], &dev["password_file"], &node["data"]] {
        assert!(std::path::Path::new(file.as_str().expect("a path")).exists(), "{file}");
    }
    assert!(node["pid"].is_u64());
    assert!(std::net::TcpStream::connect(address).is_err(), "the cluster is stopped");
    // Once more on the same folder: the cluster that is there.
    assert_eq!(tiebeamd(&options).code, 7);
    std::fs::remove_dir_all(&folder).expect("the test's own folder");
}

#[test]
fn dev_brings_three_nodes_up_and_starts_them_again() {
    let (address, folder) = own_place();
    // A port of its own: the addresses behind this one may be those of other tests.
    let listen = format!("{}:20009", address.ip());
    let data = folder.join("dev").display().to_string();
    let options = ["dev", "--data", &data, "--listen", &listen, "--exec"];
    let dev = |exec: &str| tiebeamd(&[&options[..], &[exec]].concat());
    let url = r#"$(grep -o 'https://[^"]*' "$TIEBEAM_DEV" | tail -1)"#;
    let call = r#"{"jsonrpc": "2.0", "id": 1, "method": "job_exec", "params": ["cluster_info"]}"#;
    let ask = format!(
        r#"curl -s --location-trusted --post302 --cacert "$TIEBEAM_CA" -d '{call}' \
        -u "admin:$(cat "$TIEBEAM_PASSWORD_FILE")" "{url}/""#
    );
    for _ in 0..2 {
        let ended = dev(&ask);
        assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
        let answer = ended.out.lines().find(|line| line.starts_with('{')).expect("an answer");
        let answer: Value = serde_json::from_str(answer).expect("JSON");
        let members = &answer["result"]["result_output"]["members"];
        let voter = Value::from("voter");
        assert_eq!(members, &serde_json::json!({"11": voter, "12": voter, "13": voter}));
        let dev: Value = serde_json::from_str(&read(&folder.join("dev/dev.json"))).expect("JSON");
        assert_eq!(dev["nodes"].as_array().map(Vec::len), Some(3));
        for node in dev["nodes"].as_array().into_iter().flatten() {
            let address = node["url"].as_str().and_then(|url| url.strip_prefix("https://"));
            let address = address.expect("an address");
            assert!(std::net::TcpStream::connect(address).is_err(), "{address} is stopped");
        }
    }
    std::fs::remove_dir_all(&folder).expect("the test's own folder");
}

#[test]
fn dev_has_as_many_nodes_as_may_vote() {
    for nodes in ["0", "8"] {
        let ended = tiebeamd(&["dev", "--nodes", nodes]);
        assert!(ended.code != 0 && ended.err.contains("from 1 to 7"), "{}", ended.err);
    }
}

#[test]
fn init_destroys_nothing() {
    let (address, folder) = own_place();
    let kept = folder.join("kept");
    std::fs::write(&kept, "kept").expect("a file");
    let (data, listen) = (folder.display().to_string(), address.to_string());
    let arguments = ["init", "--node-id", "11", "--name", "n11", "--cluster", "c"];
    let place = ["--data", data.as_str(), "--listen", listen.as_str()];
    let refused = tiebeamd(&[&arguments[..], &place[..]].concat());
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("not empty"), "{}", refused.err);
    assert_eq!(read(&kept), "kept");
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1, "nothing was added");
    std::fs::remove_file(&kept).expect("the test's own file");
    let made = tiebeamd(&[&arguments[..], &place[..]].concat()).ok();
    let password = made.lines().find_map(|line| line.strip_prefix("password: "));
    assert!(password.is_some_and(|text| text.contains("shown this once")), "{made}");
    std::fs::remove_dir_all(&folder).expect("the test's own folder");
}

#[test]
fn init_wants_names_that_fit() {
    let (address, folder) = own_place();
    let (data, listen) = (folder.join("d").display().to_string(), address.to_string());
    let place = ["init", "--data", &data, "--listen", &listen];
    for wrong in [
        ["--node-id", "0", "--name", "n11", "--cluster", "c"],
        ["--node-id", "65536", "--name", "n11", "--cluster", "c"],
        ["--node-id", "11", "--name", "no name", "--cluster", "c"],
        ["--node-id", "11", "--name", "n11", "--cluster", ""],
    ] {
        let refused = tiebeamd(&[&place[..], &wrong[..]].concat());
        assert_ne!(refused.code, 0, "{wrong:?}");
        assert!(!folder.join("d").exists(), "{wrong:?}");
    }
    std::fs::remove_dir_all(&folder).expect("the test's own folder");
}

#[test]
fn an_unknown_setting_is_an_error_with_its_place() {
    let node = TestNode::init(Options::default());
    let file = node.data.join("tiebeamd.yaml");
    let before = read(&file);
    let mut lines: Vec<&str> = before.lines().collect();
    lines.push("listne: \"127.0.0.1:1\"");
    std::fs::write(&file, lines.join("\n")).expect("the settings");
    let refused = run(&mut node.run_command(), "");
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("listne"), "{}", refused.err);
    assert!(refused.err.contains(&lines.len().to_string()), "the line: {}", refused.err);
    std::fs::write(&file, before).expect("the settings");
    let by_flag = run(node.run_command().args(["--set", "nonsense=1"]), "");
    assert_ne!(by_flag.code, 0);
    assert!(by_flag.err.contains("nonsense"), "{}", by_flag.err);
    let by_variable = run(node.run_command().env("TIEBEAMD_LOG_LEVEL", "shout"), "");
    assert_ne!(by_variable.code, 0);
    assert!(by_variable.err.contains("TIEBEAMD_LOG_LEVEL"), "{}", by_variable.err);
}
