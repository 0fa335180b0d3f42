//! Who is calling: passwords, bearer tokens, client certificates, the unix socket.
//!
//! This module owns the answer to that one question, its price and its slow-down; what a caller
//! may do is decided elsewhere. It sees users through [`Users`] and keeps no copy of them. A user
//! who does not exist, is disabled or has no password takes the same path, at the same cost, as a
//! wrong password, and all of them get the same answer. It is on the request path: it reports and
//! never panics. Where a node is not the master it redirects without asking here (ruling 2).

pub mod cache;
pub mod failures;
pub mod password;
pub mod slowdown;
pub mod token;

pub use failures::Fact;
pub use password::{PasswordError, check_ready_hash};

use crate::{
    certificate::{Holder, is_user_name},
    keys::{ClusterKeys, KeyError},
    secret::Secret,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cache::{Answer, Cache, Flown};
use failures::Collection;
use password::{Passwords, Verdict};
use slowdown::{Network, Slowdown};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tiebeam_proto::{record::AuditRecord, time::Time};
use token::{Claims, TokenError};

/// How often, and how far apart, a caller looks for room among the attempts of his source: 0.6 s
/// together, so that with the wait for a turn to hash he is answered within 2 s.
const ROOM_TRIES: u32 = 30;
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// The user that uid 0 is (ruling 3).
pub const ROOT: &str = "root";

/// A user as State knows him.
#[derive(Clone)]
pub struct Account {
    /// His name.
    pub name: String,
    /// Whether he may log in (`login_enabled`).
    pub enabled: bool,
    /// Grows with each change of his password, rights or login (ruling 4).
    pub credential_revision: u64,
    /// His password's hash; none until a first password is set.
    pub hash: Option<String>,
    /// His user id on the machines, if he has one.
    pub userid: Option<u32>,
}

/// The users, as the newest applied State has them. Answers come from memory, at once.
pub trait Users: Send + Sync {
    /// The user of that name.
    fn account(&self, name: &str) -> Option<Account>;
    /// The user with that user id.
    fn by_userid(&self, userid: u32) -> Option<Account>;
    /// Whether `user_logout` ended the token with that id.
    fn token_revoked(&self, id: &str) -> bool;
    /// Cluster time in microseconds (ruling 22).
    fn now_us(&self) -> u64;
}

/// What a caller shows.
pub enum Credentials {
    /// `Authorization: Basic`, or the arguments of `user_login`.
    Basic {
        /// The user's name, as typed.
        user: String,
        /// His password.
        password: Secret<String>,
    },
    /// `Authorization: Bearer`.
    Bearer(Secret<String>),
    /// A client certificate that TLS has verified.
    Certificate(Holder),
    /// The unix socket's peer.
    Unix {
        /// His uid, from the kernel.
        uid: u32,
    },
}

impl Credentials {
    /// Reads the value of an `Authorization` header; `None` if it is neither Basic nor Bearer.
    pub fn from_header(value: &str) -> Option<Credentials> {
        let (scheme, rest) = value.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Credentials::Bearer(Secret::new(rest.to_owned())));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = Secret::new(STANDARD.decode(rest).ok()?);
        let (user, password) = std::str::from_utf8(text.expose()).ok()?.split_once(':')?;
        let (user, password) = (user.to_owned(), Secret::new(password.to_owned()));
        Some(Credentials::Basic { user, password })
    }
}

/// How a caller logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// User and password.
    Basic,
    /// A token of `user_login`.
    Bearer,
    /// A client certificate.
    Certificate,
    /// The unix socket.
    Unix,
}

impl Via {
    /// The word in `user_state`.
    pub const fn name(self) -> &'static str {
        match self {
            Via::Basic => "basic",
            Via::Bearer => "bearer",
            Via::Certificate => "certificate",
            Via::Unix => "unix",
        }
    }
}

