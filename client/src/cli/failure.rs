//! Why a command ended without doing what it was asked, and how that is printed.
//!
//! The one place where the chain of sources is printed.

use super::exit::Exit;
use super::screen::Screen;
use crate::error::Error;
use serde_json::json;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A call failed.
    #[error("{0}")]
    Call(#[from] Error),
    /// The arguments do not say what is to be done.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// The way out.
        hint: Option<String>,
    },
    /// A local file cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Standard output, input or the terminal does not work.
    #[error("cannot {what}")]
    Terminal {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    /// A usage failure.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage { message: message.into(), hint: None }
    }

    /// A usage failure with the way out.
    pub fn usage_hint(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// The exit status.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Call(error) => Exit::of_error(error),
            Failure::Usage { .. } | Failure::File { .. } => Exit::Usage,
            Failure::Terminal { .. } => Exit::JobFailed,
        }
    }

    /// Whether the reader of our output went away; nobody needs to be told.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Terminal { source, .. }
            if source.kind() == std::io::ErrorKind::BrokenPipe)
    }

    fn name(&self) -> &str {
        match self {
            Failure::Call(error) => error.name(),
            Failure::Usage { .. } => "usage",
            Failure::File { .. } => "unreadable_file",
            Failure::Terminal { .. } => "terminal",
        }
    }

    fn hint(&self) -> Option<&str> {
        match self {
            Failure::Call(error) => error.hint(),
            Failure::Usage { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Failure::Call(error) => error.field(),
            _ => None,
        }
    }

    /// The message with every source below it.
    fn chain(&self) -> String {
        // `Call` is transparent in its text, so the chain begins below the call's own error.
        let mut source = match self {
            Failure::Call(error) => std::error::Error::source(error),
            other => std::error::Error::source(other),
        };
        let mut text = self.to_string();
        while let Some(error) = source {
            let part = error.to_string();
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            source = error.source();
        }
        text
    }

    /// What is printed on standard error.
    pub fn render(&self, screen: &Screen) -> String {
        if screen.json {
            let code = match self {
                Failure::Call(Error::Rpc(error)) => json!(error.code.number()),
                Failure::Call(Error::RpcUnknown { code, .. }) => json!(code),
                _ => json!(null),
            };
            let (field, hint) = (self.field(), self.hint());
            return screen.value(&json!({"error": {
                "name": self.name(), "message": self.chain(), "code": code,
                "field": field, "hint": hint,
            }}));
        }
        let mut text = format!("{} {}\n", screen.bad("error:"), screen.text(&self.chain()));
        for (label, value) in
            [("name", Some(self.name())), ("field", self.field()), ("hint", self.hint())]
        {
            if let Some(value) = value {
                text.push_str(&format!("  {} {}\n", screen.dim(label), screen.text(value)));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_proto::{ErrorCode, RpcError};

    #[test]
    fn an_error_names_its_field_and_the_way_out() {
        let error = RpcError::new(ErrorCode::InvalidParameter, "`grp` is unknown")
            .field("grp")
            .hint("did you mean `group`?");
        let failure = Failure::Call(Error::Rpc(error));
        assert_eq!(
            failure.render(&Screen::plain()),
            "error: `grp` is unknown\n  name invalid_parameter\n  field grp\n  hint did you mean \
             `group`?\n"
        );
    }

    #[test]
    fn the_chain_is_printed_once() {
        let failure = Failure::Call(Error::Unreachable {
            address: "https://n11".into(),
            source: "connection refused".into(),
        });
        assert_eq!(failure.chain(), "cannot reach https://n11: connection refused");
    }
}
