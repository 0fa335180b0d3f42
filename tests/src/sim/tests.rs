//! A fixed number of seeds holds; a seed is a whole run; every planted fault is caught.

use super::{Plant, Settings, run};

/// Seeds of this test; many more are run by the command.
const SEEDS: u64 = 300;
/// Seeds within which a planted fault must be caught (the rulings allow 2,000).
const SEEDS_OF_A_PLANT: u64 = 400;

#[test]
fn the_first_seeds_hold() {
    for seed in 0..SEEDS {
        if let Err(violation) = run(&Settings::standard(seed)).result {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [3, 8] {
        let settings = Settings { trace: true, ..Settings::standard(seed) };
        let (first, second) = (run(&settings).lines, run(&settings).lines);
        assert!(first.len() > 100 && first == second, "seed {seed}");
    }
}

/// The number of the invariant that catches a planted fault, by random seeds of the standard run.
fn caught_by(plant: Plant) -> Option<u32> {
    (0..SEEDS_OF_A_PLANT).find_map(|seed| {
        let settings = Settings { plant: Some(plant), ..Settings::standard(seed) };
        run(&settings).result.err().map(|violation| violation.number)
    })
}

#[test]
fn every_planted_fault_is_caught() {
    for plant in Plant::ALL {
        let caught = caught_by(plant);
        assert!(caught.is_some(), "{} is not caught", plant.name());
    }
}
