//! The command journal: what this node has started, ended and refused, one folder per command.
//!
//! Owns `<journal>/<job>/<key>/` and the file `journal` in it: checksummed JSON lines, appended
//! under an exclusive lock and synced. What the lines mean and what may follow from them is in
//! [`tiebeam_executor::journal`]. It starts nothing and signals nothing.

use super::{HostError, process::ProcessMark};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Bytes of a journal file that are read: a life has about ten lines, none longer than 8 KiB.
const JOURNAL_BYTES_MAX: u64 = 1 << 20;

/// A line of a journal of this node.
pub type Line = tiebeam_executor::journal::Line<ProcessMark>;
/// What the lines of a journal of this node say together.
pub type Story = tiebeam_executor::journal::Story<ProcessMark>;

/// The folder of one command.
#[derive(Clone, Debug)]
pub struct Place {
    /// `<journal>/<job>/<key>`.
    pub folder: PathBuf,
}

impl Place {
    /// The folder of (`job`, `key`) under `journal`.
    ///
    /// # Errors
    /// [`HostError::BadName`] unless the id is `<number>.<number>` and the key 1 to 64 of
    /// `a-z 0-9 . _ -` and more than dots.
    pub fn new(journal: &Path, job: &str, key: &str) -> Result<Place, HostError> {
        if !is_job(job) {
            return Err(HostError::BadName { what: "job id", text: clip(job) });
        }
        if !is_key(key) {
            return Err(HostError::BadName { what: "command key", text: clip(key) });
        }
        Ok(Place { folder: journal.join(job).join(key) })
    }

    /// Makes the folder so that it outlives a power cut. It may exist.
    pub fn create(&self) -> Result<(), HostError> {
        let job = self.folder.parent().unwrap_or(&self.folder);
        for folder in [job, self.folder.as_path()] {
            make_folder(folder).map_err(HostError::file("make the folder", folder))?;
        }
        Ok(())
    }

    /// The job's id.
    pub fn job(&self) -> String {
        let job = self.folder.parent().and_then(Path::file_name).unwrap_or_default();
        job.to_string_lossy().into_owned()
    }

    /// The journal's file.
    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// What the program printed, up to its limit.
    pub fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    /// The last bytes of what lies beyond the limit.
    pub fn output_end(&self) -> PathBuf {
        self.folder.join("output.end")
    }

    /// Exists if somebody asked for a stop.
    pub fn stop(&self) -> PathBuf {
        self.folder.join("stop")
    }

    /// Why the program could not be started; empty or absent if it could.
    pub fn launch(&self) -> PathBuf {
        self.folder.join("launch")
    }

    /// What the shim printed: its panics, nothing else.
    pub fn shim_words(&self) -> PathBuf {
        self.folder.join("shim")
    }

    /// Reads the story without the lock. What it says may be overtaken at once; only a decision
    /// under [`Journal::lock`] counts.
    pub fn read(&self) -> Result<Story, HostError> {
        let path = self.journal();
        match File::open(&path) {
            Ok(mut file) => {
                read_story(&mut file).map(|read| read.0).map_err(HostError::file("read", &path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Story::default()),
            Err(error) => Err(HostError::file("read", &path)(error)),
        }
    }
}

/// A journal that nobody else writes while this value lives.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Length of the whole lines; what lies behind was torn.
    whole: u64,
    /// What the lines say.
    pub story: Story,
}

impl Journal {
    /// Locks and reads the journal of a place, whose folder must exist. Blocks while the other
    /// side writes a line.
    pub fn lock(place: &Place) -> Result<Journal, HostError> {
        let path = place.journal();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(HostError::file("open", &path))?;
        file.lock().map_err(HostError::file("lock", &path))?;
        let (story, whole) = read_story(&mut file).map_err(HostError::file("read", &path))?;
        Ok(Journal { file, path, whole, story })
    }

    /// Appends a line and syncs it: when this returns it outlives a power cut. After an error
    /// the file is as it was.
    pub fn append(&mut self, line: Line) -> Result<(), HostError> {
        self.write(&line).map_err(HostError::file("append to", &self.path))?;
        let first = self.whole == 0;
        self.file.sync_data().map_err(HostError::file("sync", &self.path))?;
        if first && let Some(folder) = self.path.parent() {
            sync_folder(folder).map_err(HostError::file("sync", folder))?;
        }
        self.advance(line)
    }

    /// Appends a line that outlives this process and the daemon, but not a power cut.
    pub fn note(&mut self, line: Line) -> Result<(), HostError> {
        self.write(&line).map_err(HostError::file("append to", &self.path))?;
        self.advance(line)
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let bytes = tiebeam_executor::journal::encode(line).map_err(io::Error::other)?;
        if self.file.metadata()?.len() != self.whole {
            self.file.set_len(self.whole)?;
        }
        if let Err(error) = self.file.write_all(&bytes) {
            let _ = self.file.set_len(self.whole);
            return Err(error);
        }
        Ok(())
    }

    fn advance(&mut self, line: Line) -> Result<(), HostError> {
        let length = self.file.metadata().map_err(HostError::file("read", &self.path))?.len();
        self.whole = length;
        self.story.take(line);
        Ok(())
    }
}

fn read_story(file: &mut File) -> io::Result<(Story, u64)> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Story::parse(&bytes))
}

/// Makes a folder of mode 0700 whose name outlives a power cut. It may exist.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => folder.parent().map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a folder outlive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The names of the folders in a folder, sorted; none if it does not exist.
pub(crate) fn folders(of: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(of) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Whether this is a job id as the journal takes it: `<node>.<sequence>`.
pub(crate) fn is_job(text: &str) -> bool {
    let number = |part: &str| {
        (1..=20).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.split_once('.').is_some_and(|(node, sequence)| number(node) && number(sequence))
}

/// Whether this is a command's key as the journal takes it.
pub(crate) fn is_key(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    (1..=64).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().any(|byte| byte != b'.')
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(nonce: &str) -> Line {
        Line::Intent { nonce: nonce.into(), epoch: 3, digest: String::new(), at_us: 1 }
    }

    #[test]
    fn names_that_are_no_safe_folders_are_refused() {
        let journal = Path::new("/j");
        for job in ["", "11", "11.", ".1", "11.1.1", "../1.1", "11.1/..", "a.1", "11.v7", "1 .1"] {
            assert!(Place::new(journal, job, "k").is_err(), "{job:?}");
        }
        let long = "k".repeat(65);
        for key in ["", ".", "..", "...", "a/b", "A", "a b", "a\0", "ä", long.as_str()] {
            assert!(Place::new(journal, "11.1", key).is_err(), "{key:?}");
        }
        let place = Place::new(journal, "11.48213", "node-11.run_2").unwrap();
        assert_eq!(place.folder, Path::new("/j/11.48213/node-11.run_2"));
    }

    #[test]
    fn a_torn_tail_is_cut_before_the_next_line() {
        let folder = std::env::temp_dir().join(format!("tiebeam-journal-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let place = Place::new(&folder, "11.1", "k").unwrap();
        place.create().unwrap();
        Journal::lock(&place).unwrap().append(intent("a")).unwrap();
        let mut file = OpenOptions::new().append(true).open(place.journal()).unwrap();
        file.write_all(b"0000 {\"line\":\"refu").unwrap();
        let mut journal = Journal::lock(&place).unwrap();
        assert!(journal.story.awaits("a"));
        journal.append(Line::Void { nonce: "a".into(), why: "x".into() }).unwrap();
        let story = place.read().unwrap();
        assert_eq!((story.intent, story.damaged), (None, 0));
        fs::remove_dir_all(&folder).unwrap();
    }
}
