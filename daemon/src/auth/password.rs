//! Passwords: how they are hashed and verified, and which ready hashes are taken.
//!
//! This module owns argon2id (19 MiB, t=2, p=1), the crypt hashes of migrated users, and the limit
//! on both: a hash takes about 10 ms and 19 MiB, so it runs on blocking threads behind a semaphore
//! of half the cores. It never sees State. A user who does not exist costs the same as one who
//! does. It is on the request path: it reports and never panics.

use crate::secret::Secret;
use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::phc::{Output, PasswordHash, Salt},
};
use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD as STANDARD_NO_PAD};
use std::{sync::Arc, time::Duration};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest password in bytes; the crypt hashes cost time with its length.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// argon2id: memory in KiB, passes, lanes. The minimum that jobs.md sets, and what is made here.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// Most that a ready hash may ask for: 128 MiB, 4 passes, 4 lanes; about 0.3 s of one core.
const COST_MAX: (u32, u32, u32) = (128 * 1024, 4, 4);
/// Rounds that a ready crypt hash may have; glibc's minimum, and about 0.2 s of one core.
const ROUNDS: std::ops::RangeInclusive<u32> = sha_crypt::Params::ROUNDS_MIN..=200_000;
/// Time that a verification waits for its turn; a login is answered within 2 s.
const QUEUE: Duration = Duration::from_millis(1200);

/// Why a ready hash is not taken, or a password not hashed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PasswordError {
    /// The password is empty or too long.
    #[error("a password must have 1 to {PASSWORD_BYTES_MAX} bytes")]
    Length,
    /// The text is no hash of a kind that is taken.
    #[error("the hash must be an argon2id PHC string, or a $5$ or $6$ crypt hash: {0}")]
    Form(&'static str),
    /// The hash asks for too little or too much work.
    #[error("the hash's {name} is {found}; it must be {min} to {max}")]
    Bounds {
        /// The parameter, as it stands in the hash.
        name: &'static str,
        /// What the hash has.
        found: u64,
        /// The least that is taken.
        min: u64,
        /// The most that is taken.
        max: u64,
    },
    /// Too many passwords wait to be verified.
    #[error("too many logins wait to be verified")]
    Busy,
    /// The hash could not be computed.
    #[error("a password hash cannot be computed")]
    Compute,
}

/// What a verification found.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Verdict {
    /// The password is right.
    Right {
        /// The hash is of a kind that is to be replaced by one of ours.
        rehash_wanted: bool,
    },
    /// It is wrong, or there is no such user.
    Wrong,
}

/// The hashes that are taken.
#[derive(Debug)]
enum Ready<'a> {
    Argon2(Box<PasswordHash>),
    Crypt { sha512: bool, rounds: u32, salt: &'a str, digest: &'a str },
}

/// Checks a hash that a caller gives instead of a password (`encode_passwd: false`).
///
/// # Errors
/// It is of another kind, or its cost is out of bounds: named, with the bounds.
pub fn check_ready_hash(text: &str) -> Result<(), PasswordError> {
    read_hash(text).map(|_| ())
}

/// Hashes and verifies passwords, a few at a time.
pub struct Passwords {
    turns: Arc<Semaphore>,
    /// How long a turn is waited for.
    queue: Duration,
    /// What is verified for a user who does not exist; nothing fits it.
    dummy: Arc<str>,
}

impl Passwords {
    /// With half of the machine's cores, at least one.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new() -> Result<Passwords, PasswordError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let dummy = hash_of_nothing()?;
        let turns = Arc::new(Semaphore::new((cores / 2).max(1)));
        Ok(Passwords { turns, queue: QUEUE, dummy: dummy.into() })
    }

    /// Hashes a new password: an argon2id PHC string.
    ///
    /// # Errors
    /// The password is empty or too long, or all turns are taken for too long.
    pub async fn hash(&self, password: Arc<Secret<String>>) -> Result<String, PasswordError> {
        if !(1..=PASSWORD_BYTES_MAX).contains(&password.expose().len()) {
            return Err(PasswordError::Length);
        }
        let turn = self.turn().await?;
        blocking(turn, move || hash_now(password.expose().as_bytes())).await?
    }

    /// Verifies a password against a user's hash; without one, against a hash that nothing fits,
    /// at the same cost.
    ///
    /// # Errors
    /// All turns are taken for too long.
    pub async fn verify(
        &self,
        password: Arc<Secret<String>>,
        hash: Option<String>,
    ) -> Result<Verdict, PasswordError> {
        let turn = self.turn().await?;
        let dummy = Arc::clone(&self.dummy);
        blocking(turn, move || verify_now(password.expose(), hash.as_deref(), &dummy)).await
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, PasswordError> {
        match tokio::time::timeout(self.queue, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(PasswordError::Busy),
        }
    }
}

