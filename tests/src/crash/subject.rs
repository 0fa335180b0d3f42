//! The daemon that is killed: one node in a folder of its own, started, stopped and checked.
//!
//! Owns the process and its folder and ends both when dropped. It knows nothing of what is called
//! on it. Used by every kind of round.

use super::processes::{self, Cgroup};
use super::rpc::{Login, Rpc};
use super::{Failure, Options};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the first answer of a daemon that was started.
const START_WAIT: Duration = Duration::from_secs(30);
/// Time between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The password of `admin`.
const PASSWORD: &str = "a-password-for-rounds";

/// A node under test.
pub struct Subject {
    /// Its data folder.
    pub data: PathBuf,
    /// The file to which commands add their own names.
    pub marks: PathBuf,
    /// The whole run's folder.
    pub folder: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    program: PathBuf,
    child: Option<Child>,
    cgroup: Option<Cgroup>,
    token: String,
    keep: bool,
}

/// How a start went.
pub enum Started {
    /// It answered a call of a logged-in user after this time.
    Answers(Duration),
    /// It ended by itself.
    Ended(ExitStatus),
    /// It stays up, says that it found damage, and serves nothing else.
    Damaged,
}

/// The daemon's program: as asked, by `TIEBEAMD_BIN`, or beside the running one.
///
/// # Errors
/// There is none.
pub fn program(options: &Options) -> Result<PathBuf, Failure> {
    let named =
        options.program.clone().or_else(|| std::env::var_os("TIEBEAMD_BIN").map(PathBuf::from));
    if let Some(path) = named {
        return Ok(path);
    }
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("tiebeamd"));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| "there is no tiebeamd: build it, or name it in TIEBEAMD_BIN".into())
}

/// Whether a program has crash points: a build without the feature does not know their variable.
pub fn has_crash_points(program: &Path) -> bool {
    let name = concat!("TIEBEAM", "_CRASH_AT").as_bytes();
    fs::read(program).is_ok_and(|bytes| bytes.windows(name.len()).any(|window| window == name))
}

/// An address of this process and this run: 127.7.x.y by the process id, so that runs of several
/// processes do not meet.
fn own_address(number: u8) -> SocketAddr {
    let process = (std::process::id() % 250 + 1) as u8;
    SocketAddr::from(([127, 7, process, number.max(1)], 20_003))
}

