//! The last stage before a program: the shim's child becomes the program.
//!
//! Owns everything a process does to itself before it turns into the program: session, cgroup,
//! user, limits, folder. It reads what to do from the front of its standard input and leaves the
//! rest of that input to the program. What goes wrong is written to the file `launch` of the
//! command's folder, opened before the user changes: so a program that exits with 127 and one
//! that could not be started are never confused.

use super::{
    command::{Launch, read_frame},
    journal::Place,
};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, getppid, initgroups, setresgid, setresuid, setsid},
};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Command, ExitCode},
};

/// The exit status of a launch that failed; the file `launch` says why.
const NOT_LAUNCHED: u8 = 127;
/// Under memory pressure a command goes before the daemon does.
const OOM_SCORE_ADJUST: &str = "500";

/// Becomes the program. Returns only if that failed.
pub(crate) fn run(place: &Place) -> ExitCode {
    let _ = prctl::set_dumpable(false);
    super::shim::close_inherited();
    let words =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(place.launch());
    let Ok(mut words) = words else {
        return ExitCode::from(NOT_LAUNCHED);
    };
    let Err(reason) = become_program();
    let _ = words.write_all(reason.as_bytes());
    ExitCode::from(NOT_LAUNCHED)
}

fn become_program() -> Result<std::convert::Infallible, String> {
    let mut input =
        io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(at("stdin"))?;
    let (launch, _): (Launch, usize) = read_frame(&mut input).map_err(at("the launch order"))?;
    drop(input);
    SigSet::empty().thread_set_mask().map_err(at("the signal mask"))?;
    setsid().map_err(at("setsid"))?;
    if let Some(cgroup) = &launch.cgroup {
        // Without it the shim finds the tree by descent.
        let _ = fs::write(cgroup.join("cgroup.procs"), "0");
    }
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUST);
    umask(Mode::from_bits_truncate(0o022));
    change_user(&launch)?;
    // Setuid programs (sudo, ping without capabilities) give nothing to a command.
    prctl::set_no_new_privs().map_err(at("no_new_privs"))?;
    // After the change of user, which clears it. If the shim went before, nobody watches over us.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("the parent-death signal"))?;
    if getppid().as_raw() != launch.parent {
        return Err("the shim has gone".to_owned());
    }
    let cwd = launch.cwd.as_deref().unwrap_or("/".as_ref());
    std::env::set_current_dir(cwd).map_err(at(&format!("the working folder {}", cwd.display())))?;
    Err(at(&format!("the program {}", launch.program.display()))(command(&launch).exec()))
}

fn command(launch: &Launch) -> Command {
    let mut command = Command::new(&launch.program);
    let mut argv = launch.argv.iter();
    if let Some(name) = argv.next() {
        command.arg0(name);
    }
    command
        .args(argv)
        .env_clear()
        .env("PATH", &launch.path)
        .env("LANG", "C.UTF-8")
        .env("HOME", &launch.account.home)
        .env("USER", &launch.account.name)
        .env("LOGNAME", &launch.account.name)
        .envs(&launch.env);
    command
}

fn change_user(launch: &Launch) -> Result<(), String> {
    let account = &launch.account;
    if !account.change {
        return Ok(());
    }
    let name = CString::new(account.name.as_str()).map_err(at("the user's name"))?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    initgroups(&name, gid).map_err(at("the user's groups"))?;
    setresgid(gid, gid, gid).map_err(at("the user's group"))?;
    setresuid(uid, uid, uid).map_err(at("the user"))
}

/// Names what an error is about.
fn at<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}
