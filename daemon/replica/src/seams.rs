//! The seams between the replica and the outside world: disk, clock, randomness.
//!
//! The replica touches nothing itself. The daemon implements these traits over the real machine, a
//! simulation implements them over memory ([`mem`]), and neither side knows which one it has. This
//! module holds the traits only; it must never grow an implementation that does I/O. The network
//! has no trait here: messages leave as [`crate::Output::Send`] and arrive as
//! [`crate::Input::Message`].

pub mod mem;

/// All crash points, in the order in which a group passes them. The shells call those from
/// `persist.before` on, the log and the snapshots their own; a test stops a node at every one.
pub const CRASH_POINTS: [&str; 16] = [
    "persist.before",
    "log.write.before",
    "log.write.after",
    "log.sync.before",
    "log.sync.after",
    "persist.after",
    "apply.before",
    "apply.after",
    "reply.before",
    "reply.after",
    "log.segment.before",
    "snapshot.sync.before",
    "snapshot.rename.before",
    "snapshot.rename.after",
    "log.compact.before",
    "log.compact.after",
];

/// Handle of an open file, valid until [`Disk::close`]. It survives a rename of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// How [`Disk::open`] treats a file that does or does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist; it is only read.
    Read,
    /// The file must exist; it is read and written.
    Write,
    /// The file is made, or emptied if it exists; it is read and written.
    Create,
}

/// A folder of files, as the replica needs it. Paths are relative to the data folder, `/` between
/// parts. Nothing is durable before [`Disk::sync`] returned for its bytes and
/// [`Disk::sync_folder`] for its name.
pub trait Disk: Send {
    /// Names (without folder) of the files in `folder`, sorted; none if there is no such folder.
    fn list(&mut self, folder: &str) -> Result<Vec<String>, DiskError>;
    /// Makes `folder` if it does not exist, durably.
    fn create_folder(&mut self, folder: &str) -> Result<(), DiskError>;
    /// Opens a file.
    fn open(&mut self, path: &str, mode: OpenMode) -> Result<FileId, DiskError>;
    /// Gives a handle back. Closing makes nothing durable.
    fn close(&mut self, file: FileId);
    /// Length of a file in bytes.
    fn file_len(&mut self, file: FileId) -> Result<u64, DiskError>;
    /// Reads at `offset` and returns the bytes read: fewer than asked for only at the file's end.
    fn read_at(&mut self, file: FileId, offset: u64, buffer: &mut [u8])
    -> Result<usize, DiskError>;
    /// Writes all of `bytes` at `offset`, growing the file where needed (one `pwrite`).
    fn write_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Cuts or grows (with zeros) a file to `len` bytes.
    fn set_len(&mut self, file: FileId, len: u64) -> Result<(), DiskError>;
    /// Makes the file's bytes durable (`fdatasync`). After an error nothing is known about any
    /// byte written since the last success, and asking again proves nothing.
    fn sync(&mut self, file: FileId) -> Result<(), DiskError>;
    /// Makes the names in `folder` durable (creations, renames, removals).
    fn sync_folder(&mut self, folder: &str) -> Result<(), DiskError>;
    /// Renames a file, replacing what has the new name.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Removes a file.
    fn remove(&mut self, path: &str) -> Result<(), DiskError>;
    /// A place with a name where a simulation, or a test of real processes, may stop the node.
    /// An error means "the node died here": the caller returns it and does nothing more.
    fn crash_point(&mut self, point: &'static str) -> Result<(), DiskError> {
        let _ = point;
        Ok(())
    }
}

/// A clock that never goes back. Wall time is none of the replica's business.
pub trait Clock: Send {
    /// Microseconds since some fixed moment of this process.
    fn now_us(&self) -> u64;
}

/// A source of random numbers: the operating system's in production, a seed in a simulation.
pub trait Rng: Send {
    /// The next number, all 64 bits random.
    fn next_u64(&mut self) -> u64;
}

/// What went wrong with the disk, always with the path.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file or folder does not exist.
    #[error("{path} does not exist")]
    NotFound {
        /// Path relative to the data folder.
        path: String,
    },
    /// The disk or a quota is full.
    #[error("no space left to write {path}")]
    NoSpace {
        /// Path relative to the data folder.
        path: String,
    },
    /// Any other failure of the operating system.
    #[error("{operation} of {path} failed")]
    Io {
        /// The call: `read`, `write`, `sync`, ….
        operation: &'static str,
        /// Path relative to the data folder.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The node was stopped at a crash point, or had been before this call.
    #[error("stopped at crash point {point}")]
    Crashed {
        /// Name of the crash point.
        point: String,
    },
}
