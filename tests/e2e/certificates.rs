//! Certificates: one that is replaced while a connection is open, and those of clients.

use super::draining::eventually;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tiebeam_tests::tls::Certificate;
use tiebeam_tests::{Login, Options, TestNode, Wire};

/// An authority of the test's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// The cluster's own, by its key file: what an operator has who makes certificates for users.
    fn of(node: &TestNode) -> Authority {
        let pem = tiebeam_tests::node::read(&node.ca_file);
        let key = tiebeam_tests::node::read(&node.data.join("keys/ca.key"));
        let key = KeyPair::from_pem(&key).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(&pem, key).expect("an authority");
        Authority { issuer, pem }
    }

    /// A certificate and its key, PEM.
    fn issue(&self, common_name: &str, names: Vec<SanType>) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// One for the node's address.
    fn for_node(&self, node: &TestNode) -> (String, String) {
        self.issue("node", vec![SanType::IpAddress(node.address.ip())])
    }
}

fn verify_mode(node: &TestNode, mode: &str) {
    let changes = json!({"changes": {"ssl": {"cert_verify": mode}}});
    assert_eq!(node.exec("general_settings", changes)["result_code"], 0, "{mode}");
}

/// `user_state` with a client certificate and no other login; `None` if TLS refused.
fn who(node: &TestNode, certificate: Option<Certificate>, login: &Login) -> Option<(u16, Value)> {
    let mut wire = Wire::tls(node.address, &node.ca_file, certificate).ok()?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_state"}).to_string();
    // With TLS 1.3 the refusal of a certificate arrives after the client's handshake.
    let reply = wire.request("POST", "/", login, &[], body.as_bytes()).ok()?;
    let state = if reply.status == 200 { reply.json()["result"].clone() } else { Value::Null };
    Some((reply.status, state))
}

#[test]
fn a_certificate_is_replaced_without_dropping_a_connection() {
    let mut node = TestNode::start(Options::default());
    let mut old = node.connect();
    let admin = node.admin();
    old.call(&admin, "job_list", json!([])).expect("a list");
    let authority = Authority::new();
    let (cert, key) = authority.for_node(&node);
    let done = node.exec("cert_update", json!({"cert": cert, "key": key, "ca": authority.pem}));
    assert_eq!(done["result_code"], 0, "{done}");
    let new_ca = node.folder.join("new-ca.pem");
    std::fs::write(&new_ca, &authority.pem).expect("a file");
    let mut new = eventually("new connections see the new certificate", || {
        Wire::tls(node.address, &new_ca, None).ok()
    });
    assert_ne!(new.shown, old.shown);
    new.call(&admin, "job_list", json!([])).expect("a list");
    old.call(&admin, "job_list", json!([])).expect("the old connection goes on");
    assert!(Wire::tls(node.address, &node.ca_file, None).is_err(), "the old one is not shown");

    let facts = new.call(&admin, "job_exec", json!(["cert_info"])).expect("facts").to_string();
    assert!(facts.contains("authority of a test"), "{facts}");
    let get = json!(["config_get", {"params": {}}]);
    let file = json!([done["result_jobid"]]);
    let shown = [
        facts,
        new.call(&admin, "job_exec", get).expect("the configuration").to_string(),
        new.call(&admin, "job_file", file).expect("a job file").to_string(),
        tiebeam_tests::node::read(&node.data.join("config/cluster.yaml")),
    ];
    for text in shown {
        assert!(!text.contains("PRIVATE KEY"), "the key is shown: {text}");
    }
    node.kill9();
    node.run();
    Wire::tls(node.address, &new_ca, None).expect("the new one after a restart");
}