/// The name of the user that runs this.
fn own_name() -> Result<String, Failure> {
    let output = Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

impl Subject {
    /// A folder for a run of this name, with the program in it.
    ///
    /// # Errors
    /// There is no program, or the folder cannot be made.
    pub fn new(name: &str, options: &Options) -> Result<Subject, Failure> {
        let above = options.folder.clone().unwrap_or_else(std::env::temp_dir);
        let name = format!("tiebeam-{name}-{}", std::process::id());
        let folder = above.join(&name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        // A build that runs beside this must not change what is started in the next round.
        let (from, program) = (program(options)?, folder.join("tiebeamd"));
        fs::hard_link(&from, &program).or_else(|_| fs::copy(&from, &program).map(drop))?;
        Ok(Subject {
            data: folder.join("node"),
            marks: folder.join("marks"),
            address: own_address(options.number),
            cgroup: Cgroup::make(&name),
            folder,
            program,
            child: None,
            token: String::new(),
            keep: false,
        })
    }

    /// Makes the node's data folder.
    ///
    /// # Errors
    /// `tiebeamd init` failed.
    pub fn init(&self) -> Result<(), Failure> {
        let password = self.folder.join("password");
        fs::write(&password, format!("{PASSWORD}\n"))?;
        let mut init = Command::new(&self.program);
        init.arg("init").arg("--data").arg(&self.data);
        init.args(["--node-id", "11", "--name", "n11", "--cluster", "rounds"]);
        init.arg("--listen").arg(self.address.to_string());
        init.arg("--admin-password-file").arg(&password);
        let output = init.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(())
    }

    /// The same node with another folder as its data.
    pub fn move_to(&mut self, data: PathBuf) {
        self.data = data;
    }

    /// Leaves the folder behind, for whoever looks into a failure.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The daemon's process id, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the daemon and does not wait. `crash_at` names a crash point.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&mut self, crash_at: Option<&str>) -> Result<(), Failure> {
        let words = File::options().create(true).append(true).open(self.words())?;
        // The shell joins the cgroup before the daemon is there, so that nothing is ever outside.
        let join = "[ -z \"$1\" ] || echo $$ > \"$1\"; shift; exec \"$@\"";
        let procs = self.cgroup.as_ref().map(Cgroup::procs).unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", join, "sh"]).arg(procs).arg(&self.program);
        command.arg("run").arg("--data").arg(&self.data);
        // Every TIEBEAMD_* is a setting to the daemon; those of whoever runs the tests are not its.
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("TIEBEAMD_")) {
            command.env_remove(name);
        }
        command.env("TIEBEAMD_EXEC_ENABLED", "true").env("TIEBEAMD_EXEC_ALLOW", "/bin/sh");
        command.env("TIEBEAMD_EXEC_USERS", own_name()?).env("RUST_LOG", "info");
        // The images of the power rounds are small.
        command.env("TIEBEAMD_DISK_FREE_BYTES_MIN", "1MiB");
        command.env("TIEBEAMD_DISK_FREE_PERCENT_MIN", "1");
        command.envs(crash_at.map(|point| ("TIEBEAM_CRASH_AT", point)));
        command.stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Starts the daemon and waits for the first answer.
    ///
    /// # Errors
    /// It cannot be started, or neither answers nor ends.
    pub async fn start(&mut self) -> Result<Started, Failure> {
        let begun = Instant::now();
        self.launch(None)?;
        self.wait_for_answer(begun).await
    }

    /// Waits until the daemon answers a logged-in user, or ends.
    ///
    /// # Errors
    /// Neither within 30 s.
    pub async fn wait_for_answer(&mut self, begun: Instant) -> Result<Started, Failure> {
        let mut rpc = None;
        while begun.elapsed() < START_WAIT {
            if let Some(status) = self.ended()? {
                return Ok(Started::Ended(status));
            }
            if tokio::net::TcpStream::connect(self.address).await.is_ok() {
                if self.token.is_empty() {
                    self.log_in().await?;
                }
                let rpc = match &rpc {
                    Some(rpc) => rpc,
                    None => rpc.insert(self.rpc()?),
                };
                if rpc.call("user_state", json!([])).await.is_ok() {
                    return Ok(Started::Answers(begun.elapsed()));
                }
                if self.last_words(20).contains("this node found damage") {
                    return Ok(Started::Damaged);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!("no answer within {START_WAIT:?}: {}", self.last_words(5)).into())
    }

    async fn log_in(&mut self) -> Result<(), Failure> {
        let login = Login::Basic("admin".to_owned(), PASSWORD.to_owned());
        let rpc = Rpc::new(&self.ca(), self.address, login)?;
        let mut login = rpc.call("user_login", json!(["admin", PASSWORD])).await?;
        let Value::String(token) = login["token"].take() else {
            return Err("user_login gave no token".into());
        };
        self.token = token;
        Ok(())
    }

    fn ca(&self) -> PathBuf {
        self.data.join("keys/ca.crt")
    }

    /// A client with a connection of its own.
    ///
    /// # Errors
    /// The CA file cannot be read.
    pub fn rpc(&self) -> Result<Rpc, Failure> {
        Rpc::new(&self.ca(), self.address, Login::Bearer(self.token.clone()))
    }

    /// How the daemon ended, once.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Whether the daemon runs.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn runs(&mut self) -> Result<bool, Failure> {
        self.ended()?;
        Ok(self.child.is_some())
    }

    /// Kills the daemon alone.
    ///
    /// # Errors
    /// It does not die.
    pub fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills the daemon and its shims; what the shims had started is left alone.
    ///
    /// # Errors
    /// It does not die.
    pub fn kill_with_shims(&mut self) -> Result<(), Failure> {
        // The daemon first stops, so that it starts no other shim meanwhile.
        self.signal_daemon("STOP");
        processes::signal("KILL", &processes::shims(&self.data));
        self.kill()
    }

    /// Kills the daemon, its shims, and everything that they started.
    ///
    /// # Errors
    /// Something does not die.
    pub fn kill_all(&mut self) -> Result<(), Failure> {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill()?,
            None => {
                self.signal_daemon("STOP");
                let mut family = processes::family(self.pid(), &self.data);
                while !family.is_empty() {
                    processes::signal("KILL", &family);
                    self.kill()?;
                    family = processes::family(None, &self.data);
                }
            }
        }
        self.kill()
    }

    /// Sends the daemon alone a signal.
    pub fn signal_daemon(&self, signal: &str) {
        processes::signal(signal, &BTreeSet::from_iter(self.pid()));
    }

    /// How the whole cgroup is killed here.
    pub fn killing(&self) -> &'static str {
        match &self.cgroup {
            Some(cgroup) if cgroup.kills() => "cgroup.kill",
            Some(_) => "each process of the cgroup",
            None => "each descendant (no cgroup of version 2 here)",
        }
    }

    /// Runs `tiebeamd check` on the stopped node: whether all is sound, and what it printed.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn check(&self) -> Result<(bool, String), Failure> {
        let mut check = Command::new(&self.program);
        let output = check.arg("check").arg("--data").arg(&self.data).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    fn words(&self) -> PathBuf {
        self.folder.join("words")
    }

    /// Forgets what the daemon has said so far.
    ///
    /// # Errors
    /// The file cannot be emptied.
    pub fn forget_words(&self) -> Result<(), Failure> {
        Ok(fs::write(self.words(), "")?)
    }

    /// The last lines that the daemon said.
    pub fn last_words(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.words()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.kill_all();
        self.cgroup = None;
        if !self.keep {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
