//! The programs under test: where they are, and running one to its end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit status; -1 if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ended {
    /// Its standard output, if it ended with 0.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "it failed:\n{}{}", self.out, self.err);
        self.out
    }
}

/// The folder of the profile that the running program was built in, such as `target/debug`: a
/// test lies in its `deps`, a program in the folder itself.
///
/// # Panics
/// The program was moved out of its target folder.
pub fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a process knows its program");
    let folder = program.parent().expect("a program lies in a folder");
    let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    folder.expect("a test lies in <target>/<profile>/deps").to_owned()
}

/// `tiebeamd`: the variable `TIEBEAMD_BIN`, or the one built with the test.
///
/// # Panics
/// It is not there.
pub fn tiebeamd_program() -> PathBuf {
    built("TIEBEAMD_BIN", "tiebeamd")
}

/// A `tiebeamd` that stands for the next version, built with the feature `next-level`: the variable
/// `TIEBEAMD_NEXT_BIN`, or `tiebeamd-next` beside the other one.
///
/// # Panics
/// It is not there.
pub fn next_program() -> PathBuf {
    let named = std::env::var_os("TIEBEAMD_NEXT_BIN").map(PathBuf::from);
    let path = named.unwrap_or_else(|| profile_folder().join("tiebeamd-next"));
    let how = "is missing: build tiebeamd with --features next-level and copy it there";
    assert!(path.is_file(), "{} {how}", path.display());
    path
}

/// A command of `tiebeamd` without the settings that this process's environment may hold.
///
/// # Panics
/// The program is not there.
pub fn tiebeamd_command() -> Command {
    command_of(&tiebeamd_program())
}

/// The same of another build.
pub fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIEBEAMD_") {
            command.env_remove(name);
        }
    }
    command
}

/// `tiebeam`: the variable `TIEBEAM_BIN`, or the one built with the test.
///
/// # Panics
/// It is not there.
pub fn client_program() -> PathBuf {
    built("TIEBEAM_BIN", "tiebeam")
}

fn built(variable: &str, name: &str) -> PathBuf {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => profile_folder().join(name),
    };
    let release = if path.iter().any(|part| part == "release") { " --release" } else { "" };
    assert!(
        path.is_file(),
        "{} is missing: build it with `cargo build -p {name}{release}`, or set {variable}",
        path.display()
    );
    path
}

/// Runs a prepared command to its end, with `input` on its standard input.
///
/// # Panics
/// It cannot be started.
#[track_caller]
pub fn run(command: &mut Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.get_program().to_owned();
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", name.display()));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    let feeder = std::thread::spawn(move || {
        // A program that does not read its input closes the pipe: that is no failure.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    });
    let output = child.wait_with_output().expect("a child that was started can be waited for");
    feeder.join().expect("the feeder does not panic");
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command with arguments.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
