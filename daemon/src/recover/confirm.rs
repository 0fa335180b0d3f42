//! The operator's word for what cannot be undone: the cluster's name, typed or given.

use std::io::{BufRead, IsTerminal, Write};

/// Why there is no agreement.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// Another name was given.
    #[error("this is cluster {expected:?}, not {given:?}")]
    Name {
        /// The cluster's name.
        expected: String,
        /// What was given.
        given: String,
    },
    /// There is nobody to ask.
    #[error("standard input is no terminal: give the cluster's name with --cluster")]
    NoTerminal,
    /// The terminal cannot be read.
    #[error("the terminal cannot be read")]
    Terminal(#[source] std::io::Error),
}

/// Shows what will be done, and goes on only with the cluster's name.
///
/// # Errors
/// See [`ConfirmError`].
pub fn confirm(
    cluster: &str,
    given: Option<&str>,
    explain: impl FnOnce() -> String,
) -> Result<(), ConfirmError> {
    eprint!("{}", explain());
    let typed = match given {
        Some(name) => name.to_owned(),
        None if std::io::stdin().is_terminal() => ask().map_err(ConfirmError::Terminal)?,
        None => return Err(ConfirmError::NoTerminal),
    };
    if typed == cluster {
        return Ok(());
    }
    Err(ConfirmError::Name { expected: cluster.to_owned(), given: typed })
}

fn ask() -> std::io::Result<String> {
    eprint!("type the cluster's name to go on: ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The user of the operating system who does it, for the record.
pub fn os_user() -> String {
    let uid = nix::unistd::getuid();
    let name = match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    };
    match std::env::var("SUDO_USER") {
        Ok(behind) if uid.is_root() && !behind.is_empty() && behind.len() <= 32 => {
            format!("{name} (sudo by {})", crate::report::one_line(&behind))
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_name_agrees() {
        assert!(confirm("prod", Some("prod"), String::new).is_ok());
        for other in ["Prod", "prod ", "", "test"] {
            let error = confirm("prod", Some(other), String::new).expect_err(other);
            assert!(error.to_string().contains("prod"), "{error}");
        }
    }
}
