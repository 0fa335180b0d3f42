//! The loads: closed loops of clients, each with a connection of its own.

use crate::client::Connector;
use std::time::{Duration, Instant};

/// What a client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// `job_start config_set`: durable and applied.
    Start,
    /// `job_exec config_set`: committed.
    Exec,
    /// `job_exec node_list`, with its record.
    Read,
    /// `job_exec node_list`, volatile.
    Volatile,
}

/// What came of it.
pub struct Outcome {
    /// Calls per second, all clients together.
    pub per_second: f64,
    /// Median in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
    /// Syncs of the raft log per call.
    pub syncs_per_job: f64,
    /// Answers with an error.
    pub errors: usize,
}

impl Load {
    /// The load of this name.
    pub fn parse(name: &str) -> Load {
        match name {
            "start" => Load::Start,
            "exec" => Load::Exec,
            "read" => Load::Read,
            "volatile" => Load::Volatile,
            other => panic!("there is no load {other}: start, exec, read, volatile"),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Load::Start => "start",
            Load::Exec => "exec",
            Load::Read => "read",
            Load::Volatile => "volatile",
        }
    }

    fn body(self, client: usize, number: usize) -> String {
        let call = |method: &str, job: &str, kwargs: String| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\
                 \"params\":[\"{job}\",{kwargs}]}}"
            )
        };
        let set = || {
            let value = format!("{number:0128}");
            format!("{{\"params\":{{\"path\":\"app/bench/c{client}\",\"value\":\"{value}\"}}}}")
        };
        match self {
            Load::Start => call("job_start", "config_set", set()),
            Load::Exec => call("job_exec", "config_set", set()),
            Load::Read => call("job_exec", "node_list", "{}".to_owned()),
            Load::Volatile => call("job_exec", "node_list", "{\"volatile\":true}".to_owned()),
        }
    }
}

/// Drives `clients` clients for this long.
pub async fn run(connector: &Connector, load: Load, clients: usize, length: Duration) -> Outcome {
    let syncs = syncs(connector).await;
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let connector = connector.clone();
        tasks.push(tokio::spawn(async move {
            let mut connection = connector.connect().await;
            let (mut times, mut errors) = (Vec::new(), 0);
            let begin = Instant::now();
            while begin.elapsed() < length {
                let body = load.body(client, times.len());
                let one = Instant::now();
                let answer = connection.post(&body).await;
                errors += usize::from(answer.windows(8).any(|part| part == b"\"error\":"));
                times.push(one.elapsed());
            }
            (times, errors)
        }));
    }
    let (mut times, mut errors) = (Vec::new(), 0);
    for task in tasks {
        let (more, wrong) = task.await.expect("a client runs to its end");
        times.extend(more);
        errors += wrong;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let syncs = self::syncs(connector).await - syncs;
    times.sort();
    let at = |share: f64| {
        let place = ((times.len() as f64 * share) as usize).min(times.len() - 1);
        times[place].as_secs_f64() * 1e3
    };
    Outcome {
        per_second: times.len() as f64 / seconds,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        syncs_per_job: syncs / times.len() as f64,
        errors,
    }
}

/// The counter of the raft log's syncs.
async fn syncs(connector: &Connector) -> f64 {
    let mut connection = connector.connect().await;
    let text = connection.try_get("/metrics").await.expect("the node answers");
    let line = text.lines().find_map(|line| line.strip_prefix("tiebeam_log_syncs_total "));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}
