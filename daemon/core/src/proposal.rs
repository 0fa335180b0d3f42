//! What an entry of the raft log carries: numbered, append-only proposals.
//!
//! A number is never reused and a body's fields are only ever added, with defaults; so a log of
//! any released version can be read. Everything that depends on a job's declaration was evaluated
//! by the proposer and travels here as plain values (ruling 12): apply never looks into a
//! catalogue. Secrets are sealed or hashed before they come here (ruling 21).

use crate::lock::Lock;
use crate::member::{JoinToken, MemberChange, MemberStep};
use crate::notice::Notice;
use crate::tree::Hash;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tiebeam_proto::{
    Kind, Outcome,
    record::{AuditRecord, CommandRecord, Mode, RequestFacts, Stages},
    time::Time,
};

/// First byte of every encoded proposal.
pub const FORMAT: u8 = 1;

/// What every entry carries beside its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The proposer's wall clock, for display.
    pub wall: Time,
    /// Microseconds on the proposer's monotonic clock since its last proposal (ruling 22).
    pub elapsed_us: u64,
    /// The proposer's node id.
    pub proposer: u32,
}

/// An entry's content.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Time and proposer.
    pub header: Header,
    /// What is proposed.
    pub body: Body,
}

/// Who may do it, as the declaration said when the job was submitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Users by name.
    #[serde(default)]
    pub users: Vec<String>,
    /// Groups by name.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The user whom the job is about, where a user may do it for themself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_user: Option<String>,
    /// Whether every user may.
    #[serde(default)]
    pub everyone: bool,
}

/// An idempotency key and what it was used for (ruling 5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// The caller's key.
    pub key: String,
    /// SHA-256 over job name and parameters, hex, cut to 32 characters.
    pub digest: String,
}

/// A job as it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The job's name.
    pub name: Arc<str>,
    /// What such a job may do.
    pub kind: Kind,
    /// Who asks.
    pub user: Arc<str>,
    /// The revision of the user's entry when the call was admitted.
    pub credential_revision: u64,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it is to run.
    #[serde(default)]
    pub mode: Mode,
    /// The parameters as the record shows them.
    pub parameters: Arc<Map<String, Value>>,
    /// What the salts of commitments were made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The parameters as the job gets them, sealed; only on the long path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// The request.
    pub request: Arc<RequestFacts>,
    /// The idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_key: Option<RequestKey>,
    /// Who may do it.
    pub needs: Arc<Needs>,
    /// What it holds while it runs.
    pub locks: Arc<[Lock]>,
    /// The master that took it.
    pub master: u32,
    /// Its term.
    pub term: u64,
    /// Microseconds of cluster time from submission to the deadline.
    pub deadline_us: u64,
    /// When the call was admitted.
    pub submitted: Time,
}

/// One thing a plan looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The path.
    pub path: String,
    /// The revision seen there; `None` if there was nothing.
    pub seen: Option<u64>,
}

/// One thing a plan changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Write {
    /// Puts a value into the configuration.
    Set {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Takes a path out of the configuration.
    Remove {
        /// Where.
        path: String,
    },
    /// Sets a user's password hash or one-time secret.
    Credential {
        /// Whose.
        user: String,
        /// The PHC string; `None` leaves the user without a password.
        hash: Option<String>,
        /// Hash of a one-time secret, and microseconds of cluster time it stays good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        one_time: Option<(String, u64)>,
    },
    /// Forgets a user's password.
    CredentialRemove {
        /// Whose.
        user: String,
    },
    /// Keeps a token with which a node may join.
    JoinToken {
        /// Its id.
        id: String,
        /// What is kept of it. `expires_us` is how long it is good, in microseconds.
        token: JoinToken,
    },
    /// Binds a token to the node that was added by it.
    JoinTokenUsed {
        /// Its id.
        id: String,
        /// SHA-256 of the node's public key.
        key_hash: String,
    },
    /// Lets go of locks that a job left in doubt (ruling 11).
    LockRelease {
        /// The job's id.
        job: String,
    },
    /// Takes a node's wall clock as right, although it is off (ruling 22).
    ClockAccept {
        /// The node.
        node: u32,
        /// By how many microseconds it is off.
        off_us: i64,
    },
}

