//! The host with real processes: the shim is this crate's own binary.
//!
//! `TIEBEAM_SHIM` names the binary; without it, `tiebeamd` beside the folder of this test.

use super::{
    Authority, CommandEnd, CommandResult, CommandSpec, CommandStart, CommandState, ExecPolicy,
    Fence, Found, FoundState, Host, HostError,
    journal::{Journal, Line, Place},
    process::{ProcessMark, stat},
};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use zeroize::Zeroizing;

/// The job of every test: folders differ, so ids need not.
const JOB: &str = "11.48213";

/// A data folder that goes with the test, and whatever still runs in it with it.
struct Data {
    folder: PathBuf,
}

impl Data {
    fn new() -> Data {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tiebeam-host-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Data { folder }
    }

    fn open(&self) -> (Host, Vec<Found>) {
        let own = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap();
        let policy = ExecPolicy {
            allow: vec!["/bin/sh".into(), "/bin/cat".into()],
            users: vec![own.name, "nobody".into()],
            ..ExecPolicy::default()
        };
        Host::open(&self.folder, shim(), policy).unwrap()
    }

    fn place(&self, key: &str) -> Place {
        Place::new(&self.folder.join("journal"), JOB, key).unwrap()
    }

    fn shim_of(&self, key: &str) -> ProcessMark {
        self.place(key).read().unwrap().running.expect("a shim").0
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn shim() -> PathBuf {
    if let Some(path) = std::env::var_os("TIEBEAM_SHIM") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let beside = own.parent().and_then(Path::parent).unwrap().join("tiebeamd");
    assert!(beside.exists(), "{} is to be built first", beside.display());
    beside
}

fn shell(key: &str, script: &str) -> CommandStart {
    command(key, CommandSpec::new(["/bin/sh", "-c", script]))
}

fn command(key: &str, spec: CommandSpec) -> CommandStart {
    CommandStart {
        job: JOB.into(),
        key: key.into(),
        epoch: 7,
        digest: "d".into(),
        authority: Authority::Caller,
        spec,
    }
}

async fn run(host: &Host, start: CommandStart) -> CommandEnd {
    let key = start.key.clone();
    host.start(start).await.unwrap();
    host.wait(JOB, &key).await.unwrap()
}

/// Waits until a file has a line, and returns its words as process ids.
async fn pids(path: &Path) -> Vec<i32> {
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.ends_with('\n') {
            return text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn runs(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.runs())
}

#[tokio::test]
async fn a_command_ends_as_its_program_does() {
    let data = Data::new();
    let (host, found) = data.open();
    assert!(found.is_empty());
    let end = run(&host, shell("ok", "echo one; echo two >&2; echo three")).await;
    assert_eq!((end.result, end.status), (CommandResult::Ok, Some(0)), "{end:?}");
    assert_eq!(end.output, "one\ntwo\nthree\n");
    assert_eq!((end.output_bytes, end.truncated, end.blob), (14, false, false));
    assert!(end.started_us > 0 && end.ended_us >= end.started_us);
    let end = run(&host, shell("failing", "echo no; exit 3")).await;
    assert_eq!((end.result, end.status), (CommandResult::Failed, Some(3)));
    let end = run(&host, shell("killed", "kill -9 $$")).await;
    assert_eq!((end.result, end.status, end.signal), (CommandResult::Failed, None, Some(9)));
    // A program's own 127 and one that cannot be started are told apart.
    let end = run(&host, shell("own-127", "exit 127")).await;
    assert_eq!((end.status, end.evidence), (Some(127), None));
    let mut spec = CommandSpec::new(["/bin/cat"]);
    spec.cwd = Some("/no/such/folder".into());
    let end = run(&host, command("no-folder", spec)).await;
    assert_eq!((end.result, end.status), (CommandResult::Failed, None));
    assert!(end.evidence.unwrap().contains("/no/such/folder"));
}

#[tokio::test]
async fn starting_again_does_nothing_and_other_arguments_are_an_error() {
    let data = Data::new();
    let (host, _) = data.open();
    let mark = data.folder.join("mark");
    let once = shell("once", &format!("echo ran >> {}", mark.display()));
    run(&host, once.clone()).await;
    run(&host, once.clone()).await;
    assert_eq!(fs::read_to_string(&mark).unwrap(), "ran\n");
    let other = CommandStart { digest: "other".into(), ..once };
    assert!(matches!(host.start(other).await, Err(HostError::OtherArguments { .. })));
    assert!(matches!(host.wait(JOB, "never").await, Err(HostError::NotStarted { .. })));
}

#[tokio::test]
async fn input_and_environment_reach_the_program_and_nobody_else() {
    let data = Data::new();
    let (host, _) = data.open();
    let gate = data.folder.join("gate");
    let script =
        format!("while [ ! -e {} ]; do sleep 0.01; done; cat; echo $TOKEN", gate.display());
    let mut spec = CommandSpec::new(["/bin/sh", "-c", script.as_str()]);
    spec.env.insert("TOKEN".into(), "environment-secret".into());
    spec.stdin = Zeroizing::new(b"input-secret ".to_vec());
    spec.secrets = vec![Zeroizing::new("input-secret".into())];
    host.start(command("secrets", spec)).await.unwrap();
    for pid in [data.shim_of("secrets").pid, nix::unistd::getpid().as_raw()] {
        for file in ["cmdline", "environ"] {
            // Not even the own user may read a shim's environment; root may, and finds nothing.
            let Ok(bytes) = fs::read(format!("/proc/{pid}/{file}")) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("-secret"), "{pid}/{file}: {text}");
        }
    }
    fs::write(&gate, "").unwrap();
    let end = host.wait(JOB, "secrets").await.unwrap();
    assert_eq!(end.output, "[secret] environment-secret\n");
    for entry in fs::read_dir(data.place("secrets").folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("input-secret"));
    }
}

#[tokio::test]
async fn more_input_than_a_pipe_holds_comes_back_whole_and_unread_input_hinders_nobody() {
    let data = Data::new();
    let (host, _) = data.open();
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
    let mut spec = CommandSpec::new(["/bin/cat"]);
    spec.stdin = Zeroizing::new(input.clone());
    let end = run(&host, command("echo", spec)).await;
    assert_eq!((end.result, end.output_bytes), (CommandResult::Ok, 1_000_000));
    assert!(end.blob && end.truncated);
    let blob = data.folder.join("blobs").join(end.output_sha256.unwrap());
    assert!(fs::read(blob).unwrap() == input);
    let tail = host.tail(JOB, "echo", 999_990).await.unwrap();
    assert_eq!((tail.bytes.as_slice(), tail.offset), (&input[999_990..], 1_000_000));
    assert_eq!(host.newest(JOB, "echo", 10).await.unwrap(), tail);
    let mut spec = CommandSpec::new(["/bin/sh", "-c", "exit 0"]);
    spec.stdin = Zeroizing::new(input);
    assert_eq!(run(&host, command("unread", spec)).await.result, CommandResult::Ok);
}

#[tokio::test]
async fn output_beyond_the_limit_is_counted_and_its_end_is_shown() {
    let data = Data::new();
    let (host, _) = data.open();
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo the end";
    let mut spec = CommandSpec::new(["/bin/sh", "-c", script]);
    spec.output_bytes_max = 100_000;
    let end = run(&host, command("much", spec)).await;
    assert_eq!((end.result, end.output_bytes), (CommandResult::Ok, 3_000_008));
    assert!(end.truncated && end.output.ends_with("xthe end\n"));
    let blob = data.folder.join("blobs").join(end.output_sha256.unwrap());
    assert_eq!(fs::metadata(blob).unwrap().len(), 100_000);
}

/// A script that starts a child and a child of its own session, and writes their process ids.
fn family(path: &Path) -> String {
    format!(
        "trap '' TERM; sleep 1000 & a=$!; setsid sleep 1000 & b=$!; \
         setsid sh -c 'sleep 1000 & echo $! > {p}.c; wait' & \
         while [ ! -s {p}.c ]; do sleep 0.01; done; echo $a $b $(cat {p}.c) > {p}; wait; wait",
        p = path.display()
    )
}

#[tokio::test]
async fn a_timeout_ends_the_whole_tree() {
    let data = Data::new();
    let (host, _) = data.open();
    let path = data.folder.join("pids");
    let mut start = shell("late", &family(&path));
    start.spec.timeout_us = Some(700_000);
    start.spec.grace_us = 200_000;
    host.start(start).await.unwrap();
    let family = pids(&path).await;
    assert!(family.len() == 3 && family.iter().all(|pid| runs(*pid)));
    let end = host.wait(JOB, "late").await.unwrap();
    assert_eq!((end.result, end.status), (CommandResult::Timeout, None), "{end:?}");
    assert!(!family.iter().any(|pid| runs(*pid)));
}

#[tokio::test]
async fn a_stop_ends_the_whole_tree_and_a_later_one_changes_nothing() {
    let data = Data::new();
    let (host, _) = data.open();
    let path = data.folder.join("pids");
    let mut start = shell("stopped", &family(&path));
    start.spec.grace_us = 200_000;
    host.start(start).await.unwrap();
    let family = pids(&path).await;
    host.stop(JOB, "stopped").await.unwrap();
    let end = host.wait(JOB, "stopped").await.unwrap();
    assert_eq!(end.result, CommandResult::Cancelled);
    assert!(!family.iter().any(|pid| runs(*pid)));
    host.stop(JOB, "stopped").await.unwrap();
    assert_eq!(host.wait(JOB, "stopped").await.unwrap(), end);
    let polite = shell("polite", "trap 'echo bye; exit 0' TERM; echo up; sleep 1000 & wait");
    host.start(polite).await.unwrap();
    while host.tail(JOB, "polite", 0).await.unwrap().bytes.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    host.stop(JOB, "polite").await.unwrap();
    let end = host.wait(JOB, "polite").await.unwrap();
    assert_eq!((end.result, end.status), (CommandResult::Cancelled, Some(0)));
    assert!(end.output.ends_with("bye\n"), "{}", end.output);
}

#[tokio::test]
async fn what_somebody_else_stops_is_not_called_cancelled() {
    let data = Data::new();
    let (host, _) = data.open();
    let path = data.folder.join("pids");
    let mut start = shell("foreign", &family(&path));
    start.spec.grace_us = 200_000;
    host.start(start).await.unwrap();
    let family = pids(&path).await;
    data.shim_of("foreign").signal(Signal::TERM).unwrap();
    let end = host.wait(JOB, "foreign").await.unwrap();
    assert_eq!(end.result, CommandResult::Failed, "nobody cancelled it: {end:?}");
    assert!(end.evidence.unwrap().contains("from outside"));
    assert!(!family.iter().any(|pid| runs(*pid)));
}

#[tokio::test]
async fn a_child_that_holds_the_output_open_does_not_hold_the_command() {
    let data = Data::new();
    let (host, _) = data.open();
    let path = data.folder.join("pids");
    let script = format!("setsid sleep 1000 & echo $! > {}; echo done", path.display());
    let end = run(&host, shell("lingering", &script)).await;
    assert_eq!((end.result, end.output.as_str()), (CommandResult::Ok, "done\n"));
    assert!(end.evidence.unwrap().contains("1 processes outlived the program"));
    assert!(!runs(pids(&path).await[0]));
}

#[test]
fn a_command_outlives_the_daemon_and_runs_once() {
    let data = Data::new();
    let (mark, gate) = (data.folder.join("mark"), data.folder.join("gate"));
    let script = format!(
        "echo ran >> {}; while [ ! -e {} ]; do sleep 0.01; done; echo done",
        mark.display(),
        gate.display()
    );
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    first.block_on(async { data.open().0.start(shell("long", &script)).await.unwrap() });
    // All of the first daemon goes: its tasks, its watch over the shim.
    drop(first);
    let (host, found) = data.open();
    let expected =
        Found { job: JOB.into(), key: "long".into(), epoch: 7, state: FoundState::Running };
    assert_eq!(found, [expected]);
    runtime().block_on(async {
        assert_eq!(host.status(JOB, "long").await.unwrap(), CommandState::Running);
        host.start(shell("long", &script)).await.unwrap();
        fs::write(&gate, "").unwrap();
        let end = host.wait(JOB, "long").await.unwrap();
        assert_eq!((end.result, end.output.as_str()), (CommandResult::Ok, "done\n"));
    });
    assert_eq!(fs::read_to_string(&mark).unwrap(), "ran\n");
    assert_eq!(data.open().1[0].state, FoundState::Ended);
}

#[tokio::test]
async fn a_shim_that_is_killed_leaves_doubt_and_no_processes() {
    let data = Data::new();
    let (host, _) = data.open();
    let path = data.folder.join("pids");
    let script = format!("echo half; setsid sleep 1000 & echo $$ $! > {}; wait", path.display());
    host.start(shell("doubt", &script)).await.unwrap();
    let family = pids(&path).await;
    while host.tail(JOB, "doubt", 0).await.unwrap().bytes.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    data.shim_of("doubt").signal(Signal::KILL).unwrap();
    let end = host.wait(JOB, "doubt").await.unwrap();
    assert_eq!((end.result, end.status), (CommandResult::Indeterminate, None));
    assert_eq!((end.output.as_str(), end.output_sha256), ("half\n", None));
    let evidence = end.evidence.unwrap();
    assert!(evidence.contains("ended without a result"), "{evidence}");
    if evidence.contains("were killed") {
        assert!(!family.iter().any(|pid| runs(*pid)), "{evidence}");
    }
    for pid in family.into_iter().filter(|pid| runs(*pid)) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }
    // It is never run again, and the next daemon says the same.
    assert!(matches!(host.start(shell("doubt", &script)).await, Err(HostError::Unknown { .. })));
    assert!(matches!(host.fence(JOB, "doubt", 8, "x").await.unwrap(), Fence::Unknown { .. }));
    assert_eq!(data.open().1[0].state, FoundState::Unknown { evidence });
}

