//! A few crash rounds of each kind; `tiebeam-tests kill`, `power` and `flip` make as many as one
//! wants.

use tiebeam_tests::crash::{Options, bit_flips, kill_rounds, power, power_rounds};
use tiebeam_tests::need::not_run;

#[test]
fn nothing_acknowledged_is_lost_or_done_twice_when_the_daemon_is_killed() {
    let report = kill_rounds(&Options { rounds: 12, number: 11, ..Options::default() });
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(report.rounds, 12);
}

#[test]
fn nothing_acknowledged_is_lost_with_the_power() {
    if let Some(reason) = power::missing() {
        return not_run("power", &reason);
    }
    let report = power_rounds(&Options { rounds: 2, number: 12, ..Options::default() });
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(report.control_lost, 2, "a round that loses nothing proves nothing");
}

#[test]
fn damage_is_named_and_never_becomes_a_wrong_answer() {
    let report = bit_flips(&Options { number: 13, ..Options::default() });
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.findings(), Vec::<String>::new());
}
