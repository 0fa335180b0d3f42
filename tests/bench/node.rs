//! The node that is measured.

use crate::client::Connector;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running node; stopped when dropped.
pub struct Subject {
    /// Its data folder.
    pub data: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    /// The password of admin.
    pub password: String,
    child: Child,
    temporary: bool,
}

impl Subject {
    /// Makes and starts a node.
    pub fn start(listen: &str, data: Option<PathBuf>, program: Option<PathBuf>) -> Subject {
        let beside = || std::env::current_exe().expect("a path").with_file_name("tiebeamd");
        let program = program.unwrap_or_else(beside);
        let temporary = data.is_none();
        let name = format!("tiebeam-bench-{}", std::process::id());
        let data = data.unwrap_or_else(|| std::env::temp_dir().join(name));
        let password_file = data.with_extension("password");
        let password = "bench-password".to_owned();
        std::fs::write(&password_file, &password).expect("the folder is writable");
        let init = Command::new(&program)
            .args(["init", "--node-id", "11", "--name", "n11", "--cluster", "bench"])
            .args(["--listen", listen, "--data"])
            .arg(&data)
            .arg("--admin-password-file")
            .arg(&password_file)
            .stdout(Stdio::null())
            .status()
            .expect("tiebeamd is beside this program");
        assert!(init.success(), "init failed");
        std::fs::remove_file(&password_file).expect("it was made here");
        let child = Command::new(&program)
            .args(["run", "--data"])
            .arg(&data)
            .env("RUST_LOG", "warn")
            .spawn()
            .expect("tiebeamd starts");
        let address = listen.parse().expect("an address with port");
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the node does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Subject { data, address, password, child, temporary }
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).expect("the node runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// Records that the history has not written.
    pub async fn lag(&self, connector: &Connector) -> u64 {
        let mut connection = connector.connect().await;
        let kwargs = json!({"params": {"nid": 11}, "volatile": true});
        let answer = connection.call("job_exec", json!(["node_info", kwargs])).await;
        let output = &answer["result_output"];
        let history = if output["history"].is_object() {
            &output["history"]
        } else {
            &output["facts"]["history"]
        };
        history["lag_records"].as_u64().unwrap_or(0)
    }

    /// Waits until nothing lags; what is left, and after how many seconds.
    pub async fn wait_for_lag(&self, connector: &Connector) -> (u64, f64) {
        let begin = Instant::now();
        loop {
            let lag = self.lag(connector).await;
            if lag == 0 || begin.elapsed() > Duration::from_secs(60) {
                return (lag, begin.elapsed().as_secs_f64());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Stopped by its own child handle; what it has not written is not needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.data);
        }
    }
}

/// Fills the configuration with this many lines.
pub async fn fill(connector: &Connector, lines: usize) {
    let mut connection = connector.connect().await;
    let mut services = serde_json::Map::new();
    for line in 0..lines {
        let service = services.entry(format!("service{}", line / 20)).or_insert_with(|| json!({}));
        service[format!("key{}", line % 20)] = json!(format!("value {line} of the configuration"));
    }
    let params = json!({"path": "app/services", "value": services});
    connection.call("job_exec", json!(["config_set", {"params": params}])).await;
}
