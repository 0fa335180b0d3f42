//! Reading the settings: defaults, then the file, then the environment, then flags.
//!
//! This module owns the order and the errors: an unknown key is named with line and column, an
//! unknown `TIEBEAMD_` variable by its name. A file that others can change is refused, because it
//! says which programs may be started. It never panics.

use super::{
    FILE, Settings,
    table::{KEYS, Key, Kind},
};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What the environment variables begin with.
pub const PREFIX: &str = "TIEBEAMD_";
/// Largest settings file in bytes: the commented one has under 8 KiB.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than the daemon's user and root can change the file.
    #[error("{} can be changed by others (uid {uid}, mode {mode:04o}): chmod 600", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// The file is not a settings file.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong.
        reason: String,
    },
    /// An environment variable begins with `TIEBEAMD_` but names no setting.
    #[error("the environment variable {0} names no setting")]
    UnknownVariable(String),
    /// A flag names no setting.
    #[error("there is no setting `{0}`")]
    UnknownKey(String),
    /// An environment variable's or flag's value does not fit.
    #[error("{from}: {reason}")]
    Override {
        /// The variable, or the key of a flag.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// A value cannot work.
    #[error("`{key}` cannot be used: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A later version brings it (ruling 24).
    #[error("`{0}` is not in this version")]
    NotInThisVersion(&'static str),
}

impl Settings {
    /// Reads the settings of a data folder; without a file the defaults hold.
    ///
    /// `environment` is usually [`std::env::vars_os`]; only `TIEBEAMD_…` is looked at. `flags` are
    /// pairs of key (`rpc.on_follower`) and value.
    ///
    /// # Errors
    /// The first thing that is wrong, in file, environment, flags or their sum.
    pub fn load(
        data: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[(&str, String)],
    ) -> Result<Settings, SettingsError> {
        let path = data.join(FILE);
        let mut settings = match File::open(&path) {
            Ok(file) => parse(&path, &read_file(&path, file)?)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Settings::default(),
            Err(source) => return Err(SettingsError::Read { path, source }),
        };
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let key = KEYS.iter().find(|key| key.variable() == name);
            let key = key.ok_or_else(|| SettingsError::UnknownVariable(name.to_owned()))?;
            let value = value.to_str().ok_or_else(|| not_text(name))?;
            settings = settings.with(key, value, name)?;
        }
        for (path, value) in flags {
            let key = KEYS.iter().find(|key| key.path == *path);
            let key = key.ok_or_else(|| SettingsError::UnknownKey((*path).to_owned()))?;
            settings = settings.with(key, value, path)?;
        }
        settings.check()?;
        Ok(settings)
    }

    /// The same settings with one key set from a text; `from` is named in errors.
    fn with(&self, key: &Key, text: &str, from: &str) -> Result<Settings, SettingsError> {
        let wrong = |reason: String| SettingsError::Override { from: from.to_owned(), reason };
        let mut json = serde_json::to_value(self).map_err(|e| wrong(e.to_string()))?;
        let value = read_value(key.kind, text).map_err(|reason| wrong(reason.to_owned()))?;
        if let Some(place) = json.pointer_mut(&key.pointer()) {
            *place = value;
        }
        serde_json::from_value(json).map_err(|e| wrong(e.to_string()))
    }
}

fn not_text(name: &str) -> SettingsError {
    SettingsError::Override { from: name.to_owned(), reason: "it is not UTF-8".to_owned() }
}

fn read_value(kind: Kind, text: &str) -> Result<Value, &'static str> {
    Ok(match kind {
        Kind::Text => Value::from(text),
        Kind::Optional if text.is_empty() => Value::Null,
        Kind::Optional => Value::from(text),
        Kind::Bool => {
            Value::from(text.parse::<bool>().map_err(|_| "it is neither true nor false")?)
        }
        Kind::Number => Value::from(text.parse::<u64>().map_err(|_| "it is not a number")?),
        Kind::List if text.is_empty() => Value::Array(Vec::new()),
        Kind::List => text.split(',').map(|entry| Value::from(entry.trim())).collect(),
    })
}

fn read_file(path: &Path, mut file: File) -> Result<String, SettingsError> {
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let facts = file.metadata().map_err(failed)?;
    let (uid, mode) = (facts.uid(), facts.mode() & 0o7777);
    let ours = uid == 0 || uid == rustix::process::geteuid().as_raw();
    if !ours || mode & 0o022 != 0 {
        return Err(SettingsError::Open { path: path.to_owned(), uid, mode });
    }
    let mut text = String::new();
    let length =
        file.by_ref().take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text)
}

