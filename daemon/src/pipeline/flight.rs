//! Locks of plans that are on their way into the log: the third part of the master's lock table,
//! beside what running and waiting jobs hold in State (ruling 8).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tiebeam_core::State;
use tiebeam_core::lock::{Lock, LockSet};

/// The table.
#[derive(Clone, Default)]
pub struct Flight {
    locks: Arc<Mutex<LockSet>>,
}

/// Locks in flight; given back when this is dropped.
pub struct Reserved {
    flight: Flight,
    locks: Vec<Lock>,
}

impl Flight {
    fn table(&self) -> MutexGuard<'_, LockSet> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves `locks`, unless somebody holds, awaits or carries one that conflicts.
    pub fn reserve(&self, state: &State, locks: &[Lock]) -> Option<Reserved> {
        if state.has_conflict(locks) {
            return None;
        }
        let mut table = self.table();
        if table.conflicts(locks) {
            return None;
        }
        table.take(locks);
        Some(Reserved { flight: self.clone(), locks: locks.to_vec() })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.flight.table().release(&self.locks);
    }
}
