//! A method's arguments, by position or by name, checked by name either way.

use serde_json::Value;
use tiebeam_proto::{ErrorCode, Params, RpcError};

/// The arguments of one call, in the order of the method's names.
pub struct Arguments {
    method: &'static str,
    names: &'static [&'static str],
    values: Vec<Value>,
}

impl Arguments {
    /// Reads arguments; names are the method's, in positional order.
    ///
    /// # Errors
    /// Too many arguments, or a name that the method does not have.
    pub fn read(
        method: &'static str,
        names: &'static [&'static str],
        params: Params,
    ) -> Result<Arguments, RpcError> {
        let hint = || match names {
            [] => format!("{method} takes no arguments"),
            names => format!("{method}({})", names.join(", ")),
        };
        let values = match params {
            Params::Positional(values) if values.len() > names.len() => {
                let text = format!("{method} takes at most {} arguments", names.len());
                return Err(RpcError::new(ErrorCode::InvalidArguments, text).hint(hint()));
            }
            Params::Positional(values) => values,
            Params::Named(mut object) => {
                let values = names.iter().map(|name| object.remove(*name).unwrap_or(Value::Null));
                let values = values.collect();
                if let Some((unknown, _)) = object.iter().next() {
                    let shown: String =
                        unknown.chars().filter(|c| !c.is_control()).take(64).collect();
                    let text = format!("{method} has no argument {shown:?}");
                    return Err(RpcError::new(ErrorCode::InvalidArguments, text)
                        .field(shown)
                        .hint(hint()));
                }
                values
            }
        };
        Ok(Arguments { method, names, values })
    }

    /// The argument at this place; null if it was not given.
    pub fn value(&self, at: usize) -> &Value {
        self.values.get(at).unwrap_or(&Value::Null)
    }

    fn wrong(&self, at: usize, must: &str) -> RpcError {
        let name = self.names.get(at).copied().unwrap_or("argument");
        let text = format!("the argument `{name}` of {} must be {must}", self.method);
        RpcError::new(ErrorCode::InvalidArguments, text).field(name)
    }

    /// A text that must be given.
    ///
    /// # Errors
    /// It is not a text.
    pub fn text(&self, at: usize) -> Result<&str, RpcError> {
        self.value(at).as_str().ok_or_else(|| self.wrong(at, "a text"))
    }

    /// A number of seconds, or `default`; at most `most`.
    ///
    /// # Errors
    /// It is neither a number nor null, or negative.
    pub fn seconds(&self, at: usize, default: u64, most: u64) -> Result<f64, RpcError> {
        match self.value(at) {
            Value::Null => Ok(default as f64),
            Value::Number(number) => match number.as_f64() {
                Some(seconds) if seconds >= 0.0 => Ok(seconds.min(most as f64)),
                _ => Err(self.wrong(at, "a number of seconds, 0 or more")),
            },
            _ => Err(self.wrong(at, "a number of seconds")),
        }
    }

    /// An integer, or nothing.
    ///
    /// # Errors
    /// It is something else.
    pub fn integer(&self, at: usize) -> Result<Option<u64>, RpcError> {
        match self.value(at) {
            Value::Null => Ok(None),
            value => value.as_u64().map(Some).ok_or_else(|| self.wrong(at, "a whole number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_positions_are_the_same_arguments() {
        let names = &["id", "timeout_s"];
        let by_place = Params::Positional(vec![json!("11.1")]);
        let by_name = Params::Named(json!({"id": "11.1"}).as_object().cloned().unwrap_or_default());
        for params in [by_place, by_name] {
            let arguments = Arguments::read("job_wait", names, params).unwrap();
            assert_eq!(arguments.text(0).unwrap(), "11.1");
            assert_eq!(arguments.seconds(1, 30, 300).unwrap(), 30.0);
        }
        let unknown = Params::Named(json!({"job": 1}).as_object().cloned().unwrap_or_default());
        let error = Arguments::read("job_wait", names, unknown).err().unwrap();
        assert_eq!(error.field.as_deref(), Some("job"));
    }
}