/// A secret in a result that can be derived again (ruling 26).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derived {
    /// Key of the output object that holds it.
    pub field: String,
    /// What it is for.
    pub purpose: String,
    /// Whom or what it is about.
    pub subject: String,
    /// The nonce it was derived with.
    pub nonce: String,
    /// The text around it, with `{}` where it stands; without one it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
}

impl Derived {
    /// What the output shows the caller, once the secret is derived again.
    pub fn shown(&self, secret: &str) -> String {
        self.form.as_ref().map_or_else(|| secret.to_owned(), |form| form.replace("{}", secret))
    }
}

/// What a job function decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The revision it looked at.
    pub base_revision: u64,
    /// Every path it looked at.
    #[serde(default)]
    pub reads: Vec<Read>,
    /// What it changes; empty unless the outcome is ok.
    #[serde(default)]
    pub writes: Vec<Write>,
    /// How it ended.
    pub outcome: Outcome,
    /// The text of every outcome but ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Arc<Value>>,
    /// Warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The plan of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<Value>,
    /// Secrets of the output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derived: Vec<Derived>,
    /// A change of membership; it makes the proposal the context of raft's own entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberChange>,
    /// Keys of the commands whose end was not known when it was decided that it cannot be known how
    /// the job ended; empty if that rests on something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
}

impl Plan {
    /// A plan that ended without success and changes nothing.
    pub fn ended(base_revision: u64, outcome: Outcome, error: impl Into<String>) -> Plan {
        Plan {
            base_revision,
            reads: Vec::new(),
            writes: Vec::new(),
            outcome,
            error: Some(error.into()),
            output: None,
            warnings: Vec::new(),
            dry_run: None,
            derived: Vec::new(),
            member: None,
            open: Vec::new(),
        }
    }
}

/// A job that is done in one entry (ruling 8).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOnce {
    /// What was asked.
    pub submission: Submission,
    /// What it decided.
    pub plan: Plan,
    /// When each stage was reached.
    pub times: Stages,
}

/// A command's intent: durable before anything outside can happen (ruling 9).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The job's sequence number.
    pub job: u64,
    /// The command's key, unique within the job.
    pub key: String,
    /// The node that is to run it.
    pub node: u32,
    /// SHA-256 of the arguments, hex.
    pub digest: String,
    /// What is to be run, sealed.
    pub spec: String,
    /// Microseconds of cluster time it may take.
    pub deadline_us: u64,
    /// When it was decided.
    pub time: Time,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandEnded {
    /// The job's sequence number.
    pub job: u64,
    /// The command's key.
    pub key: String,
    /// Its part of the record.
    pub record: CommandRecord,
}

/// The end of a job on the long path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    /// The job's sequence number.
    pub job: u64,
    /// What it decided.
    pub plan: Plan,
    /// When the plan began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed: Option<Time>,
    /// When it ended.
    pub finished: Time,
}

/// The committed stamp of changes (ruling 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// Sequence numbers of the jobs.
    pub jobs: Vec<u64>,
    /// When the awaited members had applied, or the wait ended.
    pub time: Time,
    /// Who had applied.
    pub applied: Vec<u32>,
    /// Who had not, and why.
    #[serde(default)]
    pub pending: Vec<(u32, String)>,
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $number:literal,)*) => {
        /// What is proposed. The numbers are on disk for ever.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Body { $($(#[$doc])* $name($inner),)* }

        impl Body {
            /// The number on disk.
            pub fn number(&self) -> u16 {
                match self { $(Body::$name(_) => $number,)* }
            }

            fn to_json(&self) -> Vec<u8> {
                let written = match self { $(Body::$name(inner) => serde_json::to_vec(inner),)* };
                written.expect("a proposal has only types that JSON can hold")
            }

            fn from_json(number: u16, json: &[u8]) -> Result<Body, DecodeError> {
                match number {
                    $($number => read::<$inner>(json).map(Body::$name),)*
                    _ => Err(DecodeError::UnknownNumber(number)),
                }
            }
        }
    };
}

