//! The argument list before clap sees it.
//!
//! Two things clap cannot say: the program is `tiebeam exec` if it is called `confd_client`; and
//! after `exec` and `start` options may stand between the words of inline YAML (`-j` at any
//! position). So the options of these commands are moved in front, and the words behind a `--`.
//! A word right after `name:` is always a value, unless it is `-j` or `--json`.

use super::failure::Failure;
use super::words::is_key_word;
use std::ffi::OsString;
use std::path::Path;

/// Commands that take inline YAML.
const INLINE: [&str; 2] = ["exec", "start"];
/// The name under which the program behaves as `exec`.
const CONFD_CLIENT: &str = "confd_client";

/// The arguments as clap is to see them.
///
/// # Errors
/// An argument is no UTF-8.
pub fn normalise(
    arguments: impl IntoIterator<Item = OsString>,
    root: &clap::Command,
) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    for argument in arguments {
        let word = argument.into_string().map_err(|bad| {
            Failure::usage(format!("the argument {:?} is no UTF-8", bad.to_string_lossy()))
        })?;
        words.push(word);
    }
    let program = words.first().map(|name| Path::new(name).file_name().unwrap_or_default());
    if program.is_some_and(|name| name == CONFD_CLIENT) {
        words.insert(1, "exec".to_owned());
    }
    let Some(at) = command_position(&words, root) else { return Ok(words) };
    let rest = words.split_off(at + 1);
    let command = words.last().and_then(|name| root.find_subcommand(name));
    let Some(command) = command.filter(|command| INLINE.contains(&command.get_name())) else {
        words.extend(rest);
        return Ok(words);
    };
    let (options, inline) = split(rest, &[root, command]);
    words.extend(options);
    words.push("--".to_owned());
    words.extend(inline);
    Ok(words)
}

/// Where the command's name is: the first argument that is neither option nor option's value.
fn command_position(words: &[String], root: &clap::Command) -> Option<usize> {
    let mut at = 1;
    while let Some(word) = words.get(at) {
        if !word.starts_with('-') {
            return Some(at);
        }
        at += match option(word, &[root]) {
            Some(Takes::NextWord) => 2,
            _ => 1,
        };
    }
    None
}

enum Takes {
    Nothing,
    NextWord,
}

fn split(rest: Vec<String>, known: &[&clap::Command]) -> (Vec<String>, Vec<String>) {
    let (mut options, mut inline) = (Vec::new(), Vec::<String>::new());
    let mut rest = rest.into_iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            inline.extend(rest);
            break;
        }
        let is_json = word == "-j" || word == "--json";
        let is_value = inline.last().is_some_and(|last| is_key_word(last)) && !is_json;
        if is_value || !word.starts_with('-') {
            inline.push(word);
            continue;
        }
        match option(&word, known) {
            Some(Takes::NextWord) => {
                options.push(word);
                options.extend(rest.next());
            }
            Some(Takes::Nothing) => options.push(word),
            // An unknown long option is clap's to refuse; `-5` or `-x` belongs to a value.
            None if word.starts_with("--") || inline.is_empty() => options.push(word),
            None => inline.push(word),
        }
    }
    (options, inline)
}

/// Whether a word is a known option, and whether its value is the next word.
fn option(word: &str, known: &[&clap::Command]) -> Option<Takes> {
    let arguments = || known.iter().flat_map(|command| command.get_arguments());
    let takes = |argument: &clap::Arg, attached: bool| {
        if argument.get_action().takes_values() && !attached {
            Takes::NextWord
        } else {
            Takes::Nothing
        }
    };
    if let Some(long) = word.strip_prefix("--") {
        let name = long.split('=').next().unwrap_or(long);
        if name == "help" {
            return Some(Takes::Nothing);
        }
        let argument = arguments().find(|argument| argument.get_long() == Some(name))?;
        return Some(takes(argument, long.contains('=')));
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let letter = letters.next()?;
    if letter == 'h' && letters.as_str().is_empty() {
        return Some(Takes::Nothing);
    }
    let argument = arguments().find(|argument| argument.get_short() == Some(letter))?;
    Some(takes(argument, !letters.as_str().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    fn normal(line: &str) -> String {
        let words = line.split('|').map(OsString::from);
        normalise(words, &table::root()).unwrap().join("|")
    }

    #[test]
    fn options_go_in_front_and_words_behind_two_dashes() {
        for (line, means) in [
            ("tiebeam|exec|user_list|-j", "tiebeam|exec|-j|--|user_list"),
            ("tiebeam|exec|x|a:|1|-j|b:|2", "tiebeam|exec|-j|--|x|a:|1|b:|2"),
            ("tiebeam|-j|exec|x|n:|-5", "tiebeam|-j|exec|--|x|n:|-5"),
            ("tiebeam|exec|x|t:|-a|-A|{}", "tiebeam|exec|-A|{}|--|x|t:|-a"),
            (
                "tiebeam|exec|x|a:|--reason|--reason|why",
                "tiebeam|exec|--reason|why|--|x|a:|--reason",
            ),
            ("tiebeam|exec|x|a:|-j", "tiebeam|exec|-j|--|x|a:"),
            ("tiebeam|--url|exec|exec|x", "tiebeam|--url|exec|exec|--|x"),
            ("tiebeam|exec|x|--|-j", "tiebeam|exec|--|x|-j"),
            ("tiebeam|exec|--nonsense|x", "tiebeam|exec|--nonsense|--|x"),
            ("tiebeam|wait|11.2|-j", "tiebeam|wait|11.2|-j"),
            ("tiebeam", "tiebeam"),
        ] {
            assert_eq!(normal(line), means, "{line}");
        }
    }

    #[test]
    fn confd_client_is_exec() {
        for (line, means) in [
            ("/usr/bin/confd_client|-c|db_list|-j", "/usr/bin/confd_client|exec|-c|db_list|-j|--"),
            ("confd_client|-a|{x: 1}|-c|f", "confd_client|exec|-a|{x: 1}|-c|f|--"),
            ("confd_client|db_info|db_name:|X|-j", "confd_client|exec|-j|--|db_info|db_name:|X"),
            ("confd_client|-c|help|-a|f", "confd_client|exec|-c|help|-a|f|--"),
        ] {
            assert_eq!(normal(line), means, "{line}");
        }
    }
}
