//! A fixed number of seeds holds; a seed is a whole run; every planted fault is caught.

use super::{Plant, Settings, run};

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