/// A caller who is known.
pub struct Login {
    /// The user.
    pub user: String,
    /// How he logged in.
    pub via: Via,
    /// When the login ends, in microseconds of cluster time; tokens only.
    pub expires_us: Option<u64>,
    /// His credential revision at that moment: apply refuses what was asked under an older one.
    pub credential_revision: u64,
    /// A hash of ours that is to take the place of his crypt hash (jobs.md, users).
    pub rehash: Option<Secret<String>>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Login({} via {})", self.user, self.via.name())
    }
}

/// Why a caller is not let in. It never says what was wrong: that would help who guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// HTTP 401.
    #[error("the credentials are missing, wrong or expired")]
    Credentials,
    /// HTTP 403: the unix socket's peer is no user of the cluster.
    #[error("this operating system user is no user of the cluster")]
    NoUser,
    /// HTTP 503 with `Retry-After: 1`: too many passwords wait to be verified.
    #[error("too many logins wait to be verified")]
    Busy,
}

/// Answers who is calling.
pub struct Authenticator {
    users: Arc<dyn Users>,
    keys: Arc<ClusterKeys>,
    passwords: Passwords,
    /// Passwords that were right.
    cache: Cache,
    /// Logins by certificate or socket that are in the audit trail already. Not the same memory
    /// as `cache`: nothing put in here may ever pass for a password.
    seen: Cache,
    slowdown: Mutex<Slowdown>,
    /// Failed logins and denials.
    failures: Mutex<Collection>,
    /// Logins: collected apart, so that failures never push them out.
    logins: Mutex<Collection>,
    started: Instant,
    os_name: fn(u32) -> Option<String>,
}

