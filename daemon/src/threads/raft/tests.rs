//! What the raft thread hands on, in which order: turn by turn, without a thread.

use super::*;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use tiebeam_replica::HardState;
use tiebeam_replica::node::NodeSettings;
use tiebeam_replica::recovery::Start;
use tiebeam_replica::snapshot::SnapshotMeta;

/// What the thread sent, and the snapshot that it asked for.
#[derive(Default)]
struct Caught {
    sent: Mutex<Vec<Vec<u8>>>,
    wanted: Mutex<Option<Mark>>,
}

impl Outbox for Caught {
    fn send(&self, _to: u64, message: Vec<u8>) -> bool {
        self.sent.lock().unwrap().push(message);
        true
    }

    fn fetch_snapshot(&self, mark: Mark) {
        *self.wanted.lock().unwrap() = Some(mark);
    }
}

/// A leader and a learner that lacks everything; the learner is the thread's.
struct Pair {
    leader: Node,
    thread: RaftThread,
    outbox: Arc<Caught>,
    for_log: Receiver<ToLog>,
    for_apply: Receiver<ToApply>,
}

const LEADER: u64 = 11 << 16 | 1;
const LEARNER: u64 = 12 << 16 | 1;
/// Where the leader's snapshot stands; its log begins there.
const SNAPSHOT: Mark = Mark { index: 50, term: 2 };

fn node(own: u64, mark: Mark) -> Node {
    let membership = Membership { voters: [LEADER].into(), learners: [LEARNER].into() };
    let start = Start {
        snapshot: SnapshotMeta { mark, membership },
        floor: mark,
        entries: Vec::new(),
        hard_state: HardState { term: mark.term, vote: 0, commit: mark.index },
    };
    Node::new(NodeSettings::new(own, 7), start).unwrap()
}

impl Pair {
    fn new() -> Pair {
        let ((to_log, for_log), (to_apply, for_apply)) = (channel(), sync_channel(64));
        let (role, _) = watch::channel(Role::default());
        let outbox = Arc::new(Caught::default());
        let first = Mark { index: 1, term: 1 };
        let knobs = Knobs {
            tick: Duration::from_millis(100),
            floor: first.index,
            snapshot: Place { index: first.index, record: 0 },
            alone: false,
            metrics: Arc::default(),
        };
        let learner = node(LEARNER, first);
        let thread = RaftThread::new(learner, to_log, to_apply, role, outbox.clone(), knobs);
        Pair { leader: node(LEADER, SNAPSHOT), thread, outbox, for_log, for_apply }
    }

    /// One turn of the thread's loop.
    fn turn(&mut self, work: ToRaft) {
        self.thread.take(work);
        for output in self.thread.node.ready() {
            self.thread.carry_out(output);
        }
    }

    /// The leader's turn: what it says reaches the learner, and its own disk is quick.
    fn lead(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.leader.step(input) {
                match output {
                    Output::Persist(group) => inputs.push(Input::Persisted { group: group.number }),
                    Output::Committed(entries) => {
                        let index = entries.last().map_or(0, |entry| entry.index);
                        inputs.push(Input::Applied { index });
                    }
                    Output::Send(messages) => {
                        for message in messages {
                            let bytes = Bytes::from(message.encode());
                            self.turn(ToRaft::Message { from: LEADER, bytes });
                        }
                    }
                    _ => {}
                }
            }
        }
        let answers = std::mem::take(&mut *self.outbox.sent.lock().unwrap());
        for bytes in answers {
            self.lead(Input::Message { from: LEARNER, bytes: bytes.into() });
        }
    }

    /// The groups that the log writer was given, all of which are written now.
    fn written(&mut self) -> Vec<Group> {
        let mut groups = Vec::new();
        while let Ok(work) = self.for_log.try_recv() {
            if let ToLog::Append(group) = work {
                self.turn(ToRaft::Persisted(group.number));
                groups.push(group);
            }
        }
        groups
    }

    /// Lets the two talk until the learner asks for the leader's snapshot.
    fn until_a_snapshot_is_offered(&mut self) -> Mark {
        for _ in 0..50 {
            self.lead(Input::Tick);
            if let Some(mark) = *self.outbox.wanted.lock().unwrap() {
                return mark;
            }
            assert!(self.written().iter().all(|group| group.reset.is_none()));
        }
        panic!("the leader offers no snapshot");
    }
}

/// A log that begins behind a snapshot which is not durable would have no beginning if the node
/// stopped now: the simulation found that.
#[test]
fn the_log_waits_for_a_leaders_snapshot_to_be_durable() {
    let mut pair = Pair::new();
    let mark = pair.until_a_snapshot_is_offered();
    assert_eq!(mark, SNAPSHOT);
    // Whatever comes meanwhile waits behind it, too.
    for payload in ["one", "two"] {
        pair.lead(Input::Propose { ticket: 1, payload: payload.into() });
        pair.lead(Input::Tick);
    }
    assert!(pair.written().is_empty(), "nothing reaches the log while the snapshot is fetched");
    assert!(pair.for_apply.try_recv().is_err(), "and nothing reaches State");

    let other = Mark { index: SNAPSHOT.index - 1, ..SNAPSHOT };
    let state = || Box::new(State { applied: SNAPSHOT.index, ..State::default() });
    pair.turn(ToRaft::Installed { mark: other, state: state() });
    assert!(pair.written().is_empty(), "another snapshot is not the one");

    pair.turn(ToRaft::Installed { mark, state: state() });
    assert!(matches!(pair.for_apply.try_recv(), Ok(ToApply::Install(_))));
    let groups = pair.written();
    assert_eq!(groups.first().and_then(|group| group.reset), Some(SNAPSHOT), "it begins anew");
    assert!(groups.windows(2).all(|pair| pair[0].number < pair[1].number), "in order");
    // From here on it is a log like any other.
    pair.turn(ToRaft::Applied(SNAPSHOT.index));
    pair.lead(Input::Tick);
    pair.lead(Input::Propose { ticket: 2, payload: "three".into() });
    for _ in 0..10 {
        pair.lead(Input::Tick);
    }
    let later = pair.written();
    assert!(later.iter().any(|group| !group.entries.is_empty()), "entries follow");
}
