//! Checks a folder of job files offline: without the daemon, its index, or any key.
//!
//! The folder holds, per day, job files (`yyyy/mm/dd/<id>.yaml`) and a `chain.jsonl` with one line
//! for every record that was archived that day. The lines of all days together must be one
//! unbroken sequence of hashes; every job file that is there must have the hash that its line
//! says; so must every addendum in it. A job without a file was pruned, and is counted. What this
//! cannot see is an end that was cut off: compare the head with one noted elsewhere.
//!
//! It needs the standard library and `tiebeam-proto` alone, so that whoever keeps copies of job
//! files can check them without a cluster. `tiebeam verify` calls it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use tiebeam_proto::canonical;
use tiebeam_proto::chain::{self, ChainLine, Hash, LINES_NAME};
use tiebeam_proto::jobfile;

/// How deep the folders of days lie.
const DEPTH_MAX: usize = 4;

/// Problems that a report lists; it counts them all.
const PROBLEMS_MAX: usize = 100;

/// Something that is not what was archived.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderProblem {
    /// The record, where it is known; problems are sorted by it.
    pub index: Option<u64>,
    /// The file.
    pub path: PathBuf,
    /// The line in it, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for FolderProblem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.path.display())?;
        if self.line > 0 {
            write!(out, ":{}", self.line)?;
        }
        write!(out, ": {}", self.what)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderReport {
    /// Lines of `chain.jsonl` files.
    pub lines: u64,
    /// Job files whose hash is the one in the chain.
    pub files: u64,
    /// Jobs in the chain that have no file any more.
    pub pruned: u64,
    /// The first record; older ones were cut if it is not 1.
    pub from: u64,
    /// The last record.
    pub to: u64,
    /// Its hash, in text form.
    pub head: String,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first of them, in the order of the chain.
    pub problems: Vec<FolderProblem>,
}

/// A job file whose own link holds.
struct Filed {
    path: PathBuf,
    job: String,
    this: Hash,
    matched: bool,
}

/// Lines of one file that follow each other.
struct Run {
    path: PathBuf,
    first_line: u64,
    first: u64,
    previous: Hash,
    last: u64,
    this: Hash,
}

#[derive(Default)]
struct Check {
    report: FolderReport,
    /// By record number.
    files: BTreeMap<u64, Filed>,
    /// Per job: the canonical forms of the addenda in its file that no line has confirmed yet.
    addenda: BTreeMap<String, Vec<Vec<u8>>>,
    runs: Vec<Run>,
    problems: Vec<FolderProblem>,
}

/// Checks a folder.
///
/// # Errors
/// What the operating system said when a file or folder could not be read.
pub fn verify_folder(folder: &Path) -> io::Result<FolderReport> {
    let mut paths = Vec::new();
    list(folder, DEPTH_MAX, &mut paths)?;
    paths.sort();
    let mut check = Check::default();
    let named = |path: &Path, name: &str| path.file_name().is_some_and(|own| own == name);
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
        check.file(path)?;
    }
    for path in paths.iter().filter(|path| named(path, LINES_NAME)) {
        check.lines(path)?;
    }
    check.join();
    check.leftovers();
    Ok(check.finish())
}

fn list(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if kind.is_dir() && depth > 0 && !hidden {
            list(&entry.path(), depth - 1, paths)?;
        } else if kind.is_file() && !hidden {
            paths.push(entry.path());
        }
    }
    Ok(())
}

impl Check {
    fn problem(&mut self, index: Option<u64>, path: &Path, line: u64, what: impl Into<String>) {
        self.report.problem_count += 1;
        let problem = FolderProblem { index, path: path.to_owned(), line, what: what.into() };
        let at = self.problems.partition_point(|other| *other < problem);
        self.problems.insert(at, problem);
        self.problems.truncate(PROBLEMS_MAX);
    }

