//! Facts about access, ended tokens, better hashes.

use super::Entry;
use crate::effect::Answer;
use crate::proposal::{Rehash, Revoke};
use crate::state::State;
use std::sync::Arc;
use tiebeam_proto::record::AuditRecord;

/// Tokens whose early end is remembered; a limit against a caller who logs in and out for ever.
const REVOKED_MAX: usize = 100_000;

impl State {
    pub(super) fn apply_audit(&mut self, entry: &mut Entry, facts: &[AuditRecord]) -> Answer {
        for fact in facts {
            self.archive(entry, fact, None);
        }
        Answer::Done
    }

    pub(super) fn apply_revoke(&mut self, entry: &mut Entry, revoke: &Revoke) -> Answer {
        // Sockets that were opened with the token end now, not with the next change.
        entry.due();
        if self.revoked.len() < REVOKED_MAX {
            self.revoked.insert(Arc::from(revoke.token.as_str()), revoke.expires_us);
        }
        Answer::Done
    }

    pub(super) fn apply_rehash(&mut self, rehash: &Rehash) -> Answer {
        if let Some(credential) = self.credentials.get_mut(rehash.user.as_str())
            && credential.hash.as_deref() == Some(rehash.old.as_str())
        {
            credential.hash = Some(rehash.new.clone());
        }
        Answer::Done
    }
}
