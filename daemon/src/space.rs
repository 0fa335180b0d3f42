//! Room on the disk of the data folder (ruling 36).
//!
//! Three states. With enough room everything is taken, and a reserve is held. Below the settings'
//! bound new modify and act jobs are refused with the reason; reads and finishing go on. When less
//! is left than half of the reserve, the node is about to fail at a write and to acknowledge
//! nothing any more: then the reserve is given back, what leaves a record is refused altogether,
//! and the room goes to finishing, to a snapshot and to the cut of log and history that follows.
//! The node stops by itself only if a write fails all the same.

use crate::reserve::Reserve;
use crate::settings::Disk;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The reserve is held while at least this many times its size would be free without it: once given
/// back it is not made again of its own room.
const ROOM_OF_RESERVE: u64 = 4;

/// What is known of the room.
pub struct Space {
    data: PathBuf,
    enough: AtomicBool,
    spent: AtomicBool,
    free_bytes: AtomicU64,
    all_bytes: AtomicU64,
    reserve_bytes: AtomicU64,
    reserve: Mutex<Kept>,
}

/// The reserve, and what could not be held of it: that is not tried again and again.
struct Kept {
    reserve: Reserve,
    refused: Option<u64>,
}

impl Space {
    /// The room of a data folder, not yet measured.
    pub fn new(data: &Path) -> Space {
        let reserve = Reserve::of(data);
        Space {
            data: data.to_owned(),
            enough: AtomicBool::new(true),
            spent: AtomicBool::new(false),
            free_bytes: AtomicU64::new(0),
            all_bytes: AtomicU64::new(0),
            reserve_bytes: AtomicU64::new(reserve.bytes()),
            reserve: Mutex::new(Kept { reserve, refused: None }),
        }
    }

    /// Measures, and makes the reserve or gives it back. True when it was given back just now, or
    /// should have been: then the log is to be cut, and leadership is better elsewhere.
    pub fn measure(&self, disk: &Disk) -> bool {
        let Ok(room) = rustix::fs::statvfs(&self.data) else { return false };
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let all = room.f_blocks.saturating_mul(room.f_frsize);
        self.judge(free, all, disk)
    }

    fn judge(&self, free: u64, all: u64, disk: &Disk) -> bool {
        self.free_bytes.store(free, Ordering::Relaxed);
        self.all_bytes.store(all, Ordering::Relaxed);
        let bound = disk.free_bytes_min.0.max(all / 100 * u64::from(disk.free_percent_min));
        let enough = free >= bound;
        if self.enough.swap(enough, Ordering::Relaxed) != enough {
            tracing::warn!(free_bytes = free, bound_bytes = bound, enough, "room on the disk");
        }
        let wanted = disk.reserve_bytes.0;
        let mut kept = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let room = free.saturating_add(kept.reserve.bytes());
        let roomy = enough && room >= wanted.saturating_mul(ROOM_OF_RESERVE);
        let spent = wanted > 0 && free < wanted / 2;
        let given_back = spent && !self.spent.load(Ordering::Relaxed);
        if spent {
            self.spent.store(true, Ordering::Relaxed);
            kept.give_back(free);
        } else if roomy || wanted == 0 {
            self.spent.store(false, Ordering::Relaxed);
            kept.hold(wanted);
        }
        self.reserve_bytes.store(kept.reserve.bytes(), Ordering::Relaxed);
        given_back
    }

    /// Whether new jobs that write may be taken.
    pub fn is_enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    /// Whether the reserve is given back: nothing new that leaves a record may be taken.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Free and all bytes.
    pub fn bytes(&self) -> (u64, u64) {
        (self.free_bytes.load(Ordering::Relaxed), self.all_bytes.load(Ordering::Relaxed))
    }

    /// Bytes that the reserve holds.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes.load(Ordering::Relaxed)
    }
}

impl Kept {
    fn give_back(&mut self, free: u64) {
        let bytes = self.reserve.bytes();
        if bytes == 0 {
            return;
        }
        match self.reserve.hold(0) {
            Ok(()) => tracing::error!(
                free_bytes = free,
                reserve_bytes = bytes,
                "the disk is full: the reserve is given back, to finish and to cut; make room"
            ),
            Err(error) => tracing::error!(%error, "the disk is full, and the reserve stays"),
        }
    }

    fn hold(&mut self, bytes: u64) {
        if self.reserve.bytes() == bytes || self.refused == Some(bytes) {
            return;
        }
        match self.reserve.hold(bytes) {
            Ok(()) => {
                self.refused = None;
                tracing::info!(bytes, "room on the disk is reserved");
            }
            Err(error) => {
                self.refused = Some(bytes);
                tracing::warn!(%error, bytes, "no room on the disk can be reserved");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::scratch::Folder;
    use crate::settings::Size;

    const MIB: u64 = 1 << 20;

    fn disk(reserve_bytes: u64) -> Disk {
        let (free_bytes_min, reserve_bytes) = (Size(20 * MIB), Size(reserve_bytes));
        Disk { free_bytes_min, free_percent_min: 1, reserve_bytes }
    }

    #[test]
    fn the_reserve_goes_before_the_node_must_stop_and_comes_back_with_room() {
        let folder = Folder::new();
        let space = Space::new(folder.path());
        let all = 1_000 * MIB;
        let look = |free: u64, reserve: u64| {
            let given_back = space.judge(free * MIB, all, &disk(reserve * MIB));
            let held = crate::reserve::Reserve::of(folder.path()).bytes() / MIB;
            assert_eq!(space.reserve_bytes() / MIB, held);
            (given_back, space.is_enough(), space.is_spent(), held)
        };
        assert_eq!(look(500, 8), (false, true, false, 8), "made");
        assert_eq!(look(19, 8), (false, false, false, 8), "jobs that write are refused");
        assert_eq!(look(4, 8), (false, false, false, 8));
        assert_eq!(look(3, 8), (true, false, true, 0), "given back");
        assert_eq!(look(3, 8), (false, false, true, 0), "told once");
        assert_eq!(look(11, 8), (false, false, true, 0), "this was its own room");
        assert_eq!(look(25, 8), (false, true, true, 0), "it would take the half of it");
        assert_eq!(look(32, 8), (false, true, false, 8), "made again");
        assert_eq!(look(24, 8), (false, true, false, 8), "what it holds is room for it");
        assert_eq!(look(500, 2), (false, true, false, 2), "the setting changed");
        assert_eq!(look(500, 0), (false, true, false, 0));
        assert_eq!(look(1, 0), (false, false, false, 0), "nothing was to be held back");
        assert_eq!(look(1, 8), (true, false, true, 0), "there was no room to make it");
    }
}
