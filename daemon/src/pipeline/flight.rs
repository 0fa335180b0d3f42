//! The table of locks in flight ([`tiebeam_executor::submit::Flight`]), shared by the calls of this
//! node; a call's locks are given back however it ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tiebeam_core::State;
use tiebeam_core::lock::Lock;
use tiebeam_executor::submit::{self, Admitted};

/// The table.
#[derive(Clone, Default)]
pub struct Flight {
    table: Arc<Mutex<submit::Flight>>,
}

/// Locks in flight; given back when this is dropped.
pub struct Reserved {
    flight: Flight,
    locks: Arc<[Lock]>,
}

impl Flight {
    fn table(&self) -> MutexGuard<'_, submit::Flight> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the locks of a job that may be done in one entry.
    pub fn reserve(&self, state: &State, admitted: &Admitted) -> Option<Reserved> {
        let goes = admitted.goes_once(state, &mut self.table());
        goes.then(|| Reserved { flight: self.clone(), locks: admitted.locks.clone() })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.flight.table().release(&self.locks);
    }
}
