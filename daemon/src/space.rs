//! Room on the disk of the data folder (ruling 36): below the settings' bound new modify and act
//! jobs are refused with the reason; reads and finishing go on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is known of the room.
pub struct Space {
    data: PathBuf,
    enough: AtomicBool,
    free_bytes: AtomicU64,
    all_bytes: AtomicU64,
}

impl Space {
    /// The room of a data folder, not yet measured.
    pub fn new(data: &Path) -> Space {
        Space {
            data: data.to_owned(),
            enough: AtomicBool::new(true),
            free_bytes: AtomicU64::new(0),
            all_bytes: AtomicU64::new(0),
        }
    }

    /// Measures; `bytes_min` and `percent_min` are `disk.free_bytes_min` and `free_percent_min`.
    pub fn measure(&self, bytes_min: u64, percent_min: u64) {
        let Ok(room) = rustix::fs::statvfs(&self.data) else { return };
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let all = room.f_blocks.saturating_mul(room.f_frsize);
        self.free_bytes.store(free, Ordering::Relaxed);
        self.all_bytes.store(all, Ordering::Relaxed);
        let bound = bytes_min.max(all / 100 * percent_min);
        let enough = free >= bound;
        if self.enough.swap(enough, Ordering::Relaxed) != enough {
            tracing::warn!(free_bytes = free, bound_bytes = bound, enough, "room on the disk");
        }
    }

    /// Whether new jobs that write may be taken.
    pub fn is_enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    /// Free and all bytes.
    pub fn bytes(&self) -> (u64, u64) {
        (self.free_bytes.load(Ordering::Relaxed), self.all_bytes.load(Ordering::Relaxed))
    }
}