#[tokio::test]
async fn a_fence_before_the_start_holds_for_ever() {
    let data = Data::new();
    let (host, _) = data.open();
    assert_eq!(host.fence(JOB, "fenced", 8, "cancelled").await.unwrap(), Fence::Refused);
    for host in [host, data.open().0] {
        let refused = host.start(shell("fenced", "true")).await.unwrap_err();
        assert!(matches!(refused, HostError::Refused { .. }), "{refused}");
        assert_eq!(host.wait(JOB, "fenced").await.unwrap().result, CommandResult::Refused);
        assert_eq!(host.fence(JOB, "fenced", 9, "again").await.unwrap(), Fence::Refused);
    }
    assert_eq!(data.open().1[0].state, FoundState::Refused);
    let (host, _) = data.open();
    let end = run(&host, shell("ended", "true")).await;
    assert_eq!(host.fence(JOB, "ended", 8, "x").await.unwrap(), Fence::Ended(end.into()));
}

#[tokio::test]
async fn a_daemon_that_died_before_the_shim_began_has_not_run_the_command() {
    let data = Data::new();
    let (host, _) = data.open();
    // The daemon's last act was the intent.
    let place = data.place("half");
    place.create().unwrap();
    let intent = Line::Intent { nonce: "n1".into(), epoch: 7, digest: "d".into(), at_us: 1 };
    Journal::lock(&place).unwrap().append(intent.clone()).unwrap();
    assert_eq!(host.status(JOB, "half").await.unwrap(), CommandState::Starting);
    // Its shim comes, and finds nobody to tell it what to do.
    let orphan = std::process::Command::new(shim())
        .args([super::SHIM_ARGUMENT, "--nonce", "n1", "--dir"])
        .arg(&place.folder)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!orphan.status.success());
    assert_eq!(host.status(JOB, "half").await.unwrap(), CommandState::NotStarted);
    // Or the next daemon comes first.
    let intent = Line::Intent { nonce: "n2".into(), epoch: 7, digest: "d".into(), at_us: 2 };
    Journal::lock(&place).unwrap().append(intent).unwrap();
    let (host, found) = data.open();
    assert_eq!(found[0].state, FoundState::NotStarted);
    assert_eq!(run(&host, shell("half", "echo ran")).await.output, "ran\n");
}

