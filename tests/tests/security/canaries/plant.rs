//! Planting: one secret of its own for every place where a client can put one.

use super::REASON;
use serde_json::{Value, json};
use tiebeam_proto::time::Time;
use tiebeam_tests::{Login, Reply, TestNode};
use tiebeamd::ca::{self, Authority};
use tiebeamd::identity::Identity;
use tiebeamd::keys::Keys;
use tiebeamd::secret::Secret;

/// What was planted, and what came back.
pub(super) struct Planted {
    /// Where it was planted, and the text to look for.
    pub(super) secrets: Vec<(&'static str, String)>,
    /// Answers in which no secret belongs: all but those that give one out.
    pub(super) answers: Vec<(String, Vec<u8>)>,
}

/// A text that is nowhere else.
fn canary(place: &str) -> String {
    format!("canary-{place}-{:x}", super::super::people::now_us())
}

impl Planted {
    /// Plants everything.
    pub(super) fn plant(node: &TestNode) -> Planted {
        let mut planted = Planted { secrets: Vec::new(), answers: Vec::new() };
        planted.secrets.push(("the password of admin", node.password.clone()));
        planted.passwords(node);
        planted.commands(node);
        planted.wrong_places(node);
        planted.heads(node);
        planted.configuration(node);
        planted.certificate(node);
        planted.logins(node);
        planted
    }

    fn secret(&mut self, place: &'static str) -> String {
        let text = canary(&place.replace(' ', "-"));
        self.secrets.push((place, text.clone()));
        text
    }

    fn keep(&mut self, name: &str, reply: &Reply) {
        self.answers.push((name.to_owned(), reply.body.clone()));
    }

    /// A call of `admin` whose answer must not repeat anything.
    fn call(&mut self, node: &TestNode, name: &str, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let reply =
            node.connect().request("POST", "/", &node.admin(), &[], body.to_string().as_bytes());
        let reply = reply.expect("an answer");
        self.keep(name, &reply);
        reply.json()
    }

    fn job(&mut self, node: &TestNode, job: &str, params: Value) -> Value {
        let call = json!([job, {"params": params, "reason": REASON}]);
        self.call(node, job, "job_exec", call)
    }

    fn passwords(&mut self, node: &TestNode) {
        let user = |password: String, id: u32| {
            json!({"username": "canary_user", "userid": id, "group": "exausers",
                   "password": password})
        };
        let password = self.secret("password");
        let made = self.job(node, "user_create", user(password.clone(), 3001));
        assert_eq!(made["result"]["result_code"], 0, "{made}");
        let password = self.secret("password of a failing job");
        let failed = self.job(node, "user_create", user(password, 3002));
        assert_eq!(failed["result"]["result_code"], 1, "{failed}");
        let password = self.secret("new password");
        let changed =
            self.job(node, "user_passwd", json!({"username": "canary_user", "password": password}));
        assert_eq!(changed["result"]["result_code"], 0, "{changed}");
        // One made here is given out once, to its caller, and to nobody by a record.
        let params = json!({"username": "canary_later", "userid": 3003, "group": "exausers"});
        let made = node.output("user_create", params);
        let one_time = made["one_time_secret"].as_str().expect("a secret").to_owned();
        self.secrets.push(("one-time secret", one_time));
    }

    fn commands(&mut self, node: &TestNode) {
        for (program, code) in [("/bin/true", 0), ("/bin/false", 1), ("/bin/not-allowed", 1)] {
            let (stdin, env) = (self.secret("stdin"), self.secret("env"));
            let params = json!({"argv": [program], "stdin": stdin, "env": {"CANARY": env}});
            let ran = self.job(node, "command_run", params);
            assert_eq!(ran["result"]["result_code"], code, "{program}: {ran}");
        }
    }

