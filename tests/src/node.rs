//! A node as its users have it: `tiebeamd init` and `tiebeamd run`, as processes.
//!
//! Every node has a folder and a loopback address of its own, so tests run side by side. A node is
//! stopped when it is dropped: SIGTERM to its process id, then SIGKILL. The folder goes with it,
//! unless the test failed; then its path and the end of the node's log are printed.

use crate::program::{Ended, command_of, run, tiebeamd_command};
use crate::wire::{Login, Reply, Wire};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The port of every node; the addresses differ.
const PORT: u16 = 20003;
/// How long a node may take to be ready, and to end: far above what it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The password of `admin`.
const PASSWORD: &str = "correct-horse-battery";
/// Lines of the node's log that a failed test shows.
const LOG_LINES: usize = 30;

/// Counts the nodes of this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What a node is started with beyond the defaults.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Settings, as `--set KEY=VALUE` takes them.
    pub settings: Vec<(String, String)>,
    /// Environment of the daemon.
    pub environment: Vec<(String, String)>,
    /// The daemon's program, if it is not the one under test.
    pub program: Option<PathBuf>,
    /// Where it listens, if that must not be a loopback address of its own.
    pub place: Option<SocketAddr>,
}

impl Options {
    /// With one more setting.
    pub fn set(mut self, key: &str, value: &str) -> Options {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// At this address.
    pub fn at(mut self, place: SocketAddr) -> Options {
        self.place = Some(place);
        self
    }

    fn own_place(&self) -> (SocketAddr, PathBuf) {
        let (address, folder) = own_place();
        (self.place.unwrap_or(address), folder)
    }
}

/// A node of its own cluster.
pub struct TestNode {
    /// `https://ADDRESS:PORT`, without a path.
    pub url: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The cluster's CA certificate.
    pub ca_file: PathBuf,
    /// The data folder.
    pub data: PathBuf,
    /// The folder around it, for files of the test.
    pub folder: PathBuf,
    /// The password of `admin`.
    pub password: String,
    /// A file with it.
    pub password_file: PathBuf,
    options: Options,
    child: Option<Child>,
    keep: bool,
}

impl TestNode {
    /// Makes a one-node cluster and starts it; returns when it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    #[track_caller]
    pub fn start(options: Options) -> TestNode {
        let mut node = TestNode::init(options);
        node.run();
        node
    }

    /// Makes a one-node cluster that does not run yet.
    ///
    /// # Panics
    /// `tiebeamd init` fails.
    #[track_caller]
    pub fn init(options: Options) -> TestNode {
        let (address, folder) = options.own_place();
        let password_file = folder.join("password");
        std::fs::write(&password_file, format!("{PASSWORD}\n")).expect("a file in a new folder");
        let data = folder.join("data");
        let mut init = tiebeamd_command();
        init.args(["init", "--node-id", "11", "--name", "n11", "--cluster", "test"])
            .arg("--data")
            .arg(&data)
            .arg("--listen")
            .arg(address.to_string())
            .arg("--admin-password-file")
            .arg(&password_file);
        run(&mut init, "").ok();
        TestNode {
            url: format!("https://{address}"),
            address,
            ca_file: data.join("keys/ca.crt"),
            data,
            folder,
            password: PASSWORD.to_owned(),
            password_file,
            options,
            child: None,
            keep: false,
        }
    }

    /// Makes a node that joins the cluster of `master`, which is the master and runs. It does not
    /// run yet.
    ///
    /// # Panics
    /// There is no token, or `tiebeamd join` fails.
    #[track_caller]
    pub fn join(master: &TestNode, id: u32, options: Options) -> TestNode {
        let token = master.output("node_token", json!({}));
        let token = token["token"].as_str().expect("a token is a text").to_owned();
        TestNode::join_with(master, id, &token, options)
    }

    /// As [`TestNode::join`], with a token that is there already.
    ///
    /// # Panics
    /// `tiebeamd join` fails.
    #[track_caller]
    pub fn join_with(master: &TestNode, id: u32, token: &str, options: Options) -> TestNode {
        let (address, folder) = options.own_place();
        let data = folder.join("data");
        let mut join = tiebeamd_command();
        join.arg("join").arg("--data").arg(&data);
        join.args(["--node-id", &id.to_string(), "--name", &format!("n{id}")]);
        join.args(["--listen", &address.to_string(), "--master", &master.address.to_string()]);
        join.args(["--token", "-"]);
        run(&mut join, token).ok();
        TestNode {
            url: format!("https://{address}"),
            address,
            ca_file: data.join("keys/ca.crt"),
            data,
            folder,
            password: master.password.clone(),
            password_file: master.password_file.clone(),
            options,
            child: None,
            keep: false,
        }
    }

