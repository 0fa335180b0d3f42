//! Which jobs a blob belongs to.
//!
//! Owns the text beside a blob, which also travels with the wish that a copy be kept: a line per
//! job whose record names it. Of many jobs those that are archived become one line, `records` and
//! the place in the chain up to which their records lie: so the text stays short, however many
//! jobs print the same. Pure; `mod` reads and writes the files, `spread` and `tend` decide.

use std::collections::BTreeSet;
use tiebeam_core::job::parse_job_id;

/// Jobs that are named one by one; beyond, the archived ones are told by their place in the chain.
pub const NAMED_MAX: usize = 1_000;
/// Bytes of a text that another member sends: jobs that have not ended are named, too.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// What the line begins with that stands for archived jobs.
const RECORDS: &str = "records ";

/// The jobs of a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    jobs: Vec<String>,
    records: u64,
}

impl Marks {
    /// Of a blob that one job names.
    pub fn of(job: &str) -> Marks {
        Marks { jobs: vec![job.to_owned()], records: 0 }
    }

    /// Reads a text; what is no mark is passed over.
    pub fn parse(text: &str) -> Marks {
        let (mut marks, mut seen) = (Marks::default(), BTreeSet::new());
        for line in text.lines() {
            if let Some(place) = line.strip_prefix(RECORDS) {
                marks.records = marks.records.max(place.parse().unwrap_or(0));
            } else if parse_job_id(line).is_some() && seen.insert(line) {
                marks.jobs.push(line.to_owned());
            }
        }
        marks
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text: String = self.jobs.iter().map(|job| format!("{job}\n")).collect();
        if self.records > 0 {
            text.push_str(&format!("{RECORDS}{}\n", self.records));
        }
        text
    }

    /// The jobs that are named, as they were noted.
    pub fn jobs(&self) -> &[String] {
        &self.jobs
    }

    /// The place in the chain up to which further records may name the blob; 0 for none.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether nothing is known of its jobs.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.records == 0
    }

    /// What of the other's these lack.
    pub fn lacking(&self, other: &Marks) -> Marks {
        let known: BTreeSet<&String> = self.jobs.iter().collect();
        let jobs = other.jobs.iter().filter(|job| !known.contains(job)).cloned().collect();
        let records = if other.records > self.records { other.records } else { 0 };
        Marks { jobs, records }
    }

    /// Takes more of them in.
    pub fn take(&mut self, more: Marks) {
        let more = self.lacking(&more);
        self.jobs.extend(more.jobs);
        self.records = self.records.max(more.records);
    }

    /// The same without the names of archived jobs, whose records lie at `head` or below.
    pub fn folded(mut self, is_archived: impl Fn(&str) -> bool, head: u64) -> Marks {
        let named = self.jobs.len();
        self.jobs.retain(|job| !is_archived(job));
        if self.jobs.len() < named {
            self.records = self.records.max(head);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_text_and_what_is_torn() {
        let marks = Marks::parse("\n11.1\n\n12.9\n11.1\nx\n13.\nrecords 7\nrecords 5\nrecords x\n");
        assert_eq!((marks.jobs(), marks.records()), (&["11.1".into(), "12.9".into()][..], 7));
        assert_eq!(Marks::parse(&marks.text()), marks);
        assert!(Marks::parse("").is_empty() && !marks.is_empty());
        let more = Marks::parse("12.9\n12.10\nrecords 6");
        assert_eq!(marks.lacking(&more), Marks::of("12.10"));
        assert_eq!(more.lacking(&marks), Marks::parse("11.1\nrecords 7"));
        let mut all = marks.clone();
        all.take(more);
        assert_eq!(all, Marks::parse("11.1\n12.9\n12.10\nrecords 7"));
    }

    #[test]
    fn archived_jobs_become_one_line_and_live_ones_stay() {
        let many = Marks::parse("11.1\n11.2\n11.3\nrecords 4");
        let folded = many.clone().folded(|job| job != "11.3", 90);
        assert_eq!(folded, Marks::parse("11.3\nrecords 90"));
        assert_eq!(folded.clone().folded(|_| false, 95), folded, "nothing was folded");
    }
}
