//! What jobs hold while they run: read and write locks on paths.
//!
//! Two locks conflict if one path is a prefix of the other and one of them is `write` (ruling 8).
//! `LockSet` is the one table of this; State keeps one for running and waiting jobs, the master a
//! second one for plans in flight.

use crate::path::is_prefix;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// How a job uses a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Others may read it meanwhile.
    Read,
    /// Nobody else may use it.
    Write,
}

/// One lock that a job asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lock {
    /// How.
    pub access: Access,
    /// What: a path; empty means everything and is shown as `*`.
    pub path: Arc<str>,
}

impl Lock {
    /// A write lock on `path`.
    pub fn write(path: impl AsRef<str>) -> Lock {
        Lock { access: Access::Write, path: Arc::from(path.as_ref()) }
    }

    /// A read lock on `path`.
    pub fn read(path: impl AsRef<str>) -> Lock {
        Lock { access: Access::Read, path: Arc::from(path.as_ref()) }
    }

    /// Whether the two cannot be held at once.
    pub fn conflicts(&self, other: &Lock) -> bool {
        (self.access == Access::Write || other.access == Access::Write)
            && (is_prefix(&self.path, &other.path) || is_prefix(&other.path, &self.path))
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.access == Access::Write { "write" } else { "read" };
        let path = if self.path.is_empty() { "*" } else { &self.path };
        write!(out, "{access} {path}")
    }
}

/// How often a path is held: readers and writers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Holders {
    readers: u32,
    writers: u32,
}

/// A table of held locks. Cloning it is a pointer copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LockSet {
    paths: OrdMap<Arc<str>, Holders>,
}

impl LockSet {
    /// An empty table.
    pub fn new() -> LockSet {
        LockSet::default()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether any of `locks` conflicts with one that is held.
    pub fn conflicts(&self, locks: &[Lock]) -> bool {
        !self.paths.is_empty() && locks.iter().any(|lock| self.conflicts_one(lock))
    }

    fn conflicts_one(&self, lock: &Lock) -> bool {
        let blocks =
            |held: &Holders| held.writers > 0 || (lock.access == Access::Write && held.readers > 0);
        let path: &str = &lock.path;
        if path.is_empty() {
            return self.paths.values().any(blocks);
        }
        let ancestors = std::iter::once("")
            .chain(path.match_indices('/').map(|(at, _)| &path[..at]))
            .chain(std::iter::once(path));
        for above in ancestors {
            if self.paths.get(above).is_some_and(blocks) {
                return true;
            }
        }
        let below: Arc<str> = Arc::from(format!("{path}/"));
        self.paths
            .range(below.clone()..)
            .take_while(|(held, _)| held.starts_with(&*below))
            .any(|(_, held)| blocks(held))
    }

    /// Notes that `locks` are held once more.
    pub fn take(&mut self, locks: &[Lock]) {
        for lock in locks {
            let mut held = self.paths.get(&lock.path).copied().unwrap_or_default();
            match lock.access {
                Access::Read => held.readers += 1,
                Access::Write => held.writers += 1,
            }
            self.paths.insert(lock.path.clone(), held);
        }
    }

    /// Notes that `locks` are held once less. Panics if they were not held: the table is wrong.
    pub fn release(&mut self, locks: &[Lock]) {
        for lock in locks {
            let mut held = self.paths.get(&lock.path).copied().expect("a released lock is held");
            match lock.access {
                Access::Read => held.readers -= 1,
                Access::Write => held.writers -= 1,
            }
            if held == Holders::default() {
                self.paths.remove(&lock.path);
            } else {
                self.paths.insert(lock.path.clone(), held);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_definition() {
        let paths = ["", "a", "a/b", "a/b/c", "a/bc", "ab", "b"];
        let locks: Vec<Lock> = paths.iter().flat_map(|p| [Lock::read(p), Lock::write(p)]).collect();
        for held in &locks {
            let mut table = LockSet::new();
            table.take(std::slice::from_ref(held));
            for wanted in &locks {
                assert_eq!(
                    table.conflicts(std::slice::from_ref(wanted)),
                    held.conflicts(wanted),
                    "{held} against {wanted}"
                );
            }
            table.release(std::slice::from_ref(held));
            assert!(table.is_empty());
        }
    }
}
