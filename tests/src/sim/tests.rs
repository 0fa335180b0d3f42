//! A fixed number of seeds holds; a seed is a whole run; every planted fault is caught.

use super::{Pace, Plant, Settings, run};

/// Seeds of this test; many more are run by the command.
const SEEDS: u64 = 300;
/// Seeds within which a planted fault must be caught (the rulings allow 2,000).
const SEEDS_OF_A_PLANT: u64 = 400;

#[test]
fn the_first_seeds_hold() {
    for seed in 0..SEEDS {
        if let Err(violation) = run(&Settings::alone(seed)).result {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [3, 8] {
        let settings = Settings { trace: true, ..Settings::alone(seed) };
        let (first, second) = (run(&settings).lines, run(&settings).lines);
        assert!(first.len() > 100 && first == second, "seed {seed}");
    }
}

/// What catches each planted fault: numbers of invariants.
const CAUGHT_BY: [(Plant, &[u32]); 13] = [
    (Plant::AcknowledgeBeforeSync, &[1, 12, 18]),
    (Plant::ForgetAppliedIndex, &[1, 13, 18]),
    (Plant::SkipReadsCheck, &[2]),
    (Plant::AnswerBeforeApply, &[2]),
    (Plant::ReuseRequestId, &[2, 6]),
    (Plant::DropRequestId, &[6]),
    (Plant::DropRecord, &[11, 13]),
    (Plant::RestartWithoutReplay, &[3, 4, 5, 9, 18]),
    (Plant::LeaveInputsOpen, &[16]),
    (Plant::IgnoreFailedSync, &[1, 12, 18]),
    (Plant::DecideByWallClock, &[19]),
    (Plant::ForgetWaitingJobs, &[7]),
    (Plant::BringLoginsBack, &[22]),
];

#[test]
fn every_planted_fault_is_caught_by_its_invariants() {
    for (plant, numbers) in CAUGHT_BY {
        let caught = (0..SEEDS_OF_A_PLANT).find_map(|seed| {
            let settings = Settings { plant: Some(plant), ..Settings::alone(seed) };
            run(&settings).result.err()
        });
        let name = plant.name();
        let caught = caught.unwrap_or_else(|| panic!("{name} is not caught"));
        assert!(numbers.contains(&caught.number), "{name}: {caught}");
    }
}

/// Seeds of the cluster's test, and the seconds that they run: the command runs more, for longer.
const CLUSTER_SEEDS: u64 = 8;
const CLUSTER_SECONDS: u64 = 15;

#[test]
fn the_first_seeds_of_a_cluster_hold() {
    for seed in 0..CLUSTER_SEEDS {
        let standard = Settings::standard(seed);
        let pace = Pace { load_us: CLUSTER_SECONDS * 1_000_000, ..standard.pace.clone() };
        if let Err(violation) = run(&Settings { pace, ..standard }).result {
            panic!("seed {seed}: {violation}");
        }
    }
}

/// What catches the faults that only a cluster has, or that it has in another way.
const CAUGHT_IN_A_CLUSTER: [(Plant, &[u32]); 11] = [
    (Plant::SkipTermCheck, &[1, 2, 6]),
    (Plant::ReadWithoutWait, &[2, 9]),
    (Plant::LeadWithGap, &[20]),
    (Plant::SpoilHistory, &[11]),
    (Plant::ForgetJournal, &[8]),
    (Plant::GuessTheEnd, &[6]),
    (Plant::TellBeforeFence, &[6]),
    (Plant::DropLogUnasked, &[20]),
    (Plant::CountRemoved, &[23]),
    (Plant::SeatUnready, &[24]),
    (Plant::ForgetCancel, &[10, 18]),
];

#[test]
fn every_fault_that_is_planted_in_a_cluster_is_caught_by_its_invariants() {
    for (plant, numbers) in CAUGHT_IN_A_CLUSTER {
        let caught = (0..SEEDS_OF_A_PLANT).find_map(|seed| {
            let settings = Settings { plant: Some(plant), ..Settings::standard(seed) };
            run(&settings).result.err()
        });
        let name = plant.name();
        let caught = caught.unwrap_or_else(|| panic!("{name} is not caught"));
        assert!(numbers.contains(&caught.number), "{name}: {caught}");
    }
}

#[test]
fn every_story_is_told_as_it_was() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/scripts");
    let write = std::env::var_os("TIEBEAM_STORIES").is_some_and(|value| value == "write");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 24, "there are {} stories", files.len());
    let mut changed = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let told = super::script::retell(&text).unwrap_or_else(|why| panic!("{file:?}: {why}"));
        if told != text {
            if write {
                std::fs::write(&file, &told).unwrap();
            }
            changed.push(format!("{}:\n{told}", file.display()));
        }
    }
    let hint = "with TIEBEAM_STORIES=write they are written anew";
    assert!(write || changed.is_empty(), "these stories go otherwise ({hint}):\n{changed:#?}");
}