/// Reads the text of a settings file; `path` is named in errors.
///
/// # Errors
/// It is not YAML, or has an unknown key, a key twice, or a value of a wrong type.
pub fn parse(path: &Path, text: &str) -> Result<Settings, SettingsError> {
    if text.lines().all(|line| line.trim_start().starts_with('#') || line.trim().is_empty()) {
        return Ok(Settings::default());
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
    };
    serde_saphyr::from_str_with_options::<Settings>(text, options).map_err(|error| {
        let at = error.location().map(|at| (at.line(), at.column()));
        let (line, column) = at.unwrap_or((1, 1));
        // The position stands in front; the parser puts it at the end once more.
        let reason = error.without_snippet().to_string();
        let reason = match reason.strip_suffix(&format!(" at line {line}, column {column}")) {
            Some(shorter) => shorter.to_owned(),
            None => reason,
        };
        SettingsError::Parse { path: path.to_owned(), line, column, reason }
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Size, *};
    use crate::durable::{self, scratch::Folder};
    use std::os::unix::fs::PermissionsExt;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn load(file: &str, environment: Pairs, flags: Pairs) -> Result<Settings, String> {
        let data = Folder::new();
        durable::write_new(&data.path().join(FILE), file.as_bytes(), 0o600).expect("written");
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Settings::load(data.path(), environment, &flags).map_err(|e| e.to_string())
    }

    #[test]
    fn without_a_file_the_defaults_hold() {
        let data = Folder::new();
        let settings = Settings::load(data.path(), [], &[]).expect("defaults");
        assert_eq!(settings, Settings::default());
        assert_eq!(load("# nothing\n", &[], &[]), Ok(Settings::default()));
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = "log: {level: debug}\nexec:\n  allow: [/bin/a]\n  enabled: true\n";
        let environment = [
            ("TIEBEAMD_LOG_LEVEL", "warn"),
            ("TIEBEAMD_EXEC_ALLOW", "/bin/b, /bin/c"),
            ("PATH", "/bin"),
        ];
        let settings = load(file, &environment, &[("log.level", "trace")]).expect("settings");
        assert_eq!(settings.log.level.name(), "trace");
        assert_eq!(settings.exec.allow, ["/bin/b", "/bin/c"]);
        assert!(settings.exec.enabled);
    }

    #[test]
    fn every_key_can_be_set_in_the_file_the_environment_and_by_flag() {
        let values = |key: &Key| match key.path {
            "listen" => ("127.0.0.2:1", "\"127.0.0.2:1\""),
            "advertise" => ("n.example:2", "\"n.example:2\""),
            "rpc.on_follower" => ("forward", "forward"),
            "rpc.origins" => ("https://a,https://b", "[\"https://a\", \"https://b\"]"),
            "rpc.hosts" => ("a,b", "[a, b]"),
            "metrics.listen" => ("127.0.0.1:9", "\"127.0.0.1:9\""),
            "exec.allow" => ("/bin/a", "[/bin/a]"),
            "exec.users" => ("a,root", "[a, root]"),
            "log.level" => ("warn", "warn"),
            "log.format" => ("json", "json"),
            "unix_socket.group" => ("wheel", "wheel"),
            "peer.listen" => ("", "null"),
            "exec.enabled" => ("true", "true"),
            "unix_socket.remote_root" => ("false", "false"),
            "raft.heartbeat_ticks" => ("3", "3"),
            _ => match key.kind {
                Kind::Number => ("47", "47"),
                _ => ("128MiB", "128MiB"),
            },
        };
        for key in KEYS {
            let (text, yaml) = values(key);
            let file = match key.path.split_once('.') {
                Some((section, name)) => format!("{section}:\n  {name}: {yaml}\n"),
                None => format!("{}: {yaml}\n", key.path),
            };
            let by_file = load(&file, &[], &[]).unwrap_or_else(|e| panic!("{}: {e}", key.path));
            let by_environment = load("", &[(&key.variable(), text)], &[]);
            let by_flag = load("", &[], &[(key.path, text)]);
            assert_eq!(by_environment.as_ref(), Ok(&by_file), "{}", key.path);
            assert_eq!(by_flag.as_ref(), Ok(&by_file), "{}", key.path);
            let fixed = key.path == "peer.listen";
            assert_eq!(by_file == Settings::default(), fixed, "{}", key.path);
        }
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_with_line_and_column() {
        for (file, position, word) in [
            ("listen: \"127.0.0.1:1\"\nlisten2: 3\n", ":2:1: ", "listen2"),
            ("exec:\n  enabled: true\n  alow: []\n", ":3:3: ", "alow"),
            ("exec:\n  enabled: yes\n", ":2:12: ", "bool"),
            ("listen: 127.0.0.1\n", ":1:9: ", "socket address"),
            ("raft: {tick_ms: fast}\n", ":1:17: ", ""),
            ("log: {level: loud}\n", ":1:14: ", "loud"),
            ("log: {level: info}\nlog: {level: warn}\n", ":2:1: ", "log"),
            ("disk: {free_bytes_min: 1GB}\n", ":1:8: ", "GiB"),
            ("exec: [\n", ":", ""),
        ] {
            let error = load(file, &[], &[]).expect_err(file);
            assert!(error.contains(position) && error.contains(word), "{file}{error}");
        }
    }

    #[test]
    fn what_is_wrong_outside_the_file_is_named_by_its_name() {
        for (name, value, word) in [
            ("TIEBEAMD_LOG_LEVLE", "info", "TIEBEAMD_LOG_LEVLE"),
            ("TIEBEAMD_EXEC_ENABLED", "yes", "neither true nor false"),
            ("TIEBEAMD_RAFT_TICK_MS", "ten", "not a number"),
            ("TIEBEAMD_LISTEN", "here", "TIEBEAMD_LISTEN"),
            ("TIEBEAMD_RPC_ON_FOLLOWER", "backward", "TIEBEAMD_RPC_ON_FOLLOWER"),
            ("TIEBEAMD_PEER_LISTEN", "127.0.0.1:1", "not in this version"),
        ] {
            let error = load("", &[(name, value)], &[]).expect_err(name);
            assert!(error.contains(word), "{error}");
        }
        assert!(load("", &[], &[("log.colour", "x")]).is_err_and(|e| e.contains("log.colour")));
    }

    #[test]
    fn a_file_that_others_can_change_is_refused() {
        let data = Folder::new();
        let path = data.path().join(FILE);
        durable::write_new(&path, b"exec: {enabled: true}\n", 0o600).expect("written");
        for (mode, fine) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(Settings::load(data.path(), [], &[]).is_ok(), fine, "{mode:o}");
        }
    }

    #[test]
    fn sizes_can_be_digits_or_have_a_unit() {
        let settings = load("disk: {free_bytes_min: 1048576}\n", &[], &[]).expect("digits");
        assert_eq!(settings.disk.free_bytes_min, Size(1 << 20));
    }
}
