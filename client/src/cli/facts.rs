//! What `job_info` says, reduced to what a person wants to know.
//!
//! Pure. [`state`] is the job now, [`new_facts`] what was added since the last look: stages
//! reached, commands begun and ended; [`new_output`] what the commands that run have printed.

use super::screen::{Screen, Tone, tone_of};
use serde_json::{Value, json};
use tiebeam_proto::Stage;

/// A job at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// How much is done, 0 to 1, if the job says so.
    pub fraction: Option<f64>,
    /// Its name and stage, and what the job says of itself, or else an open command.
    pub text: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// When, RFC 3339; empty if the record does not say.
    pub time: String,
    /// `stage`, `command` or `output`.
    pub kind: &'static str,
    /// What.
    pub text: String,
    /// How it is.
    pub tone: Tone,
}

impl Fact {
    /// One line: tab-separated in a pipe, one JSON object with `-j`.
    pub fn render(&self, job: &str, screen: &Screen) -> String {
        if screen.json {
            let fact = json!({"job": job, "time": self.time, "kind": self.kind, "text": self.text});
            return format!("{fact}\n");
        }
        let (time, text) = (screen.time(&self.time), screen.line(&self.text));
        if screen.terminal {
            format!("{} {}\n", screen.dim(&time), screen.toned(&text, self.tone))
        } else {
            format!("{time}\t{}\t{text}\n", self.kind)
        }
    }
}

/// The last stage that a record has a time for.
pub fn stage(info: &Value) -> Option<Stage> {
    Stage::ALL.into_iter().rev().find(|stage| info["stages"][stage.name()].is_string())
}

/// The job now.
pub fn state(info: &Value) -> State {
    let mut text = info["name"].as_str().unwrap_or_default().to_owned();
    if let Some(stage) = stage(info) {
        text.push_str(&format!(" · {}", stage.name()));
    }
    let commands = info["commands"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ended = commands.iter().filter(|command| command["result"] != "open").count();
    if ended > 0 {
        text.push_str(&format!(" · {ended} done"));
    }
    let progress = &info["progress"];
    let said = progress["text"].as_str().or(progress["message"].as_str());
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        text.push_str(&format!(" · {said}"));
    } else if let Some(open) = commands.iter().find(|command| command["result"] == "open") {
        let name = open["name"].as_str().unwrap_or_default();
        text.push_str(&format!(" · {name} on node {}", open["node"]));
    }
    State { fraction: fraction(progress), text }
}

/// `{done, total}`, `{percent}`, or a percentage.
fn fraction(progress: &Value) -> Option<f64> {
    let share = match (progress["done"].as_f64(), progress["total"].as_f64()) {
        (Some(done), Some(total)) if total > 0.0 => done / total,
        _ => progress.as_f64().or(progress["percent"].as_f64())? / 100.0,
    };
    Some(share.clamp(0.0, 1.0))
}

/// What `now` has and `before` had not, in the order of time.
pub fn new_facts(before: &Value, now: &Value) -> Vec<Fact> {
    let mut facts = Vec::new();
    for stage in Stage::ALL {
        let name = stage.name();
        let time = &now["stages"][name];
        if let (Some(time), true) = (time.as_str(), before["stages"][name].is_null()) {
            let outcome = now["outcome"].as_str().filter(|_| stage == Stage::Finished);
            let text = outcome.map_or(name.to_owned(), |outcome| format!("{name}: {outcome}"));
            let tone = outcome.map_or(Tone::Plain, tone_of);
            facts.push(Fact { time: time.to_owned(), kind: "stage", text, tone });
        }
    }
    for command in now["commands"].as_array().into_iter().flatten() {
        let same =
            |other: &&Value| other["name"] == command["name"] && other["node"] == command["node"];
        let known = before["commands"].as_array().into_iter().flatten().find(same);
        facts.extend(command_facts(known.unwrap_or(&Value::Null), command));
    }
    // At the same time, a command ends before its job does (finished, committed).
    let last = |fact: &Fact| fact.kind == "stage" && fact.text.starts_with(['f', 'c']);
    facts.sort_by(|a, b| (&a.time, last(a)).cmp(&(&b.time, last(b))));
    facts
}

