//! The users as logins see them: State's users and password hashes.

use crate::auth::{Account, Users};
use crate::board::Board;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::path::path;

/// The users of the State on a board.
pub struct StateUsers {
    board: Arc<Board>,
}

impl StateUsers {
    /// The users on this board.
    pub fn new(board: Arc<Board>) -> StateUsers {
        StateUsers { board }
    }
}

fn account(state: &State, name: &str) -> Option<Account> {
    let credential_revision = state.credential_revision(name)?;
    let id = state.config.value(&State::user_path(name)?.child("id"));
    let credential = state.credentials.get(name);
    Some(Account {
        name: name.to_owned(),
        enabled: state.is_enabled(name),
        credential_revision,
        hash: credential.and_then(|credential| credential.hash.clone()),
        userid: id.and_then(|id| id.as_u64()).and_then(|id| u32::try_from(id).ok()),
    })
}

impl Users for StateUsers {
    fn account(&self, name: &str) -> Option<Account> {
        account(&self.board.state(), name)
    }

    fn by_userid(&self, userid: u32) -> Option<Account> {
        let state = self.board.state();
        let users = state.config.get(&path(&["users"]))?;
        let names = users.as_map()?.iter().map(|(name, _)| name.to_string());
        names
            .filter_map(|name| account(&state, &name))
            .find(|account| account.userid == Some(userid))
    }

    fn token_revoked(&self, id: &str) -> bool {
        self.board.state().revoked.contains_key(id)
    }

    fn now_us(&self) -> u64 {
        self.board.clock_us()
    }
}