#[tokio::test]
async fn a_shim_of_another_boot_or_another_start_is_gone() {
    let data = Data::new();
    let (host, _) = data.open();
    let own = ProcessMark::of_self().unwrap();
    let marks = [
        ("boot", ProcessMark { boot_id: "another".into(), ..own.clone() }, "started again"),
        ("start", ProcessMark { start_ticks: own.start_ticks + 1, ..own }, "without a result"),
    ];
    for (key, shim, words) in marks {
        let place = data.place(key);
        place.create().unwrap();
        let mut journal = Journal::lock(&place).unwrap();
        let nonce = "n".to_owned();
        let (epoch, digest) = (7, "d".to_owned());
        journal.append(Line::Intent { nonce: nonce.clone(), epoch, digest, at_us: 1 }).unwrap();
        journal.append(Line::Running { nonce, shim, cgroup: None, at_us: 2 }).unwrap();
        drop(journal);
        host.stop(JOB, key).await.unwrap();
        match host.status(JOB, key).await.unwrap() {
            CommandState::Unknown { evidence } => assert!(evidence.contains(words), "{evidence}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_runs_as_the_user_it_is_to_run_as() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let data = Data::new();
    let (host, _) = data.open();
    let mut start =
        shell("user", "id -un; id -G; umask; ulimit -c; grep NoNewPrivs /proc/self/status");
    start.spec.user = Some("nobody".into());
    let end = run(&host, start).await;
    let lines: Vec<&str> = end.output.lines().collect();
    assert_eq!(lines, ["nobody", "65534", "0022", "0", "NoNewPrivs:\t1"], "{end:?}");
    let mut start = shell("root", "true");
    start.spec.user = Some("daemon".into());
    let refused = host.start(start).await.unwrap_err();
    assert!(refused.to_string().contains("exec.users"), "{refused}");
    assert_eq!(host.status(JOB, "root").await.unwrap(), CommandState::NotStarted);
}

#[tokio::test]
async fn unsafe_names_and_old_jobs_go() {
    let data = Data::new();
    let (host, _) = data.open();
    for (job, key) in [("../x", "k"), (JOB, ".."), (JOB, "a/b")] {
        assert!(matches!(host.status(job, key).await, Err(HostError::BadName { .. })));
        assert!(matches!(host.fence(job, key, 1, "x").await, Err(HostError::BadName { .. })));
    }
    run(&host, shell("old", "true")).await;
    let week = super::JOURNAL_AGE_US;
    assert_eq!(host.sweep(week + 1, |_| None).unwrap(), 0);
    assert_eq!(host.sweep(week + 1, |_| Some(1)).unwrap(), 0);
    assert_eq!(host.sweep(week + 2, |_| Some(1)).unwrap(), 1);
    assert_eq!(host.status(JOB, "old").await.unwrap(), CommandState::NotStarted);
}
