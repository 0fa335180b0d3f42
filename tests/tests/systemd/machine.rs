//! A machine of its own: a container whose PID 1 is systemd, with `tiebeamd` installed.
//!
//! Owns the overlay and the container: both go when it is dropped, also while a test panics. The
//! container has a loopback of its own, so its node is reached by the unix socket in its tree, or
//! from within. Nothing but the container's own processes is ever signalled.

use crate::commands::family::eventually;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tiebeam_tests::program::{command, profile_folder};
use tiebeam_tests::{Ended, Login, Wire, run, tiebeamd_program};

/// The programs that it takes, each with the Debian package that has it.
const PROGRAMS: [(&str, &str); 4] = [
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("nsenter", "util-linux"),
    ("curl", "curl"),
];
/// Where programs are found inside.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the machine may take to boot, and to halt.
const PATIENCE: Duration = Duration::from_secs(60);
/// The data folder inside, as the unit has it.
pub const DATA: &str = "var/lib/tiebeam";
/// The password of `admin`.
pub const PASSWORD: &str = "a-password-for-the-machine";

/// A machine that runs.
pub struct Machine {
    container: Child,
    /// PID 1 of the machine, as the host counts.
    leader: u32,
    tree: Tree,
}

/// The machine's files: the tree that was made once, with an overlay on top.
struct Tree {
    folder: PathBuf,
    mounted: bool,
}

impl Machine {
    /// Boots a machine with a one-node cluster that is not started yet.
    ///
    /// # Errors
    /// What this host lacks for it.
    pub fn boot() -> Result<Machine, String> {
        if !nix::unistd::Uid::effective().is_root() {
            return Err("it takes root to boot a container".to_owned());
        }
        for (program, package) in PROGRAMS {
            have(program, package)?;
        }
        let name = format!("tiebeam-{}", std::process::id());
        let tree = Tree::new(&name)?;
        tree.install();
        Machine::start(&name, tree)
    }

    fn start(name: &str, tree: Tree) -> Result<Machine, String> {
        let console = File::create(tree.folder.join("console.log")).expect("a new file");
        let errors = console.try_clone().expect("a file can be shared");
        let container = command("systemd-nspawn", &["--quiet", "--register=no", "--keep-unit"])
            .args(["--private-network", "--console=pipe", "--boot"])
            .arg(format!("--machine={name}"))
            .arg("--directory")
            .arg(tree.root())
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("systemd-nspawn cannot be started: {error}"))?;
        let mut machine = Machine { container, leader: 0, tree };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Ok(Some(status)) = machine.container.try_wait() {
                return Err(format!("systemd-nspawn ended with {status}: {}", machine.console()));
            }
            machine.leader = leader_of(machine.container.id()).unwrap_or_default();
            if machine.leader != 0 && machine.is_booted() {
                return Ok(machine);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("systemd did not come up: {}", machine.console()))
    }

    fn is_booted(&self) -> bool {
        let state = self.run(&["systemctl", "is-system-running"]);
        ["running", "degraded"].contains(&state.out.trim())
    }

    fn console(&self) -> String {
        let bytes = fs::read(self.tree.folder.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Runs a program inside, as root.
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> Ended {
        let target = self.leader.to_string();
        let mut inside = command("nsenter", &["--target", &target, "--all", "--"]);
        run(inside.args(argv).env_clear().env("PATH", PATH), "")
    }

    /// The body that `curl` gets within the machine; `options` are lines of its configuration,
    /// so that a password is on no command line.
    #[track_caller]
    pub fn curl(&self, url: &str, options: &str) -> String {
        let target = self.leader.to_string();
        let mut curl = command("nsenter", &["--target", &target, "--net", "--", "curl"]);
        curl.args(["--silent", "--show-error", "--config", "-", "--cacert"]);
        run(curl.arg(self.path(DATA).join("keys/ca.crt")).arg(url), options).ok()
    }

    /// A file of the machine.
    pub fn path(&self, path: &str) -> PathBuf {
        self.tree.root().join(path)
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, property: &str) -> String {
        let shown = self.run(&["systemctl", "show", "--value", "--property", property, unit]);
        shown.ok().trim().to_owned()
    }

    /// A JSON-RPC call through the unix socket, as user `root`; waits until somebody answers.
    #[track_caller]
    pub fn call(&self, method: &str, params: Value) -> Result<Value, Value> {
        let socket = self.path(DATA).join("tiebeam.sock");
        let mut wire = eventually("the socket answers", || {
            let mut wire = Wire::unix(&socket).ok()?;
            let ready = wire.request("GET", "/health/ready", &Login::None, &[], b"").ok()?;
            (ready.status == 200).then_some(wire)
        });
        wire.call(&Login::None, method, params)
    }

    /// Starts a job: its id.
    #[track_caller]
    pub fn begin(&self, job: &str, params: Value) -> String {
        let id = self.call("job_start", json!([job, {"params": params}])).expect("a job");
        id.as_str().expect("an id is text").to_owned()
    }

    /// Waits for a job's end, over restarts of the daemon: its result object.
    #[track_caller]
    pub fn end(&self, id: &str) -> Value {
        eventually("the job ends", || {
            let ended = self.call("job_wait", json!([id, 30])).expect("the job is known");
            (ended == true).then_some(())
        });
        self.call("job_result", json!([id])).expect("a result object")
    }

    /// Runs a job to its end: its result object.
    #[track_caller]
    pub fn exec(&self, job: &str, params: Value) -> Value {
        let id = self.begin(job, params);
        self.end(&id)
    }

    /// Runs a job that must end with `ok`: what it gives for the node.
    #[track_caller]
    pub fn output(&self, job: &str, params: Value) -> Value {
        let result = self.exec(job, params);
        assert_eq!(result["result_code"], 0, "{job}: {result}");
        result["result_output"]["11"].clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the console of the machine ends with:\n{}", self.console());
            if self.leader != 0 {
                let lines = ["journalctl", "--quiet", "--no-pager", "--lines=40"];
                eprintln!("its journal ends with:\n{}", self.run(&lines).out);
            }
        }
        // systemd-nspawn halts the machine; if that takes too long, its PID 1 is killed, and with
        // it everything in the machine.
        signal(self.container.id(), Signal::SIGTERM);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if !matches!(self.container.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if self.leader != 0 {
            signal(self.leader, Signal::SIGKILL);
        }
        let _ = self.container.kill();
        let _ = self.container.wait();
    }
}

/// Signals a process that is ours and was not waited for. Never panics.
fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The child of the container's process that has become systemd.
fn leader_of(container: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{container}/task/{container}/children"));
    let children = children.ok()?;
    let mut children = children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
    children.find(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "systemd"
    })
}

