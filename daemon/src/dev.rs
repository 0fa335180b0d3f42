//! `tiebeamd dev`: a real cluster of child processes on loopback, in one terminal (wire.md
//! section 10). What it starts it stops, by process id.

use crate::ca;
use crate::keys;
use serde_json::json;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to be ready.
const READY_WAIT: Duration = Duration::from_secs(30);
/// The first node's id.
const FIRST_ID: u32 = 11;

/// What `dev` was asked for.
#[derive(Clone, Debug)]
pub struct Dev {
    /// How many nodes.
    pub nodes: u32,
    /// Where their data goes; a temporary folder if absent.
    pub data: Option<PathBuf>,
    /// Where the first node listens.
    pub listen: SocketAddr,
    /// What to run once the cluster is up.
    pub exec: Option<String>,
}

/// Why there is no cluster, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// More nodes than this version has.
    #[error("--nodes {0} is not in this version; use --nodes 1")]
    Nodes(u32),
    /// A file or process could not be handled.
    #[error("cannot {0}")]
    Io(String, #[source] std::io::Error),
    /// The node could not be made.
    #[error("tiebeamd init failed")]
    Init,
    /// The node did not come up; its words are in the file.
    #[error("the node did not become ready: see {}", .0.display())]
    NotReady(PathBuf),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> DevError {
    let what = what.into();
    move |error| DevError::Io(what, error)
}

/// A node that runs; killed when it is dropped, so that an error leaves nothing behind.
struct Running {
    child: Child,
    data: PathBuf,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// A folder that is removed when it is dropped, if it was made here.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What is left is in the system's folder for temporary files.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Brings the cluster up, runs the command or waits for the end of input or Ctrl-C, stops it.
///
/// # Errors
/// See [`DevError`].
pub fn dev(asked: &Dev) -> Result<ExitCode, DevError> {
    if asked.nodes != 1 {
        return Err(DevError::Nodes(asked.nodes));
    }
    let folder = folder(asked)?;
    let data = folder.path.join(format!("n{FIRST_ID}"));
    let password_file = folder.path.join("password");
    if !data.join(crate::identity::FILE).exists() {
        make_node(asked, &folder.path, &data, &password_file)?;
    }
    let mut running = start(&folder.path, &data)?;
    wait_until_ready(&mut running)?;
    let json_file = write_json(asked, &folder.path, &running, &password_file)?;
    print_hints(asked, &running, &password_file, &json_file);
    let code = match &asked.exec {
        Some(command) => run_command(asked, command, &running, &password_file, &json_file)?,
        None => wait_for_end(&mut running)?,
    };
    drop(running);
    Ok(code)
}

fn folder(asked: &Dev) -> Result<Folder, DevError> {
    let (path, temporary) = match &asked.data {
        Some(path) => (path.clone(), false),
        None => {
            let name = format!("tiebeam-dev-{}", std::process::id());
            (std::env::temp_dir().join(name), true)
        }
    };
    crate::durable::make_folder(&path, 0o700)
        .map_err(|error| DevError::Io(error.to_string(), std::io::Error::other(error)))?;
    let path = std::path::absolute(&path).map_err(io("find the folder"))?;
    Ok(Folder { path, temporary })
}

fn own_program() -> Result<Command, DevError> {
    std::env::current_exe().map(Command::new).map_err(io("find this program"))
}

fn make_node(asked: &Dev, folder: &Path, data: &Path, password: &Path) -> Result<(), DevError> {
    if !password.exists() {
        let made = keys::cluster::random::<12>().map_err(|_| DevError::Init)?;
        let text = format!("{}\n", tiebeam_proto::canonical::hex(&made));
        crate::durable::write_new(password, text.as_bytes(), 0o600)
            .map_err(|error| DevError::Io(error.to_string(), std::io::Error::other(error)))?;
    }
    let status = own_program()?
        .args(["init", "--cluster", "dev", "--name", &format!("n{FIRST_ID}")])
        .args(["--node-id", &FIRST_ID.to_string(), "--listen", &asked.listen.to_string()])
        .arg("--data")
        .arg(data)
        .arg("--admin-password-file")
        .arg(password)
        .current_dir(folder)
        .stdout(Stdio::null())
        .status()
        .map_err(io("run tiebeamd init"))?;
    if status.success() { Ok(()) } else { Err(DevError::Init) }
}

fn start(folder: &Path, data: &Path) -> Result<Running, DevError> {
    let log = folder.join(format!("n{FIRST_ID}.log"));
    let file = std::fs::File::create(&log).map_err(io(format!("write {}", log.display())))?;
    let errors = file.try_clone().map_err(io("share the log file"))?;
    let child = own_program()?
        .arg("run")
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(io("start tiebeamd run"))?;
    Ok(Running { child, data: data.to_owned(), log })
}

/// Asks the unix socket for `/health/ready` until it says yes.
fn wait_until_ready(running: &mut Running) -> Result<(), DevError> {
    let until = Instant::now() + READY_WAIT;
    let socket = running.data.join(crate::node::SOCKET);
    while Instant::now() < until {
        if crate::node::is_ready(&socket) {
            return Ok(());
        }
        if running.child.try_wait().map_err(io("watch the node"))?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(DevError::NotReady(running.log.clone()))
}

fn ca_file(running: &Running) -> PathBuf {
    running.data.join(keys::FOLDER).join(ca::CA_CERTIFICATE)
}

fn url(asked: &Dev) -> String {
    format!("https://{}", asked.listen)
}

fn write_json(
    asked: &Dev,
    folder: &Path,
    running: &Running,
    password: &Path,
) -> Result<PathBuf, DevError> {
    let path = folder.join("dev.json");
    let value = json!({
        "ca": ca_file(running),
        "user": "admin",
        "password_file": password,
        "nodes": [{
            "id": FIRST_ID,
            "name": format!("n{FIRST_ID}"),
            "url": url(asked),
            "pid": running.child.id(),
            "data": running.data,
        }],
    });
    let text = format!("{value:#}\n");
    crate::durable::replace(&path, text.as_bytes(), 0o600)
        .map_err(|error| DevError::Io(error.to_string(), std::io::Error::other(error)))?;
    Ok(path)
}

fn print_hints(asked: &Dev, running: &Running, password: &Path, json_file: &Path) {
    let ca = ca_file(running);
    println!("node {FIRST_ID}: {}  (pid {})", url(asked), running.child.id());
    println!("user: admin   password file: {}   CA: {}", password.display(), ca.display());
    println!("described in {}", json_file.display());
    if asked.exec.is_some() {
        return;
    }
    let (url, ca, password) = (url(asked), ca.display(), password.display());
    println!("try:");
    print!("  export TIEBEAM_URL={url} TIEBEAM_CA={ca} TIEBEAM_USER=admin");
    println!(" TIEBEAM_PASSWORD_FILE={password}");
    println!("  tiebeam exec node_list");
    println!("  tiebeam config set app/hello world && tiebeam config log");
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"job_list"}"#;
    println!("  curl --cacert {ca} -u admin:$(cat {password}) {url}/ -d '{call}'");
    println!("Ctrl-C stops it.");
}

fn run_command(
    asked: &Dev,
    command: &str,
    running: &Running,
    password: &Path,
    json_file: &Path,
) -> Result<ExitCode, DevError> {
    let status = Command::new("/bin/sh")
        .args(["-c", command])
        .env("TIEBEAM_URL", url(asked))
        .env("TIEBEAM_CA", ca_file(running))
        .env("TIEBEAM_USER", "admin")
        .env("TIEBEAM_PASSWORD_FILE", password)
        .env("TIEBEAM_DEV", json_file)
        .status()
        .map_err(io("run the command"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Waits for Ctrl-C, SIGTERM, or the node's own end. The end of standard input is no end: the
/// cluster may have been started in the background.
fn wait_for_end(running: &mut Running) -> Result<ExitCode, DevError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io("start a runtime"))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(io("follow SIGTERM"))?;
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
                _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
            if let Some(status) = running.child.try_wait().map_err(io("watch the node"))? {
                println!("the node ended: {status}; its last words:");
                print_last_words(&running.log);
                return Ok(ExitCode::FAILURE);
            }
        }
    })
}

fn print_last_words(log: &Path) {
    let Ok(file) = std::fs::File::open(log) else { return };
    let lines: Vec<String> = std::io::BufReader::new(file).lines().map_while(Result::ok).collect();
    for line in lines.iter().rev().take(5).rev() {
        println!("  {line}");
    }
}

/// Stops a child: SIGTERM, then SIGKILL after 10 seconds.
fn stop(child: &mut Child) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    if let Ok(pid) = pid {
        let _ = kill(pid, Signal::SIGTERM);
    }
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}