/// Runs the work on a blocking thread. The turn goes with it: a caller who hangs up does not end
/// the work, so he must not give the turn back either.
async fn blocking<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PasswordError> {
    let work = move || {
        let result = work();
        drop(turn);
        result
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| PasswordError::Compute)
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let (memory, passes, lanes) = COST;
    let params = argon2::Params::new(memory, passes, lanes, None);
    let params = params.map_err(|_| PasswordError::Compute)?;
    Ok(Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params))
}

fn hash_now(password: &[u8]) -> Result<String, PasswordError> {
    let hash = argon2()?.hash_password(password).map_err(|_| PasswordError::Compute)?;
    Ok(hash.to_string())
}

/// A hash that nothing fits and that costs what ours cost: its digest is no digest, but random. To
/// compute one would keep each start for what a login takes.
fn hash_of_nothing() -> Result<String, PasswordError> {
    let random: [u8; 48] = crate::keys::cluster::random().map_err(|_| PasswordError::Compute)?;
    let (salt, digest) = random.split_at(16);
    let (memory, passes, lanes) = COST;
    let [salt, digest] = [salt, digest].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    Ok(format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${digest}"))
}

/// One path for everybody: a missing or unreadable hash is replaced by the dummy, never skipped.
fn verify_now(password: &str, hash: Option<&str>, dummy: &str) -> Verdict {
    // A password that is too long is cut for the work and wrong in the end.
    let fits = (1..=PASSWORD_BYTES_MAX).contains(&password.len());
    let bytes = password.as_bytes().get(..PASSWORD_BYTES_MAX).unwrap_or(password.as_bytes());
    let known = hash.and_then(|text| read_hash(text).ok());
    let is_known = known.is_some();
    let right = match known.or_else(|| read_hash(dummy).ok()) {
        Some(Ready::Argon2(hash)) => {
            argon2().is_ok_and(|argon2| argon2.verify_password(bytes, &*hash).is_ok())
        }
        Some(Ready::Crypt { sha512, rounds, salt, digest }) => {
            let computed = crypt(sha512, rounds, salt, bytes);
            computed.is_some_and(|text| text.as_bytes().ct_eq(digest.as_bytes()).into())
        }
        None => false,
    };
    if right && is_known && fits {
        Verdict::Right { rehash_wanted: hash.is_some_and(|text| !text.starts_with("$argon2id$")) }
    } else {
        Verdict::Wrong
    }
}

fn read_hash(text: &str) -> Result<Ready<'_>, PasswordError> {
    if text.len() > 512 {
        return Err(PasswordError::Form("it is too long"));
    }
    if let Some(rest) = text.strip_prefix("$5$") {
        read_crypt(rest, false)
    } else if let Some(rest) = text.strip_prefix("$6$") {
        read_crypt(rest, true)
    } else if text.starts_with("$argon2id$") {
        read_argon2(text)
    } else {
        Err(PasswordError::Form("it begins with none of $argon2id$, $5$, $6$"))
    }
}

fn read_argon2(text: &str) -> Result<Ready<'_>, PasswordError> {
    let hash = PasswordHash::new(text).map_err(|_| PasswordError::Form("not a PHC string"))?;
    if hash.version != Some(19) {
        return Err(PasswordError::Form("its version is not 19"));
    }
    if hash.params.iter().any(|(name, _)| !matches!(name.as_str(), "m" | "t" | "p")) {
        return Err(PasswordError::Form("it has a parameter beside m, t and p"));
    }
    let bounds = [("m", COST.0, COST_MAX.0), ("t", COST.1, COST_MAX.1), ("p", COST.2, COST_MAX.2)];
    for (name, min, max) in bounds {
        let found =
            hash.params.get_decimal(name).ok_or(PasswordError::Form("it lacks m, t or p"))?;
        in_bounds(name, found.into(), min.into(), max.into())?;
    }
    let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let salt = hash.salt.as_ref().ok_or(PasswordError::Form("it has no salt"))?;
    let output = hash.hash.as_ref().ok_or(PasswordError::Form("it has no hash"))?;
    in_bounds("salt", length(Salt::as_ref(salt).len()), 8, 64)?;
    in_bounds("hash", length(Output::as_bytes(output).len()), 16, 64)?;
    Ok(Ready::Argon2(Box::new(hash)))
}

