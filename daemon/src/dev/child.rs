//! The nodes of `dev` as processes: started, watched, stopped by process id.

use super::{DevError, LOOK_EVERY, io};
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to be ready.
const READY_WAIT: Duration = Duration::from_secs(30);
/// How long a node may take to stop by itself.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// A node that runs; stopped when it is dropped, so that an error leaves nothing behind.
pub struct Running {
    /// Its id.
    pub id: u32,
    /// Its process.
    pub child: Child,
    /// Its data folder.
    pub data: PathBuf,
    /// `host:port`.
    pub address: String,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        stop_all(std::slice::from_mut(self));
    }
}

/// This program.
pub fn program() -> Result<Command, DevError> {
    std::env::current_exe().map(Command::new).map_err(io("find this program"))
}

/// Runs a command that reads one line; whether it succeeded.
pub fn run_with_input(mut command: Command, line: &str) -> Result<bool, DevError> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(io("start tiebeamd join"))?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "{line}").map_err(io("hand the token over"))?;
    }
    let status = child.wait().map_err(io("wait for tiebeamd join"))?;
    Ok(status.success())
}

impl Running {
    /// Starts a node whose folder is made.
    pub fn start(
        id: u32,
        data: PathBuf,
        address: String,
        log: PathBuf,
    ) -> Result<Running, DevError> {
        let file = std::fs::File::create(&log).map_err(io(format!("write {}", log.display())))?;
        let errors = file.try_clone().map_err(io("share the log file"))?;
        let child = program()?
            .arg("run")
            .arg("--data")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(io("start tiebeamd run"))?;
        Ok(Running { id, child, data, address, log })
    }

    /// Its address as clients write it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Asks the unix socket for `/health/ready` until it says yes.
    pub fn wait_until_ready(&mut self) -> Result<(), DevError> {
        let until = Instant::now() + READY_WAIT;
        let socket = self.data.join(crate::node::SOCKET);
        while Instant::now() < until {
            if crate::node::is_ready(&socket) {
                return Ok(());
            }
            if self.has_ended()?.is_some() {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(DevError::NotReady(self.log.clone()))
    }

    fn has_ended(&mut self) -> Result<Option<std::process::ExitStatus>, DevError> {
        self.child.try_wait().map_err(io("watch a node"))
    }
}

/// Waits for Ctrl-C, SIGTERM, or the end of all nodes: a cluster outlives one of them, and whoever
/// tries it out kills one. The end of standard input is no end: the cluster may have been started
/// in the background.
pub fn wait_for_end(nodes: &mut [Running]) -> Result<ExitCode, DevError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io("start a runtime"))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(io("follow SIGTERM"))?;
        let mut ended = BTreeSet::new();
        while ended.len() < nodes.len() {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
                _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
            for node in nodes.iter_mut() {
                if let Some(status) = node.has_ended()?
                    && ended.insert(node.id)
                {
                    println!("node {} ended: {status}; its last words:", node.id);
                    print_last_words(&node.log);
                    println!("start it again by: tiebeamd run --data {}", node.data.display());
                }
            }
        }
        Ok(ExitCode::FAILURE)
    })
}

fn print_last_words(log: &Path) {
    let Ok(file) = std::fs::File::open(log) else { return };
    let lines: Vec<String> = std::io::BufReader::new(file).lines().map_while(Result::ok).collect();
    for line in lines.iter().rev().take(5).rev() {
        println!("  {line}");
    }
}

/// Stops nodes: SIGTERM to all, then SIGKILL to those that are still there after a while.
pub fn stop_all(nodes: &mut [Running]) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    for node in nodes.iter_mut() {
        let runs = !matches!(node.child.try_wait(), Ok(Some(_)));
        if let (true, Ok(pid)) = (runs, i32::try_from(node.child.id())) {
            // It may have ended just now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    let until = Instant::now() + STOP_WAIT;
    for node in nodes {
        while Instant::now() < until && !matches!(node.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(LOOK_EVERY);
        }
        // For one that has ended both do nothing.
        let _ = node.child.kill();
        let _ = node.child.wait();
    }
}
