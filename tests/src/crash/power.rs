//! Rounds of losing power: ext4 on a loop device, whose image is copied at a random moment.
//!
//! The daemon is stopped (SIGSTOP), nothing is synced, and the image is copied as it is: what the
//! file system had handed to the block layer is saved, all else is lost. That is the lower bound
//! of what a power cut does. The copy is mounted (the journal is replayed), `tiebeamd check` looks
//! at it, the daemon is started on it, and everything that was acknowledged before the copy must
//! be there. Needs root, `mkfs.ext4` and loop devices; says so where it cannot run.

use super::ledger::{Ledger, Tally};
use super::rounds::{self, Ground, Rounds, first_answer, print_findings, verification};
use super::subject::Subject;
use super::{Dice, Failure, Options, Spread, block_on};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes of the image, most of them holes: room for a log between two snapshots, and a history.
const IMAGE_BYTES: u64 = 1 << 30;
/// Time in which answers that were sent before the stop arrive.
const ARRIVAL: Duration = Duration::from_millis(30);

/// What the rounds found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Why nothing was run, if nothing was.
    pub not_run: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Rounds that were made.
    pub rounds: u32,
    /// Counts.
    pub tally: Tally,
    /// Rounds in which a file that was written just before, and never synced, was lost: the proof
    /// that a round loses what it is meant to lose.
    pub control_lost: u32,
    /// From start to the first answer.
    pub start: Spread,
    /// The whole time.
    pub took: Duration,
    /// Everything that is wrong; empty if nothing is.
    pub findings: Vec<String>,
}

impl Report {
    /// Prints the table and the findings.
    pub fn print(&self) {
        if let Some(reason) = &self.not_run {
            println!("power: not run: {reason}");
            return;
        }
        let (rounds, took) = (self.rounds, self.took.as_secs_f64());
        let each = took / f64::from(rounds.max(1));
        println!(
            "{rounds} rounds of lost power, seed {}, {took:.1} s ({each:.2} s a round)",
            self.seed
        );
        println!("acknowledged | sent again | of these had run | jobs | findings");
        let Tally { acknowledged, sent_again, had_run, jobs, .. } = &self.tally;
        let found = self.findings.len();
        println!("{acknowledged} | {sent_again} | {had_run} | {jobs} | {found}");
        println!("a file that was not synced was lost in {} rounds", self.control_lost);
        println!("start to first answer: {}", self.start);
        print_findings(&self.findings);
    }
}

/// Makes the rounds and prints the table.
///
/// # Errors
/// The rounds cannot be made; what they find is in the report.
pub fn power_rounds(options: &Options) -> Result<Report, Failure> {
    let report = match missing() {
        Some(reason) => Report { not_run: Some(reason), ..Report::default() },
        None => block_on(power(options))?,
    };
    report.print();
    Ok(report)
}

/// What this machine lacks.
pub fn missing() -> Option<String> {
    let output = Command::new("id").arg("-u").output().ok()?;
    if output.stdout.trim_ascii() != b"0" {
        return Some("only root mounts".to_owned());
    }
    for (program, argument) in [("mkfs.ext4", "-V"), ("losetup", "-V"), ("mount", "-V")] {
        if run(program, &[argument]).is_err() {
            return Some(format!("there is no {program}"));
        }
    }
    let free = run("losetup", &["-f"]);
    free.err().map(|error| format!("there is no loop device: {error}"))
}

fn run(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program} {arguments:?}: {words}").into())
}

/// A mounted image; unmounted and detached when dropped.
struct Mount {
    device: String,
    at: PathBuf,
    mounted: bool,
}

impl Mount {
    fn new(image: &Path, at: &Path) -> Result<Mount, Failure> {
        fs::create_dir_all(at)?;
        let device = run("losetup", &["-f", "--show", &image.to_string_lossy()])?;
        let mut mount = Mount { device, at: at.to_owned(), mounted: false };
        run("mount", &["-t", "ext4", &mount.device, &at.to_string_lossy()])?;
        mount.mounted = true;
        Ok(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let at = self.at.to_string_lossy().into_owned();
            // Lazily as the last resort: the device is freed as soon as nobody uses it.
            if run("umount", &[&at]).is_err() {
                let _ = run("umount", &["-l", &at]);
            }
        }
        let _ = run("losetup", &["-d", &self.device]);
    }
}

