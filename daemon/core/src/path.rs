//! Places in the configuration: RFC 6901 pointers without the first slash.
//!
//! `users/alice` is the child `alice` of the section `users`; a slash inside a name is written
//! `~1`, a tilde `~0`. The empty path is the whole tree. Paths name locks as well, where `*`
//! stands for everything.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Longest path in bytes: deep enough for 32 names of ordinary length.
pub const PATH_BYTES_MAX: usize = 1024;

/// A checked path.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Path(String);

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is longer than [`PATH_BYTES_MAX`].
    #[error("the path has {0} bytes; at most {PATH_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// One of its names is empty.
    #[error("the path has an empty name; write `a/b`, without a slash at either end")]
    EmptyName,
    /// It holds a control character.
    #[error("the path holds a control character")]
    Control,
    /// A `~` is not followed by `0` or `1`.
    #[error("a `~` in a path must be written `~0` (and a `/` in a name `~1`)")]
    Tilde,
}

impl Path {
    /// The whole tree.
    pub const fn root() -> Path {
        Path(String::new())
    }

    /// Checks a path as a user writes it. A single leading slash is forgiven.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        if text.is_empty() {
            return Ok(Path::root());
        }
        for name in text.split('/') {
            if name.is_empty() {
                return Err(PathError::EmptyName);
            }
            let mut rest = name;
            while let Some(at) = rest.find('~') {
                rest = &rest[at + 1..];
                if !rest.starts_with(['0', '1']) {
                    return Err(PathError::Tilde);
                }
            }
        }
        Ok(Path(text.to_owned()))
    }

    /// The path's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the whole tree.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The child `name` (unescaped) of this path.
    #[must_use]
    pub fn child(&self, name: &str) -> Path {
        let name = escape(name);
        if self.0.is_empty() {
            return Path(name.into_owned());
        }
        let mut below = String::with_capacity(self.0.len() + 1 + name.len());
        below.push_str(&self.0);
        below.push('/');
        below.push_str(&name);
        Path(below)
    }

    /// The names from the root, unescaped.
    pub fn names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.0.split('/').filter(|name| !name.is_empty()).map(unescape)
    }

    /// How many names the path has.
    pub fn depth(&self) -> usize {
        if self.0.is_empty() { 0 } else { self.0.split('/').count() }
    }

    /// The first name: the section.
    pub fn section(&self) -> &str {
        self.0.split('/').next().unwrap_or("")
    }

    /// Whether `self` is `other` or lies above it.
    pub fn covers(&self, other: &Path) -> bool {
        is_prefix(&self.0, &other.0)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A path of names that the program itself made; panics on an empty name (a bug, not input).
pub fn path(names: &[&str]) -> Path {
    names.iter().fold(Path::root(), |at, name| {
        assert!(!name.is_empty(), "a path of the program's own has no empty names");
        at.child(name)
    })
}

/// Whether pointer `above` is `below` or one of its ancestors.
pub(crate) fn is_prefix(above: &str, below: &str) -> bool {
    above.is_empty()
        || below == above
        || (below.len() > above.len()
            && below.starts_with(above)
            && below.as_bytes()[above.len()] == b'/')
}

fn escape(name: &str) -> Cow<'_, str> {
    match name.contains(['~', '/']) {
        true => name.replace('~', "~0").replace('/', "~1").into(),
        false => name.into(),
    }
}

fn unescape(name: &str) -> Cow<'_, str> {
    match name.contains('~') {
        true => name.replace("~1", "/").replace("~0", "~").into(),
        false => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_paths() {
        assert_eq!(Path::parse("/users/alice").unwrap().as_str(), "users/alice");
        assert_eq!(Path::parse("").unwrap(), Path::root());
        assert_eq!(Path::parse("a//b"), Err(PathError::EmptyName));
        assert_eq!(Path::parse("a/b/"), Err(PathError::EmptyName));
        assert_eq!(Path::parse("a\nb"), Err(PathError::Control));
        assert_eq!(Path::parse("a~2"), Err(PathError::Tilde));
        let odd = path(&["app", "a/b~c"]);
        assert_eq!(odd.as_str(), "app/a~1b~0c");
        assert_eq!(odd.names().collect::<Vec<_>>(), ["app", "a/b~c"]);
    }

    #[test]
    fn a_prefix_ends_at_a_name() {
        let p = |text: &str| Path::parse(text).unwrap();
        assert!(p("users").covers(&p("users/alice")));
        assert!(!p("users/al").covers(&p("users/alice")));
        assert!(Path::root().covers(&p("users")));
    }
}
