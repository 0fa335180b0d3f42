//! The raw rate of the disk: 1 KiB into a file that was filled before, then fdatasync.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the disk does.
pub struct Raw {
    /// Writes with sync per second, one after the other.
    pub per_second: f64,
    /// Median of one, in microseconds.
    pub p50_us: f64,
}

/// Measures for this long in a file below `folder`.
pub fn fdatasync(folder: &Path, duration: Duration) -> Raw {
    let path = folder.join("bench-raw");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
    let file = file.expect("the folder is writable");
    file.write_all_at(&vec![0; 4 << 20], 0).expect("there is room");
    file.sync_all().expect("the disk syncs");
    let (begin, block, mut times) = (Instant::now(), [7_u8; 1024], Vec::new());
    while begin.elapsed() < duration {
        let one = Instant::now();
        let at = (times.len() as u64 * 1024) % (4 << 20);
        file.write_all_at(&block, at).expect("there is room");
        file.sync_data().expect("the disk syncs");
        times.push(one.elapsed());
    }
    std::fs::remove_file(&path).expect("it was made here");
    let per_second = times.len() as f64 / begin.elapsed().as_secs_f64();
    times.sort();
    Raw { per_second, p50_us: times[times.len() / 2].as_secs_f64() * 1e6 }
}
