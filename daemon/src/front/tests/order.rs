//! The order of checks (ruling 2), redirects, and the endpoints that are no calls.

use super::client::{Got, admin, basic, collect, start, start_with};
use crate::front::seam::Place;
use crate::front::tls::ClientCertificates;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt;

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"job_list"}"#;
const ECHO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#;

fn elsewhere() -> Place {
    Place::Master { address: "10.0.0.12:20003".to_owned() }
}

fn assert_challenges(got: &Got) {
    assert_eq!(got.status, 401, "{got:?}");
    assert_eq!(got.challenges, ["Basic realm=\"tiebeam\"", "Bearer"]);
}

#[tokio::test]
async fn without_a_good_login_there_is_401_and_nothing_is_run() {
    let running = start().await;
    for place in [Place::Here, elsewhere(), Place::NoMaster] {
        running.double.moves_to(place);
        for body in [LIST, ECHO, "{", "<methodCall>", "[]", &"x".repeat(5000)] {
            assert_challenges(&running.post("/rpc2", None, body).await);
            assert_challenges(&running.post("/rest", None, body).await);
        }
        for login in ["Basic !", "Digest x", &basic("admin", "geheim"), "Bearer tb1.bad"] {
            // A list needs no master, so its login is verified on every node.
            assert_challenges(&running.post("/rpc2", Some(login), LIST).await);
            assert_challenges(&running.post("/rpc2", Some(login), "{").await);
        }
    }
    running.double.moves_to(Place::Here);
    assert_challenges(&running.post("/", Some(&basic("admin", "geheim")), ECHO).await);
    assert!(running.double.started().is_empty());
    let got = running.get("/metrics", "Sec-Fetch-Mode: cors\r\n").await;
    assert_eq!((got.status, got.challenges), (401, vec!["Bearer".to_owned()]));
}

#[tokio::test]
async fn a_single_login_call_needs_no_login() {
    let running = start().await;
    let login = |password: &str| {
        let params = serde_json::json!(["admin", password]);
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"user_login","params":{params}}}"#)
    };
    let good = login(super::service::PASSWORD);
    let got = running.post("/", None, &good).await;
    assert_eq!(got.json()["result"]["token"], "tb1.good");
    assert_challenges(&running.post("/", None, &login("wrong")).await);
    assert_challenges(&running.post("/", None, &format!("[{good}]")).await);
    let padded = format!("{good}{}", " ".repeat(4096));
    assert_challenges(&running.post("/", None, &padded).await);
    running.double.moves_to(elsewhere());
    assert_eq!(running.post("/", None, &good).await.status, 302);
    assert_eq!(running.double.logins.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_call_for_the_master_is_redirected_with_its_login_unseen() {
    let running = start().await;
    running.double.moves_to(elsewhere());
    let wrong = basic("admin", "wrong");
    let batch = format!("[{LIST},{ECHO}]");
    for (path, body) in [("/rpc2", ECHO), ("/", batch.as_str()), ("/rest", ECHO)] {
        let got = running.post(path, Some(&wrong), body).await;
        assert_eq!((got.status, got.body.as_str()), (302, ""), "{body}");
        assert_eq!(got.headers["location"], format!("https://10.0.0.12:20003{path}"));
    }
    let inner = r#"[[{"methodName":"job_list"},{"methodName":"echo"}]]"#;
    let body =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"system.multicall","params":{inner}}}"#);
    assert_eq!(running.post("/", Some(&wrong), &body).await.status, 302);
    assert_eq!(running.double.logins.load(Ordering::Relaxed), 0);
    assert_eq!(running.post("/", Some(&admin()), LIST).await.status, 200);

    running.double.moves_to(Place::NoMaster);
    let got = running.post("/", Some(&wrong), ECHO).await;
    assert_eq!((got.status, got.headers["retry-after"].as_str()), (503, "1"));
    assert!(running.double.started().iter().all(|method| method == "job_list"));
}

#[tokio::test]
async fn a_call_that_lost_its_master_before_a_proposal_is_sent_on() {
    let running = start().await;
    let lost = ECHO.replace("echo", "lost");
    assert_eq!(running.post("/", Some(&admin()), &lost).await.status, 503);
    let got = running.post("/", Some(&admin()), &format!("[{lost},{lost}]")).await;
    assert_eq!(got.status, 503);
    // Once a member took effect, the others' errors stay inside the answer.
    let got = running.post("/", Some(&admin()), &format!("[{lost},{ECHO}]")).await;
    assert_eq!(got.json()[0]["error"]["code"], -32005);
    assert!(got.json()[1]["result"].is_object());
}

