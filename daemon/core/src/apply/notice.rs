//! What nodes tell of themselves becomes events, once for each change of it.

use super::Entry;
use crate::effect::{Answer, What};
use crate::notice::{ClockNote, Notice};
use crate::state::State;

/// Bytes of a kept file's name in an event.
const NAME_BYTES_MAX: usize = 64;

impl State {
    pub(super) fn apply_notice(&mut self, entry: &mut Entry, notice: &Notice) -> Answer {
        let node = notice.node();
        if !self.members.contains_key(&node) {
            return Answer::Done;
        }
        match notice {
            Notice::Clock { off_s, right, .. } => {
                let before = self.clocks.get(&node).copied().unwrap_or_default();
                let accepted_us = before.accepted_us.filter(|_| !right);
                self.note_clock(node, ClockNote { suspect_s: *off_s, accepted_us });
                match (before.suspect_s, off_s) {
                    (None, Some(off_s)) => {
                        let text = format!("its wall clock is off by {off_s} s");
                        entry.event(What::of_node(node, "clock_suspect", Some(text)));
                    }
                    (Some(_), None) => entry.event(What::of_node(node, "clock_trusted", None)),
                    _ => {}
                }
            }
            Notice::HandEdit { revision, kept, .. } => {
                let text = match kept {
                    Some(name) => {
                        let name: String = name.chars().take(NAME_BYTES_MAX).collect();
                        format!("the file of revision {revision}, kept as {name}")
                    }
                    None => format!("the file of revision {revision} was gone"),
                };
                entry.event(What::of_node(node, "hand_edit", Some(text)));
            }
        }
        Answer::Done
    }

    fn note_clock(&mut self, node: u32, note: ClockNote) {
        match note == ClockNote::default() {
            true => self.clocks.remove(&node),
            false => self.clocks.insert(node, note),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::proposal::{Body, Write};

    fn told(state: &mut State, notice: Notice) -> Vec<String> {
        let (_, effects) = fixture::apply(state, Body::Notice(notice));
        let events = effects.into_iter().filter_map(|effect| match effect {
            crate::Effect::Event(event) => Some(event.to_json()),
            _ => None,
        });
        events.map(|event| format!("{} {}", event["change"], event["detail"])).collect()
    }

    #[test]
    fn a_clock_is_told_of_once_and_a_hand_edit_each_time() {
        let mut state = fixture::state();
        let clock = |off_s| Notice::Clock { node: 11, off_s, right: false };
        let suspect = told(&mut state, clock(Some(90)));
        assert_eq!(suspect, ["\"clock_suspect\" \"its wall clock is off by 90 s\""]);
        assert!(told(&mut state, clock(Some(91))).is_empty());
        assert_eq!(told(&mut state, clock(None)), ["\"clock_trusted\" null"]);
        assert!(told(&mut state, clock(None)).is_empty());
        assert!(state.clocks.is_empty(), "nothing is kept of a clock that agrees");
        let stranger = Notice::Clock { node: 99, off_s: Some(90), right: false };
        assert!(told(&mut state, stranger).is_empty());
        let edit = Notice::HandEdit { node: 11, revision: 4, kept: Some("edited-7.yaml".into()) };
        for _ in 0..2 {
            let text = "\"hand_edit\" \"the file of revision 4, kept as edited-7.yaml\"";
            assert_eq!(told(&mut state, edit.clone()), [text]);
        }
    }

    #[test]
    fn what_is_accepted_stays_with_a_member_until_its_clock_is_right() {
        let mut state = fixture::state();
        let accept = |node| [Write::ClockAccept { node, off_us: 90_000_000 }];
        assert!(state.try_writes(&accept(99)).is_err(), "that is no member");
        let tried = state.try_writes(&accept(11)).expect("nothing speaks against it");
        assert_eq!(state.keep(&tried), None, "it is no configuration");
        let told_of = |state: &mut State, right| {
            told(state, Notice::Clock { node: 11, off_s: None, right });
            state.clocks.get(&11).and_then(|note| note.accepted_us)
        };
        assert_eq!(told_of(&mut state, false), Some(90_000_000), "believed, and still off");
        assert_eq!(told_of(&mut state, true), None, "off by as much again, it is suspect again");
        assert!(state.clocks.is_empty());
    }
}
