//! Which programs this node runs, as which OS users (ruling 29).
//!
//! Owns [`ExecPolicy`], the `exec` part of the node settings, and the decision it makes. Whoever
//! is root on a node decides for that node; nothing of it is replicated. It reads the file system
//! and the user database and starts nothing.

use super::{
    HostError,
    command::{Account, Authority, CommandSpec, Launch},
};
use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Variables that make an allowed program load or run something else.
const ENV_REFUSED: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "ENV",
    "FPATH",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "GLOBIGNORE",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCALDOMAIN",
    "LOCPATH",
    "MALLOC_TRACE",
    "NIS_PATH",
    "NLSPATH",
    "NODE_OPTIONS",
    "NULLCMD",
    "PATH",
    "PS4",
    "READNULLCMD",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "TERMCAP",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TERMPATH",
    "TMPPREFIX",
    "ZDOTDIR",
];
/// The same, by how their names begin.
const ENV_REFUSED_PREFIXES: &[&str] = &["BASH_FUNC_", "LD_", "PERL", "PYTHON", "_RLD"];

/// The `exec` part of a node's own settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecPolicy {
    /// Whether this node runs commands at all.
    pub enabled: bool,
    /// Programs that callers may run: absolute paths.
    pub allow: Vec<PathBuf>,
    /// OS users that callers' commands may run as; the first one is the default.
    pub users: Vec<String>,
    /// Where a program named without a path is looked for, and PATH of every command.
    pub search: Vec<PathBuf>,
}

impl Default for ExecPolicy {
    fn default() -> ExecPolicy {
        let search =
            ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        ExecPolicy {
            enabled: true,
            allow: Vec::new(),
            users: vec!["nobody".to_owned()],
            search: search.map(PathBuf::from).to_vec(),
        }
    }
}

