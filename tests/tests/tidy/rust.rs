//! A reader of Rust that knows just enough: comments, texts, braces, functions, inline tests.

/// The source with comments blanked and the inside of texts filled with quotes, line by line as it
/// was; so a brace that is found is a brace.
pub fn mask(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let (length, fill) = piece(&chars, at);
        let keep = |c: char| if c == '\n' { c } else { fill.unwrap_or(c) };
        out.extend(chars[at..at + length].iter().copied().map(keep));
        at += length;
    }
    out
}

/// How long the piece that starts here is, and what hides it.
fn piece(chars: &[char], at: usize) -> (usize, Option<char>) {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => (until(chars, at, "\n"), Some(' ')),
        '/' if next == Some('*') => (block_comment(chars, at), Some(' ')),
        '"' => (quoted(chars, at, '"'), Some('"')),
        '\'' if next == Some('\\') || chars.get(at + 2) == Some(&'\'') => {
            (quoted(chars, at, '\''), Some('"'))
        }
        'r' if !follows_a_word(chars, at) => match raw_text(chars, at) {
            Some(length) => (length, Some('"')),
            None => (1, None),
        },
        _ => (1, None),
    }
}

/// Whether this `r` ends a name; `br` and `cr` are prefixes like `r` itself.
fn follows_a_word(chars: &[char], at: usize) -> bool {
    let word = |c: &char| c.is_alphanumeric() || *c == '_';
    match at.checked_sub(1).map(|before| chars[before]) {
        Some('b' | 'c') => at >= 2 && word(&chars[at - 2]),
        Some(before) => word(&before),
        None => false,
    }
}

/// Characters up to and without `end`, or to the end of the source.
fn until(chars: &[char], at: usize, end: &str) -> usize {
    let end: Vec<char> = end.chars().collect();
    (at..chars.len()).find(|&from| chars[from..].starts_with(&end)).unwrap_or(chars.len()) - at
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut end) = (0_usize, at);
    while end < chars.len() {
        match (chars[end], chars.get(end + 1)) {
            ('/', Some('*')) => (depth, end) = (depth + 1, end + 2),
            ('*', Some('/')) => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
        if depth == 0 {
            break;
        }
    }
    end.min(chars.len()) - at
}

fn quoted(chars: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != quote {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(chars.len()) - at
}

fn raw_text(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let length = until(chars, open + 1, &end);
    Some((open + 1 + length + end.len()).min(chars.len()) - at)
}

/// Every function with a body: its name (a second one of the same name gets `(2)`) and its lines.
pub fn functions(source: &str) -> Vec<(String, usize)> {
    let masked: Vec<char> = mask(source).chars().collect();
    let mut found: Vec<(String, usize)> = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for at in 0..masked.len() {
        let Some(name) = function_name(&masked, at) else { continue };
        let Some(end) = body_end(&masked, at) else { continue };
        let lines = masked[at..end].iter().filter(|c| **c == '\n').count() + 1;
        let count = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
        let name = if *count == 1 { name } else { format!("{name}({count})") };
        found.push((name, lines));
    }
    found
}

/// The name, if the keyword `fn` of a declaration stands here (and not the type `fn(…)`).
fn function_name(chars: &[char], at: usize) -> Option<String> {
    let word = |c: &char| c.is_alphanumeric() || *c == '_' || *c == '#';
    let free = at == 0 || !word(&chars[at - 1]);
    if !free || !chars[at..].starts_with(&['f', 'n', ' ']) {
        return None;
    }
    let name: String = chars[at + 3..].iter().take_while(|c| word(c)).collect();
    (!name.is_empty()).then_some(name)
}

/// Where the body ends that belongs to the declaration here; `None` if it has none.
fn body_end(chars: &[char], at: usize) -> Option<usize> {
    let mut nested = 0_i32;
    for (offset, c) in chars[at..].iter().enumerate() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            ';' if nested == 0 => return None,
            '{' if nested == 0 => return block_end(chars, at + offset),
            _ => {}
        }
    }
    None
}

