//! `tiebeamd dev`: a real cluster of child processes on loopback, in one terminal (wire.md
//! section 10). What it starts it stops, by process id.
//!
//! The first node is made by `init`, each further one by a token and `join`, as an operator does
//! it; `child` runs the processes, `calls` runs the jobs that this takes.

mod calls;
mod child;

use crate::ca;
use crate::identity::{self, Identity};
use crate::keys;
use calls::{CallError, Calls};
use child::Running;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The first node's id; the others follow.
const FIRST_ID: u32 = 11;
/// Nodes of a new cluster, if nobody says how many.
const NODES: u32 = 3;
/// Nodes at most: as many as may vote.
const NODES_MAX: u32 = 7;
/// Seconds until all nodes must be ready.
const READY_S: u32 = 60;

/// What `dev` was asked for.
#[derive(Clone, Debug)]
pub struct Dev {
    /// How many nodes; those that are there, or three, if absent.
    pub nodes: Option<u32>,
    /// Where their data goes; a temporary folder if absent.
    pub data: Option<PathBuf>,
    /// Where the first node listens; the others have the next addresses and the same port.
    pub listen: SocketAddr,
    /// What to run once the cluster is up.
    pub exec: Option<String>,
}

/// Why there is no cluster, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// Too many nodes, or none.
    #[error("--nodes must be from 1 to {NODES_MAX}")]
    Nodes,
    /// There are not so many addresses behind the first one.
    #[error("--listen {0}: the nodes behind it need the addresses that follow")]
    Addresses(SocketAddr),
    /// A file or process could not be handled.
    #[error("cannot {0}")]
    Io(String, #[source] std::io::Error),
    /// A file could not be written.
    #[error("a file cannot be written")]
    Write(#[source] crate::durable::DurableError),
    /// A password cannot be made.
    #[error("a password cannot be made")]
    Password(#[source] keys::KeyError),
    /// A node's folder has no identity that can be read.
    #[error("a node's folder cannot be used")]
    Identity(#[source] identity::IdentityError),
    /// The first node could not be made.
    #[error("tiebeamd init failed")]
    Init,
    /// A node could not join.
    #[error("tiebeamd join failed for node {0}")]
    Join(u32),
    /// The node did not come up; its words are in the file.
    #[error("the node did not become ready: see {}", .0.display())]
    NotReady(PathBuf),
    /// A job that the cluster needs could not be run.
    #[error("the cluster cannot be set up")]
    Call(#[source] CallError),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> DevError {
    let what = what.into();
    move |error| DevError::Io(what, error)
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

/// The cluster: its folder and its nodes, stopped when it is dropped.
struct Cluster {
    // Dropped first: a folder is removed when nobody writes to it.
    nodes: Vec<Running>,
    password: PathBuf,
    folder: Folder,
}

/// Brings the cluster up, runs the command or waits for Ctrl-C, stops it.
///
/// # Errors
/// See [`DevError`].
pub fn dev(asked: &Dev) -> Result<ExitCode, DevError> {
    if asked.nodes.is_some_and(|nodes| !(1..=NODES_MAX).contains(&nodes)) {
        return Err(DevError::Nodes);
    }
    let folder = folder(asked)?;
    let password = folder.path.join("password");
    let mut cluster = Cluster { nodes: Vec::new(), password, folder };
    cluster.bring_up(asked)?;
    let json_file = cluster.write_json()?;
    cluster.print_hints(asked, &json_file);
    let code = match &asked.exec {
        Some(command) => cluster.run_command(command, &json_file)?,
        None => child::wait_for_end(&mut cluster.nodes)?,
    };
    child::stop_all(&mut cluster.nodes);
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
    crate::durable::make_folder(&path, 0o700).map_err(DevError::Write)?;
    let path = std::path::absolute(&path).map_err(io("find the folder"))?;
    Ok(Folder { path, temporary })
}

/// Where the node with this id listens: the first one's address, further on.
fn address_of(asked: &Dev, id: u32) -> Result<SocketAddr, DevError> {
    let wrong = || DevError::Addresses(asked.listen);
    let offset = id - FIRST_ID;
    match asked.listen.ip() {
        _ if offset == 0 => Ok(asked.listen),
        IpAddr::V4(first) => {
            let next = Ipv4Addr::from_bits(first.to_bits().checked_add(offset).ok_or_else(wrong)?);
            match first.is_loopback() == next.is_loopback() {
                true => Ok(SocketAddr::from((next, asked.listen.port()))),
                false => Err(wrong()),
            }
        }
        IpAddr::V6(_) => Err(wrong()),
    }
}

impl Cluster {
    fn data_of(&self, id: u32) -> PathBuf {
        self.folder.path.join(format!("n{id}"))
    }

    fn is_there(&self, id: u32) -> bool {
        self.data_of(id).join(identity::FILE).exists()
    }

    /// Starts the nodes that are there, makes those that are not, waits until all are ready.
    fn bring_up(&mut self, asked: &Dev) -> Result<(), DevError> {
        let there: Vec<u32> =
            (FIRST_ID..FIRST_ID + NODES_MAX).filter(|id| self.is_there(*id)).collect();
        let count = match (asked.nodes, there.len()) {
            (Some(count), _) => count,
            (None, 0) => NODES,
            (None, _) => 0,
        };
        let is_new = there.is_empty();
        let ids = if is_new { vec![self.init(asked)?] } else { there };
        for id in &ids {
            self.start(*id, asked)?;
        }
        // Two of three must be there before one is ready.
        for node in &mut self.nodes {
            node.wait_until_ready()?;
        }
        for id in FIRST_ID..FIRST_ID + count {
            if !self.is_there(id) {
                self.join(asked, id)?;
                self.start(id, asked)?;
                self.last()?.wait_until_ready()?;
            }
        }
        if self.nodes.len() > 1 {
            let wish = json!({"nids": "all", "timeout": READY_S});
            self.calls()?.exec("node_wait_ready", wish).map_err(DevError::Call)?;
        }
        Ok(())
    }

    fn last(&mut self) -> Result<&mut Running, DevError> {
        self.nodes.last_mut().ok_or(DevError::Init)
    }

    /// Makes the first node and the password of admin.
    fn init(&self, asked: &Dev) -> Result<u32, DevError> {
        if !self.password.exists() {
            let made = keys::cluster::random::<12>().map_err(DevError::Password)?;
            let text = format!("{}\n", tiebeam_proto::canonical::hex(&made));
            crate::durable::write_new(&self.password, text.as_bytes(), 0o600)
                .map_err(DevError::Write)?;
        }
        let status = child::program()?
            .args(["init", "--cluster", "dev", "--name", &format!("n{FIRST_ID}")])
            .args(["--node-id", &FIRST_ID.to_string(), "--listen", &asked.listen.to_string()])
            .arg("--data")
            .arg(self.data_of(FIRST_ID))
            .arg("--admin-password-file")
            .arg(&self.password)
            .stdout(std::process::Stdio::null())
            .status()
            .map_err(io("run tiebeamd init"))?;
        if status.success() { Ok(FIRST_ID) } else { Err(DevError::Init) }
    }

    /// Makes another node: a token from the cluster, and `tiebeamd join` with it.
    fn join(&self, asked: &Dev, id: u32) -> Result<(), DevError> {
        let wish = json!({"nid": id, "role": "voter"});
        let made = self.calls()?.exec("node_token", wish).map_err(DevError::Call)?;
        let token = made["token"].as_str().unwrap_or_default();
        let master = self.nodes.first().map(|node| node.address.clone()).unwrap_or_default();
        let mut join = child::program()?;
        join.args(["join", "--name", &format!("n{id}"), "--node-id", &id.to_string()])
            .args(["--listen", &address_of(asked, id)?.to_string()])
            .args(["--master", &master, "--token", "-"])
            .arg("--data")
            .arg(self.data_of(id));
        match child::run_with_input(join, token)? {
            true => Ok(()),
            false => Err(DevError::Join(id)),
        }
    }

    fn start(&mut self, id: u32, asked: &Dev) -> Result<(), DevError> {
        let data = self.data_of(id);
        Identity::read(&data).map_err(DevError::Identity)?;
        let settings = crate::settings::Settings::load(&data, std::iter::empty(), &[]);
        let address = match settings {
            Ok(settings) => settings.advertised(),
            Err(_) => address_of(asked, id)?.to_string(),
        };
        let log = self.folder.path.join(format!("n{id}.log"));
        self.nodes.push(Running::start(id, data, address, log)?);
        Ok(())
    }

    fn ca_file(&self) -> PathBuf {
        let first = self.nodes.first().map(|node| node.data.clone()).unwrap_or_default();
        first.join(keys::FOLDER).join(ca::CA_CERTIFICATE)
    }

    /// The address of a node, for those who need one.
    fn url(&self) -> String {
        self.nodes.first().map(Running::url).unwrap_or_default()
    }

    fn calls(&self) -> Result<Calls, DevError> {
        let addresses = self.nodes.iter().map(|node| node.address.clone()).collect();
        Calls::new(addresses, &self.ca_file(), &self.password).map_err(DevError::Call)
    }

    fn write_json(&self) -> Result<PathBuf, DevError> {
        let path = self.folder.path.join("dev.json");
        let nodes = self.nodes.iter().map(|node| {
            json!({
                "id": node.id,
                "name": format!("n{}", node.id),
                "url": node.url(),
                "pid": node.child.id(),
                "data": node.data,
            })
        });
        let value = json!({
            "ca": self.ca_file(),
            "user": "admin",
            "password_file": self.password,
            "nodes": nodes.collect::<Vec<_>>(),
        });
        let text = format!("{value:#}\n");
        crate::durable::replace(&path, text.as_bytes(), 0o600).map_err(DevError::Write)?;
        Ok(path)
    }

    fn print_hints(&self, asked: &Dev, json_file: &Path) {
        for node in &self.nodes {
            println!("node {}: {}  (pid {})", node.id, node.url(), node.child.id());
        }
        let (url, ca) = (self.url(), self.ca_file());
        let (ca, password) = (ca.display(), self.password.display());
        println!("user: admin   password file: {password}   CA: {ca}");
        println!("described in {}", json_file.display());
        if asked.exec.is_some() {
            return;
        }
        println!("try:");
        print!("  export TIEBEAM_URL={url} TIEBEAM_CA={ca} TIEBEAM_USER=admin");
        println!(" TIEBEAM_PASSWORD_FILE={password}");
        println!("  tiebeam exec node_list");
        println!("  tiebeam config set app/hello world && tiebeam config log");
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"job_list"}"#;
        println!("  curl --cacert {ca} -u admin:$(cat {password}) {url}/ -d '{call}'");
        println!("Ctrl-C stops it.");
    }

    fn run_command(&self, command: &str, json_file: &Path) -> Result<ExitCode, DevError> {
        let status = Command::new("/bin/sh")
            .args(["-c", command])
            .env("TIEBEAM_URL", self.url())
            .env("TIEBEAM_CA", self.ca_file())
            .env("TIEBEAM_USER", "admin")
            .env("TIEBEAM_PASSWORD_FILE", &self.password)
            .env("TIEBEAM_DEV", json_file)
            .status()
            .map_err(io("run the command"))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Ok(ExitCode::from(code))
    }
}

/// Pause between two looks at something.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_the_addresses_behind_the_first_one() {
        let asked = |listen: &str| Dev {
            nodes: None,
            data: None,
            listen: listen.parse().expect("an address"),
            exec: None,
        };
        let second = address_of(&asked("127.0.0.11:20003"), 12).expect("the next one");
        assert_eq!(second.to_string(), "127.0.0.12:20003");
        assert!(address_of(&asked("127.255.255.255:20003"), 12).is_err());
        assert!(address_of(&asked("[::1]:20003"), 12).is_err());
        assert_eq!(address_of(&asked("[::1]:20003"), 11).expect("one").to_string(), "[::1]:20003");
    }
}
