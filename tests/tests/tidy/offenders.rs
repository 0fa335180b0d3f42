//! The ratchet: known offenders, whose sizes may only go down.

use std::collections::BTreeMap;
use std::fmt;

/// Something over a size limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offender {
    /// `path:function`, or `path` for a whole file.
    place: String,
    lines: usize,
}

impl Offender {
    /// A function, or the file itself, with its size in lines.
    pub fn new(path: &str, function: Option<&str>, lines: usize) -> Offender {
        let place = match function {
            Some(name) => format!("{path}:{name}"),
            None => path.to_owned(),
        };
        Offender { place, lines }
    }
}

impl fmt::Display for Offender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.place, self.lines)
    }
}

/// What does not agree between the list and what was found; empty if all is well.
pub fn compare(list: &str, found: &[Offender]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut listed = BTreeMap::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.rsplit_once(' ').map(|(place, lines)| (place, lines.parse::<usize>())) {
            Some((place, Ok(lines))) if listed.insert(place, lines).is_none() => {}
            _ => wrong.push(format!("{line:?} is no entry, or a second one")),
        }
    }
    for offender in found {
        match listed.remove(offender.place.as_str()) {
            None => wrong.push(format!("{offender} lines: too long")),
            Some(lines) if offender.lines > lines => {
                wrong.push(format!("{offender} lines: it may shrink, not grow (was {lines})"));
            }
            Some(lines) if offender.lines < lines => {
                wrong.push(format!("{offender} lines: well done; lower its entry from {lines}"));
            }
            Some(_) => {}
        }
    }
    wrong.extend(listed.keys().map(|place| format!("{place}: well done; remove its entry")));
    wrong
}

#[test]
fn the_ratchet_turns_one_way() {
    let list = "# a comment\n\nb.rs:f 80\n";
    let at = |lines| [Offender::new("b.rs", Some("f"), lines)];
    assert!(compare(list, &at(80)).is_empty());
    for (list, found) in [
        (list, at(81).to_vec()),
        (list, at(79).to_vec()),
        (list, Vec::new()),
        ("", at(80).to_vec()),
        ("b.rs:f 80\nb.rs:f 80\n", at(80).to_vec()),
        ("b.rs:f\nb.rs:f 80\n", at(80).to_vec()),
    ] {
        assert_eq!(compare(list, &found).len(), 1, "{list:?} {found:?}");
    }
}