/// The place behind the brace that closes the one here.
fn block_end(chars: &[char], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, c) in chars[at..].iter().enumerate() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at + offset + 1),
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// Lines that hold code, without the inline module of tests.
pub fn code_lines(source: &str) -> usize {
    let mut masked = mask(source);
    while let Some(range) = test_module(&masked) {
        masked.replace_range(range, "");
    }
    masked.lines().filter(|line| !line.trim().is_empty()).count()
}

/// Where an inline `#[cfg(test)] mod … { … }` stands.
fn test_module(masked: &str) -> Option<std::ops::Range<usize>> {
    const MARK: &str = "#[cfg(test)]";
    masked.match_indices(MARK).find_map(|(start, _)| {
        let rest = &masked[start + MARK.len()..];
        let open = rest.find('{').filter(|open| {
            let head = &rest[..*open];
            head.trim_start().starts_with("mod ") && !head.contains(';')
        })?;
        let chars: Vec<char> = rest[open..].chars().collect();
        let length: usize = chars[..block_end(&chars, 0)?].iter().map(|c| c.len_utf8()).sum();
        Some(start..start + MARK.len() + open + length)
    })
}

/// The modules that a file declares without a body: name, and the `path` attribute if it has one.
pub fn modules(source: &str) -> Vec<(String, Option<String>)> {
    let masked = mask(source);
    let mut found = Vec::new();
    for (at, (line, raw)) in masked.lines().zip(source.lines()).enumerate() {
        let declared = line.trim().trim_end_matches(';');
        let Some(name) = declared.rsplit_once("mod ").map(|(_, name)| name.trim()) else {
            continue;
        };
        let public = declared.starts_with("mod ") || declared.starts_with("pub");
        if !public || !raw.trim_end().ends_with(';') || name.contains(char::is_whitespace) {
            continue;
        }
        let before = at.checked_sub(1).and_then(|before| source.lines().nth(before));
        let path = before.and_then(|attribute| {
            Some(attribute.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]")?.to_owned())
        });
        found.push((name.to_owned(), path));
    }
    found
}

#[test]
fn texts_and_comments_hide_what_is_in_them() {
    for (source, masked) in [
        ("a // {\nb", "a     \nb"),
        ("a /* { /* } */ { */ b", "a                   b"),
        ("x = \"{\\\"\\\\\"; y", "x = \"\"\"\"\"\"\"; y"),
        (
            "x = '{'; y = '\\''; fn f<'a>(x: &'a str)",
            "x = \"\"\"; y = \"\"\"\"; fn f<'a>(x: &'a str)",
        ),
        ("r\"\\\" {", "\"\"\"\" {"),
        ("br#\"{\"}\"# }", "b\"\"\"\"\"\"\"\" }"),
        ("for r in \"\" {", "for r in \"\" {"),
        ("char\"{\"", "char\"\"\""),
    ] {
        assert_eq!(mask(source), masked, "{source}");
    }
}

#[test]
fn functions_are_found_with_their_lines() {
    let source = "trait T {\n    fn no_body(&self) -> [u8; 4];\n}\ntype F = fn(u8);\n\
                  fn one(x: fn(u8)) -> [u8; 2] { [0, 1] }\n\
                  impl X {\n    const fn two()\n    where\n        Self: Sized,\n    {\n        \
                  let s = \"}\"; // }\n        fn one() {}\n    }\n}\n";
    let found = functions(source);
    let expected = [("one", 1), ("two", 7), ("one(2)", 1)];
    assert_eq!(found, expected.map(|(name, lines)| (name.to_owned(), lines)));
}

#[test]
fn code_is_counted_without_inline_tests() {
    let source = "//! doc\n\nfn a() {}\n#[cfg(test)]\nmod seen;\n\n#[cfg(test)]\nmod tests {\n    \
                  fn b() { \"é}\" }\n}\nfn c() {}\n";
    assert_eq!(code_lines(source), 4);
    let expected = [("seen".to_owned(), None), ("x".to_owned(), Some("y.rs".to_owned()))];
    assert_eq!(modules(&(source.to_owned() + "#[path = \"y.rs\"]\npub(crate) mod x;\n")), expected);
}
