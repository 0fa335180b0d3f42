//! What SIGHUP changes: the settings that can change live, and the names of those that cannot.
//!
//! This module owns the comparison. It is pure; the daemon reads the file, asks [`reload`], puts
//! the result into force and logs the names.

use super::{Settings, table::KEYS};

/// The outcome of reading the settings again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What holds from now on: the new values of live keys, the old values of all others.
    pub settings: Settings,
    /// Keys that changed and hold at once.
    pub applied: Vec<&'static str>,
    /// Keys that changed and hold after a restart.
    pub restart: Vec<&'static str>,
}

/// Compares the settings in force with those that were just read.
pub fn reload(old: &Settings, new: &Settings) -> Reload {
    let mut applied = Vec::new();
    let mut restart = Vec::new();
    // Settings are plain values of our own: they can always be written as JSON.
    let old_json = serde_json::to_value(old).unwrap_or_default();
    let mut json = serde_json::to_value(new).unwrap_or_default();
    for key in KEYS {
        let (pointer, before) = (key.pointer(), old_json.pointer(&key.pointer()));
        let (Some(before), Some(now)) = (before, json.pointer_mut(&pointer)) else { continue };
        if before == now {
            continue;
        }
        if key.live {
            applied.push(key.path);
        } else {
            *now = before.clone();
            restart.push(key.path);
        }
    }
    let settings = serde_json::from_value(json).unwrap_or_else(|_| old.clone());
    Reload { settings, applied, restart }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Level, Log},
        *,
    };

    #[test]
    fn live_keys_change_and_the_others_are_named() {
        let old = Settings::default();
        let mut new = old.clone();
        new.log.level = Level::Trace;
        new.exec.enabled = true;
        new.raft.tick_ms = 20;
        new.advertise = Some("n11:1".to_owned());
        let result = reload(&old, &new);
        assert_eq!(result.applied, ["exec.enabled", "log.level"]);
        assert_eq!(result.restart, ["advertise", "raft.tick_ms"]);
        let log = Log { level: Level::Trace, ..Log::default() };
        let mut expected = Settings { log, ..old.clone() };
        expected.exec.enabled = true;
        assert_eq!(result.settings, expected);
        let nothing = reload(&old, &old);
        assert_eq!((nothing.settings, nothing.applied.len() + nothing.restart.len()), (old, 0));
    }
}
