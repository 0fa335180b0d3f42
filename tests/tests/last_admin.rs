//! Two changes that each take an administrator away, in every order in which a master can plan
//! and apply them: at least one administrator is left, always.
//!
//! Real jobs are planned against real States; only what is outside of a job is made up. The race
//! over the wire is `e2e/last_admin.rs`; here no order is left to chance.

use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tiebeam_core::declaration::Params;
use tiebeam_core::fixture;
use tiebeam_core::proposal::{Body, Header, Plan, Proposal, RunOnce, Submission};
use tiebeam_core::{Answer, Path, State, Tree, admit, schema};
use tiebeam_jobs::world::{
    CertificateOffer, CheckedCertificate, DebugFound, DebugWish, DerivedSecret, Part, SealedSecret,
};
use tiebeam_jobs::{CommandWish, JobError, Run, World};
use tiebeam_proto::record::{CommandRecord, JobRecord, Mode, Stages};
use tiebeam_proto::time::Time;

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

fn unasked<T>() -> Result<T, JobError> {
    Err(JobError::Failed("no job of this test asks for it".to_owned()))
}

/// A world that hashes passwords and has nothing else.
struct Nowhere;

impl World for Nowhere {
    fn master(&self) -> (u32, u64) {
        (11, 2)
    }
    fn now(&self) -> Time {
        Time::default()
    }
    fn clock_off_us(&self) -> Option<i64> {
        None
    }
    fn hash_password(&self, _: String) -> Later<Result<String, JobError>> {
        Box::pin(std::future::ready(Ok("$argon2id$of-a-test".to_owned())))
    }
    fn check_ready_hash(&self, _: &str) -> Result<(), JobError> {
        unasked()
    }
    fn seal(&self, _: &Path, _: &Value) -> Result<SealedSecret, JobError> {
        unasked()
    }
    fn derive(&self, _: &str, _: &str) -> DerivedSecret {
        DerivedSecret { hash: String::new(), nonce: String::new() }
    }
    fn revisions(&self, _: Option<u64>, _: usize) -> Result<Vec<Arc<JobRecord>>, JobError> {
        unasked()
    }
    fn revision(&self, _: u64) -> Result<Option<Arc<JobRecord>>, JobError> {
        unasked()
    }
    fn tree_at(&self, _: u64) -> Result<Tree, JobError> {
        // Before the second administrator was made: a rollback to it takes that one away.
        Ok(fixture::state().config)
    }
    fn node_facts(&self, _: u32) -> Value {
        Value::Null
    }
    fn node_state(&self, _: u32) -> &'static str {
        "online"
    }
    fn node_booted(&self, _: u32) -> Option<String> {
        None
    }
    fn health(&self) -> Value {
        Value::Null
    }
    fn wait_published(&self, _: u32, _: u64, _: u64) -> Later<bool> {
        Box::pin(std::future::ready(false))
    }
    fn check_certificate(&self, _: &CertificateOffer) -> Result<CheckedCertificate, JobError> {
        unasked()
    }
    fn certificates(&self) -> Value {
        Value::Null
    }
    fn verify_history(&self) -> Later<Result<Value, JobError>> {
        Box::pin(std::future::ready(unasked()))
    }
    fn command(&self, _: CommandWish) -> Later<Result<CommandRecord, JobError>> {
        Box::pin(std::future::ready(unasked()))
    }
    fn recorded(&self, _: &str) -> Option<Value> {
        None
    }
    fn record(&self, _: &str, _: Value) -> Later<Result<Value, JobError>> {
        Box::pin(std::future::ready(unasked()))
    }
    fn part(&self, _: Part) -> Later<Result<Arc<JobRecord>, JobError>> {
        Box::pin(std::future::ready(unasked()))
    }
    fn ca_fingerprint(&self) -> Result<String, JobError> {
        unasked()
    }
    fn newest(&self) -> Arc<State> {
        Arc::default()
    }
    fn caught_up(&self, _: u32) -> bool {
        false
    }
    fn pause(&self, _: u64) -> Later<()> {
        Box::pin(std::future::ready(()))
    }
    fn submitted_to(&self) -> u32 {
        11
    }
    fn hand_over(&self, _: &[u32]) -> Later<Result<(), JobError>> {
        Box::pin(std::future::ready(unasked()))
    }
    fn collect_debug(&self, _: DebugWish) -> Later<Result<DebugFound, JobError>> {
        Box::pin(std::future::ready(unasked()))
    }
    fn progress(&self, _: u8, _: &str) {}
}

/// A job as somebody asks for it.
#[derive(Clone, Debug)]
struct Ask {
    user: &'static str,
    job: &'static str,
    params: Value,
}

/// The clock of the tests' jobs: block on a future that is never pending.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("nothing here waits"),
    }
}

/// Plans as the master does: against the State that is newest for it now.
fn plan(state: &State, ask: &Ask) -> (Params, Plan) {
    let job = tiebeam_jobs::find(ask.job).expect("a job");
    let given = ask.params.as_object().expect("parameters");
    let params = admit::check_params(&job.declaration, given).expect("well formed");
    let base = Arc::new(state.clone());
    let run = Run::new(ask.user.to_owned(), params.clone(), base, Arc::new(Nowhere));
    let result = at_once((job.run)(run.clone()));
    (params, run.into_plan(result, false))
}