impl Tree {
    /// The tree of a new machine. Where an overlay cannot be mounted it is a copy.
    fn new(name: &str) -> Result<Tree, String> {
        let made = made_once()?;
        let folder = std::env::temp_dir().join(name);
        let mut tree = Tree { folder, mounted: false };
        for part in ["root", "upper", "work"] {
            fs::create_dir_all(tree.folder.join(part)).expect("a new folder");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            made.display(),
            tree.folder.join("upper").display(),
            tree.folder.join("work").display()
        );
        let (kind, flags) = (Some("overlay"), MsFlags::empty());
        tree.mounted = mount(kind, &tree.root(), kind, flags, Some(options.as_str())).is_ok();
        if !tree.mounted {
            let mut copy = command("cp", &["--archive", "--reflink=auto", "--no-target-directory"]);
            run(copy.arg(&made).arg(tree.root()), "").ok();
        }
        Ok(tree)
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Puts the daemon, its unit and its group in place and makes a cluster.
    fn install(&self) {
        let root = self.root();
        let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc");
        let copy = |from: &Path, to: &str| {
            let to = root.join(to);
            fs::create_dir_all(to.parent().expect("a file is in a folder")).expect("a folder");
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        };
        copy(&tiebeamd_program(), "usr/bin/tiebeamd");
        for unit in ["tiebeamd.service", "tiebeamd-unprivileged.service"] {
            copy(&etc.join("systemd").join(unit), &format!("etc/systemd/system/{unit}"));
        }
        copy(&etc.join("sysusers.d/tiebeam.conf"), "usr/lib/sysusers.d/tiebeam.conf");
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).expect("a folder");
        let link = wants.join("tiebeamd.service");
        symlink("/etc/systemd/system/tiebeamd.service", link).expect("a new link");
        self.chroot(&["systemd-sysusers"]);
        fs::write(root.join("root/password"), format!("{PASSWORD}\n")).expect("a new file");
        let init = ["tiebeamd", "init", "--node-id", "11", "--name", "n11", "--cluster", "test"];
        let place = ["--data", "/var/lib/tiebeam", "--listen", "127.0.0.1:20003"];
        let password = ["--admin-password-file", "/root/password"];
        self.chroot(&[&init[..], &place, &password].concat());
    }

    fn chroot(&self, argv: &[&str]) {
        let mut inside = Command::new("chroot");
        inside.arg(self.root()).args(argv).env_clear().env("PATH", PATH);
        run(&mut inside, "").ok();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What is still mounted must not be removed with everything in it.
        if self.mounted
            && let Err(error) = umount(&self.root())
        {
            eprintln!("{} stays mounted: {error}", self.root().display());
            return;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The tree that all machines have below theirs.
fn made_once() -> Result<PathBuf, String> {
    let profile = profile_folder();
    let folder = profile.parent().unwrap_or(&profile).join("systemd");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/tree.sh");
    let made = run(command("sh", &[script]).arg(&folder), "");
    match made.code {
        0 => Ok(folder.join("tree")),
        _ => Err(format!("no tree can be made: {}", made.err.trim())),
    }
}

/// Looks for a program; where nothing may be missing, installs it.
fn have(program: &str, package: &str) -> Result<(), String> {
    let found = || {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
        folders.iter().any(|folder| folder.join(program).is_file())
    };
    if found() {
        return Ok(());
    }
    if std::env::var("TIEBEAM_TESTS").is_ok_and(|value| value == "all") {
        let mut install = command("apt-get", &["install", "--yes", "--no-install-recommends"]);
        let ended = run(install.arg(package).env("DEBIAN_FRONTEND", "noninteractive"), "");
        eprintln!("{}{}", ended.out, ended.err);
    }
    if found() { Ok(()) } else { Err(format!("`{program}` is missing (package {package})")) }
}
