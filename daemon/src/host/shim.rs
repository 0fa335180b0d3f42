//! The shim: the process that watches over one command and outlives the daemon.
//!
//! Owns the command's program from its start to the last of its processes: it captures the
//! output, keeps the time, stops the tree when asked (SIGTERM, or the file `stop`), and writes
//! the end into the journal. It has one thread and no runtime. Started by the host as
//! `tiebeamd exec-shim`; it knows nothing of jobs, of the cluster or of the daemon's files beyond
//! its command's folder.

use super::{
    HostError,
    capture::Capture,
    command::{CommandResult, EndLine, Launch, Order, read_frame, write_frame},
    crash::crash_point,
    feed::{Feed, unblock},
    journal::{Journal, Line, Place},
    process::ProcessMark,
    tree::{Exit, Tree, reap},
};
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
    stat::{Mode, umask},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, PipeReader, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant, SystemTime},
};
use tiebeam_executor::faults::Sound;
use zeroize::Zeroizing;

/// The daemon's first argument that makes a process a shim.
pub const SHIM_ARGUMENT: &str = "exec-shim";
/// What a shim says when nothing can keep the program from starting any more.
pub(crate) const RUNNING: &str = "running";
/// How long output is read after the program itself ended: what its children still print in this
/// time counts, then they are killed.
const LINGER: Duration = Duration::from_millis(500);
/// How often a journal that cannot be written is tried again, and for how long: the end of a
/// command is worth waiting for a full disk to be emptied.
const APPEND_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3600));
/// Time between two SIGKILLs of a tree that goes on forking.
const KILL_AGAIN: Duration = Duration::from_millis(20);
/// Bytes read from the program at once: a pipe's capacity.
const READ_BYTES: usize = 64 << 10;