fn read_crypt(rest: &str, sha512: bool) -> Result<Ready<'_>, PasswordError> {
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(rest) => {
            let (rounds, rest) =
                rest.split_once('$').ok_or(PasswordError::Form("it has no salt"))?;
            let rounds: u64 =
                rounds.parse().map_err(|_| PasswordError::Form("its rounds are no number"))?;
            (rounds, rest)
        }
        None => (sha_crypt::Params::RECOMMENDED_ROUNDS.into(), rest),
    };
    in_bounds("rounds", rounds, (*ROUNDS.start()).into(), (*ROUNDS.end()).into())?;
    let rounds = u32::try_from(rounds).map_err(|_| PasswordError::Form("too many rounds"))?;
    let (salt, digest) = rest.split_once('$').ok_or(PasswordError::Form("it has no hash"))?;
    let salt_fits = |b: u8| b.is_ascii_graphic() && b != b':';
    if salt.is_empty() || salt.len() > 16 || !salt.bytes().all(salt_fits) {
        return Err(PasswordError::Form("its salt is not 1 to 16 characters"));
    }
    let wanted = if sha512 { 86 } else { 43 };
    if digest.len() != wanted || !digest.bytes().all(|b| CRYPT_ALPHABET.contains(&b)) {
        return Err(PasswordError::Form("its hash has a wrong length or character"));
    }
    Ok(Ready::Crypt { sha512, rounds, salt, digest })
}

fn in_bounds(name: &'static str, found: u64, min: u64, max: u64) -> Result<(), PasswordError> {
    if (min..=max).contains(&found) {
        Ok(())
    } else {
        Err(PasswordError::Bounds { name, found, min, max })
    }
}

/// The alphabet of crypt(3), which is not that of base64.
const CRYPT_ALPHABET: &[u8; 64] =
    b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The last part of a crypt hash, by Drepper's "Unix crypt using SHA-256 and SHA-512".
fn crypt(sha512: bool, rounds: u32, salt: &str, password: &[u8]) -> Option<String> {
    let params = sha_crypt::Params::new(rounds).ok()?;
    let salt = salt.as_bytes();
    if sha512 {
        // Triples of digest bytes, each one further and turned: (0,21,42), (22,43,1), (44,2,23) …
        let digest = sha_crypt::sha512_crypt(password, salt, params);
        crypt_text(&digest, (0, 21, 42), |(a, b, c)| (b + 1, c + 1, a + 1), 86)
    } else {
        // The same with another turn: (0,10,20), (21,1,11), (12,22,2) …
        let digest = sha_crypt::sha256_crypt(password, salt, params);
        crypt_text(&digest, (0, 10, 20), |(a, b, c)| (c + 1, a + 1, b + 1), 43)
    }
}

type Triple = (usize, usize, usize);

