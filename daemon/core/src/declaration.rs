//! What a job says of itself: the one source of its help, schema, rights, locks and secrets.
//!
//! A declaration is static. Nothing of it is needed by apply: what depends on it is evaluated at
//! submission and travels in the entry (ruling 12).

use crate::lock::Lock;
use crate::state::State;
use serde_json::{Map, Value, json};
use tiebeam_proto::{Kind, RpcError};

/// A job's parameters after admission: every key is declared, every value has its type.
pub type Params = Map<String, Value>;

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// One line of text: no control characters.
    Line,
    /// Text of several lines: no control characters but tab and line ends.
    Text,
    /// A user's or group's name.
    Name,
    /// A place in the configuration.
    Path,
    /// An integer; a text of digits is taken as one.
    Int,
    /// An integer or one line of text; the job gets it as text.
    IntOrLine,
    /// A number.
    Float,
    /// true or false.
    Bool,
    /// A list of anything.
    List,
    /// A list of lines.
    Lines,
    /// A map.
    Dict,
    /// Anything.
    Object,
    /// Nodes: an id, a name, a selector, or a list of them.
    Nodes,
    /// A job's id.
    JobId,
}

impl Type {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Line | Type::Text | Type::Name | Type::Path | Type::JobId => "str",
            Type::Int => "int",
            Type::Float => "float",
            Type::Bool => "bool",
            Type::List | Type::Lines => "list",
            Type::Dict => "dict",
            Type::IntOrLine | Type::Object | Type::Nodes => "object",
        }
    }

    fn schema(self) -> Value {
        match self {
            Type::Line | Type::Text | Type::Path => json!({"type": "string"}),
            Type::Name => json!({"type": "string", "pattern": "^[a-z_][a-z0-9_-]{0,31}$"}),
            Type::JobId => json!({"type": "string", "pattern": "^[1-9][0-9]*\\.[1-9][0-9]*$"}),
            Type::Int => json!({"type": ["integer", "string"], "pattern": "^-?[0-9]+$"}),
            Type::IntOrLine => json!({"type": ["integer", "string"]}),
            Type::Float => json!({"type": "number"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::List => json!({"type": "array"}),
            Type::Lines => json!({"type": "array", "items": {"type": "string"}}),
            Type::Dict => json!({"type": "object"}),
            Type::Object => json!({}),
            Type::Nodes => json!({"type": ["integer", "string", "array"]}),
        }
    }
}

/// What a record shows of a parameter (ruling 21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// Its value.
    Open,
    /// `{"secret": "withheld"}`.
    Password,
    /// A salted commitment.
    Secret,
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// Whether it must be given.
    pub mandatory: bool,
    /// What a record shows of it.
    pub secrecy: Secrecy,
    /// Parameters that may be given in its place.
    pub substitutes: &'static [&'static str],
    /// What it means.
    pub about: &'static str,
}

impl Param {
    /// A mandatory parameter.
    pub const fn must(name: &'static str, kind: Type, about: &'static str) -> Param {
        Param { name, kind, mandatory: true, secrecy: Secrecy::Open, substitutes: &[], about }
    }

    /// An optional parameter.
    pub const fn may(name: &'static str, kind: Type, about: &'static str) -> Param {
        Param { name, kind, mandatory: false, secrecy: Secrecy::Open, substitutes: &[], about }
    }

    /// The same with a secrecy.
    #[must_use]
    pub const fn secret(self, secrecy: Secrecy) -> Param {
        Param { secrecy, ..self }
    }

    /// The same with substitutes.
    #[must_use]
    pub const fn or(self, substitutes: &'static [&'static str]) -> Param {
        Param { substitutes, ..self }
    }
}

/// How a job is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its function runs before anything is proposed, then everything is one entry (ruling 8).
    Once,
    /// It may run commands: submitted and scheduled first, then run.
    Long,
}

/// A job's declaration.
#[derive(Clone, Copy)]
pub struct Declaration {
    /// Its name.
    pub name: &'static str,
    /// Its group in listings.
    pub group: &'static str,
    /// What it may do.
    pub kind: Kind,
    /// How it is run.
    pub way: Way,
    /// One line.
    pub summary: &'static str,
    /// Everything else, Markdown.
    pub description: &'static str,
    /// Its parameters.
    pub params: &'static [Param],
    /// Users who may.
    pub users: &'static [&'static str],
    /// Groups that may.
    pub groups: &'static [&'static str],
    /// The parameter that names the user whom it is about, where a user may do it for themself.
    pub self_param: Option<&'static str>,
    /// Whether every user may.
    pub everyone: bool,
    /// Examples: parameter objects as JSON text.
    pub examples: &'static [&'static str],
    /// What it holds while it runs.
    pub locks: fn(&Params) -> Vec<Lock>,
    /// Seconds from submission to its deadline; `None`: the setting jobs.deadline_s.
    pub deadline_s: Option<u64>,
    /// Whether it must leave a record (`audit: always`): then `volatile` is refused.
    pub always_recorded: bool,
    /// Names of parameters whose value is secret because of what State says, e.g. a schema.
    pub conceal: fn(&State, &Params) -> Vec<&'static str>,
    /// What else makes a call ill-formed or forbidden, from its parameters alone.
    pub precheck: fn(&Params) -> Result<(), RpcError>,
    /// The version that brought it.
    pub since: &'static str,
    /// The feature level from which on it is there (ruling 12).
    pub since_level: u32,
}

