//! Measurements, run by hand: `cargo test --release -- --ignored --nocapture history_speed`.

use super::super::fixture::{Folder, Maker};
use super::super::*;
use std::time::Duration;
use tiebeam_proto::Outcome;

#[test]
#[ignore = "a measurement"]
fn history_speed() {
    let count: usize = std::env::var("COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(600_000);
    let folder = Folder::new();
    let mut maker = Maker::new();
    let thread = HistoryThread::spawn(&Start::at(folder.path(), None)).unwrap();
    let memory = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default().to_owned()
    };
    println!("idle {}", memory());
    let (mut waited, mut bytes) = (Duration::ZERO, 0);
    for round in 0..count / 1000 {
        if round % 50 == 0 {
            println!("{round} {} {:?}", memory(), thread.handle.metrics().sealed);
        }
        let group = maker.jobs(1000);
        bytes += group.iter().map(|record| record.canonical.len()).sum::<usize>();
        let begun = std::time::Instant::now();
        group.into_iter().for_each(|record| thread.handle.archive(record).unwrap());
        thread.handle.sync_to(maker.0.index).unwrap();
        waited += begun.elapsed();
    }
    println!(
        "{count} records of {} bytes, {:.0}/s",
        bytes / count,
        count as f64 / waited.as_secs_f64()
    );
    println!("after {} {:?}", memory(), thread.handle.metrics());
    let begun = std::time::Instant::now();
    for at in 0..2000 {
        let id = format!("11.{}", 1 + at * 7919 % count);
        assert!(thread.history.job(&id).unwrap().is_some());
    }
    println!("look-up of a job at random: {:?}", begun.elapsed() / 2000);
    let rare = Filter { name: Some("none".into()), ..Filter::default() };
    let begun = std::time::Instant::now();
    let page = thread.history.search(&rare, None, None, 50).unwrap();
    println!("a search that finds nothing: {:?}, {:?}", begun.elapsed(), page.cursor);
    let busy =
        Filter { user: Some("alice".into()), outcome: Some(Outcome::Failed), ..Filter::default() };
    let begun = std::time::Instant::now();
    let page = thread.history.search(&busy, None, None, 50).unwrap();
    println!("a page of {}: {:?}", page.records.len(), begun.elapsed());
    thread.stop().unwrap();
    let begun = std::time::Instant::now();
    let thread = HistoryThread::spawn(&Start::at(folder.path(), None)).unwrap();
    println!("opened in {:?}, {}", begun.elapsed(), memory());
    thread.stop().unwrap();
    if std::env::var("KEEP").is_ok() {
        println!("kept {}", folder.path().display());
        std::mem::forget(folder);
    }
}

/// Opens the history in `$KEPT` alone, for its memory.
#[test]
#[ignore = "a measurement"]
fn history_opened() {
    let Ok(kept) = std::env::var("KEPT") else {
        return;
    };
    let begun = std::time::Instant::now();
    let thread = HistoryThread::spawn(&Start::at(Path::new(&kept), None)).unwrap();
    println!("opened in {:?} {:?}", begun.elapsed(), thread.opened);
    for _ in 0..3 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default());
        std::thread::sleep(Duration::from_secs(1));
    }
    thread.stop().unwrap();
}
