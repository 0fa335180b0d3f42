//! A few failover rounds; `tiebeam-tests failover` makes as many as one wants.

use tiebeam_tests::failover::{Options, rounds};

#[test]
fn nothing_acknowledged_is_lost_or_done_twice_when_the_master_is_lost() {
    let options = Options { rounds: 3, clients: 16, ..Options::default() };
    let report = rounds(&options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!((report.rounds, report.equal), (3, 1));
}