bodies! {
    /// A job for the queue.
    Submit(Box<Submission>) = 1,
    /// A job that is done in this entry.
    RunOnce(Box<RunOnce>) = 2,
    /// The scheduler takes a waiting job's locks, or declines it.
    Schedule(Schedule) = 3,
    /// A command is about to be started.
    Intent(Intent) = 4,
    /// A command ended.
    CommandEnded(Box<CommandEnded>) = 5,
    /// A job of the long path ended.
    Finish(Box<Finish>) = 6,
    /// Changes are applied by the awaited members.
    Committed(Committed) = 7,
    /// Somebody wants a job to stop.
    Cancel(Cancel) = 8,
    /// Facts about access.
    Audit(Vec<AuditRecord>) = 9,
    /// A bearer token ends before its time.
    Revoke(Revoke) = 10,
    /// A migrated password hash is replaced after a login.
    Rehash(Rehash) = 11,
    /// History below an index is given up.
    Cut(Cut) = 12,
    /// A job function asked for a value that is not a function of its inputs (ruling 10).
    Recorded(Recorded) = 13,
    /// What the master notes of a member.
    Member(MemberStep) = 14,
    /// An entry that could not be applied, and was taken out by hand on all members.
    Skipped(Skipped) = 15,
    /// The cluster rises to a feature level that every member supports.
    Raise(Raise) = 16,
    /// A step of the rotation of the cluster key.
    Key(KeyStep) = 17,
    /// What a node tells of itself without a job.
    Notice(Notice) = 18,
}

/// The scheduler's decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The job's sequence number.
    pub job: u64,
    /// When.
    pub time: Time,
}

/// A wish to stop a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cancel {
    /// The job's sequence number.
    pub job: u64,
    /// Who wants it.
    pub user: String,
    /// When.
    pub time: Time,
}

/// The early end of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revoke {
    /// The token's id.
    pub token: String,
    /// Cluster time at which it would have ended by itself.
    pub expires_us: u64,
}

/// A better hash of the same password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rehash {
    /// Whose.
    pub user: String,
    /// The hash that was verified.
    pub old: String,
    /// The one that takes its place.
    pub new: String,
}

/// What is given up of the history: everything below a floor, reads below another index. An index
/// that is not above the one of State changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// The lowest chain index that is kept.
    pub floor_index: u64,
    /// The hash that the record at the floor follows: State does not know it, the history does.
    #[serde(default)]
    pub floor_previous: Hash,
    /// Records of reads below this chain index are pruned; 0 leaves that as it is.
    #[serde(default)]
    pub reads_below: u64,
}

/// What stands in the place of an entry that could not be applied (ruling 36): `tiebeamd recover
/// --skip-entry` writes it into every member's log, made from the old entry alone, so that it is
/// the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Number of the proposal that stood there; 0 if it could not be read.
    pub number: u16,
    /// SHA-256 of the entry that stood there.
    pub digest: String,
}

/// The number of [`Body::Raise`], for who looks for one in a log without reading it.
pub const RAISE: u16 = 16;

/// A new feature level (ruling 12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// The level; whether every member supports it is decided where it is applied.
    pub level: u32,
}

/// A step of the rotation of the cluster key (ruling 21). The key is in none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum KeyStep {
    /// The master made one: members fetch it.
    Made {
        /// Its number, above every one before.
        number: u32,
        /// Its fingerprint.
        print: String,
    },
    /// Every member that is online has it: it is used from now on.
    Used {
        /// Its number.
        number: u32,
    },
}

/// A recorded input of a job function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// The job's sequence number.
    pub job: u64,
    /// What was asked for.
    pub key: String,
    /// The answer.
    pub value: Value,
}