/// Applies a plan; true if it is to be made again. `seen` is the State of the admission.
fn apply(state: &mut State, seen: &State, ask: &Ask, planned: &(Params, Plan)) -> bool {
    let declaration = &tiebeam_jobs::find(ask.job).expect("a job").declaration;
    let (params, plan) = planned;
    let submission = Submission {
        name: declaration.name.into(),
        kind: declaration.kind,
        user: ask.user.into(),
        credential_revision: seen.credential_revision(ask.user).unwrap_or(0),
        reason: None,
        mode: Mode::Immediate,
        parameters: Arc::default(),
        nonce: None,
        inputs: None,
        request: Arc::default(),
        request_key: None,
        needs: tiebeam_jobs::needs(declaration, params).into(),
        locks: (declaration.locks)(params).into(),
        master: 11,
        term: 2,
        deadline_us: 60_000_000,
        submitted: Time::default(),
    };
    let times = Stages::default();
    let body = Body::RunOnce(Box::new(RunOnce { submission, plan: plan.clone(), times }));
    let header = Header { wall: Time::default(), elapsed_us: 1, proposer: 11 };
    let (answer, _) = state.apply(state.applied + 1, 2, Some(&Proposal { header, body }));
    assert!(matches!(answer, Answer::Job { .. } | Answer::Stale), "{answer:?}");
    matches!(answer, Answer::Stale)
}

/// Two administrators: `admin`, and `second`.
fn two_administrators() -> State {
    let mut state = fixture::state();
    let ask = Ask {
        user: "admin",
        job: "user_create",
        params: json!({"username": "second", "userid": 1001, "group": "exaadm",
                       "password": "a-password"}),
    };
    let planned = plan(&state, &ask);
    let seen = state.clone();
    assert!(!apply(&mut state, &seen, &ask, &planned));
    assert_eq!(administrators(&state), ["admin", "second"]);
    state
}

fn administrators(state: &State) -> Vec<String> {
    schema::administrators(&state.config, &state.credentials)
}

/// Every way in which `by` can take the administrator `whom` away.
fn ways(by: &'static str, whom: &'static str) -> Vec<Ask> {
    let ask = |job, params| Ask { user: by, job, params };
    let mut ways = vec![
        ask("user_delete", json!({"username": whom})),
        ask("user_modify", json!({"username": whom, "login_enabled": false})),
        ask("user_modify", json!({"username": whom, "group": "exausers"})),
    ];
    if whom == "second" {
        ways.push(ask("config_rollback", json!({"revision": 1, "path": "users"})));
        ways.push(ask("config_rollback", json!({"revision": 1})));
    }
    ways
}

/// What can happen to each of the two calls, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Plan(usize),
    Apply(usize),
}

/// Every order of the four steps in which a call is planned before it is applied.
fn orders() -> Vec<[Step; 4]> {
    use Step::{Apply, Plan};
    let steps = [Plan(0), Apply(0), Plan(1), Apply(1)];
    let mut orders = Vec::new();
    for code in 0..256_usize {
        let order = [0, 2, 4, 6].map(|shift| steps[(code >> shift) & 3]);
        let at = |step: Step| order.iter().position(|found| *found == step);
        let places = steps.map(at);
        if let [Some(plan_0), Some(apply_0), Some(plan_1), Some(apply_1)] = places
            && plan_0 < apply_0
            && plan_1 < apply_1
        {
            orders.push(order);
        }
    }
    orders
}

/// Runs the two calls in this order; a stale plan is made again at once, as the master does.
fn race(asks: &[Ask; 2], order: &[Step; 4]) -> State {
    let mut state = two_administrators();
    let mut planned: [Option<(State, (Params, Plan))>; 2] = [None, None];
    for step in order {
        match *step {
            Step::Plan(who) => planned[who] = Some((state.clone(), plan(&state, &asks[who]))),
            Step::Apply(who) => {
                let (seen, first) = planned[who].take().expect("it was planned");
                if apply(&mut state, &seen, &asks[who], &first) {
                    let again = plan(&state, &asks[who]);
                    let stale = apply(&mut state, &seen, &asks[who], &again);
                    assert!(!stale, "nothing came between");
                }
            }
        }
    }
    state
}

#[test]
fn in_every_order_one_administrator_is_left() {
    let orders = orders();
    assert_eq!(orders.len(), 6, "two sequences of two steps have six interleavings");
    let mut races = 0;
    for first in [ways("admin", "second"), ways("second", "second")].concat() {
        for second in [ways("second", "admin"), ways("admin", "admin")].concat() {
            for order in &orders {
                let asks = [first.clone(), second.clone()];
                let state = race(&asks, order);
                let left = administrators(&state);
                assert_eq!(left.len(), 1, "{asks:?} in the order {order:?} leaves {left:?}");
                races += 1;
            }
        }
    }
    println!("{races} races");
    assert_eq!(races, 10 * 6 * 6);
}