    /// Reads a job file and checks it against its own link.
    fn file(&mut self, path: &Path) -> io::Result<()> {
        let bytes = fs::read(path)?;
        let parsed = match std::str::from_utf8(&bytes).map(jobfile::parse) {
            Ok(Ok(parsed)) => parsed,
            Ok(Err(error)) => {
                self.problem(None, path, 0, format!("{error}"));
                return Ok(());
            }
            Err(_) => {
                self.problem(None, path, 0, "it is not UTF-8");
                return Ok(());
            }
        };
        let Some(link) = parsed.link else {
            self.problem(None, path, 0, "it has no `chain`");
            return Ok(());
        };
        let index = Some(link.index);
        if !chain::holds(&link, &canonical::to_vec(&parsed.record)) {
            self.problem(
                index,
                path,
                0,
                "its record has not the hash that it names: it was edited",
            );
            return Ok(());
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if parsed.record["job"] != *stem {
            self.problem(index, path, 0, "it holds the record of another job than its name says");
        }
        let this = chain::from_text(&link.this).unwrap_or(chain::GENESIS);
        let job = stem.to_owned();
        let filed = Filed { path: path.to_owned(), job, this, matched: false };
        if let Some(other) = self.files.insert(link.index, filed) {
            let what = format!("{} has the same place in the chain", other.path.display());
            self.problem(index, path, 0, what);
        }
        if !parsed.addenda.is_empty() {
            let forms = parsed.addenda.iter().map(canonical::to_vec).collect();
            self.addenda.insert(stem.to_owned(), forms);
        }
        Ok(())
    }

    fn lines(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(path)?);
        let (mut bytes, mut number) = (Vec::new(), 0);
        let mut run: Option<Run> = None;
        loop {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            number += 1;
            let line = bytes.strip_suffix(b"\n").and_then(ChainLine::parse);
            let hashes = line.as_ref().and_then(|line| {
                chain::from_text(&line.previous).zip(chain::from_text(&line.this))
            });
            let (Some(line), Some((previous, this))) = (line, hashes) else {
                self.problem(None, path, number, "it is no line of a chain");
                continue;
            };
            self.report.lines += 1;
            self.line(path, number, &line, (previous, this));
            self.extend(path, number, line.index, (previous, this), &mut run);
        }
        self.runs.extend(run);
        Ok(())
    }

    /// Puts a line behind the one before it, or begins a new run with it.
    fn extend(
        &mut self,
        path: &Path,
        number: u64,
        index: u64,
        (previous, this): (Hash, Hash),
        run: &mut Option<Run>,
    ) {
        if let Some(run) = run {
            if index <= run.last {
                let what = format!("record {index} stands behind record {}", run.last);
                return self.problem(Some(index), path, number, what);
            }
            if index == run.last + 1 {
                if previous != run.this {
                    let what = format!("record {index} does not follow the line before it");
                    self.problem(Some(index), path, number, what);
                }
                (run.last, run.this) = (index, this);
                return;
            }
        }
        let path = path.to_owned();
        let next = Run { path, first_line: number, first: index, previous, last: index, this };
        self.runs.extend(run.replace(next));
    }

    /// Compares a line with the job file that it speaks of.
    fn line(&mut self, path: &Path, number: u64, line: &ChainLine, (previous, this): (Hash, Hash)) {
        let index = Some(line.index);
        let job = line.job.as_deref();
        match line.kind.as_str() {
            "addendum" => {
                let forms = job.and_then(|job| self.addenda.get_mut(job));
                if let Some(forms) = forms {
                    forms.retain(|form| chain::hash(&previous, form) != this);
                }
            }
            "read" | "modify" | "act" => match self.files.get_mut(&line.index) {
                None => self.report.pruned += 1,
                Some(filed) if filed.this == this && Some(&*filed.job) == job => {
                    filed.matched = true;
                    self.report.files += 1;
                }
                Some(filed) => {
                    filed.matched = true;
                    let what = format!("{} is not the file of this line", filed.path.display());
                    self.problem(index, path, number, what);
                }
            },
            _ => {}
        }
    }

    /// Checks that the runs of all days are one chain.
    fn join(&mut self) {
        let mut runs = std::mem::take(&mut self.runs);
        runs.sort_by_key(|run| run.first);
        let mut before: Option<&Run> = None;
        for run in &runs {
            let index = Some(run.first);
            let (path, line) = (run.path.as_path(), run.first_line);
            match before {
                None if run.first == 1 && run.previous != chain::GENESIS => {
                    self.problem(index, path, line, "record 1 does not begin a chain");
                }
                Some(before) if run.first <= before.last => {
                    let what = format!("record {} has a second line", run.first);
                    self.problem(index, path, line, what);
                }
                Some(before) if run.first > before.last + 1 => {
                    let (from, to) = (before.last + 1, run.first - 1);
                    let what = format!("the lines of records {from} to {to} are missing before it");
                    self.problem(Some(from), path, line, what);
                }
                Some(before) if run.previous != before.this => {
                    let what = format!("record {} does not follow {}", run.first, before.last);
                    self.problem(index, path, line, what);
                }
                None | Some(_) => {}
            }
            if before.is_none_or(|before| run.last > before.last) {
                before = Some(run);
            }
        }
        self.report.from = runs.first().map_or(0, |run| run.first);
        self.report.to = before.map_or(0, |run| run.last);
        self.report.head = chain::to_text(&before.map_or(chain::GENESIS, |run| run.this));
    }

