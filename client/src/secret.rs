//! Text that must not be printed: passwords and tokens.
//!
//! Owns the one type that holds them in this crate. It must not offer a way to print or serialize
//! its content; it is wiped when dropped. Called by the builder and by the login command.

use std::path::Path;
use zeroize::Zeroizing;

/// A password or token. `Debug` prints `withheld`; the memory is wiped on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// Reads a file that holds nothing but the secret; one line end at its end is dropped.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> std::io::Result<Secret> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Secret::new(line.strip_suffix('\r').unwrap_or(line)))
    }

    /// The text, for the one place that sends or stores it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("withheld")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "withheld");
    }

    #[test]
    fn a_file_s_last_line_end_is_not_part_of_it() {
        let path = std::env::temp_dir().join(format!("tiebeam-secret-{}", std::process::id()));
        for text in ["pw\n", "pw\r\n", "pw"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Secret::read(&path).unwrap().expose(), "pw");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