/// The parts of a run, in the order in which they must go: the daemon before its file system,
/// the file system before the folder with its image.
struct Cuts {
    mount: Option<Mount>,
    ground: Ground,
    image: PathBuf,
    loud: bool,
    report: Report,
}

impl Drop for Cuts {
    fn drop(&mut self) {
        // Nothing of the run may hold the mount when it goes.
        let _ = self.ground.subject.kill_all();
        self.mount = None;
    }
}

async fn power(options: &Options) -> Result<Report, Failure> {
    let begun = Instant::now();
    let mut subject = Subject::new("power", options)?;
    let image = subject.folder.join("image-0");
    fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
    run("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])?;
    let at = subject.folder.join("disk");
    let mount = Mount::new(&image, &at)?;
    subject.move_to(at.join("node"));
    let report = Report { seed: options.seed, ..Report::default() };
    let ground = Ground { subject, ledger: Ledger::default(), dice: Dice::new(options.seed) };
    let mut cuts = Cuts { mount: Some(mount), ground, image, loud: options.loud, report };
    let Ground { subject, ledger, .. } = &mut cuts.ground;
    subject.init()?;
    first_answer(subject).await?;
    *ledger = Ledger::open(&subject.rpc()?, PathBuf::new()).await?;
    cuts.report.rounds = rounds::run(&mut cuts, options).await?;
    let Ground { subject, ledger, .. } = &mut cuts.ground;
    cuts.report.compared_at_end(ledger, subject).await?;
    cuts.report.took = begun.elapsed();
    Ok(std::mem::take(&mut cuts.report))
}

impl Report {
    async fn compared_at_end(
        &mut self,
        ledger: &mut Ledger,
        subject: &Subject,
    ) -> Result<(), Failure> {
        if ledger.findings.is_empty() {
            ledger.compare_all(&subject.rpc()?).await?;
        }
        self.tally = ledger.tally.clone();
        self.findings = std::mem::take(&mut ledger.findings);
        Ok(())
    }
}

impl Rounds for Cuts {
    fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    async fn round(&mut self, round: u32) -> Result<(), Failure> {
        let load = self.ground.load(&format!("p{round}"), None)?;
        tokio::time::sleep(self.ground.dice.millis(50, 1_500)).await;
        let control = self.ground.subject.folder.join("disk").join(format!("control-{round}"));
        fs::write(&control, "not synced")?;
        self.ground.subject.signal_daemon("STOP");
        tokio::time::sleep(ARRIVAL).await;
        let copy = self.ground.subject.folder.join(format!("image-{}", round + 1));
        copy_image(&self.image, &copy)?;
        self.ground.subject.kill_all()?;
        let mut calls = load.end().await?;
        calls.push(verification(round));
        self.change_disk(copy)?;
        let kept = fs::read(&control).unwrap_or_default();
        self.report.control_lost += u32::from(kept != b"not synced");
        let (sound, text) = self.ground.subject.check()?;
        if !sound {
            self.ground.ledger.findings.push(format!("tiebeamd check after the cut: {text}"));
        }
        let after = first_answer(&mut self.ground.subject).await?;
        self.report.start.add(after);
        self.ground.ledger.settle(&self.ground.subject.rpc()?, calls).await?;
        if self.loud {
            println!("round {round}: {:?}", self.ground.ledger.tally);
        }
        Ok(())
    }
}

impl Cuts {
    /// The copy takes the place of the disk that lost its power.
    fn change_disk(&mut self, copy: PathBuf) -> Result<(), Failure> {
        let at = self.ground.subject.folder.join("disk");
        self.mount = None;
        fs::remove_file(&self.image)?;
        self.mount = Some(Mount::new(&copy, &at)?);
        self.image = copy;
        Ok(())
    }
}

/// Copies the image with its holes.
fn copy_image(from: &Path, to: &Path) -> Result<(), Failure> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    run("cp", &["--sparse=always", "--reflink=auto", &from, &to]).map(drop)
}
