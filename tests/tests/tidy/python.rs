//! A reader of Python that knows just enough: comments, texts, and where a function ends.

/// The source with comments blanked and texts filled with quotes, line by line as it was.
fn mask(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let (length, fill) = match c {
            '#' => (rest.find('\n').unwrap_or(rest.len()), Some(' ')),
            '"' | '\'' => (text_length(rest, c), Some('"')),
            _ => (c.len_utf8(), None),
        };
        let keep = |c: char| if c == '\n' { c } else { fill.unwrap_or(c) };
        out.extend(rest[..length].chars().map(keep));
        rest = &rest[length..];
    }
    out
}

/// The bytes of the text that starts here, quotes included.
fn text_length(rest: &str, quote: char) -> usize {
    let triple = quote.to_string().repeat(3);
    let end = if rest.starts_with(&triple) { triple } else { quote.to_string() };
    let mut at = end.len();
    while let Some(c) = rest[at..].chars().next() {
        if rest[at..].starts_with(&end) {
            return at + end.len();
        }
        let escaped = rest[at + c.len_utf8()..].chars().next().filter(|_| c == '\\');
        at += c.len_utf8() + escaped.map_or(0, char::len_utf8);
    }
    rest.len()
}

/// Lines that hold code.
pub fn code_lines(source: &str) -> usize {
    mask(source).lines().filter(|line| !line.trim_matches(['"', ' ']).is_empty()).count()
}

/// Every function: its name (a second one of the same name gets `(2)`) and its lines.
pub fn functions(source: &str) -> Vec<(String, usize)> {
    let masked = mask(source);
    let lines: Vec<&str> = masked.lines().collect();
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        let declaration = line.trim_start().trim_start_matches("async ").strip_prefix("def ");
        let Some(name) = declaration.and_then(|rest| rest.split('(').next()) else { continue };
        let count = seen.entry(name.to_owned()).and_modify(|n| *n += 1).or_insert(1);
        let name = if *count == 1 { name.to_owned() } else { format!("{name}({count})") };
        found.push((name, function_lines(&lines[at..])));
    }
    found
}

/// Lines of the function that starts with the first of these: all that are indented deeper, and
/// its signature, whose closing bracket may stand as far left as `def`. The inside of a long text
/// may stand anywhere.
fn function_lines(lines: &[&str]) -> usize {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let own = indent(lines[0]);
    let (mut open, mut length) = (0_i32, 0);
    for (at, line) in lines.iter().enumerate() {
        let inside = at == 0 || open > 0 || indent(line) > own;
        let only_text = line.trim_matches(['"', ' ']).is_empty();
        if !inside && !only_text {
            break;
        }
        let count = |of: [char; 3]| line.matches(of).count() as i32;
        open += count(['(', '[', '{']) - count([')', ']', '}']);
        if inside && !line.trim().is_empty() {
            length = at + 1;
        }
    }
    length
}

#[test]
fn python_functions_are_found_with_their_lines() {
    let source = [
        "class A:",
        "    def one(self):",
        "        \"\"\"Doc:",
        "",
        "def not_this():",
        "        \"\"\"",
        "        return '#'  # def no():",
        "",
        "    async def two(",
        "        self,",
        "    ) -> None:",
        "        pass",
        "",
        "x = 1",
    ];
    let source = source.join("\n");
    let expected = [("one".to_owned(), 6), ("two".to_owned(), 4)];
    assert_eq!(functions(&source), expected);
    assert_eq!(code_lines(&source), 8);
}
