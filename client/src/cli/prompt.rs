//! Questions to a person at the terminal.

use super::failure::Failure;
use crate::Secret;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};

/// Asks for a password on the controlling terminal, without echo.
///
/// # Errors
/// There is no terminal.
pub fn password(question: &str) -> Result<Secret, Failure> {
    let failed = |source: std::io::Error| Failure::Terminal { what: "ask for a password", source };
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(failed)?;
    write!(&terminal, "{question}").map_err(failed)?;
    let before = tcgetattr(&terminal).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
    let mut line = zeroize::Zeroizing::new(String::new());
    let read = BufReader::new(&terminal).read_line(&mut line);
    // The echo comes back whatever reading gave.
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &before);
    let _ = writeln!(&terminal);
    read.map_err(failed)?;
    restored.map_err(|error| failed(error.into()))?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}

/// Asks whether to go on; only `y` and `yes` mean it.
///
/// # Errors
/// Nobody is there to be asked.
pub fn confirm(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage_hint(
            "this needs to be confirmed, and nobody is at the terminal",
            "--yes says yes",
        ));
    }
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|source| Failure::Terminal { what: "read the answer", source })?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}
