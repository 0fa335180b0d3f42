//! The last two administrators delete each other at once: one survives, and still can log in.

use serde_json::json;
use tiebeam_tests::{Login, Options, TestNode};

/// Races; each has its own two administrators.
const ROUNDS: u32 = 12;

#[test]
fn of_two_administrators_who_delete_each_other_one_survives() {
    let node = TestNode::start(Options::default());
    let mut survivor = ("admin".to_owned(), node.admin());
    for round in 0..ROUNDS {
        let name = format!("admin_{round}");
        let password = format!("{name}-has-a-password");
        let rival = json!({"username": name, "userid": 2000 + round, "group": "exaadm",
                           "password": password});
        assert_eq!(node.exec_as(&survivor.1, "user_create", rival)["result_code"], 0);
        let both = [survivor.clone(), (name.clone(), Login::basic(&name, &password))];
        let ends = std::thread::scope(|scope| {
            let race = [0, 1].map(|me| {
                let (both, node) = (&both, &node);
                scope.spawn(move || {
                    let params = json!({"params": {"username": both[1 - me].0}});
                    let mut wire = node.connect();
                    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec",
                                      "params": ["user_delete", params]});
                    let body = body.to_string();
                    wire.request("POST", "/", &both[me].1, &[], body.as_bytes()).expect("an answer")
                })
            });
            race.map(|racer| racer.join().expect("no panic"))
        });
        let won = ends
            .iter()
            .filter(|reply| reply.status == 200 && reply.json()["result"]["result_code"] == 0);
        assert_eq!(won.count(), 1, "round {round}: {:?}", ends.each_ref().map(|r| r.text()));
        let alive: Vec<_> = both
            .iter()
            .filter(|(_, login)| {
                let mut wire = node.connect();
                let reply =
                    wire.request("POST", "/rest", login, &[], b"{\"method\":\"user_state\"}");
                reply.expect("an answer").status == 200
            })
            .collect();
        assert_eq!(alive.len(), 1, "round {round}");
        survivor = alive[0].clone();
    }
    // The one who is left cannot go, be locked out, stripped, or lose the password.
    let (name, login) = survivor;
    for (job, params) in [
        ("user_delete", json!({"username": name})),
        ("user_modify", json!({"username": name, "login_enabled": false})),
        ("user_modify", json!({"username": name, "group": "exausers"})),
    ] {
        let end = node.exec_as(&login, job, params);
        assert_ne!(end["result_code"], 0, "{job}: {end}");
    }
    assert_eq!(node.exec_as(&login, "node_list", json!({}))["result_code"], 0);
}