#[test]
fn a_certificate_that_would_lock_clients_out_is_refused() {
    let node = TestNode::start(Options::default());
    let shown = node.connect().shown;
    let authority = Authority::new();
    let (cert, key) = authority.for_node(&node);
    let (_, other_key) = authority.for_node(&node);
    let (elsewhere, elsewhere_key) =
        authority.issue("x", vec![SanType::IpAddress([10, 0, 0, 1].into())]);
    for (offer, word) in [
        (json!({"cert": cert, "key": other_key, "ca": authority.pem}), "key"),
        (json!({"cert": cert, "key": "nonsense", "ca": authority.pem}), "key"),
        (json!({"cert": "nonsense", "key": key, "ca": authority.pem}), "cert"),
        (json!({"cert": cert, "key": key}), "cert"),
        (json!({"cert": elsewhere, "key": elsewhere_key, "ca": authority.pem}), "cover"),
    ] {
        let end = node.exec("cert_update", offer);
        assert_eq!(end["result_name"], "FAILED", "{end}");
        let text = end["result_desc"].as_str().expect("a text");
        assert!(text.contains(word) && !text.contains("PRIVATE"), "{text}");
    }
    assert_eq!(node.connect().shown, shown, "the former one is served");
    assert_eq!(node.output("cluster_info", json!({}))["revision"], 1);
}

#[test]
fn client_certificates_log_in_are_optional_or_required() {
    let node = TestNode::start(Options::default());
    node.user("alice", 1201, "exausers");
    let cluster = node.output("cluster_info", json!({}))["id"].as_str().expect("an id").to_owned();
    let authority = Authority::of(&node);
    let uri = |text: String| vec![SanType::URI(text.try_into().expect("a URI"))];
    let by_uri = authority.issue("any", uri(format!("tiebeam://{cluster}/user/alice")));
    let by_name = authority.issue("alice", Vec::new());
    let nobody = authority.issue("nobody_here", Vec::new());
    let other_cluster = authority.issue("alice", uri("tiebeam://0000/user/alice".to_owned()));
    let foreign = Authority::new().issue("alice", Vec::new());
    let own = |name: &str| tiebeam_tests::node::read(&node.data.join("keys").join(name));
    let of_node = (own("node.crt"), own("node.key"));
    let with = |(chain, key): &(String, String), login: &Login| {
        who(&node, Some(Certificate { chain, key }), login)
    };

    // none: nobody is asked, so a certificate is no login.
    assert_eq!(with(&by_uri, &Login::None).map(|(status, _)| status), Some(401));

    verify_mode(&node, "optional");
    let state = eventually("certificates are asked for", || {
        with(&by_uri, &Login::None).filter(|(status, _)| *status == 200)
    });
    assert_eq!((&state.1["user"], &state.1["via"]), (&json!("alice"), &json!("certificate")));
    assert_eq!(with(&by_name, &Login::None).expect("an answer").1["user"], "alice");
    assert_eq!(who(&node, None, &node.admin()).expect("an answer").1["user"], "admin");
    assert_eq!(who(&node, None, &Login::None).expect("an answer").0, 401);
    for (what, pair) in [("a stranger", &nobody), ("another cluster", &other_cluster)] {
        assert_eq!(with(pair, &Login::None).map(|(status, _)| status), Some(401), "{what}");
    }
    let status = with(&of_node, &Login::None).map(|(status, _)| status);
    assert_eq!(status, Some(401), "a node's certificate logs no user in");
    assert_eq!(with(&foreign, &node.admin()), None, "of an unknown authority");

    verify_mode(&node, "required");
    eventually("certificates are required", || {
        who(&node, None, &node.admin()).is_none().then_some(())
    });
    assert_eq!(with(&by_uri, &Login::None).expect("an answer").1["user"], "alice");
    let basic = with(&nobody, &node.admin()).expect("an answer");
    assert_eq!(basic.1["user"], "admin", "a certificate beside a login");

    // Whoever locked everybody out goes back by the unix socket.
    let mut socket = Wire::unix(&node.socket()).expect("a connection");
    let back = json!({"params": {"changes": {"ssl": {"cert_verify": "none"}}}});
    let done = socket.call(&node.admin(), "job_exec", json!(["general_settings", back]));
    let done = done.expect("a result");
    assert_eq!(done["result_code"], 0, "{done}");
    eventually("nobody is asked", || {
        who(&node, None, &node.admin()).filter(|(status, _)| *status == 200)
    });
}
