//! What a command is, how it ends, and the form in which the daemon hands it to the shim.
//!
//! Owns the types that the node agent sees and the frame that goes through the shim's standard
//! input. The frame is the only way in which arguments, environment and secrets travel: never a
//! command line, an environment or a file.

use super::HostError;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::PathBuf,
};
pub use tiebeam_executor::end::{CommandEnd, CommandResult, CommandState, EndLine, Fence};
use zeroize::Zeroizing;

/// Default of [`CommandSpec::output_bytes_max`].
pub const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// Default time between SIGTERM and SIGKILL, microseconds (ruling 11).
pub const STOP_GRACE_US: u64 = 10_000_000;
/// Bytes of standard input: a request's body has 1 MiB, a stored secret or file part less.
pub const STDIN_BYTES_MAX: usize = 4 << 20;
/// Bytes of a frame's JSON part: arguments and environment come out of one request body.
const FRAME_JSON_BYTES_MAX: usize = 4 << 20;

/// What to run.
#[derive(Clone)]
pub struct CommandSpec {
    /// The program (an absolute path, or a name to be found on the search path) and arguments.
    pub argv: Vec<String>,
    /// Added to PATH, LANG, HOME, USER and LOGNAME.
    pub env: BTreeMap<String, String>,
    /// Working folder; `/` if absent.
    pub cwd: Option<PathBuf>,
    /// OS user; if absent the first of `exec.users`, or for a declared command the daemon's own.
    pub user: Option<String>,
    /// Standard input. Secrets belong here.
    pub stdin: Zeroizing<Vec<u8>>,
    /// Time until the tree is stopped, microseconds; absent: only the job's deadline counts.
    pub timeout_us: Option<u64>,
    /// Time between SIGTERM and SIGKILL, microseconds.
    pub grace_us: u64,
    /// Bytes of output that are kept; the rest is counted.
    pub output_bytes_max: u64,
    /// Values that are replaced by `[secret]` before output reaches a file.
    pub secrets: Vec<Zeroizing<String>>,
}

impl CommandSpec {
    /// A command without input, environment, timeout or secrets.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> CommandSpec {
        CommandSpec {
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            stdin: Zeroizing::default(),
            timeout_us: None,
            grace_us: STOP_GRACE_US,
            output_bytes_max: OUTPUT_BYTES_MAX,
            secrets: Vec::new(),
        }
    }

    /// Whether a process can be given this at all.
    pub(crate) fn check(&self) -> Result<(), HostError> {
        let bad = |reason: &str| Err(HostError::BadSpec { reason: reason.to_owned() });
        if self.argv.first().is_none_or(String::is_empty) {
            return bad("argv is empty");
        }
        if self.argv.iter().any(|word| word.contains('\0')) {
            return bad("argv holds a zero byte");
        }
        let odd = |name: &str, value: &str| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        if let Some((name, _)) = self.env.iter().find(|(name, value)| odd(name, value)) {
            return Err(HostError::BadSpec {
                reason: format!("env {name:?} is no name and value of an environment"),
            });
        }
        if self.cwd.as_ref().is_some_and(|cwd| !cwd.is_absolute()) {
            return bad("cwd is not an absolute path");
        }
        if self.stdin.len() > STDIN_BYTES_MAX {
            return bad("stdin is larger than 4 MiB");
        }
        Ok(())
    }
}

impl std::fmt::Debug for CommandSpec {
    /// Shows the program only: arguments and environment may be somebody's secrets.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("CommandSpec")
            .field("program", &self.argv.first())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Whose choice the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The caller's (`command_run`): `exec.allow` and `exec.users` decide.
    Caller,
    /// A job's declaration fixes program and arguments (`systemctl start …`): only
    /// `exec.enabled` applies, and the default user is the daemon's own.
    Declared,
}

/// A command to start.
#[derive(Clone, Debug)]
pub struct CommandStart {
    /// The job.
    pub job: String,
    /// The key, unique within the job.
    pub key: String,
    /// The epoch of the master that asks; kept, never compared (ruling 9).
    pub epoch: u64,
    /// The digest of the arguments in the intent entry; the same key with another digest is an
    /// error.
    pub digest: String,
    /// Whose choice the program is.
    pub authority: Authority,
    /// What to run.
    pub spec: CommandSpec,
}

/// The OS user whose rights a program gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
    /// Whether the process must change to it: only uid 0 can.
    pub change: bool,
}

/// What the last stage before the program needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub program: PathBuf,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<PathBuf>,
    pub account: Account,
    pub path: String,
    pub cgroup: Option<PathBuf>,
    pub parent: i32,
}

/// What the shim needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub launch: Launch,
    pub timeout_us: Option<u64>,
    pub grace_us: u64,
    pub output_bytes_max: u64,
    pub secrets: Vec<String>,
}

/// Writes a frame: the length of the JSON and of the input (8 bytes each, little endian), the
/// JSON, the input.
pub(crate) fn write_frame<T: Serialize>(
    out: &mut impl Write,
    what: &T,
    input: &[u8],
) -> io::Result<()> {
    let json = Zeroizing::new(serde_json::to_vec(what)?);
    out.write_all(&(json.len() as u64).to_le_bytes())?;
    out.write_all(&(input.len() as u64).to_le_bytes())?;
    out.write_all(&json)?;
    out.write_all(input)?;
    out.flush()
}

/// Reads a frame's JSON and the length of the input that follows, and not a byte more. The
/// reader must not be buffered if somebody else is to read the input.
pub(crate) fn read_frame<T: serde::de::DeserializeOwned>(
    from: &mut impl Read,
) -> io::Result<(T, usize)> {
    let mut length = || {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        usize::try_from(u64::from_le_bytes(bytes)).map_err(io::Error::other)
    };
    let (json_bytes, input_bytes) = (length()?, length()?);
    if json_bytes > FRAME_JSON_BYTES_MAX || input_bytes > STDIN_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame beyond its limit"));
    }
    let mut json = Zeroizing::new(vec![0; json_bytes]);
    from.read_exact(&mut json)?;
    Ok((serde_json::from_slice(&json)?, input_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_ends_early_is_an_error_at_every_byte() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &"order", b"input").unwrap();
        let (order, input): (String, usize) = read_frame(&mut bytes.as_slice()).unwrap();
        assert_eq!((order.as_str(), input), ("order", 5));
        for cut in 0..bytes.len() - 5 {
            let read: io::Result<(String, usize)> = read_frame(&mut &bytes[..cut]);
            assert!(read.is_err(), "{cut}");
        }
    }

    #[test]
    fn a_spec_shows_no_argument_and_no_environment() {
        let mut spec = CommandSpec::new(["/bin/login", "hunter2"]);
        spec.env.insert("TOKEN".into(), "hunter3".into());
        spec.stdin = Zeroizing::new(b"hunter4".to_vec());
        let text = format!("{spec:?}");
        assert!(text.contains("/bin/login") && !text.contains("hunter"), "{text}");
    }

    #[test]
    fn what_no_process_can_be_given_is_refused_before_anything_is_written() {
        assert!(CommandSpec::new([""; 0]).check().is_err());
        assert!(CommandSpec::new(["/bin/ls", "a\0b"]).check().is_err());
        let mut spec = CommandSpec::new(["/bin/ls"]);
        spec.env.insert("A=B".into(), "c".into());
        assert!(spec.check().is_err());
        spec.env.clear();
        spec.cwd = Some("tmp".into());
        assert!(spec.check().is_err());
    }
}
