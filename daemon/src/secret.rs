//! A value that must not be seen: passwords, keys, tokens.
//!
//! This module owns the wrapper and nothing else. [`Secret`] has neither `Debug` nor `Display`
//! nor `Serialize`, so a secret cannot reach a log, an error or a file by accident: whoever needs
//! the value writes `expose()`, which is easy to look for. The memory is zeroized on drop. Every
//! part of the daemon that holds a secret uses it (ruling 48).

use zeroize::Zeroize;

/// A secret value, zeroized when dropped.
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes a value into custody. Copies made before are the caller's to wipe.
    pub fn new(value: T) -> Secret<T> {
        Secret(value)
    }

    /// The value, for the one who has a reason to see it.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value, for the one who fills it in place.
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Secret<T> {
        Secret::new(value)
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    /// Fails to compile if `$type` implements `$bound`: the call would then be ambiguous.
    macro_rules! assert_lacks {
        ($type:ty, $($bound:path),+) => {$({
            trait AmbiguousIf<A> {
                fn holds() {}
            }
            struct Implements;
            impl<T: ?Sized> AmbiguousIf<()> for T {}
            impl<T: ?Sized + $bound> AmbiguousIf<Implements> for T {}
            <$type as AmbiguousIf<_>>::holds();
        })+};
    }

    #[test]
    fn a_secret_can_be_neither_printed_nor_written_nor_copied() {
        assert_lacks!(Secret<String>, std::fmt::Debug, std::fmt::Display, serde::Serialize, Clone);
    }

    #[test]
    fn a_dropped_secret_is_wiped() {
        struct Witness(Arc<AtomicBool>);
        impl Zeroize for Witness {
            fn zeroize(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let wiped = Arc::new(AtomicBool::new(false));
        let secret = Secret::new(Witness(Arc::clone(&wiped)));
        assert!(!secret.expose().0.load(Ordering::Relaxed));
        drop(secret);
        assert!(wiped.load(Ordering::Relaxed));
    }
}
