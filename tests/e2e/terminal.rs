//! What a person sees: the programs on a pseudo terminal.

use super::command_line::Shell;
use super::draining::may_sleep;
use tiebeam_tests::program::command;
use tiebeam_tests::{Ended, TestNode, client_program, need, run};

/// Runs a program on a pseudo terminal of so many columns and prints the bytes that it sent there.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, pty, struct, sys, termios
columns, arguments = int(sys.argv[1]), sys.argv[2:]
own, its = pty.openpty()
fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
child = os.fork()
if child == 0:
    os.login_tty(its)
    os.execv(arguments[0], arguments)
os.close(its)
while True:
    try:
        block = os.read(own, 65536)
    except OSError:
        break
    if not block:
        break
    sys.stdout.buffer.write(block)
_, status = os.waitpid(child, 0)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(status))
"#;

/// A terminal, as far as the programs use one.
#[derive(Default)]
struct Terminal {
    /// What stands there at the end.
    lines: Vec<String>,
    /// Every state of a line that was drawn over.
    drawn: Vec<String>,
    column: usize,
}

impl Terminal {
    fn after(bytes: &str) -> Terminal {
        let mut terminal = Terminal { lines: vec![String::new()], ..Terminal::default() };
        let mut rest = bytes.chars().peekable();
        while let Some(sign) = rest.next() {
            match sign {
                '\x1b' => {
                    assert_eq!(rest.next(), Some('['), "a sequence that this terminal knows");
                    let mut sequence = String::new();
                    for sign in rest.by_ref() {
                        sequence.push(sign);
                        if sign.is_ascii_alphabetic() {
                            break;
                        }
                    }
                    terminal.obey(&sequence);
                }
                '\r' => terminal.column = 0,
                '\n' => {
                    terminal.lines.push(String::new());
                    terminal.column = 0;
                }
                sign => terminal.put(sign),
            }
        }
        terminal
    }

    fn obey(&mut self, sequence: &str) {
        match sequence {
            "2K" => {
                let line = self.lines.last_mut().expect("there is always a line");
                self.drawn.push(std::mem::take(line));
            }
            colour if colour.ends_with('m') => {}
            other => panic!("the terminal is told {other:?}"),
        }
    }

    fn put(&mut self, sign: char) {
        let line = self.lines.last_mut().expect("there is always a line");
        let mut signs: Vec<char> = line.chars().collect();
        signs.resize(signs.len().max(self.column + 1), ' ');
        signs[self.column] = sign;
        *line = signs.into_iter().collect();
        self.column += 1;
    }
}

fn on_terminal(node: &TestNode, columns: usize, term: &str, arguments: &[&str]) -> Ended {
    let mut python = command("python3", &["-c", ON_A_TERMINAL, &columns.to_string()]);
    python.env_clear().env("TERM", term).arg(client_program()).args(arguments);
    run(Shell::new(node).prepare(&mut python), "")
}

fn start_sleep(node: &TestNode) -> String {
    let started = Shell::new(node).run(&["start", "command_run", "argv:", "[/bin/sleep, '2']"], "");
    started.ok().trim().to_owned()
}

#[test]
fn a_job_is_followed_with_a_bar_that_leaves_no_trace() {
    if !need("a terminal", &["python3", "-c", "import os, pty; os.login_tty"]) {
        return;
    }
    let node = TestNode::start(may_sleep());
    for (columns, whole) in [(80, true), (40, false)] {
        let id = start_sleep(&node);
        let ended = on_terminal(&node, columns, "xterm", &["follow", &id]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let seen = Terminal::after(&ended.out);
        let bars: Vec<&String> = seen.drawn.iter().filter(|line| line.contains(&id)).collect();
        assert!(!bars.is_empty(), "{:?}", seen.drawn);
        let text = format!("{id} command_run · executed · node 11");
        for bar in &bars {
            assert!(bar.chars().count() <= columns, "{bar:?} wraps");
            assert!(bar.contains("0%"), "{bar:?}");
            assert_eq!(bar.contains('…'), !bar.contains(&text), "{bar:?} is cut and says so");
        }
        assert_eq!(bars.iter().any(|bar| bar.contains(&text)), whole, "{bars:?}");
        let nothing = |line: &&String| !line.is_empty() && !line.contains(&id);
        assert_eq!(seen.drawn.iter().find(nothing), None, "a bar before there is anything to show");
        let told: Vec<&str> = seen.lines.iter().filter_map(|line| line.get(20..)).collect();
        assert_eq!(
            told,
            [
                "submitted",
                "scheduled",
                "executed",
                "run-n11 on node 11 started",
                "run-n11 on node 11 ended: ok",
                "finished: ok",
            ],
            "{:?}",
            seen.lines
        );
        assert_eq!(seen.lines[6], "'11':", "the output follows, and no bar is left");
        assert_eq!(seen.lines.last().map(String::as_str), Some(""));
    }
}

#[test]
fn a_terminal_without_a_cursor_gets_lines_only() {
    if !need("a terminal", &["python3", "-c", "import os, pty; os.login_tty"]) {
        return;
    }
    let node = TestNode::start(may_sleep());
    let id = start_sleep(&node);
    let ended = on_terminal(&node, 80, "dumb", &["follow", &id]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!ended.out.contains('\x1b'), "{:?}", ended.out);
    assert!(ended.out.contains("finished: ok"), "{:?}", ended.out);
}
