//! A stock client on one node that forwards and stays up, while the other nodes are cut off and
//! killed: every call returns or raises in time, and what raised is looked up afterwards.

use super::{GROUP, Site, ask};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tiebeam_tests::cluster::says_master;
use tiebeam_tests::crash::Dice;
use tiebeam_tests::need::need;
use tiebeam_tests::program::command;
use tiebeam_tests::{Options, run};

/// How long the client calls, and on how many threads.
const CALLS_FOR: Duration = Duration::from_secs(45);
/// How long there is no quorum at last.
const BOTH_AWAY: Duration = Duration::from_secs(13);
const THREADS: u32 = 6;
/// The longest a call may take, with an answer or with an error.
const LIMIT_S: f64 = 15.0;

/// Takes away one of the others at a time, the master as a rule, in turn by the network and by
/// SIGKILL; at last both of them for longer than a call waits.
fn disturb(site: &mut Site, stays: usize, until: Instant) -> String {
    let others = site.others(stays);
    let mut dice = Dice::new(11);
    let (mut cut, mut killed) = (0, 0);
    while Instant::now() < until {
        if says_master(site.node(stays)) {
            // Else nothing would be forwarded.
            let kwargs = json!({"params": {"nids": [11 + others[0], 11 + others[1]]}});
            let _ = ask(site.node(stays), "job_exec", &json!(["master_change", kwargs]));
        }
        let master = others.iter().copied().find(|other| says_master(site.node(*other)));
        let one = master.unwrap_or(others[dice.below(2) as usize]);
        if dice.below(2) == 0 {
            site.net.isolate(one);
            std::thread::sleep(dice.millis(800, 4_000));
            site.net.heal();
            cut += 1;
        } else {
            site.cluster.nodes[one].kill9();
            std::thread::sleep(dice.millis(300, 2_500));
            site.run(one);
            killed += 1;
        }
        std::thread::sleep(dice.millis(300, 1_500));
    }
    others.iter().for_each(|other| site.net.isolate(*other));
    std::thread::sleep(BOTH_AWAY);
    site.net.heal();
    format!("{cut} partitions, {killed} kills, both others away for {BOTH_AWAY:?}")
}

/// The paths of all changes in the history, with the jobs that made them.
fn history(site: &Site) -> BTreeMap<String, Vec<String>> {
    let (mut found, mut cursor) = (BTreeMap::<String, Vec<String>>::new(), Value::Null);
    let call = |method: &str, params: Value| {
        site.cluster.call(&site.cluster.admin(), method, params).expect("an answer")
    };
    loop {
        let filter = json!({"name": "config_set", "limit": 500, "cursor": cursor});
        let page = call("job_history", json!([filter]));
        for record in page["records"].as_array().into_iter().flatten() {
            let id = record["job"].as_str().expect("an id").to_owned();
            let info = call("job_info", json!([id]));
            let path = info["parameters"]["path"].as_str().expect("it has a path").to_owned();
            found.entry(path).or_default().push(id);
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return found;
        }
    }
}

#[test]
fn every_call_of_a_stock_client_returns_or_raises_in_time() {
    if !need(GROUP, &["python3", "-c", "import ssl, xmlrpc.client"]) {
        return;
    }
    let options = Options::default().set("rpc.on_follower", "forward");
    let Some(mut site) = Site::start(&options) else { return };
    let stays = site.follower();
    let node = site.node(stays);
    let path = format!("{}/e2e/stock_faults.py", env!("CARGO_MANIFEST_DIR"));
    let mut script = command("python3", &[&path, &node.address.to_string()]);
    script.arg(&node.ca_file).arg(&node.password);
    script.args([CALLS_FOR.as_secs().to_string(), THREADS.to_string()]);
    let until = Instant::now() + CALLS_FOR - BOTH_AWAY - Duration::from_secs(6);
    // The script's thread is on the clients' side as this one is.
    let calling = std::thread::spawn(move || run(&mut script, ""));
    let disturbed = disturb(&mut site, stays, until);
    let ended = calling.join().expect("the script ends");
    assert_eq!(ended.code, 0, "{}", ended.err);
    site.wait_ready();
    let calls: Vec<Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let longest = calls.iter().filter_map(|call| call["longest"].as_f64()).fold(0.0, f64::max);
    println!("{disturbed}: {} calls, the longest try took {longest:.1} s", calls.len());
    let history = history(&site);
    let wrong = classify(&calls, &history);
    assert_eq!(wrong, Vec::<String>::new());
    assert!(longest < LIMIT_S, "{longest}");
    site.compare();
}

/// Prints what became of every call that raised; gives what must not be.
fn classify(calls: &[Value], history: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let none = Vec::new();
    let mut wrong = Vec::new();
    let mut raised: BTreeMap<(String, &str), u32> = BTreeMap::new();
    let (mut keyed, mut again) = (0, 0);
    for call in calls {
        let path = call["path"].as_str().unwrap_or_default();
        let jobs = history.get(path).unwrap_or(&none);
        if jobs.len() > 1 {
            wrong.push(format!("{call} ran as {jobs:?}"));
        }
        let answered = call["job"].as_str();
        if let Some(job) = answered
            && !jobs.iter().any(|one| one == job)
        {
            wrong.push(format!("{call} is not in the history: {jobs:?}"));
        }
        if call["keyed"] == true {
            keyed += 1;
            again += u32::from(call["tries"].as_u64() > Some(1));
            continue;
        }
        if answered.is_none() {
            let error = call["errors"][0].as_str().unwrap_or_default().to_owned();
            let fate = if jobs.is_empty() { "did not happen" } else { "happened" };
            *raised.entry((error, fate)).or_default() += 1;
        }
    }
    println!("with request_id: {keyed} calls, {again} of them sent more than once");
    println!("without, raised error | in the history | calls");
    for ((error, fate), count) in &raised {
        println!("{error} | {fate} | {count}");
        let certain = ["Fault -32005", "Fault -32006", "ProtocolError 503", "ProtocolError 302"];
        if *fate == "happened" && certain.contains(&error.as_str()) {
            wrong.push(format!("{count} calls raised {error}, which says that nothing happened"));
        }
    }
    wrong
}