#[tokio::test]
async fn pages_of_other_origins_and_foreign_hosts_are_refused_first() {
    let running = start().await;
    let post = async |headers: &str| {
        let login = admin();
        let length = ECHO.len();
        running
            .send(&format!(
                "POST / HTTP/1.1\r\n{headers}Authorization: {login}\r\n\
                 Content-Length: {length}\r\n\r\n{ECHO}"
            ))
            .await
    };
    let host = "Host: 127.0.0.1:1\r\n";
    for bad in
        ["Origin: https://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"]
    {
        assert_eq!(post(&format!("{host}{bad}")).await.status, 403, "{bad}");
    }
    for bad in ["Host: evil.example\r\n", "Host: 127.0.0.1.evil.example\r\n", "Host: \r\n"] {
        assert_eq!(post(bad).await.status, 403, "{bad}");
    }
    assert!(running.double.started().is_empty());
    let got = post(&format!("{host}Origin: https://console.example\r\n")).await;
    assert_eq!(got.headers["access-control-allow-origin"], "https://console.example");
    assert_eq!(post("Host: N11:20003\r\nSec-Fetch-Site: none\r\n").await.status, 200);
    let request = "OPTIONS /rpc2 HTTP/1.1\r\nHost: n11\r\nOrigin: https://console.example\r\n\
        Access-Control-Request-Method: POST\r\n\r\n";
    let got = running.send(request).await;
    assert_eq!(got.headers["access-control-allow-headers"], "authorization, content-type");
}

#[tokio::test]
async fn the_probes_answer_without_a_login() {
    let running = start().await;
    let word = async |path: &str| {
        let got = running.get(path, "").await;
        (got.status, got.body)
    };
    assert_eq!(word("/master").await, (200, "127.0.0.11".to_owned()));
    assert_eq!(word("/master?info_type=name").await, (200, "n11".to_owned()));
    assert_eq!(word("/is_master").await, (200, "true".to_owned()));
    assert_eq!(word("/health/live").await, (200, r#"{"live":true}"#.to_owned()));
    assert_eq!(word("/health/ready").await.0, 200);
    running.double.moves_to(Place::NoMaster);
    let got = running.get("/master", "").await;
    assert_eq!((got.status, got.headers["retry-after"].as_str()), (503, "1"));
    assert_eq!(word("/is_master").await, (503, "false".to_owned()));
    assert_eq!(word("/health/ready").await.0, 503);
    assert_eq!(word("/nothing").await.0, 404);
    let got = running.get("/rpc2", "").await;
    assert_eq!((got.status, got.headers["allow"].as_str()), (405, "POST"));
    let got = running.post("/master", None, "x").await;
    assert_eq!((got.status, got.headers["allow"].as_str()), (405, "GET, HEAD"));
}

#[tokio::test]
async fn metrics_are_for_those_who_may() {
    let running = start().await;
    assert_eq!(running.get("/metrics", "").await.status, 401);
    let with =
        async |login: &str| running.get("/metrics", &format!("Authorization: {login}\r\n")).await;
    assert!(with(&admin()).await.body.contains("jobs_total 1\n"));
    assert_eq!(with("Bearer tb1.good").await.status, 403);
    assert_eq!(with("Bearer tb1.bad").await.status, 401);

    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    running.front.serve_metrics(plain);
    for (path, status) in [("/metrics", 200), ("/rpc2", 404), ("/health/live", 404)] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(super::client::read_answer(&mut stream).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn early_answers_over_http_2_come_after_the_body() {
    let running = start().await;
    let mut sender = running.h2().await;
    let big = vec![b' '; (1 << 20) + 1];
    for (login, body, expected) in [
        (Some(admin()), big.clone(), 413),
        (None, big, 401),
        (None, vec![b' '; 200_000], 401),
        (Some(basic("admin", "wrong")), ECHO.as_bytes().to_vec(), 401),
        (Some(admin()), ECHO.as_bytes().to_vec(), 200),
    ] {
        let request = running.h2_post("/rpc2", login.as_deref(), body);
        let (status, _body) = collect(sender.send_request(request).await.unwrap()).await;
        assert_eq!(status, expected);
    }
}

#[tokio::test]
async fn a_client_certificate_logs_in_where_it_is_asked_for() {
    let running = start_with(ClientCertificates::Optional).await;
    let uri = "tiebeam://c/user/carol";
    let ask = async |identity, login: &str| {
        let mut stream = running.tls_stream("http/1.1", identity).await;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n{login}Content-Length: {}\r\n\r\n{ECHO}",
            ECHO.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        super::client::read_answer(&mut stream).await
    };
    let carol = || Some(running.authority.issue("carol", Some(uri)));
    assert_eq!(ask(carol(), "").await.json()["result"]["user"], "carol");
    let facts = running.double.facts.lock().unwrap().clone();
    let subject = facts["tls"]["client_certificate"].as_str().unwrap();
    assert!(subject.contains("CN=carol"), "{subject}");
    // A header is the stronger statement of intent.
    let header = format!("Authorization: {}\r\n", admin());
    assert_eq!(ask(carol(), &header).await.json()["result"]["user"], "admin");
    let node = Some(running.authority.issue("n12", Some("tiebeam://c/node/12/1")));
    assert_challenges(&ask(node, "").await);
    assert_challenges(&ask(None, "").await);

    let stranger = super::client::Authority::new().issue("carol", Some(uri));
    let mut refused = running.tls_stream("http/1.1", Some(stranger)).await;
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut refused, &mut byte).await;
    assert!(read.is_err(), "{read:?}");
}