    /// Makes a one-node cluster from a backup, for whoever could log in at `like`. It does not run
    /// yet.
    ///
    /// # Panics
    /// `tiebeamd restore` fails.
    #[track_caller]
    pub fn restore(like: &TestNode, backup: &Path, id: u32, more: &[&str]) -> TestNode {
        let (address, folder) = own_place();
        let data = folder.join("data");
        let mut restore = tiebeamd_command();
        restore.arg("restore").arg("--from").arg(backup).arg("--data").arg(&data);
        restore.args(["--node-id", &id.to_string(), "--name", &format!("n{id}")]);
        restore.args(["--listen", &address.to_string()]).args(more);
        run(&mut restore, "").ok();
        TestNode {
            url: format!("https://{address}"),
            address,
            ca_file: data.join("keys/ca.crt"),
            data,
            folder,
            password: like.password.clone(),
            password_file: like.password_file.clone(),
            options: like.options.clone(),
            child: None,
            keep: false,
        }
    }

    /// Runs another program from its next start on.
    pub fn install(&mut self, program: &Path) {
        self.options.program = Some(program.to_owned());
    }

    /// Whether it was started and not stopped.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the stopped node without waiting for anything.
    ///
    /// # Panics
    /// It runs already.
    #[track_caller]
    pub fn begin(&mut self) {
        self.spawn();
    }

    /// Waits until a node that was begun is ready.
    ///
    /// # Panics
    /// It does not become ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.wait_until("ready", is_ready);
    }

    /// Starts the stopped node; returns when it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    #[track_caller]
    pub fn run(&mut self) {
        self.spawn();
        self.wait_until("ready", is_ready);
    }