/// What commands that run have printed since the last look, each as a piece of its own. What is
/// there is bounded: of a command that printed more than that in between, a piece is missing.
pub fn new_output(before: &Value, now: &Value) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (key, live) in now["live"].as_object().into_iter().flatten() {
        let output = live["output"].as_str().unwrap_or_default();
        let bytes = |live: &Value| live["output_bytes"].as_u64().unwrap_or_default();
        let grown = bytes(live).saturating_sub(bytes(&before["live"][key]));
        let grown = usize::try_from(grown).unwrap_or(usize::MAX).min(output.len());
        let begin = output.ceil_char_boundary(output.len() - grown);
        let new = output.get(begin..).unwrap_or_default();
        for line in new.lines() {
            let text = format!("node {}: {line}", live["node"]);
            facts.push(Fact { time: String::new(), kind: "output", text, tone: Tone::Plain });
        }
    }
    facts
}

fn command_facts(before: &Value, now: &Value) -> Vec<Fact> {
    let name = now["name"].as_str().unwrap_or_default();
    let at = format!("{name} on node {}", now["node"]);
    let mut facts = Vec::new();
    let mut put = |key: &str, text: String, tone: Tone| {
        if let (Some(time), true) = (now[key].as_str(), before[key].is_null()) {
            facts.push(Fact { time: time.to_owned(), kind: "command", text, tone });
        }
    };
    put("started", format!("{at} started"), Tone::Plain);
    let result = now["result"].as_str().unwrap_or_default();
    put("ended", format!("{at} ended: {result}"), tone_of(result));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_its_forms() {
        for (progress, share) in [
            (json!({"done": 1, "total": 4}), Some(0.25)),
            (json!({"percent": 50, "text": "half"}), Some(0.5)),
            (json!(150), Some(1.0)),
            (json!({"text": "soon"}), None),
            (Value::Null, None),
        ] {
            assert_eq!(state(&json!({"progress": progress})).fraction, share, "{progress}");
        }
    }

    #[test]
    fn what_the_job_says_comes_before_the_commands_that_are_open() {
        let command = |name, node, result| json!({"name": name, "node": node, "result": result});
        let commands = [command("a", 11, "ok"), command("b", 12, "open")];
        let mut info = json!({"name": "x", "stages": {"executed": "01"}, "commands": commands});
        assert_eq!(state(&info).text, "x · executed · 1 done · b on node 12");
        info["progress"] = json!({"percent": 50, "text": "nodes 12, 13"});
        assert_eq!(state(&info).text, "x · executed · 1 done · nodes 12, 13");
    }

    #[test]
    fn output_is_told_once_and_as_it_comes() {
        let live = |bytes: u64, text: &str| {
            let live = json!({"node": 12, "output_bytes": bytes, "output": text});
            json!({"live": {"run-n12": live}})
        };
        let texts = |before: &Value, now: &Value| -> Vec<String> {
            new_output(before, now).into_iter().map(|fact| fact.text).collect()
        };
        let first = live(4, "one\n");
        assert_eq!(texts(&Value::Null, &first), ["node 12: one"]);
        assert!(texts(&first, &first).is_empty());
        assert_eq!(texts(&first, &live(8, "one\ntwo\n")), ["node 12: two"]);
        assert_eq!(texts(&first, &live(9_000, "é the end")), ["node 12: é the end"]);
        assert!(texts(&first, &json!({"live": {}})).is_empty(), "it has ended");
    }

    #[test]
    fn only_what_is_new_is_told_and_in_order() {
        let first = json!({"stages": {"submitted": "01"}, "commands": [
            {"name": "a", "node": 11, "started": "02", "result": "open"}]});
        let second = json!({"outcome": "ok",
            "stages": {"submitted": "01", "finished": "09"}, "commands": [
            {"name": "a", "node": 11, "started": "02", "ended": "05", "result": "ok"},
            {"name": "a", "node": 12, "started": "03", "result": "open"}]});
        assert_eq!(new_facts(&Value::Null, &first).len(), 2);
        let texts: Vec<_> = new_facts(&first, &second).into_iter().map(|f| f.text).collect();
        assert_eq!(texts, ["a on node 12 started", "a on node 11 ended: ok", "finished: ok"]);
        assert!(new_facts(&second, &second).is_empty());
        let at_once = json!({"outcome": "ok",
            "stages": {"submitted": "1", "scheduled": "1", "executed": "1", "finished": "1"},
            "commands": [{"name": "a", "node": 1, "started": "1", "ended": "1", "result": "ok"}]});
        let texts: Vec<_> = new_facts(&Value::Null, &at_once).into_iter().map(|f| f.text).collect();
        assert_eq!(texts[..3], ["submitted", "scheduled", "executed"]);
        assert_eq!(texts[4..], ["a on node 1 ended: ok", "finished: ok"]);
    }
}
