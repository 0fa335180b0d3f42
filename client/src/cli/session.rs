//! What a running command has at hand: the options, the screen, and a client once it is needed.

use super::failure::Failure;
use super::options::Options;
use super::screen::Screen;
use super::target;
use crate::blocking;
use crate::error::Error;
use serde_json::Value;
use std::io::Write;

/// The state of one run of the program.
#[derive(Debug)]
pub struct Session {
    /// The options that every command has.
    pub options: Options,
    /// Standard output.
    pub screen: Screen,
    client: Option<blocking::Client>,
}

impl Session {
    /// A session without a connection.
    pub fn new(options: Options, screen: Screen) -> Session {
        Session { options, screen, client: None }
    }

    /// The client, made at first use from flags, environment and client file.
    ///
    /// # Errors
    /// No target, or one that cannot be used.
    pub fn client(&mut self) -> Result<blocking::Client, Failure> {
        if self.client.is_none() {
            let target = target::resolve(&self.options, &target::Surroundings::real()?)?;
            let inner = target.builder(&self.options).build()?;
            let client = blocking::Client::new(inner)
                .map_err(|source| Failure::Terminal { what: "start a runtime", source })?;
            self.client = Some(client);
        }
        self.client.clone().ok_or(Failure::Call(Error::NoAddress))
    }

    /// Prints text that is already rendered.
    ///
    /// # Errors
    /// Standard output cannot be written, e.g. as its reader went away.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|source| Failure::Terminal { what: "write to standard output", source })
    }

    /// Prints a value: YAML or a bare string, JSON with `-j`.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub fn print_value(&self, value: &Value) -> Result<(), Failure> {
        self.print(&self.screen.value(value))
    }

    /// Prints a line on standard error.
    pub fn note(&self, text: &str) {
        let screen = Screen::of_stderr(false);
        eprintln!("{}", screen.text(text));
    }
}