    /// Values where none or another belongs.
    fn wrong_places(&mut self, node: &TestNode) {
        let value = self.secret("unknown parameter");
        self.job(node, "node_list", json!({"password": value}));
        let value = self.secret("wrong type");
        self.job(node, "config_wait", json!({"revision": value}));
        let value = self.secret("wrong type in a list");
        self.job(node, "command_run", json!({"argv": [["/bin/true", value]]}));
        let value = self.secret("a password of the wrong type");
        let params =
            json!({"username": "x", "userid": 1, "group": "exausers", "password": [value]});
        self.job(node, "user_create", params);
        let value = self.secret("stdin of the wrong type");
        self.job(node, "command_run", json!({"argv": ["/bin/true"], "stdin": {"a": value}}));
        let value = self.secret("env of the wrong type");
        self.job(node, "command_run", json!({"argv": ["/bin/true"], "env": {"A": [value]}}));
        let value = self.secret("a wrong kwarg");
        self.call(node, "kwarg", "job_exec", json!(["node_list", {"dry_run": value}]));
        let value = self.secret("an unknown kwarg");
        self.call(node, "kwarg", "job_exec", json!(["node_list", {"password": value}]));
        let value = self.secret("a wrong argument");
        self.call(node, "argument", "job_wait", json!(["11.1", value]));
        let value = self.secret("an unknown argument");
        self.call(node, "argument", "job_wait", json!({"password": value}));
        let value = self.secret("a wrong filter");
        self.call(node, "filter", "job_history", json!([{"limit": value}]));
        let value = self.secret("malformed json");
        let body = format!("{{\"jsonrpc\": \"2.0\", \"password\": \"{value}\", ]");
        let reply = node.connect().request("POST", "/", &node.admin(), &[], body.as_bytes());
        self.keep("malformed JSON", &reply.expect("an answer"));
        let value = self.secret("malformed xml");
        let body = format!("<methodCall><methodName>x</methodName><{value}></methodCall>");
        let reply = node.connect().request("POST", "/", &node.admin(), &[], body.as_bytes());
        // The error may name the element; it is the caller's own, and is kept nowhere.
        reply.expect("an answer");
        // The names of what is not there come back to who asked, shortened, and go nowhere else.
        for (place, method, params) in [
            ("job name", "job_exec", json!([self.secret("job name")])),
            ("job id", "job_info", json!([self.secret("job id")])),
        ] {
            let answer = node.call(&node.admin(), method, params);
            assert!(answer.is_err(), "{place}");
        }
        let method = self.secret("method name");
        assert!(node.call(&node.admin(), &method, json!([])).is_err());
    }

    fn heads(&mut self, node: &TestNode) {
        let (foreign, cookie) = (self.secret("a header"), self.secret("a cookie"));
        let (query, beyond) = (self.secret("a query"), self.secret("beyond 256 bytes"));
        let agent = format!("{}{beyond}", "a".repeat(256));
        let headers = [
            ("X-Foo", foreign.as_str()),
            ("Cookie", cookie.as_str()),
            ("User-Agent", agent.as_str()),
        ];
        let call =
            json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec", "params": ["node_list"]});
        let path = format!("/rpc2?token={query}");
        let reply = node.connect().request(
            "POST",
            &path,
            &node.admin(),
            &headers,
            call.to_string().as_bytes(),
        );
        let reply = reply.expect("an answer");
        assert_eq!(reply.json()["result"]["result_code"], 0, "{}", reply.text());
        self.keep("headers", &reply);
        let path = self.secret("a path");
        let reply = node.get(&Login::None, &format!("/{path}"));
        self.keep("path", &reply);
        // A login where only its form is known: people paste passwords into the name.
        // (A name that could be a user's is kept; one that could not is not.)
        let (user, password) = (self.secret("A pasted one"), self.secret("a wrong password"));
        let reply =
            node.connect().request("POST", "/", &Login::basic(&user, &password), &[], b"{}");
        self.keep("wrong login", &reply.expect("an answer"));
        let token = format!("tb1.1.{}.x", self.secret("a forged token"));
        let reply = node.connect().request("POST", "/", &Login::Bearer(token), &[], b"{}");
        self.keep("forged token", &reply.expect("an answer"));
    }

