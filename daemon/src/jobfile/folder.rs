//! The files of jobs in the folders of their days: written whole, counted, and kept within bounds.
//!
//! A file appears under its name complete or not at all. What exceeds a bound goes, oldest day
//! first and in it the oldest job first. No wall clock deletes anything (ruling 22): the bound in
//! days counts days that have job files, so a clock that jumped costs one of them.

use crate::history::JobId;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How many job files there may be (ruling 17). Whichever is reached first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files: about 20 seconds of the highest rate, or a year of an ordinary cluster.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Days that have job files.
    pub days: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { files: 100_000, bytes: 1 << 30, days: 30 }
    }
}

/// The folder of a day.
pub(super) fn day_path(folder: &Path, (year, month, day): (u32, u32, u32)) -> PathBuf {
    folder.join(format!("{year:04}/{month:02}/{day:02}"))
}

/// Makes a folder that only its owner may enter.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The day folders below a folder of job files, oldest first.
pub(super) fn days(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    for digits in [4, 2, 2] {
        let mut inner = Vec::new();
        for path in found {
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let number = name.to_str().is_some_and(|name| {
                    name.len() == digits && name.bytes().all(|b| b.is_ascii_digit())
                });
                if number && entry.file_type()?.is_dir() {
                    inner.push(entry.path());
                }
            }
        }
        found = inner;
    }
    found.sort();
    Ok(found)
}

/// What a day's folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Day {
    files: usize,
    bytes: u64,
}

/// The job files that there are.
pub(super) struct Folder {
    path: PathBuf,
    limits: Limits,
    days: BTreeMap<PathBuf, Day>,
    total: Day,
}

impl Folder {
    /// Counts what is there, and removes files that a crash left half written.
    pub(super) fn open(path: &Path, limits: Limits) -> io::Result<Folder> {
        make_folder(path)?;
        let mut folder =
            Folder { path: path.to_owned(), limits, days: BTreeMap::new(), total: Day::default() };
        for day in days(path)? {
            for entry in fs::read_dir(&day)? {
                let entry = entry?;
                let name = entry.file_name();
                match name.to_str() {
                    Some(name) if name.starts_with('.') && name.ends_with(".tmp") => {
                        fs::remove_file(entry.path())?;
                    }
                    Some(name) if job_of(name).is_some() => {
                        folder.count(&day, 1, entry.metadata()?.len() as i64);
                    }
                    Some(_) | None => {}
                }
            }
        }
        Ok(folder)
    }

    fn count(&mut self, day: &Path, files: isize, bytes: i64) {
        let counts = self.days.entry(day.to_owned()).or_default();
        for counts in [counts, &mut self.total] {
            counts.files = counts.files.saturating_add_signed(files);
            counts.bytes = counts.bytes.saturating_add_signed(bytes);
        }
        if self.days.get(day).is_some_and(|day| day.files == 0) {
            self.days.remove(day);
        }
    }

    /// Where the file of a job that was submitted on this day lies.
    pub(super) fn file(&self, id: JobId, day: (u32, u32, u32)) -> PathBuf {
        day_path(&self.path, day).join(format!("{id}.yaml"))
    }

    /// Writes a job's file whole, in place of an older one.
    pub(super) fn write(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let day = path.parent().unwrap_or(&self.path).to_owned();
        if !self.days.contains_key(&day) {
            make_folder(&day)?;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let draft = day.join(format!(".{name}.tmp"));
        let before = fs::symlink_metadata(path).ok().map(|old| old.len() as i64);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&draft).and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = written.and_then(|()| fs::rename(&draft, path)) {
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        let grown = text.len() as i64 - before.unwrap_or(0);
        self.count(&day, isize::from(before.is_none()), grown);
        Ok(())
    }

    /// Removes the file of a job that was submitted on this day; whether there was one.
    pub(super) fn remove(&mut self, id: JobId, day: (u32, u32, u32)) -> io::Result<bool> {
        let path = self.file(id, day);
        let bytes = match fs::symlink_metadata(&path) {
            Ok(facts) => facts.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        fs::remove_file(&path)?;
        self.count(&day_path(&self.path, day), -1, -(bytes as i64));
        Ok(true)
    }

    /// Whether a bound is exceeded by so much that removing is worth a look at a folder.
    pub(super) fn is_over(&self) -> bool {
        self.total.files > self.limits.files + self.limits.files / 100
            || self.total.bytes > self.limits.bytes + self.limits.bytes / 100
            || self.days.len() > self.limits.days
    }

    /// Removes the oldest files until the bounds hold; gives how many.
    pub(super) fn prune(&mut self) -> io::Result<u64> {
        let mut removed = 0;
        while let Some(day) = self.days.keys().next().cloned().filter(|_| self.exceeds()) {
            let mut names: Vec<_> = fs::read_dir(&day)?
                .filter_map(|entry| {
                    let name = entry.ok()?.file_name();
                    Some((job_of(name.to_str()?)?, name))
                })
                .collect();
            names.sort_by_key(|(id, _)| (id.sequence, id.node));
            if names.is_empty() {
                // Somebody else removed them.
                let gone = self.days.get(&day).copied().unwrap_or_default();
                self.count(&day, -(gone.files as isize), -(gone.bytes as i64));
            }
            for (_, name) in names {
                if !self.exceeds() || !self.days.contains_key(&day) {
                    break;
                }
                let path = day.join(name);
                let bytes = fs::symlink_metadata(&path)?.len();
                fs::remove_file(&path)?;
                self.count(&day, -1, -(bytes as i64));
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn exceeds(&self) -> bool {
        self.total.files > self.limits.files
            || self.total.bytes > self.limits.bytes
            || self.days.len() > self.limits.days
    }
}

/// The job whose file has this name.
fn job_of(name: &str) -> Option<JobId> {
    name.strip_suffix(".yaml").and_then(JobId::parse)
}
