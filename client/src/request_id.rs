//! Idempotency keys: UUIDv7 with the cluster's time (ruling 5).

use crate::clock::ServerClock;

/// A fresh key, 36 characters.
pub(crate) fn fresh(clock: &ServerClock) -> String {
    let now_ms = clock.now_ms();
    let nanoseconds = u32::try_from(now_ms % 1000).unwrap_or(0) * 1_000_000;
    let time = uuid::Timestamp::from_unix(uuid::NoContext, now_ms / 1000, nanoseconds);
    uuid::Uuid::new_v7(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_the_cluster_s_time_and_differ() {
        let clock = ServerClock::new();
        clock.note("Fri, 20 Nov 2099 04:05:06 GMT");
        let (one, two) = (fresh(&clock), fresh(&clock));
        assert_ne!(one, two);
        let time = uuid::Uuid::parse_str(&one).unwrap().get_timestamp().unwrap();
        assert!(time.to_unix().0.abs_diff(4_098_830_706) < 60);
        assert!(one.len() <= tiebeam_proto::limits::REQUEST_ID_CHARS_MAX);
    }
}
