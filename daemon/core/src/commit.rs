//! Who is awaited before a change is called committed, and who is named as pending (ruling 6).

use crate::state::State;

/// What a master knows of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The index that it reported as applied, to this master in its own term; 0 before a report.
    pub applied: u64,
    /// Whether anything came from it within the last election timeout.
    pub online: bool,
}

/// The awaited members of a change, parted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parted {
    /// Who has applied it, by node id.
    pub applied: Vec<u32>,
    /// Who has not, and why: `offline` or `lagging`.
    pub pending: Vec<(u32, String)>,
}

impl State {
    /// Parts the members that are awaited for a change at `index`: those that were members then,
    /// are still, and have a snapshot. `own` is the master, which shows only what it has applied.
    pub fn awaited(&self, own: u32, index: u64, heard: impl Fn(u64) -> Heard) -> Parted {
        let mut parted = Parted::default();
        for (node, member) in &self.members {
            if member.joining || member.since > index {
                continue;
            }
            let heard = heard(member.raft_id);
            if *node == own || heard.applied >= index {
                parted.applied.push(*node);
            } else {
                let why = if heard.online { "lagging" } else { "offline" };
                parted.pending.push((*node, why.to_owned()));
            }
        }
        parted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Member;

    #[test]
    fn who_came_later_or_has_no_snapshot_is_not_awaited() {
        let member = |raft_id, joining: bool, since| Member {
            raft_id,
            key_hash: String::new(),
            voter: !joining,
            joining,
            since,
        };
        let members = [
            (11_u32, member(1, false, 0)),
            (12, member(2, false, 0)),
            (13, member(3, false, 0)),
            (14, member(4, true, 3)),
            (15, member(5, false, 9)),
            (16, member(6, false, 0)),
        ];
        let state = State { members: members.into_iter().collect(), ..State::default() };
        let parted = state.awaited(11, 8, |raft_id| match raft_id {
            2 => Heard { applied: 8, online: true },
            3 => Heard { applied: 7, online: true },
            _ => Heard::default(),
        });
        assert_eq!(parted.applied, [11, 12]);
        let pending = [(13, "lagging".to_owned()), (16, "offline".to_owned())];
        assert_eq!(parted.pending, pending);
    }
}