impl Authenticator {
    /// One for this process.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new(users: Arc<dyn Users>, keys: Arc<ClusterKeys>) -> Result<Authenticator, KeyError> {
        Ok(Authenticator {
            users,
            keys,
            passwords: Passwords::new().map_err(|_| KeyError::Crypto("hash a password"))?,
            cache: Cache::new(cache::ENTRIES_MAX)?,
            seen: Cache::new(cache::ENTRIES_MAX)?,
            slowdown: Mutex::default(),
            failures: Mutex::default(),
            logins: Mutex::default(),
            started: Instant::now(),
            os_name,
        })
    }

    /// The hasher, for jobs that set a password.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Says who is calling. `source` is the peer's address with its port, or `unix:…`.
    ///
    /// # Errors
    /// He is not let in; a wrong password is answered late, but within 2 s.
    pub async fn login(&self, credentials: Credentials, source: &str) -> Result<Login, Denied> {
        match credentials {
            Credentials::Basic { user, password } => self.basic(&user, password, source).await,
            Credentials::Bearer(token) => self.bearer(&token, source).await,
            Credentials::Certificate(holder) => self.certificate(holder, source),
            Credentials::Unix { uid } => self.unix(uid, source).await,
        }
    }

    async fn basic(
        &self,
        typed: &str,
        password: Secret<String>,
        source: &str,
    ) -> Result<Login, Denied> {
        let began = Instant::now();
        let network = Network::of(source);
        // A name that cannot be one is nobody's; it is not kept anywhere.
        let user = if is_user_name(typed) { typed } else { "" };
        let account = self.users.account(user);
        let revision = account.as_ref().map_or(0, |account| account.credential_revision);
        let hash = account.as_ref().and_then(|account| account.hash.clone());
        let key = self.cache.key(user, password.expose(), revision);
        let password = Arc::new(password);
        let mut rehash_wanted = false;
        let verify = || async {
            // Who finds no room is told so; nobody is called wrong without being verified.
            let Some(_attempt) = Attempt::begin(&self.slowdown, user, &network).await else {
                return Answer::Busy;
            };
            match self.passwords.verify(Arc::clone(&password), hash).await {
                Ok(Verdict::Right { rehash_wanted: wanted }) => {
                    rehash_wanted = wanted;
                    Answer::Right
                }
                Ok(Verdict::Wrong) => Answer::Wrong,
                Err(_) => Answer::Busy,
            }
        };
        let flown = self.cache.once(key, self.now_ms(), verify).await;
        // Whether he may log in is looked at only now: a disabled user costs what others cost.
        let account = match flown {
            Flown::Verified(Answer::Busy) => return Err(Denied::Busy),
            Flown::Verified(Answer::Wrong) => None,
            Flown::Verified(Answer::Right) | Flown::Remembered => account.filter(|a| a.enabled),
        };
        let Some(account) = account else {
            return Err(self.refused(user, &network, source, began).await);
        };
        if flown != Flown::Remembered {
            lock(&self.slowdown).succeeded(user, &network);
            self.note(Fact::Login, user, source, Some(Via::Basic.name()));
        }
        let rehash = if rehash_wanted { self.passwords.hash(password).await.ok() } else { None };
        Ok(Login { rehash: rehash.map(Secret::new), ..known(account, Via::Basic) })
    }

    /// Notes a failed login and waits until it is to be answered.
    async fn refused(&self, user: &str, network: &Network, source: &str, began: Instant) -> Denied {
        self.note(Fact::LoginFailed, user, source, None);
        let delay = lock(&self.slowdown).failed(user, network, self.now_ms());
        tokio::time::sleep(delay.saturating_sub(began.elapsed())).await;
        Denied::Credentials
    }

    async fn bearer(&self, token: &Secret<String>, source: &str) -> Result<Login, Denied> {
        let began = Instant::now();
        let mut account = None;
        let verified = token::verify(
            &self.keys,
            token.expose(),
            self.users.now_us(),
            |user| {
                account = self.users.account(user).filter(|account| account.enabled);
                account.as_ref().map(|account| account.credential_revision)
            },
            |id| self.users.token_revoked(id),
        );
        match (verified, account) {
            (Ok(claims), Some(account)) => {
                Ok(Login { expires_us: Some(claims.expires_us), ..known(account, Via::Bearer) })
            }
            // Only what no cluster key has signed is a guess. A token that died is not.
            (Err(TokenError::Foreign), _) => {
                Err(self.refused("", &Network::of(source), source, began).await)
            }
            (_, account) => {
                let user = account.map(|account| account.name).unwrap_or_default();
                self.note(Fact::LoginFailed, &user, source, Some(Via::Bearer.name()));
                Err(Denied::Credentials)
            }
        }
    }

    fn certificate(&self, holder: Holder, source: &str) -> Result<Login, Denied> {
        // A node's certificate never logs a user in (ruling 27).
        let Holder::User(user) = holder else { return Err(Denied::Credentials) };
        let account = self.users.account(&user).filter(|account| account.enabled);
        let Some(account) = account else {
            self.note(Fact::LoginFailed, &user, source, Some(Via::Certificate.name()));
            return Err(Denied::Credentials);
        };
        self.note_once(&account, Via::Certificate, source);
        Ok(known(account, Via::Certificate))
    }

    async fn unix(&self, uid: u32, source: &str) -> Result<Login, Denied> {
        let account = if uid == 0 {
            // Root of the machine is root of the cluster, whatever `login_enabled` says (ruling 3).
            self.users.account(ROOT)
        } else {
            let os_name = self.os_name;
            // The system may ask a directory server for the name.
            let name = tokio::task::spawn_blocking(move || os_name(uid)).await.ok().flatten();
            let is_his = |account: &Account| {
                account.enabled
                    && account.userid == Some(uid)
                    && name.as_ref() == Some(&account.name)
            };
            self.users.by_userid(uid).filter(is_his)
        };
        let Some(account) = account else {
            self.note(Fact::Denied, "", source, Some(Via::Unix.name()));
            return Err(Denied::NoUser);
        };
        self.note_once(&account, Via::Unix, source);
        Ok(known(account, Via::Unix))
    }

    /// Issues a token for a caller who has just shown his password.
    ///
    /// # Errors
    /// The time to live is out of bounds, or the system gives no random bytes.
    pub fn issue_token(
        &self,
        login: &Login,
        ttl_s: Option<u64>,
    ) -> Result<(Secret<String>, Claims), TokenError> {
        let (revision, now_us) = (login.credential_revision, self.users.now_us());
        token::issue(&self.keys, &login.user, revision, now_us, ttl_s)
    }

    /// Reads a token that is to be ended: State keeps its id until its expiry.
    ///
    /// # Errors
    /// It is not a token of this cluster.
    pub fn read_token(&self, token: &Secret<String>) -> Result<Claims, TokenError> {
        token::read(&self.keys, token.expose())
    }

    /// Notes that a caller was denied something; `object` is the method, job or path.
    pub fn note_denied(&self, user: &str, source: &str, object: &str) {
        self.note(Fact::Denied, user, source, Some(object));
    }

    /// Notes a login that failed outside [`Authenticator::login`]: a wrong one-time secret.
    pub fn note_failed(&self, user: &str, source: &str) {
        self.note(Fact::LoginFailed, user, source, None);
    }

    /// Notes that a node showed a wrong token to join, and waits as after a wrong password.
    pub async fn join_refused(&self, source: &str) {
        self.note(Fact::LoginFailed, "", source, Some("join"));
        let delay = lock(&self.slowdown).failed("", &Network::of(source), self.now_ms());
        tokio::time::sleep(delay).await;
    }

    /// Notes that an auditor read the record of a job that is not his (ruling 46).
    pub fn note_auditor_read(&self, user: &str, source: &str, job: &str) {
        self.note(Fact::AuditorRead, user, source, Some(job));
    }

    /// The audit records that are complete; the daemon asks every few seconds and proposes them.
    pub fn drain_audit(&self) -> Vec<AuditRecord> {
        let now_ms = self.now_ms();
        let mut records = lock(&self.logins).drain(now_ms);
        records.extend(lock(&self.failures).drain(now_ms));
        records
    }

    /// All audit records, complete or not: the daemon stops.
    pub fn drain_audit_all(&self) -> Vec<AuditRecord> {
        let mut records = lock(&self.logins).drain_all();
        records.extend(lock(&self.failures).drain_all());
        records
    }

    fn note(&self, fact: Fact, user: &str, source: &str, object: Option<&str>) {
        let collection = if fact == Fact::Login { &self.logins } else { &self.failures };
        lock(collection).add(fact, user, source, object, self.now_ms(), wall_time());
    }

    /// Notes a login that comes with every request, once in some minutes.
    fn note_once(&self, account: &Account, via: Via, source: &str) {
        // A local caller's source has his pid: each of his processes would be another one.
        let place = if via == Via::Unix { Network::of("unix") } else { Network::of(source) };
        let shown = format!("{}\0{place:?}", via.name());
        let key = self.seen.key(&account.name, &shown, account.credential_revision);
        let now_ms = self.now_ms();
        if !self.seen.remembers(&key, now_ms) {
            self.seen.remember(key, now_ms);
            self.note(Fact::Login, &account.name, source, Some(via.name()));
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn known(account: Account, via: Via) -> Login {
    let credential_revision = account.credential_revision;
    Login { user: account.name, via, expires_us: None, credential_revision, rehash: None }
}

/// An attempt under way; it ends with the value, also if the caller hangs up.
struct Attempt<'a> {
    slowdown: &'a Mutex<Slowdown>,
    user: &'a str,
    network: &'a Network,
}

impl<'a> Attempt<'a> {
    /// Waits for room among the attempts of this user and source; `None` if none comes in time.
    async fn begin(
        slowdown: &'a Mutex<Slowdown>,
        user: &'a str,
        network: &'a Network,
    ) -> Option<Attempt<'a>> {
        for _ in 0..ROOM_TRIES {
            if lock(slowdown).begin(user, network) {
                return Some(Attempt { slowdown, user, network });
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        None
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        lock(self.slowdown).end(self.user, self.network);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, and what they guard is valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock, for display only (ruling 22).
fn wall_time() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn os_name(uid: u32) -> Option<String> {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests;