fn crypt_text(
    digest: &[u8],
    first: Triple,
    next: fn(Triple) -> Triple,
    length: usize,
) -> Option<String> {
    let mut text = String::with_capacity(length + 3);
    let mut push = |mut bits: u32| {
        for _ in 0..4 {
            text.push(char::from(*CRYPT_ALPHABET.get((bits & 63) as usize).unwrap_or(&b'.')));
            bits >>= 6;
        }
    };
    let word = |a: u8, b: u8, c: u8| u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
    let mut triple = first;
    for _ in 0..digest.len() / 3 {
        let (a, b, c) = triple;
        push(word(*digest.get(a)?, *digest.get(b)?, *digest.get(c)?));
        triple = next(triple);
    }
    // What is left over: two bytes of a SHA-256, the last one first, or one of a SHA-512.
    match digest {
        [.., last] if digest.len() % 3 == 1 => push(word(0, 0, *last)),
        [.., before, last] => push(word(0, *last, *before)),
        _ => return None,
    }
    text.truncate(length);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with `openssl passwd -5` and `-6`; those with rounds by crypt(3) of glibc.
    const CRYPT: [(&str, &str); 6] = [
        ("s3cret", "$5$saltstring$9QqUIsp6bPD8uX5rHa8zB21q7JTr9i41vD3jA8fwv68"),
        (
            "pass wörd",
            "$6$a1./$\
             mLk6hYymNalNjhXnoB7olMJE5tY6AgBe/4IMCUIXcgw\
             TbkbVtUDiJ7EdqbBNhN9ERlO6D6N56Sl.gebHwo4ln1",
        ),
        (
            "Hello world!",
            "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
        ),
        (
            "Hello world!",
            "$6$rounds=10000$saltstringsaltst$\
             OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSn\
             CM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
        ),
        (
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "$5$rounds=1001$ab$AIRE2A2rmHSARJk9YtyphIN/dzH1tHF/6d330OL9v.C",
        ),
        (
            "x",
            "$6$saltstring$\
             nk7Qohr7tOmwY2mX639VRP.Lyvj3uhcgpatqHuLC867\
             qfSHKq1LDuKa/h7Es9Nv0aL08pbF.cnQlRqhaoKT/D.",
        ),
    ];

    // From the tests of the argon2 reference implementation.
    const ARGON2: &str = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                          CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn secret(text: &str) -> Arc<Secret<String>> {
        Arc::new(Secret::new(text.to_owned()))
    }

    fn verify(password: &str, hash: &str) -> Verdict {
        verify_now(password, Some(hash), "")
    }

    #[test]
    fn known_crypt_hashes_are_verified_and_to_be_replaced() {
        for (password, hash) in CRYPT {
            assert_eq!(check_ready_hash(hash), Ok(()), "{hash}");
            assert_eq!(verify(password, hash), Verdict::Right { rehash_wanted: true }, "{hash}");
            assert_eq!(verify(&format!("{password}x"), hash), Verdict::Wrong, "{hash}");
        }
    }

    #[test]
    fn a_known_argon2_hash_is_verified_and_kept() {
        assert_eq!(check_ready_hash(ARGON2), Ok(()));
        assert_eq!(verify("password", ARGON2), Verdict::Right { rehash_wanted: false });
        assert_eq!(verify("passwort", ARGON2), Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_password_that_was_hashed_here_is_verified_here() {
        let passwords = Passwords::new().expect("passwords");
        let hash = passwords.hash(secret("pass wörd")).await.expect("hashed");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(check_ready_hash(&hash), Ok(()));
        let verdict = passwords.verify(secret("pass wörd"), Some(hash.clone())).await;
        assert_eq!(verdict, Ok(Verdict::Right { rehash_wanted: false }));
        assert_eq!(passwords.verify(secret("pass"), Some(hash)).await, Ok(Verdict::Wrong));
        for length in [0, PASSWORD_BYTES_MAX + 1] {
            let hashed = passwords.hash(secret(&"x".repeat(length))).await;
            assert_eq!(hashed, Err(PasswordError::Length));
        }
    }

    #[tokio::test]
    async fn a_user_without_a_hash_is_wrong_after_the_same_work() {
        let passwords = Passwords::new().expect("passwords");
        for hash in [None, Some(String::new()), Some("$1$x$y".to_owned())] {
            assert_eq!(passwords.verify(secret("x"), hash).await, Ok(Verdict::Wrong));
        }
        // The dummy is a hash of the same cost as everybody's, which no path can skip.
        assert!(passwords.dummy.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(read_hash(&passwords.dummy).is_ok());
    }

    #[tokio::test]
    async fn who_waits_too_long_for_a_turn_is_told_so() {
        let passwords = Passwords::new().expect("passwords");
        let passwords = Passwords { queue: Duration::from_millis(1), ..passwords };
        let all = u32::try_from(passwords.turns.available_permits()).expect("few");
        let _taken = passwords.turns.acquire_many(all).await.expect("all turns");
        assert_eq!(passwords.verify(secret("x"), None).await, Err(PasswordError::Busy));
    }

    #[test]
    fn a_hostile_or_weak_hash_is_refused_by_the_name_of_its_parameter() {
        let argon2 = |params: &str| ARGON2.replace("m=65536,t=2,p=1", params);
        let digest = "a".repeat(86);
        for (hash, name) in [
            (argon2("m=4194304,t=2,p=1"), "m"),
            (argon2("m=1024,t=2,p=1"), "m"),
            (argon2("m=19456,t=1000,p=1"), "t"),
            (argon2("m=19456,t=1,p=1"), "t"),
            (argon2("m=19456,t=2,p=200"), "p"),
            (format!("$6$rounds=999999999$salt${digest}"), "rounds"),
            (format!("$6$rounds=10$salt${digest}"), "rounds"),
        ] {
            let error = check_ready_hash(&hash).expect_err(&hash);
            assert!(matches!(error, PasswordError::Bounds { name: n, .. } if n == name), "{error}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for hash in [
            "",
            "plain",
            "$1$salt$digest",
            "$2y$10$x",
            &ARGON2.replace("argon2id", "argon2i"),
            &ARGON2.replace("v=19", "v=16"),
            &ARGON2.replace(",p=1", ""),
            &ARGON2.replace("p=1", "p=1,keyid=AAAA"),
            ARGON2.rsplit_once('$').expect("parts").0,
            "$6$salt",
            "$6$salt$short",
            "$6$$aaaa",
            "$5$rounds=x$salt$aaaa",
            &format!("$5$salt:${}", "a".repeat(43)),
            &format!("$5${}${}", "s".repeat(17), "a".repeat(43)),
            &"$argon2id$".repeat(100),
        ] {
            let error = check_ready_hash(hash).expect_err(hash);
            assert!(matches!(error, PasswordError::Form(_)), "{hash}: {error}");
        }
    }
}
