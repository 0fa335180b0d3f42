//! One call in each of the seven forms in which a client can make it, and what came of it.

use serde_json::{Value, json};
use std::io;
use std::time::{Duration, Instant};
use tiebeam_proto::xml;
use tiebeam_tests::{Login, Reply, Wire};

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// JSON-RPC, alone.
    Single,
    /// JSON-RPC, in a batch with another call.
    Batch,
    /// XML-RPC.
    Xml,
    /// Inside `system.multicall`.
    Multicall,
    /// `/rest`, the bare form.
    RestBare,
    /// `/rest`, the form with an envelope.
    RestEnveloped,
    /// A frame on `/ws`.
    WebSocket,
}

/// All of them, in the order in which the table prints them.
pub(super) const FORMS: [Form; 7] = [
    Form::Single,
    Form::Batch,
    Form::Xml,
    Form::Multicall,
    Form::RestBare,
    Form::RestEnveloped,
    Form::WebSocket,
];

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// A result.
    Result(Value),
    /// An error or fault with this code and text.
    Error(i64, String),
    /// HTTP refused it.
    Http(u16),
}

impl Outcome {
    /// The error code, 0 for a result, the status for a refusal of HTTP.
    pub(super) fn code(&self) -> i64 {
        match self {
            Outcome::Result(_) => 0,
            Outcome::Error(code, _) => *code,
            Outcome::Http(status) => i64::from(*status),
        }
    }
}

/// One connection, and one for the WebSocket once it was asked for.
pub(super) struct Lines<'a> {
    connect: Box<dyn Fn() -> io::Result<Wire> + 'a>,
    login: Login,
    plain: Option<Wire>,
    socket: Option<Wire>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(login: &Login, connect: impl Fn() -> io::Result<Wire> + 'a) -> Lines<'a> {
        Lines { connect: Box::new(connect), login: login.clone(), plain: None, socket: None }
    }

    fn plain(&mut self) -> &mut Wire {
        if self.plain.is_none() {
            self.plain = Some((self.connect)().expect("a connection"));
        }
        self.plain.as_mut().expect("it was just made")
    }

    fn post(&mut self, path: &str, body: &[u8]) -> Reply {
        let login = self.login.clone();
        self.plain().request("POST", path, &login, &[], body).expect("an answer")
    }

    /// Makes a call; again while too many logins wait to be verified, which is 503 and says
    /// nothing about the caller.
    pub(super) fn ask(&mut self, form: Form, method: &str, params: &Value) -> Outcome {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let outcome = self.ask_once(form, method, params);
            if outcome != Outcome::Http(503) || Instant::now() > until {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn ask_once(&mut self, form: Form, method: &str, params: &Value) -> Outcome {
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        match form {
            Form::Single => of_json(&self.post("/", call.to_string().as_bytes())),
            Form::Batch => {
                let other = json!({"jsonrpc": "2.0", "id": 8, "method": "system.listMethods"});
                of_batch(&self.post("/rpc2", json!([other, call]).to_string().as_bytes()))
            }
            Form::Xml => {
                let body = xml::write_call(method, &list(params));
                of_xml(&self.post("/RPC2", &body), Outcome::Result)
            }
            Form::Multicall => {
                let inner = json!([{"methodName": method, "params": params}]);
                let body = xml::write_call("system.multicall", &[inner]);
                of_xml(&self.post("/rpc", &body), of_multicall)
            }
            Form::RestBare => {
                let body = bare(method, params);
                of_bare(&self.post("/rest", body.to_string().as_bytes()))
            }
            Form::RestEnveloped => of_json(&self.post("/rest", call.to_string().as_bytes())),
            Form::WebSocket => self.ask_socket(&call),
        }
    }

    fn ask_socket(&mut self, call: &Value) -> Outcome {
        if self.socket.is_none() {
            let mut wire = (self.connect)().expect("a connection");
            let reply = wire.upgrade(&self.login).expect("an answer");
            if reply.status != 101 {
                return Outcome::Http(reply.status);
            }
            self.socket = Some(wire);
        }
        let wire = self.socket.as_mut().expect("it was just made");
        wire.send_frame(&call.to_string()).expect("an open WebSocket");
        loop {
            let text = wire.frame().expect("an answer on the WebSocket");
            let answer: Value = serde_json::from_str(&text).expect("JSON on the WebSocket");
            if answer["id"] == call["id"] {
                return of_answer(&answer);
            }
        }
    }
}

fn list(params: &Value) -> Vec<Value> {
    params.as_array().cloned().unwrap_or_default()
}

/// As ConfD's clients write it: the job beside the method.
fn bare(method: &str, params: &Value) -> Value {
    let params = list(params);
    match (method, params.as_slice()) {
        ("job_start" | "job_exec", [job, rest @ ..]) => {
            json!({"method": method, "job": job, "params": rest.first()})
        }
        _ => json!({"method": method, "params": params}),
    }
}

fn of_answer(answer: &Value) -> Outcome {
    match answer.get("error") {
        Some(error) => of_error(error),
        None => Outcome::Result(answer["result"].clone()),
    }
}

fn of_error(error: &Value) -> Outcome {
    let text = error["message"].as_str().expect("an error has a message");
    Outcome::Error(error["code"].as_i64().expect("an error has a code"), text.to_owned())
}

fn of_json(reply: &Reply) -> Outcome {
    match reply.status {
        200 => of_answer(&reply.json()),
        status => Outcome::Http(status),
    }
}

fn of_batch(reply: &Reply) -> Outcome {
    match reply.status {
        200 => {
            let answers = reply.json();
            assert_eq!(answers[0]["id"], 8, "the order of the calls");
            of_answer(&answers[1])
        }
        status => Outcome::Http(status),
    }
}

fn of_bare(reply: &Reply) -> Outcome {
    match reply.status {
        200 => match reply.json().get("error") {
            Some(error) => of_error(error),
            None => Outcome::Result(reply.json()),
        },
        status => Outcome::Http(status),
    }
}

fn of_xml(reply: &Reply, of_value: impl Fn(Value) -> Outcome) -> Outcome {
    if reply.status != 200 {
        return Outcome::Http(reply.status);
    }
    match xml::parse_response(&reply.body) {
        Ok(value) => of_value(value),
        Err(xml::ResponseError::Fault(fault)) => Outcome::Error(fault.code, fault.message),
        Err(error) => panic!("no XML-RPC: {error}: {}", reply.text()),
    }
}

fn of_multicall(value: Value) -> Outcome {
    match &value[0] {
        Value::Array(one) => Outcome::Result(one[0].clone()),
        fault => {
            let text = fault["faultString"].as_str().expect("a fault has a text");
            Outcome::Error(fault["faultCode"].as_i64().expect("a fault's code"), text.to_owned())
        }
    }
}