impl ExecPolicy {
    /// Decides about a command.
    ///
    /// # Errors
    /// [`HostError::NotAllowed`] with the setting that forbids it; [`HostError::BadSpec`] if
    /// there is no such program or user.
    pub(crate) fn admit(
        &self,
        spec: &CommandSpec,
        authority: Authority,
    ) -> Result<Launch, HostError> {
        if !self.enabled {
            let reason = "this node runs no commands".to_owned();
            return Err(HostError::NotAllowed { setting: "exec.enabled", reason });
        }
        let program = self.program(spec, authority)?;
        let account = self.account(spec, authority)?;
        if authority == Authority::Caller {
            check_env(spec)?;
        }
        let path: Vec<&str> = self.search.iter().filter_map(|folder| folder.to_str()).collect();
        Ok(Launch {
            program,
            argv: spec.argv.clone(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            account,
            path: path.join(":"),
            cgroup: None,
            parent: 0,
        })
    }

    fn program(&self, spec: &CommandSpec, authority: Authority) -> Result<PathBuf, HostError> {
        let named = spec.argv.first().map(String::as_str).unwrap_or_default();
        let found = self.find(named)?;
        if authority == Authority::Declared {
            return Ok(found);
        }
        if self.allow.iter().filter_map(|path| settle(path)).any(|path| path == found) {
            return Ok(found);
        }
        let reason = format!("this node does not allow the program {}", found.display());
        Err(HostError::NotAllowed { setting: "exec.allow", reason })
    }

    /// The file that a program's name stands for.
    fn find(&self, named: &str) -> Result<PathBuf, HostError> {
        let absent = || HostError::BadSpec { reason: format!("there is no program {named:?}") };
        if named.contains('/') {
            let path = Path::new(named);
            if !path.is_absolute() {
                let reason = format!("the program {named:?} is neither a name nor absolute");
                return Err(HostError::BadSpec { reason });
            }
            return settle(path).filter(|path| path.is_file()).ok_or_else(absent);
        }
        self.search
            .iter()
            .map(|folder| folder.join(named))
            .filter_map(|path| settle(&path))
            .find(|path| path.is_file())
            .ok_or_else(absent)
    }

    fn account(&self, spec: &CommandSpec, authority: Authority) -> Result<Account, HostError> {
        let own = Uid::effective();
        let name = match (&spec.user, authority) {
            (Some(name), _) => Some(name.as_str()),
            (None, Authority::Caller) => self.users.first().map(String::as_str),
            (None, Authority::Declared) => None,
        };
        let Some(user) = look_up(name, own)? else {
            let reason = format!("this node has no user {:?}", name.unwrap_or_default());
            return Err(HostError::BadSpec { reason });
        };
        let refused = |reason: String| HostError::NotAllowed { setting: "exec.users", reason };
        if authority == Authority::Caller {
            // By number, too: a second name of uid 0 is root all the same.
            let named = |wanted: &str| self.users.iter().any(|allowed| allowed == wanted);
            if !named(&user.name) || (user.uid.is_root() && !named("root")) {
                return Err(refused(format!("this node runs no commands as {}", user.name)));
            }
        }
        if user.uid != own && !own.is_root() {
            return Err(refused(format!(
                "the daemon runs as uid {own} and cannot run a command as {}",
                user.name
            )));
        }
        Ok(Account {
            change: own.is_root() && !user.uid.is_root(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
            name: user.name,
        })
    }
}

fn look_up(name: Option<&str>, own: Uid) -> Result<Option<User>, HostError> {
    let found = match name {
        Some(name) => User::from_name(name),
        None => User::from_uid(own),
    };
    found.map_err(|error| HostError::BadSpec { reason: format!("the user database: {error}") })
}

/// A path with its folder resolved and its last part as it is named.
///
/// So `/bin/ls` and `/usr/bin/ls` are one program where one folder links to the other, but two
/// links to one file that acts by its name (busybox) remain two programs.
fn settle(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() {
        return None;
    }
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

fn check_env(spec: &CommandSpec) -> Result<(), HostError> {
    let refused = |name: &str| {
        ENV_REFUSED.contains(&name)
            || ENV_REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    match spec.env.keys().find(|name| refused(name)) {
        Some(name) => Err(HostError::NotAllowed {
            setting: "exec.allow",
            reason: format!("the variable {name} could make an allowed program run another"),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> ExecPolicy {
        ExecPolicy { allow: vec!["/bin/ls".into()], ..ExecPolicy::default() }
    }

    fn setting(result: Result<Launch, HostError>) -> &'static str {
        match result {
            Err(HostError::NotAllowed { setting, .. }) => setting,
            Err(other) => panic!("{other}"),
            Ok(_) => "",
        }
    }

    #[test]
    fn only_named_programs_run_however_they_are_spelled() {
        let own = User::from_uid(Uid::effective()).unwrap().unwrap().name;
        let policy = ExecPolicy { users: vec![own], ..policy() };
        let ask = |argv0: &str| policy.admit(&CommandSpec::new([argv0]), Authority::Caller);
        assert_eq!(setting(ask("/bin/ls")), "");
        assert_eq!(setting(ask("ls")), "");
        assert_eq!(setting(ask("/bin/../bin/ls")), "");
        assert_eq!(setting(ask("/bin/sh")), "exec.allow");
        assert_eq!(setting(ask("sh")), "exec.allow");
        assert!(matches!(ask("bin/ls"), Err(HostError::BadSpec { .. })));
        assert!(matches!(ask("no-such-program"), Err(HostError::BadSpec { .. })));
        let declared = policy.admit(&CommandSpec::new(["sh"]), Authority::Declared);
        assert_eq!(setting(declared), "");
        let off = ExecPolicy { enabled: false, ..policy.clone() };
        let declared = off.admit(&CommandSpec::new(["sh"]), Authority::Declared);
        assert_eq!(setting(declared), "exec.enabled");
    }

    #[test]
    fn two_links_to_one_file_are_two_programs() {
        let folder = std::env::temp_dir().join(format!("tiebeam-policy-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["allowed", "other"] {
            std::os::unix::fs::symlink("/bin/sh", folder.join(name)).unwrap();
        }
        let own = User::from_uid(Uid::effective()).unwrap().unwrap().name;
        let allow = vec![folder.join("allowed")];
        let policy = ExecPolicy { allow, users: vec![own], ..ExecPolicy::default() };
        let ask = |name: &str| {
            let argv0 = folder.join(name).to_string_lossy().into_owned();
            policy.admit(&CommandSpec::new([argv0]), Authority::Caller)
        };
        assert_eq!(setting(ask("allowed")), "");
        assert_eq!(setting(ask("other")), "exec.allow");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn root_must_be_named() {
        let ask = |users: &[&str], user: Option<&str>| {
            let users = users.iter().map(ToString::to_string).collect();
            let spec =
                CommandSpec { user: user.map(str::to_owned), ..CommandSpec::new(["/bin/ls"]) };
            ExecPolicy { users, ..policy() }.admit(&spec, Authority::Caller)
        };
        assert_eq!(setting(ask(&["nobody"], Some("root"))), "exec.users");
        assert!(
            matches!(ask(&[], None), Err(HostError::NotAllowed { .. }))
                || !Uid::effective().is_root()
        );
        assert!(matches!(ask(&["nobody"], Some("no-such-user")), Err(HostError::BadSpec { .. })));
        if Uid::effective().is_root() {
            assert_eq!(ask(&["root"], None).ok().unwrap().account.uid, 0);
            assert!(ask(&["nobody"], None).ok().unwrap().account.change);
        }
    }

    #[test]
    fn the_environment_is_no_way_around_the_list() {
        for name in ["LD_PRELOAD", "PATH", "PYTHONPATH", "PERL5LIB", "BASH_ENV", "BASH_FUNC_ls%%"] {
            let mut spec = CommandSpec::new(["/bin/ls"]);
            spec.env.insert(name.into(), "x".into());
            assert!(check_env(&spec).is_err(), "{name}");
        }
        let mut spec = CommandSpec::new(["/bin/ls"]);
        spec.env.insert("BACKUP_TARGET".into(), "x".into());
        assert!(check_env(&spec).is_ok());
    }
}