/// Why bytes are no proposal.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end early.
    #[error("the entry has only {0} bytes")]
    Short(usize),
    /// Written by a version that this one does not know.
    #[error("the entry has format {0}; this version reads format {FORMAT}")]
    Format(u8),
    /// A proposal that this version does not know.
    #[error("the entry holds proposal number {0}, which this version does not know")]
    UnknownNumber(u16),
    /// The body is not what its number says.
    #[error("the entry's body does not fit its number")]
    Body(#[source] serde_json::Error),
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(json).map_err(DecodeError::Body)
}

/// Bytes before the body: format, number, wall, elapsed, proposer.
const HEAD: usize = 1 + 2 + 8 + 8 + 4;

fn read_head(head: &[u8; HEAD]) -> (u16, Header) {
    fn part<const N: usize>(head: &[u8; HEAD], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&head[at..at + N]);
        out
    }
    let header = Header {
        wall: Time(i64::from_le_bytes(part(head, 3))),
        elapsed_us: u64::from_le_bytes(part(head, 11)),
        proposer: u32::from_le_bytes(part(head, 19)),
    };
    (u16::from_le_bytes(part(head, 1)), header)
}

impl Proposal {
    /// The level to which the entry wants to raise the cluster, if it is such an entry.
    pub fn raised_by(entry: &[u8]) -> Option<u32> {
        let (head, body) = entry.split_first_chunk::<HEAD>()?;
        let is_raise = head[0] == FORMAT && read_head(head).0 == RAISE;
        is_raise.then(|| read::<Raise>(body).map_or(u32::MAX, |raise| raise.level))
    }

    /// The bytes of the entry.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.body.to_json();
        let mut out = Vec::with_capacity(HEAD + body.len());
        out.push(FORMAT);
        out.extend_from_slice(&self.body.number().to_le_bytes());
        out.extend_from_slice(&self.header.wall.0.to_le_bytes());
        out.extend_from_slice(&self.header.elapsed_us.to_le_bytes());
        out.extend_from_slice(&self.header.proposer.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// What is to stand in the place of an entry that cannot be applied.
    pub fn in_place_of(old: &[u8]) -> Proposal {
        let head = old.first_chunk::<HEAD>().filter(|head| head[0] == FORMAT).map(read_head);
        let unreadable = Header { wall: Time(0), elapsed_us: 0, proposer: 0 };
        let (number, header) = head.unwrap_or((0, unreadable));
        let digest = tiebeam_proto::canonical::hex(&Sha256::digest(old));
        Proposal { header, body: Body::Skipped(Skipped { number, digest }) }
    }

    /// Reads an entry.
    pub fn decode(bytes: &[u8]) -> Result<Proposal, DecodeError> {
        let (head, body) =
            bytes.split_first_chunk::<HEAD>().ok_or(DecodeError::Short(bytes.len()))?;
        if head[0] != FORMAT {
            return Err(DecodeError::Format(head[0]));
        }
        let (number, header) = read_head(head);
        Ok(Proposal { header, body: Body::from_json(number, body)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_survives_its_bytes_and_bad_bytes_are_named() {
        let header = Header { wall: Time(1_800_000_000_000_001), elapsed_us: 7, proposer: 11 };
        let body = Body::Revoke(Revoke { token: "t".into(), expires_us: 9 });
        let proposal = Proposal { header, body };
        let bytes = proposal.encode();
        assert_eq!(Proposal::decode(&bytes).unwrap(), proposal);
        assert!(matches!(Proposal::decode(&bytes[..5]), Err(DecodeError::Short(5))));
        let mut newer = bytes.clone();
        newer[1] = 250;
        assert!(matches!(Proposal::decode(&newer), Err(DecodeError::UnknownNumber(250))));
        let skipped = Proposal::in_place_of(&newer);
        assert_eq!(skipped.header, header);
        assert!(matches!(&skipped.body, Body::Skipped(body) if body.number == 250));
        assert_eq!(Proposal::decode(&skipped.encode()).unwrap(), skipped);
        newer[0] = 9;
        assert!(matches!(Proposal::decode(&newer), Err(DecodeError::Format(9))));
        let unknown = Proposal::in_place_of(&newer);
        assert!(matches!(&unknown.body, Body::Skipped(body) if body.number == 0));
    }
}