    fn configuration(&mut self, node: &TestNode) {
        let schema = json!({"type": "object", "properties": {
            "port": {"type": "integer"}, "key": {"type": "string", "secret": true}}});
        let set = self.job(node, "config_schema_set", json!({"path": "app/web", "schema": schema}));
        assert_eq!(set["result"]["result_code"], 0, "{set}");
        let value = self.secret("a secret value");
        let set = self.job(node, "config_set", json!({"path": "app/web/key", "value": value}));
        assert_eq!(set["result"]["result_code"], 0, "{set}");
        let value = self.secret("a merged secret");
        let merge = json!({"path": "app/web", "value": {"port": 1, "key": value}});
        let set = self.job(node, "config_merge", merge);
        assert_eq!(set["result"]["result_code"], 0, "{set}");
        let value = self.secret("a secret in a map");
        let map = json!({"path": "app/web", "value": {"port": 2, "key": value}});
        let set = self.job(node, "config_set", map);
        assert_eq!(set["result"]["result_code"], 0, "{set}");
        let value = self.secret("a secret from above");
        let map = json!({"path": "app", "value": {"web": {"port": 3, "key": value}}});
        let set = self.job(node, "config_set", map);
        assert_eq!(set["result"]["result_code"], 0, "{set}");
        let value = self.secret("a secret that does not fit");
        let port = json!({"path": "app/web", "value": {"port": "none", "key": value}});
        let set = self.job(node, "config_set", port);
        assert_eq!(set["result"]["result_code"], 2, "{set}");
        let value = self.secret("a secret of a dry run");
        let params = json!({"path": "app/web/key", "value": value});
        let call = json!(["config_set", {"params": params, "dry_run": true}]);
        self.call(node, "dry run", "job_exec", call);
        let revision = set["result"]["result_revision"].as_u64().unwrap_or(3);
        self.job(node, "config_diff", json!({"from": 1}));
        self.job(node, "config_rollback", json!({"revision": revision, "path": "app/web"}));
    }

    fn certificate(&mut self, node: &TestNode) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = key.serialize_pem();
        let line = pem.lines().nth(1).expect("a line of base64").to_owned();
        self.secrets.push(("a private key", line));
        let keys = Keys::load(&node.data).expect("the node's keys");
        let authority = std::fs::read_to_string(&node.ca_file).expect("the authority");
        let authority = Authority::new(&authority, keys.ca_key.as_ref().expect("a voter has it"));
        let identity = Identity::read(&node.data).expect("the node's identity");
        let hosts = [node.address.ip().to_string()];
        let now = Time(super::super::people::now_us());
        let public = ca::public_key(&Secret::new(pem.clone())).expect("a public key");
        let cert = authority.expect("an authority").issue_node(&public, &identity, &hosts, now);
        let cert = cert.expect("a certificate");
        let update = json!({"key": pem, "cert": cert});
        let set = self.job(node, "cert_update", update);
        assert_eq!(set["result"]["result_code"], 0, "{set}");
        let other = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let line = other.lines().nth(1).expect("a line of base64").to_owned();
        self.secrets.push(("a private key that does not fit", line));
        let set = self.job(node, "cert_update", json!({"key": other, "cert": cert}));
        assert_eq!(set["result"]["result_code"], 1, "{set}");
        let value = self.secret("no private key at all");
        self.job(node, "cert_update", json!({"key": value, "cert": cert}));
    }

    fn logins(&mut self, node: &TestNode) {
        let params = json!(["admin", node.password, 3600]);
        let made = node.call(&Login::None, "user_login", params).expect("a token");
        let token = made["token"].as_str().expect("a text").to_owned();
        let mac = token.rsplit('.').next().expect("a mac").to_owned();
        self.secrets.push(("a token", token.clone()));
        self.secrets.push(("the mac of a token", mac));
        let login = Login::Bearer(token.clone());
        node.exec_as(&login, "node_list", json!({}));
        assert_eq!(node.call(&login, "user_logout", json!([token])), Ok(json!(true)));
        let value = self.secret("a password of user_login");
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_login",
                          "params": ["admin", value]});
        let reply =
            node.connect().request("POST", "/", &Login::None, &[], body.to_string().as_bytes());
        self.keep("user_login", &reply.expect("an answer"));
        let (secret, password) =
            (self.secret("a wrong one-time secret"), self.secret("its new one"));
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_init",
                          "params": ["canary_later", secret, password]});
        let reply =
            node.connect().request("POST", "/", &Login::None, &[], body.to_string().as_bytes());
        self.keep("user_init", &reply.expect("an answer"));
    }
}