/// Locks of a job that changes nothing that others could see half done.
pub fn no_locks(_: &Params) -> Vec<Lock> {
    Vec::new()
}

/// No parameter is secret beyond what the declaration says.
pub fn nothing_more(_: &State, _: &Params) -> Vec<&'static str> {
    Vec::new()
}

/// Nothing is wrong beyond what the parameters' types say.
pub fn nothing_wrong(_: &Params) -> Result<(), RpcError> {
    Ok(())
}

impl Declaration {
    /// What most declarations have in common: a read job for root and exaadm without parameters.
    pub const READ: Declaration = Declaration {
        name: "",
        group: "",
        kind: Kind::Read,
        way: Way::Once,
        summary: "",
        description: "",
        params: &[],
        users: &["root"],
        groups: &["root", "exaadm"],
        self_param: None,
        everyone: false,
        examples: &["{}"],
        locks: no_locks,
        deadline_s: None,
        always_recorded: false,
        conceal: nothing_more,
        precheck: nothing_wrong,
        since: "0.1.0",
        since_level: 1,
    };

    /// The same for a job that changes the configuration.
    pub const MODIFY: Declaration = Declaration { kind: Kind::Modify, ..Declaration::READ };

    /// The same for a job that acts on nodes.
    pub const ACT: Declaration = Declaration {
        kind: Kind::Act,
        way: Way::Long,
        deadline_s: Some(3600),
        ..Declaration::READ
    };

    /// The parameter of this name.
    pub fn param(&self, name: &str) -> Option<&'static Param> {
        self.params.iter().find(|param| param.name == name)
    }

    /// `job_help(name)`: one text (wire.md section 4).
    pub fn help(&self) -> String {
        let mut text = format!("Description: {}\n", self.summary);
        for (title, mandatory) in [("Mandatory", true), ("Optional", false)] {
            text.push_str(&format!("{title} parameters:"));
            let wanted = self.params.iter().filter(|param| param.mandatory == mandatory);
            let lines: String = wanted
                .map(|p| format!("\n  {} ({}): {}", p.name, p.kind.name(), p.about))
                .collect();
            text.push_str(if lines.is_empty() { " none" } else { &lines });
            text.push('\n');
        }
        let substitutes: Vec<String> = self
            .params
            .iter()
            .filter(|param| !param.substitutes.is_empty())
            .map(|param| format!("{} for {}", param.substitutes.join(" or "), param.name))
            .collect();
        let substitutes =
            if substitutes.is_empty() { "none".to_owned() } else { substitutes.join(", ") };
        text.push_str(&format!("Substitute parameters: {substitutes}\n"));
        text.push_str(&format!("Allowed users: [{}]\n", self.allowed_users().join(", ")));
        text.push_str(&format!("Allowed groups: [{}]\n", self.groups.join(", ")));
        for example in self.examples {
            text.push_str(&format!("Example: {} {example}\n", self.name));
        }
        text
    }

    /// Allowed users as help and description show them: with `self` and `all` where they hold.
    pub fn allowed_users(&self) -> Vec<&'static str> {
        if self.everyone {
            return vec!["all"];
        }
        let own = self.self_param.map(|_| "self");
        self.users.iter().copied().chain(own).collect()
    }

    /// `job_desc(name)[1]`: the 12 details (wire.md section 4).
    pub fn details(&self) -> Value {
        let listed = |mandatory: bool| -> Map<String, Value> {
            self.params
                .iter()
                .filter(|param| param.mandatory == mandatory)
                .map(|p| (p.name.to_owned(), json!({"desc": p.about, "type": p.kind.name()})))
                .collect()
        };
        let substitutes: Map<String, Value> = self
            .params
            .iter()
            .filter(|param| !param.substitutes.is_empty())
            .map(|param| (param.name.to_owned(), json!(param.substitutes)))
            .collect();
        json!([
            self.summary,
            listed(true),
            listed(false),
            substitutes,
            self.allowed_users(),
            self.groups,
            self.example_values(),
            self.kind.name(),
            self.group,
            self.schema(),
            self.since,
            self.description,
        ])
    }

    /// The examples as values; a test checks that each is JSON and passes admission.
    pub fn example_values(&self) -> Vec<Value> {
        self.examples.iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
    }

    /// JSON Schema of the parameters.
    pub fn schema(&self) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        let mut any_of = Vec::new();
        for param in self.params {
            let mut schema = param.kind.schema();
            schema["description"] = json!(param.about);
            if param.secrecy != Secrecy::Open {
                schema["writeOnly"] = json!(true);
            }
            properties.insert(param.name.to_owned(), schema);
            if param.mandatory && param.substitutes.is_empty() {
                required.push(param.name);
            } else if param.mandatory {
                let names = std::iter::once(&param.name).chain(param.substitutes);
                any_of.push(json!({
                    "anyOf": names.map(|name| json!({"required": [name]})).collect::<Vec<_>>()
                }));
            }
        }
        let mut schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        if !any_of.is_empty() {
            schema["allOf"] = json!(any_of);
        }
        schema
    }
}
