//! The general settings: the typed, documented part of the configuration that
//! `general_settings` changes and `settings_list` shows. Settings of one node's own file are not
//! here. A setting that is not set has its default.

use crate::path::{Path, path};
use crate::tree::Tree;
use serde_json::{Value, json};

/// What a setting's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingType {
    /// An integer within bounds, both included.
    Int(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its section.
    pub section: &'static str,
    /// Its name in the section.
    pub key: &'static str,
    /// What it may be.
    pub kind: SettingType,
    /// What it is while nobody set it, as JSON text.
    pub default: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// Every setting.
pub const SETTINGS: [Setting; 7] = [
    Setting {
        section: "history",
        key: "bytes_max",
        kind: SettingType::Int(0, 1 << 50),
        default: "0",
        about: "Bytes of the history; a node's own bound holds if it is less; 0: only that one",
    },
    Setting {
        section: "history",
        key: "reads_keep_count",
        kind: SettingType::Int(100, 1_000_000_000),
        default: "100000",
        about: "How many records of reads are kept, the newest ones; older ones are pruned",
    },
    Setting {
        section: "history",
        key: "reads_keep_days",
        kind: SettingType::Int(1, 365),
        default: "7",
        about: "After how many days, by cluster time, records of reads are pruned, however few",
    },
    Setting {
        section: "jobs",
        key: "commit_wait_ms",
        kind: SettingType::Int(0, 60_000),
        default: "1000",
        about: "How long, in milliseconds, a change waits for members that have not applied it",
    },
    Setting {
        section: "jobs",
        key: "deadline_s",
        kind: SettingType::Int(1, 86_400),
        default: "60",
        about: "Deadline, in seconds, of configuration and read jobs that name none",
    },
    Setting {
        section: "login",
        key: "token_ttl_s",
        kind: SettingType::Int(60, 86_400),
        default: "28800",
        about: "How long, in seconds, a token of user_login is good when the caller does not say",
    },
    Setting {
        section: "ssl",
        key: "cert_verify",
        kind: SettingType::Word(&["none", "optional", "required"]),
        default: "\"none\"",
        about: "Whether clients are asked for a certificate: none, optional or required",
    },
];

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("there is no setting {0}; settings_list shows them all")]
    Unknown(String),
    /// The value does not fit.
    #[error("{0} must be {1}")]
    Value(String, String),
}

impl Setting {
    /// The setting of this name.
    pub fn find(section: &str, key: &str) -> Result<&'static Setting, SettingError> {
        SETTINGS
            .iter()
            .find(|setting| setting.section == section && setting.key == key)
            .ok_or_else(|| SettingError::Unknown(format!("{section}.{key}")))
    }

    /// Where the configuration holds it.
    pub fn path(&self) -> Path {
        match self.section {
            "ssl" => path(&["ssl", self.key]),
            section => path(&["settings", section, self.key]),
        }
    }

    /// Its default.
    pub fn default_value(&self) -> Value {
        serde_json::from_str(self.default).expect("defaults are JSON")
    }

    /// Its value in a configuration.
    pub fn value_in(&self, config: &Tree) -> Value {
        config.value(&self.path()).unwrap_or_else(|| self.default_value())
    }

    /// What its value may be, in words.
    pub fn allowed(&self) -> String {
        match self.kind {
            SettingType::Int(least, most) => format!("an integer from {least} to {most}"),
            SettingType::Word(words) => format!("one of {}", words.join(", ")),
        }
    }

    /// The type's name on the wire.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            SettingType::Int(..) => "int",
            SettingType::Word(_) => "str",
        }
    }

    /// Checks a value.
    pub fn check(&self, value: &Value) -> Result<(), SettingError> {
        let fits = match self.kind {
            SettingType::Int(least, most) => {
                value.as_i64().is_some_and(|number| (least..=most).contains(&number))
            }
            SettingType::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        };
        let name = || format!("{}.{}", self.section, self.key);
        if fits { Ok(()) } else { Err(SettingError::Value(name(), self.allowed())) }
    }

    /// What `settings_list` shows of it.
    pub fn describe(&self, config: &Tree) -> Value {
        json!({
            "value": self.value_in(config),
            "default": self.default_value(),
            "type": self.type_name(),
            "allowed": self.allowed(),
            "description": self.about,
        })
    }
}

/// An integer setting's value, in a configuration that was validated.
pub fn integer(config: &Tree, section: &str, key: &str) -> u64 {
    let setting = Setting::find(section, key).expect("the program asks for its own settings");
    let value = setting.value_in(config).as_u64();
    value.or_else(|| setting.default_value().as_u64()).unwrap_or(0)
}

/// A word setting's value.
pub fn word(config: &Tree, section: &str, key: &str) -> String {
    let setting = Setting::find(section, key).expect("the program asks for its own settings");
    setting.value_in(config).as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_passes_its_own_check() {
        for setting in &SETTINGS {
            setting.check(&setting.default_value()).unwrap();
            assert_eq!(setting.value_in(&Tree::new()), setting.default_value());
        }
        assert!(Setting::find("jobs", "nonsense").is_err());
    }
}
