//! Three nodes of Tiebeam.

use crate::client::{Connection, Connector};
use crate::process::Process;
use crate::{Outcome, sum_up};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PASSWORD: &str = "bench-password";
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The nodes, by place 0 to 2.
pub struct Nodes {
    program: PathBuf,
    folder: PathBuf,
    processes: Vec<Process>,
    connectors: Vec<Connector>,
}

fn address(nth: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 78, 11 + nth as u8], 20003))
}

impl Nodes {
    /// Makes and starts them.
    pub async fn start(folder: &Path) -> Nodes {
        let program = std::env::current_exe().expect("a path").with_file_name("tiebeamd");
        let password = folder.join("password");
        std::fs::write(&password, PASSWORD).expect("the folder is writable");
        let mut nodes = Nodes {
            program,
            folder: folder.to_owned(),
            processes: Vec::new(),
            connectors: Vec::new(),
        };
        nodes.make(0, &["init", "--cluster", "bench", "--admin-password-file"], &password);
        nodes.add(0).await;
        for nth in 1..3 {
            let mut connection = nodes.connectors[0].connect().await;
            let made = connection.call("job_exec", json!(["node_token", {}])).await;
            let token = made["result_output"]["token"].as_str().expect("a token").to_owned();
            let file = folder.join("token");
            std::fs::write(&file, token).expect("the folder is writable");
            let master = address(0).to_string();
            nodes.make(nth, &["join", "--master", &master, "--token-file"], &file);
            nodes.add(nth).await;
        }
        nodes.wait_for_voters().await;
        nodes
    }

    fn data(&self, nth: usize) -> PathBuf {
        self.folder.join(format!("n{}", 11 + nth))
    }

    fn make(&self, nth: usize, first: &[&str], last: &Path) {
        let id = (11 + nth).to_string();
        let made = Command::new(&self.program)
            .args(first)
            .arg(last)
            .args(["--node-id", &id, "--name", &format!("n{id}")])
            .args(["--listen", &address(nth).to_string(), "--data"])
            .arg(self.data(nth))
            .output()
            .expect("tiebeamd is beside this program");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    async fn add(&mut self, nth: usize) {
        self.processes.push(self.spawn(nth));
        self.connectors.push(Connector::new(address(nth), &self.data(nth), PASSWORD));
        let begin = Instant::now();
        while self.connectors[nth].try_connect().await.is_err() {
            assert!(begin.elapsed() < PATIENCE, "node {nth} does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn spawn(&self, nth: usize) -> Process {
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--data").arg(self.data(nth)).env("RUST_LOG", "warn");
        Process::start(&mut command, &self.folder.join(format!("n{}.log", 11 + nth)))
    }

    async fn wait_for_voters(&self) {
        let begin = Instant::now();
        loop {
            let mut connection = self.leader().await.1;
            let kwargs = json!({"volatile": true});
            let info = connection.call("job_exec", json!(["cluster_info", kwargs])).await;
            let members = info["result_output"]["members"].as_object().cloned();
            if members.is_some_and(|all| all.values().filter(|m| *m == "voter").count() == 3) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the nodes do not all vote: {info}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The master's place, and a connection to it.
    pub async fn leader(&self) -> (usize, Connection) {
        let begin = Instant::now();
        loop {
            for (nth, connector) in self.connectors.iter().enumerate() {
                if let Ok(mut connection) = connector.try_connect().await
                    && connection.try_get("/is_master").await.is_ok()
                {
                    return (nth, connection);
                }
            }
            assert!(begin.elapsed() < PATIENCE, "there is no master");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connections to all of them, by place.
    pub fn connectors(&self) -> Vec<Connector> {
        self.connectors.clone()
    }

    /// kill -9 of one.
    pub fn kill(&mut self, nth: usize) {
        self.processes[nth].kill();
    }

    /// Starts one that was killed.
    pub fn restart(&mut self, nth: usize) {
        self.processes[nth] = self.spawn(nth);
    }

    /// Fills the configuration with this many lines.
    pub async fn fill(&self, lines: usize) {
        let mut connection = self.leader().await.1;
        let mut services = serde_json::Map::new();
        for line in 0..lines {
            let service =
                services.entry(format!("service{}", line / 20)).or_insert_with(|| json!({}));
            service[format!("key{}", line % 20)] =
                json!(format!("value {line} of the configuration"));
        }
        let params = json!({"path": "app/services", "value": services});
        connection.call("job_exec", json!(["config_set", {"params": params}])).await;
    }

    /// Resident memory of each, in MB.
    pub fn rss_mb(&self) -> Vec<f64> {
        self.processes.iter().map(|one| (one.rss_mb() * 10.0).round() / 10.0).collect()
    }

    /// CPU of each over ten quiet seconds, in percent of one core.
    pub async fn idle_cpu(&self) -> Vec<f64> {
        let before: Vec<u64> = self.processes.iter().map(Process::cpu_ticks).collect();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let after = self.processes.iter().map(Process::cpu_ticks);
        // 100 ticks a second: ticks over ten seconds are tenths of a percent.
        after.zip(before).map(|(after, before)| (after - before) as f64 / 10.0).collect()
    }

    /// CPU time of all of them so far, in milliseconds.
    fn cpu_ms(&self) -> u64 {
        self.processes.iter().map(Process::cpu_ms).sum()
    }

    /// Records that the master's history has not written, after at most a minute.
    pub async fn wait_for_lag(&self) -> u64 {
        let begin = Instant::now();
        loop {
            let (nth, mut connection) = self.leader().await;
            let kwargs = json!({"params": {"nid": 11 + nth}, "volatile": true});
            let info = connection.call("job_exec", json!(["node_info", kwargs])).await;
            let output = &info["result_output"];
            let lag = output["history"]["lag_records"].as_u64();
            let lag = lag.or(output["facts"]["history"]["lag_records"].as_u64()).unwrap_or(0);
            if lag == 0 || begin.elapsed() > PATIENCE {
                return lag;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Drives the master with `clients` clients.
    pub async fn run(&self, load: &str, clients: usize, length: Duration) -> Outcome {
        let connector = self.connectors[self.leader().await.0].clone();
        let mut tasks = Vec::new();
        let before = self.cpu_ms();
        for client in 0..clients {
            let (connector, load) = (connector.clone(), load.to_owned());
            tasks.push(tokio::spawn(async move {
                let mut connection = connector.connect().await;
                let (mut times, mut errors) = (Vec::new(), 0);
                let begin = Instant::now();
                while begin.elapsed() < length {
                    let body = body(&load, client, times.len());
                    let one = Instant::now();
                    let answer = connection.post(&body).await;
                    errors += usize::from(answer.windows(8).any(|part| part == b"\"error\":"));
                    times.push(one.elapsed());
                }
                (times, errors)
            }));
        }
        let mut parts = Vec::new();
        for task in tasks {
            parts.push(task.await.expect("a client runs to its end"));
        }
        let spent = self.cpu_ms() - before;
        sum_up(parts, length).with_cpu(spent)
    }
}

/// The body of a call: `config_set` of 128 bytes, or a read.
pub fn body(load: &str, client: usize, number: usize) -> String {
    if load == "volatile" {
        return "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job_exec\",\"params\":[\"config_get\",\
                {\"params\":{\"path\":\"app/bench/c0\"},\"volatile\":true}]}"
            .to_owned();
    }
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job_{load}\",\"params\":[\"config_set\",\
         {{\"params\":{{\"path\":\"app/bench/c{client}\",\"value\":\"{number:0128}\"}}}}]}}"
    )
}