    /// Starts the stopped node, which must find damage; returns when it tells so.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn run_damaged(&mut self) {
        self.spawn();
        self.wait_until("up with its damage", tells_damage);
    }

    #[track_caller]
    fn spawn(&mut self) {
        assert!(self.child.is_none(), "the node runs already");
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("a log file in the test's folder");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = self.run_command();
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.child = Some(child.expect("tiebeamd can be started"));
    }

    /// `tiebeamd run` on this node's folder, with its options.
    pub fn run_command(&self) -> Command {
        let mut command = match &self.options.program {
            Some(program) => command_of(program),
            None => tiebeamd_command(),
        };
        command.arg("run").arg("--data").arg(&self.data);
        for (key, value) in &self.options.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.envs(self.options.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    #[track_caller]
    fn wait_until(&mut self, what: &str, holds: fn(&mut Wire) -> bool) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                panic!("the node ended: {status:?}\n{}", self.log_tail());
            }
            if Wire::unix(&self.socket()).is_ok_and(|mut wire| holds(&mut wire)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the node is not {what} after {PATIENCE:?}\n{}", self.log_tail());
    }

    /// The exit status if the node has ended by itself: the code, or -1 for a signal.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(status.code().unwrap_or(-1))
    }

    /// The process id of the running node.
    ///
    /// # Panics
    /// It does not run.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// The process ids of this node's exec-shims, by the data folder in their command line.
    ///
    /// # Panics
    /// Processes cannot be listed.
    pub fn shims(&self) -> Vec<Pid> {
        let folder = self.data.display().to_string();
        let is_shim = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("exec-shim") && line.contains("--nonce") && line.contains(&folder)
        };
        let entries = std::fs::read_dir("/proc").expect("processes can be listed").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_shim).map(Pid::from_raw).collect()
    }

    /// Sends a signal to the running node.
    ///
    /// # Panics
    /// It does not run.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id is positive"));
        kill(pid, signal).expect("a child that was not waited for can be signalled");
    }

    /// SIGTERM, and the exit status.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    pub fn terminate(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.wait_for_end()
    }

    /// Waits for the node's end after a signal, and gives the exit status.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> i32 {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(code) = self.ended() {
                self.child = None;
                return code;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the node did not end within {PATIENCE:?}\n{}", self.log_tail());
    }

    /// SIGKILL: the node ends as by a crash.
    ///
    /// # Panics
    /// It does not run.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_for_end();
    }

    /// SIGTERM, an exit with 0, and a start.
    ///
    /// # Panics
    /// One of them fails.
    #[track_caller]
    pub fn restart(&mut self) {
        assert_eq!(self.terminate(), 0, "a drained node exits with 0\n{}", self.log_tail());
        self.run();
    }

    /// `tiebeamd check` on the stopped node.
    #[track_caller]
    pub fn check(&self) -> Ended {
        run(tiebeamd_command().arg("check").arg("--data").arg(&self.data), "")
    }

    /// From its next start on, the daemon has this variable in its environment; an empty value
    /// takes it away.
    pub fn surround(&mut self, name: &str, value: &str) {
        self.options.environment.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.options.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Leaves the folder behind, for whoever looks into a failure.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.data.join("tiebeam.sock")
    }

    /// The daemon's own log, of all its starts.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("tiebeamd.log")
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// The login of `admin`.
    pub fn admin(&self) -> Login {
        Login::basic("admin", &self.password)
    }

    /// A new TLS connection.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn connect(&self) -> Wire {
        Wire::tls(self.address, &self.ca_file, None)
            .unwrap_or_else(|error| panic!("no connection to {}: {error}", self.url))
    }

    /// A GET on a connection of its own.
    ///
    /// # Panics
    /// There is no answer.
    #[track_caller]
    pub fn get(&self, login: &Login, path: &str) -> Reply {
        let reply = self.connect().request("GET", path, login, &[], b"");
        reply.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// A JSON-RPC call: the result, or the error object.
    ///
    /// # Errors
    /// The error object of the answer.
    ///
    /// # Panics
    /// There is no JSON-RPC answer.
    #[track_caller]
    pub fn call(&self, login: &Login, method: &str, params: Value) -> Result<Value, Value> {
        self.connect().call(login, method, params)
    }

    /// A job with these parameters, to its end, as `admin`: the result object.
    ///
    /// # Panics
    /// There is no result object.
    #[track_caller]
    pub fn exec(&self, job: &str, params: Value) -> Value {
        self.exec_as(&self.admin(), job, params)
    }

    /// A job with these parameters, to its end: the result object.
    ///
    /// # Panics
    /// There is no result object.
    #[track_caller]
    pub fn exec_as(&self, login: &Login, job: &str, params: Value) -> Value {
        match self.call(login, "job_exec", json!([job, {"params": params}])) {
            Ok(result) => result,
            Err(error) => panic!("{job} makes no job: {error}"),
        }
    }

    /// A job that must end with `ok`: its output, null if it has none.
    ///
    /// # Panics
    /// It ends otherwise.
    #[track_caller]
    pub fn output(&self, job: &str, params: Value) -> Value {
        let result = self.exec(job, params);
        assert_eq!(result["result_code"], 0, "{job}: {result}");
        result["result_output"].clone()
    }

    /// Makes a user who may log in, and gives the login.
    ///
    /// # Panics
    /// It cannot be made.
    #[track_caller]
    pub fn user(&self, name: &str, userid: u32, group: &str) -> Login {
        let password = format!("{name}-has-a-password");
        self.output(
            "user_create",
            json!({"username": name, "userid": userid, "group": group,
                   "password": password, "login_enabled": true}),
        );
        Login::basic(name, &password)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            stop(&mut child);
        }
        if std::thread::panicking() || self.keep {
            eprintln!("the node's folder is kept: {}", self.folder.display());
            eprintln!("its log ends with:\n{}", self.log_tail());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// SIGTERM, ten seconds, SIGKILL. Never panics: it runs while a test panics.
fn stop(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn is_ready(wire: &mut Wire) -> bool {
    wire.request("GET", "/health/ready", &Login::None, &[], b"")
        .is_ok_and(|reply| reply.status == 200)
}

fn tells_damage(wire: &mut Wire) -> bool {
    wire.request("GET", "/health/live", &Login::None, &[], b"")
        .is_ok_and(|reply| reply.status == 200 && reply.json()["damage"].is_string())
}

/// A loopback address on which nobody listens, and a new folder.
///
/// # Panics
/// There is none.
pub fn own_place() -> (SocketAddr, PathBuf) {
    let process = std::process::id();
    for _ in 0..254 {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let [low, high] = [(process & 0xff) as u8, ((process >> 8) & 0x3f) as u8];
        let host = Ipv4Addr::new(127, 128 + high, low, (count % 254) as u8 + 1);
        let address = SocketAddr::from((host, PORT));
        let folder = std::env::temp_dir().join(format!("tiebeam-test-{process}-{count}"));
        if TcpListener::bind(address).is_ok() && std::fs::create_dir(&folder).is_ok() {
            return (address, folder);
        }
    }
    panic!("no free loopback address");
}

/// The text of a file below the data folder.
///
/// # Panics
/// It cannot be read.
#[track_caller]
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