/// Entry point of `tiebeamd exec-shim`: to be called from `main` before any thread or runtime is
/// started. Reads its arguments from the process.
pub fn shim_main() -> ExitCode {
    let Some(arguments) = Arguments::read(std::env::args_os().skip(2)) else {
        let _ = writeln!(io::stderr(), "{SHIM_ARGUMENT} is started by the daemon only");
        return ExitCode::from(2);
    };
    let place = Place { folder: arguments.folder };
    let Some(nonce) = arguments.nonce else {
        return super::launch::run(&place);
    };
    match Supervisor::begin(&place, &nonce) {
        Ok(Some(supervisor)) => supervisor.run(),
        Ok(None) => ExitCode::SUCCESS,
        Err(reason) => {
            withdraw(&place, &nonce, &reason);
            let _ = writeln!(io::stdout(), "{reason}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    folder: PathBuf,
    /// Absent for the last stage before the program.
    nonce: Option<String>,
}

impl Arguments {
    fn read(mut from: impl Iterator<Item = OsString>) -> Option<Arguments> {
        let (mut folder, mut nonce) = (None, None);
        while let Some(name) = from.next() {
            match name.to_str()? {
                "--dir" => folder = Some(PathBuf::from(from.next()?)),
                "--nonce" => nonce = Some(from.next()?.into_string().ok()?),
                _ => return None,
            }
        }
        Some(Arguments { folder: folder?, nonce })
    }
}

/// Takes the attempt back, if it still stands: the program did not run.
fn withdraw(place: &Place, nonce: &str, why: &str) {
    let Ok(mut journal) = Journal::lock(place) else {
        return;
    };
    if journal.story.awaits(nonce) {
        let line = Line::Void { nonce: nonce.to_owned(), why: why.to_owned() };
        let _ = journal.append(line);
    }
}

/// Closes every descriptor above standard error. The daemon opens all of its own close-on-exec;
/// this is for those that a library did not.
pub(crate) fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The listing's own descriptor is among them and is closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

/// What the shim makes of itself before it reads anything secret.
fn settle() -> Result<SignalFd, String> {
    close_inherited();
    umask(Mode::from_bits_truncate(0o077));
    std::env::set_current_dir("/").map_err(at("the root folder"))?;
    prctl::set_dumpable(false).map_err(at("dumpable"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(at("the core limit"))?;
    prctl::set_child_subreaper(true).map_err(at("subreaper"))?;
    let mut blocked = SigSet::empty();
    // A terminal's signals are for the daemon; the shim outlives it.
    let signals = [
        Signal::SIGTERM,
        Signal::SIGCHLD,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ];
    for signal in signals {
        blocked.add(signal);
    }
    blocked.thread_block().map_err(at("the signal mask"))?;
    SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(at("signalfd"))
}

/// Names what an error is about.
fn at<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Wall clock in microseconds since 1970.
pub(crate) fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Why a tree is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Timeout,
    Cancelled,
    /// Somebody else than the daemon ended the shim: the host is shut down, for one.
    Foreign,
}

/// One command under way.
struct Supervisor<'a> {
    place: &'a Place,
    signals: SignalFd,
    tree: Tree,
    program: i32,
    feed: Feed,
    printed: Option<PipeReader>,
    capture: Capture,
    started: Instant,
    started_us: i64,
    deadline: Option<Instant>,
    grace: Duration,
    stop: Option<Stop>,
    kill_at: Option<Instant>,
    exit: Option<(Exit, Instant)>,
}

impl<'a> Supervisor<'a> {
    /// Reads the order, makes the attempt its own in the journal, and starts the program.
    ///
    /// `None`: the command has ended already (stopped before it began, or it could not start),
    /// and the journal says so. An error: the program did not run, the attempt may be withdrawn.
    fn begin(place: &'a Place, nonce: &str) -> Result<Option<Supervisor<'a>>, String> {
        let signals = settle()?;
        let (mut order, input) = read_order()?;
        let mut tree = Tree::below_self(&cgroup_name(place, nonce));
        take_over(place, nonce, &tree)?;
        // From here on the journal says that the program may run: every way out writes an end.
        // Nothing of the command's folder but the journal was touched before: it may be another
        // attempt's.
        crash_point("shim.running");
        let _ = writeln!(io::stdout(), "{RUNNING}");
        if place.stop().exists() {
            end_unrun(place, &tree, CommandResult::Cancelled, "stopped before it began".to_owned());
            return Ok(None);
        }
        tree.make();
        order.launch.cgroup.clone_from(&tree.cgroup);
        order.launch.parent = nix::unistd::getpid().as_raw();
        match Supervisor::start(place, signals, tree.clone(), order, &input) {
            Ok(supervisor) => Ok(Some(supervisor)),
            Err(error) => {
                let why = format!("the program could not be started: {error}");
                end_unrun(place, &tree, CommandResult::Failed, why);
                Ok(None)
            }
        }
    }

    fn start(
        place: &'a Place,
        signals: SignalFd,
        tree: Tree,
        order: Order,
        input: &[u8],
    ) -> io::Result<Supervisor<'a>> {
        let (output, end) = (place.output(), place.output_end());
        let capture = Capture::create(&output, end, order.output_bytes_max, order.secrets)?;
        let (started, started_us) = (Instant::now(), wall_us());
        let timeout = order.timeout_us.map(Duration::from_micros);
        let (program, feed, printed) = spawn(place, &order.launch, input)?;
        Ok(Supervisor {
            place,
            signals,
            tree,
            program,
            feed,
            printed: Some(printed),
            capture,
            started,
            started_us,
            deadline: timeout.and_then(|timeout| started.checked_add(timeout)),
            grace: Duration::from_micros(order.grace_us),
            stop: None,
            kill_at: None,
            exit: None,
        })
    }

    /// Watches until the program and its tree have ended and the journal says how.
    fn run(mut self) -> ExitCode {
        if let Ok(mut journal) = Journal::lock(self.place) {
            let _ = journal.note(Line::Spawned { pid: self.program });
        }
        crash_point("shim.spawned");
        while !self.is_over() {
            self.wait();
            self.take_signals();
            self.feed.go_on();
            self.take_output();
            self.keep_time();
        }
        let (leftovers, immortal) = self.tree.end();
        while self.take_output() {}
        self.finish(leftovers, immortal)
    }

    fn is_over(&self) -> bool {
        self.exit.is_some_and(|(_, at)| self.printed.is_none() || at.elapsed() >= LINGER)
    }

    /// Sleeps until there is something to do.
    fn wait(&self) {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(pipe) = &self.printed {
            polled.push(PollFd::new(pipe, PollFlags::IN));
        }
        if let Some(pipe) = self.feed.pipe() {
            polled.push(PollFd::new(pipe, PollFlags::OUT));
        }
        let linger = self.exit.and_then(|(_, at)| at.checked_add(LINGER));
        let next = [self.deadline, self.kill_at, linger].into_iter().flatten().min();
        let time = next.map(|at| at.saturating_duration_since(Instant::now()));
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        // Interrupted or not: every step that follows looks for itself.
        let _ = poll(&mut polled, time.as_ref());
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                // Who cancels writes the file first.
                let asked = self.place.stop().exists();
                self.begin_stop(if asked { Stop::Cancelled } else { Stop::Foreign });
            }
        }
        for exit in reap() {
            if exit.pid == self.program {
                self.exit = Some((exit, Instant::now()));
                self.deadline = None;
                self.kill_at = None;
            }
        }
    }

    /// Reads once what is there. False if there is nothing more now.
    fn take_output(&mut self) -> bool {
        let Some(pipe) = &mut self.printed else {
            return false;
        };
        let mut bytes = [0; READ_BYTES];
        match pipe.read(&mut bytes) {
            Ok(0) => {
                self.printed = None;
                false
            }
            Ok(read) => {
                self.capture.take(bytes.get(..read).unwrap_or_default());
                true
            }
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.deadline.is_some_and(|at| now >= at) {
            self.begin_stop(Stop::Timeout);
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.tree.kill();
            self.kill_at = now.checked_add(KILL_AGAIN);
        }
    }

    /// Asks the tree to end; after the grace it is not asked any more.
    fn begin_stop(&mut self, why: Stop) {
        if self.stop.is_some() || self.exit.is_some() {
            return;
        }
        self.stop = Some(why);
        self.deadline = None;
        self.kill_at = Instant::now().checked_add(self.grace);
        self.tree.signal(Signal::SIGTERM);
    }

    /// Writes the end.
    fn finish(self, leftovers: usize, immortal: usize) -> ExitCode {
        let exit = self.exit.map(|(exit, _)| exit);
        let (status, signal) = exit.map_or((None, None), |exit| (exit.status, exit.signal));
        let captured = self.capture.finish();
        let mut remarks: Vec<String> = captured.trouble.into_iter().collect();
        if leftovers > 0 {
            remarks.push(format!("{leftovers} processes outlived the program and were killed"));
        }
        if immortal > 0 {
            remarks.push(format!("{immortal} processes did not die of SIGKILL"));
        }
        let refusal = fs::read_to_string(self.place.launch()).unwrap_or_default();
        let launched = refusal.is_empty();
        if !launched {
            remarks.insert(0, format!("the program could not be started: {refusal}"));
        }
        if self.stop == Some(Stop::Foreign) {
            remarks.push("stopped by SIGTERM from outside, as when its host shuts down".to_owned());
        }
        let result = match (self.stop, status) {
            (Some(Stop::Timeout), _) => CommandResult::Timeout,
            (Some(Stop::Cancelled), _) => CommandResult::Cancelled,
            (None, Some(0)) if launched => CommandResult::Ok,
            (None | Some(Stop::Foreign), _) => CommandResult::Failed,
        };
        let took = i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let end = EndLine {
            result,
            status: status.filter(|_| launched),
            signal,
            started_us: self.started_us,
            // By the monotonic clock: a step of the wall clock does not make a command end early.
            ended_us: self.started_us.saturating_add(took),
            output_bytes: captured.output_bytes,
            kept_bytes: captured.kept_bytes,
            output_sha256: captured.sha256,
            evidence: (!remarks.is_empty()).then(|| remarks.join("; ")),
        };
        crash_point("shim.ending");
        write_end(self.place, end);
        crash_point("shim.ended");
        self.tree.remove();
        ExitCode::SUCCESS
    }
}

/// Reads the whole order. If the daemon died before it had said everything this is an error, and
/// nothing begins.
fn read_order() -> Result<(Order, Zeroizing<Vec<u8>>), String> {
    let mut from = io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(at("stdin"))?;
    let (order, bytes): (Order, usize) =
        read_frame(&mut from).map_err(at("the order is incomplete"))?;
    let mut input = Zeroizing::new(vec![0; bytes]);
    from.read_exact(&mut input).map_err(at("the order is incomplete"))?;
    Ok((order, input))
}

/// The cgroup's name: readable, and never one that another command or attempt has.
fn cgroup_name(place: &Place, nonce: &str) -> String {
    let part = |name: Option<&std::ffi::OsStr>| {
        name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let job = part(place.folder.parent().and_then(std::path::Path::file_name));
    let attempt: String = nonce.chars().rev().take(8).collect();
    format!("tiebeam-{job}-{}-{attempt}", part(place.folder.file_name()))
}

/// Writes `running`, unless the attempt was voided or the command refused meanwhile.
fn take_over(place: &Place, nonce: &str, tree: &Tree) -> Result<(), String> {
    let mut journal = Journal::lock(place).map_err(|error| error.chain())?;
    if !journal.story.may_begin(nonce, &Sound) {
        return Err("the attempt was taken back".to_owned());
    }
    let shim = ProcessMark::of_self().map_err(at("this process's start"))?;
    let cgroup = tree.cgroup.clone();
    let line = Line::Running { nonce: nonce.to_owned(), shim, cgroup, at_us: wall_us() };
    journal.append(line).map_err(|error| error.chain())
}

/// Starts the last stage: this binary again, so that the change of user happens in a process
/// without a parent's memory to copy.
fn spawn(place: &Place, launch: &Launch, input: &[u8]) -> io::Result<(i32, Feed, PipeReader)> {
    let (printed, print) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("tiebeamd")
        .arg(SHIM_ARGUMENT)
        .arg("--dir")
        .arg(&place.folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stderr(print.try_clone()?)
        .stdout(print);
    let mut bytes = Zeroizing::new(Vec::new());
    write_frame(&mut *bytes, launch, input)?;
    let mut child = command.spawn()?;
    unblock(&printed)?;
    let program = i32::try_from(child.id()).unwrap_or_default();
    Ok((program, Feed::new(child.stdin.take(), bytes)?, printed))
}

/// Writes the end of a command whose program did not start.
fn end_unrun(place: &Place, tree: &Tree, result: CommandResult, why: String) {
    let at_us = wall_us();
    let end = EndLine {
        result,
        status: None,
        signal: None,
        started_us: at_us,
        ended_us: at_us,
        output_bytes: 0,
        kept_bytes: 0,
        output_sha256: None,
        evidence: Some(why),
    };
    write_end(place, end);
    tree.end();
    tree.remove();
}

/// Appends the end, as often as it takes.
fn write_end(place: &Place, end: EndLine) {
    let begun = Instant::now();
    let append = || -> Result<(), HostError> {
        Journal::lock(place)?.append(Line::Ended(Box::new(end.clone())))
    };
    while let Err(error) = append() {
        if begun.elapsed() >= APPEND_RETRY.1 {
            let _ = writeln!(io::stderr(), "{}", error.chain());
            return;
        }
        std::thread::sleep(APPEND_RETRY.0);
    }
}