    /// Reports files and addenda that no line speaks of.
    fn leftovers(&mut self) {
        for (index, filed) in std::mem::take(&mut self.files) {
            if !filed.matched {
                self.problem(Some(index), &filed.path, 0, "no line of the chain speaks of it");
            }
            if self.addenda.get(&filed.job).is_some_and(|forms| !forms.is_empty()) {
                let what = "an addendum in it has no line in the chain";
                self.problem(Some(index), &filed.path, 0, what);
            }
        }
    }

    fn finish(mut self) -> FolderReport {
        self.report.problems = self.problems;
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::atomic::{AtomicU32, Ordering};
    use tiebeam_proto::chain::Head;
    use tiebeam_proto::record::ChainLink;

    /// A folder of its own below the system's temporary folder, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let nth = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("tiebeam-verify-{}-{nth}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A record with its place in the chain.
    struct Chained {
        record: Value,
        link: ChainLink,
        kind: &'static str,
        job: Option<String>,
    }

    impl Chained {
        fn line(&self) -> String {
            let line = ChainLine {
                index: self.link.index,
                kind: self.kind.to_owned(),
                job: self.job.clone(),
                previous: self.link.previous.clone(),
                this: self.link.this.clone(),
            };
            line.to_line()
        }

        fn text(&self, addenda: &[Value]) -> String {
            jobfile::render(&self.record, addenda, Some(&self.link))
        }
    }

    /// Makes the records of a chain.
    struct Maker(Head);

    impl Maker {
        fn link(&mut self, kind: &'static str, job: Option<String>, record: Value) -> Chained {
            let link = self.0.extend(&canonical::to_vec(&record));
            Chained { record, link, kind, job }
        }

        /// The job `11.<index>`, all by the same user.
        fn job(&mut self) -> Chained {
            let job = format!("11.{}", self.0.index + 1);
            let record = json!({
                "format": 1, "job": job, "name": "config_set", "kind": "modify", "user": "admin",
                "request": {"bytes": 320, "path": "/"}, "result": {"result_code": 0},
            });
            self.link("modify", Some(job), record)
        }

        fn audit(&mut self) -> Chained {
            let record = json!({"format": 1, "audit": "login_failed", "user": "bob", "count": 1});
            self.link("audit", None, record)
        }

        fn addendum(&mut self, job: &str) -> Chained {
            let record = json!({"format": 1, "addendum": job, "note": "it ended"});
            self.link("addendum", Some(job.to_owned()), record)
        }
    }

    /// 20 jobs, an audit record, an addendum to job 11.3, and job 11.23, over two days; midnight
    /// was not sharp. Job 11.5 was pruned.
    fn written() -> (Folder, PathBuf, PathBuf) {
        let (folder, mut maker) = (Folder::new(), Maker(Head::EMPTY));
        let mut records: Vec<Chained> = (0..20).map(|_| maker.job()).collect();
        records.extend([maker.audit(), maker.addendum("11.3"), maker.job()]);
        let days = ["2026/11/20", "2026/11/21"].map(|day| folder.path().join(day));
        days.iter().for_each(|day| fs::create_dir_all(day).unwrap());
        let mut lines = [String::new(), String::new()];
        for record in &records {
            let index = record.link.index;
            lines[usize::from(index > 10 && index != 12)].push_str(&record.line());
            let addenda = if index == 3 { vec![records[21].record.clone()] } else { Vec::new() };
            if record.kind == "modify" && index != 5 {
                let day = &days[usize::from(index > 9)];
                fs::write(day.join(format!("11.{index}.yaml")), record.text(&addenda)).unwrap();
            }
        }
        for (day, text) in days.iter().zip(&lines) {
            fs::write(day.join(LINES_NAME), text).unwrap();
        }
        let [first, second] = days;
        (folder, first, second)
    }

    fn first_problem(folder: &Folder) -> String {
        let report = verify_folder(folder.path()).unwrap();
        let problem = report.problems.first().map(ToString::to_string).unwrap_or_default();
        problem.replace(&format!("{}/", folder.path().display()), "")
    }

    fn edit(path: &Path, change: impl FnOnce(Vec<&str>) -> Vec<&str>) {
        let text = fs::read_to_string(path).unwrap();
        let lines: String = change(text.split_inclusive('\n').collect()).concat();
        fs::write(path, lines).unwrap();
    }

    #[test]
    fn a_whole_folder_has_no_problem() {
        let (folder, ..) = written();
        let report = verify_folder(folder.path()).unwrap();
        assert_eq!((report.lines, report.from, report.to), (23, 1, 23));
        assert_eq!((report.files, report.pruned), (20, 1), "{report:?}");
        assert_eq!(report.problems, []);
    }

    #[test]
    fn an_edited_job_file_is_named() {
        for (from, to) in [
            ("user: admin", "user: mallory"),
            ("bytes: 320", "bytes: 321"),
            ("chain: {index: 4,", "chain: {index: 9,"),
            ("format: 1\n", "format: 1\nuser: mallory\n"),
            ("chain:", "chains:"),
        ] {
            let (folder, first, _) = written();
            let path = first.join("11.4.yaml");
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert!(first_problem(&folder).contains("11.4.yaml"), "{from}");
        }
        // Consistent in itself, but another record than the chain has.
        let (folder, first, _) = written();
        let mut forger = Maker(Head::EMPTY);
        forger.audit();
        (0..2).for_each(|_| drop(forger.job()));
        fs::write(first.join("11.4.yaml"), forger.job().text(&[])).unwrap();
        assert!(first_problem(&folder).starts_with("2026/11/20/chain.jsonl:4:"));
        // A file under another job's name; a file that nobody archived.
        fs::copy(first.join("11.6.yaml"), first.join("11.4.yaml")).unwrap();
        assert!(first_problem(&folder).contains("11.4.yaml"));
    }

    #[test]
    fn two_files_that_claim_one_place_are_both_named() {
        let (folder, first, _) = written();
        fs::copy(first.join("11.4.yaml"), first.join("11.4-copy.yaml")).unwrap();
        let report = verify_folder(folder.path()).unwrap();
        let of_two = report
            .problems
            .iter()
            .map(ToString::to_string)
            .find(|problem| problem.contains("has the same place in the chain"));
        let of_two = of_two.unwrap();
        assert!(of_two.contains("/11.4.yaml") && of_two.contains("/11.4-copy.yaml"), "{of_two}");
    }

    #[test]
    fn an_edited_addendum_is_named() {
        let (folder, first, _) = written();
        let path = first.join("11.3.yaml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("note: it ended", "note: it failed")).unwrap();
        assert!(first_problem(&folder).starts_with("2026/11/20/11.3.yaml: an addendum"));
    }

    #[test]
    fn a_removed_reordered_doubled_or_changed_line_is_named() {
        let (folder, first, _) = written();
        edit(&first.join(LINES_NAME), |mut lines| {
            lines.remove(4);
            lines
        });
        let problem = first_problem(&folder);
        assert!(problem.starts_with("2026/11/20/chain.jsonl:5: the lines of records 5 to 5 "));

        let (folder, first, _) = written();
        edit(&first.join(LINES_NAME), |mut lines| {
            lines.swap(4, 6);
            lines
        });
        assert!(first_problem(&folder).starts_with("2026/11/20/chain.jsonl:"));

        let (folder, first, _) = written();
        edit(&first.join(LINES_NAME), |mut lines| {
            lines.insert(2, lines[1]);
            lines
        });
        assert!(first_problem(&folder).starts_with("2026/11/20/chain.jsonl:3: record 2 stands"));

        let (folder, first, _) = written();
        let path = first.join(LINES_NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"kind\":", "\"king\":", 1)).unwrap();
        assert!(first_problem(&folder).starts_with("2026/11/20/chain.jsonl:1: it is no line"));

        // A whole day.
        let (folder, first, _) = written();
        fs::remove_file(first.join(LINES_NAME)).unwrap();
        let report = verify_folder(folder.path()).unwrap();
        assert_eq!(report.from, 11);
        assert!(first_problem(&folder).contains("2026/11/20/11."));
    }
}
