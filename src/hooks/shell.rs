//! Which files a shell command writes, as far as its text tells.
//!
//! No text tells it in general: programs write what they like, and names come out of variables. So this reads what is
//! plain (redirections, and the usual commands with literal names) and says nothing about the rest. What it misses is
//! kept out by `flock(2)` at best; what it wrongly finds costs a lock until the end of the turn.

use std::path::{Path, PathBuf};

/// Words before a command that leave it what it is.
const PREFIXES: &[&str] = &["sudo", "env", "command", "exec", "nohup", "time", "builtin"];

/// Words of the grammar behind which a command begins.
const KEYWORDS: &[&str] = &["if", "then", "elif", "else", "while", "until", "do", "!", "{"];

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh"];

/// The files that a command writes, moves or removes; relative ones begin where the command is run.
pub(super) fn targets(command: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Where the commands so far have gone; none where that cannot be told. Brackets end what happens in them.
    let mut place = Some(PathBuf::new());
    let mut outside = Vec::new();
    for piece in pieces(command) {
        match piece {
            Piece::Open => outside.push(place.clone()),
            Piece::Close => place = outside.pop().unwrap_or(place),
            Piece::Simple { words, written } => {
                let named = written.into_iter().chain(written_by(&words));
                found.extend(named.filter_map(|path| match &place {
                    Some(place) => Some(place.join(path)),
                    None => Some(path).filter(|path| path.is_absolute()),
                }));
                place = moved(place, &words);
            }
        }
    }
    found
}

/// Where the next command runs.
fn moved(place: Option<PathBuf>, words: &[Word]) -> Option<PathBuf> {
    match words.first().and_then(Word::plain) {
        Some("cd" | "pushd") => {
            let to = words.iter().skip(1).find(|word| !word.text.starts_with('-')).and_then(Word::plain);
            to.and_then(|to| if Path::new(to).is_absolute() { Some(PathBuf::from(to)) } else { Some(place?.join(to)) })
        }
        Some("popd") => None,
        _ => place,
    }
}

/// Whether another program takes the place of the shell.
pub(super) fn replaces_itself(command: &str) -> bool {
    let is_exec = |words: &[Word]| words.iter().take_while(|word| is_before(word)).any(|word| word.text == "exec");
    pieces(command).iter().any(|piece| matches!(piece, Piece::Simple { words, .. } if is_exec(words)))
}

/// Whether a command begins only behind this word.
fn is_before(word: &Word) -> bool {
    let word = word.text.as_str();
    PREFIXES.contains(&word) || KEYWORDS.contains(&word) || is_assignment(word)
}

/// The program of a simple command, without its directories, and its arguments.
fn program(words: &[Word]) -> Option<(&str, &[Word])> {
    let (name, args) = words[words.iter().take_while(|word| is_before(word)).count()..].split_first()?;
    let name = name.plain()?;
    Some((name.rsplit('/').next().unwrap_or(name), args))
}

/// What a simple command writes by its own doing.
fn written_by(words: &[Word]) -> Vec<PathBuf> {
    let Some((name, args)) = program(words) else { return Vec::new() };
    match name {
        name if SHELLS.contains(&name) => script_in(args).map(targets).unwrap_or_default(),
        "tee" | "rm" | "unlink" | "touch" | "rmdir" | "shred" => plain(&operands(args, &[])),
        "truncate" => plain(&operands(args, &["-s", "--size", "-r", "--reference"])),
        "dd" => args.iter().filter_map(|arg| arg.plain()?.strip_prefix("of=")).map(PathBuf::from).collect(),
        "sed" => edited_in_place(args),
        "mv" => copied(args, true),
        "cp" | "install" | "ln" => copied(args, false),
        _ => Vec::new(),
    }
}

/// The script of `sh -c SCRIPT`. What the outer shell replaces in it is no plain word of it either.
fn script_in(args: &[Word]) -> Option<&str> {
    let is_c = |word: &Word| word.text.starts_with('-') && !word.text.starts_with("--") && word.text.ends_with('c');
    let script = args.iter().skip_while(|word| !is_c(word)).find(|word| !word.text.starts_with('-'));
    script.map(|word| word.text.as_str())
}

fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The arguments that are no flags; `valued` flags take the next one with them.
fn operands<'a>(args: &'a [Word], valued: &[&str]) -> Vec<&'a Word> {
    let (mut found, mut args, mut only) = (Vec::new(), args.iter(), false);
    while let Some(arg) = args.next() {
        match arg.text.as_str() {
            text if only || !text.starts_with('-') || text == "-" => found.push(arg),
            "--" => only = true,
            text if valued.contains(&text) => drop(args.next()),
            _ => {}
        }
    }
    found
}

fn plain(words: &[&Word]) -> Vec<PathBuf> {
    words.iter().filter_map(|word| word.plain()).filter(|text| *text != "-").map(PathBuf::from).collect()
}

/// `sed -i SCRIPT FILE…`.
fn edited_in_place(args: &[Word]) -> Vec<PathBuf> {
    let is_short = |text: &str, flag: char| text.starts_with('-') && !text.starts_with("--") && text.contains(flag);
    let has = |flag: char, long: &str| args.iter().any(|arg| is_short(&arg.text, flag) || arg.text.starts_with(long));
    if !has('i', "--in-place") {
        return Vec::new();
    }
    let named = operands(args, &["-e", "--expression", "-f", "--file"]);
    let has_script = args.iter().any(|arg| ["-e", "-f"].contains(&arg.text.as_str()))
        || args.iter().any(|arg| arg.text.starts_with("--expression") || arg.text.starts_with("--file"));
    plain(&named[usize::from(!has_script).min(named.len())..])
}

/// `cp`, `mv` and the like: the destination, or the names in it, and with `mv` the sources, which go away.
fn copied(args: &[Word], moves: bool) -> Vec<PathBuf> {
    let valued = ["-t", "--target-directory", "-m", "-o", "-g", "-S", "--suffix", "--mode", "--owner", "--group"];
    let into = args.iter().position(|arg| ["-t", "--target-directory"].contains(&arg.text.as_str()));
    let mut named = operands(args, &valued);
    let to = match into {
        Some(flag) => args.get(flag + 1),
        None if named.len() > 1 => named.pop(),
        None => None,
    };
    let mut found = if moves { plain(&named) } else { Vec::new() };
    let Some(to) = to.and_then(Word::plain) else { return found };
    // A destination that ends in a slash, or that several things go to, is a directory. One that is a directory
    // without saying so is locked as a whole: rare, and never too little.
    if into.is_some() || to.ends_with('/') || named.len() > 1 {
        let names = plain(&named).into_iter().filter_map(|from| Some(Path::new(to).join(from.file_name()?)));
        found.extend(names);
    } else {
        found.push(PathBuf::from(to));
    }
    found
}

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A word, and whether it means what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Word {
    text: String,
    /// Something in it is replaced by the shell.
    expands: bool,
}

impl Word {
    fn plain(&self) -> Option<&str> {
        if self.expands || self.text.is_empty() { None } else { Some(&self.text) }
    }
}

/// What a line falls into.
enum Piece {
    Open,
    Close,
    Simple { words: Vec<Word>, written: Vec<PathBuf> },
}

#[derive(Clone)]
enum Token {
    Word(Word),
    /// Where output goes.
    Out,
    /// Where input comes from; a heredoc says which word ends it.
    In {
        heredoc: bool,
    },
    End,
    Open,
    Close,
}

fn pieces(command: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let (mut words, mut written) = (Vec::new(), Vec::new());
    let mut tokens = Tokens { rest: command, ends: Vec::new() };
    while let Some(token) = tokens.next() {
        match token {
            // A condition of bash's, in which an arrow compares.
            Token::Word(word) if word.text == "[[" && words.is_empty() => tokens.skip_past(" ]]"),
            Token::Word(word) => words.push(word),
            Token::Out => match tokens.next() {
                // `>&2` and `>&-` are descriptors.
                Some(Token::Word(to)) => {
                    let is_descriptor = to.text.bytes().all(|byte| byte.is_ascii_digit()) || to.text == "-";
                    written.extend(to.plain().filter(|_| !is_descriptor).map(PathBuf::from));
                }
                _ => return found,
            },
            Token::In { heredoc } => match tokens.next() {
                Some(Token::Word(from)) if heredoc => tokens.ends.push(from.text),
                Some(Token::Word(_)) => {}
                _ => return found,
            },
            other => {
                found.push(Piece::Simple { words: std::mem::take(&mut words), written: std::mem::take(&mut written) });
                match other {
                    Token::Open => found.push(Piece::Open),
                    Token::Close => found.push(Piece::Close),
                    _ => {}
                }
            }
        }
    }
    found.push(Piece::Simple { words, written });
    found
}

/// Cuts a command into tokens, as far as a shell's grammar is needed here.
struct Tokens<'a> {
    rest: &'a str,
    /// The words that end the heredocs which begin at the end of this line.
    ends: Vec<String>,
}

impl Tokens<'_> {
    fn next(&mut self) -> Option<Token> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
        if self.rest.starts_with('#') {
            self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
        }
        if let Some(rest) = self.rest.strip_prefix("\\\n") {
            self.rest = rest;
            return self.next();
        }
        // A number right before an arrow is a descriptor.
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if self.rest[digits..].starts_with(['<', '>']) {
            self.rest = &self.rest[digits..];
        }
        const SIGNS: &[(&str, Token)] = &[
            ("&>>", Token::Out),
            ("&>", Token::Out),
            (">>", Token::Out),
            (">|", Token::Out),
            (">&", Token::Out),
            (">(", Token::Open),
            ("<(", Token::Open),
            ("<<<", Token::In { heredoc: false }),
            ("<<-", Token::In { heredoc: true }),
            ("<<", Token::In { heredoc: true }),
            ("<>", Token::Out),
            ("<&", Token::In { heredoc: false }),
            (">", Token::Out),
            ("<", Token::In { heredoc: false }),
            ("\n", Token::End),
            (";", Token::End),
            ("&", Token::End),
            ("|", Token::End),
            ("(", Token::Open),
            (")", Token::Close),
        ];
        for (sign, token) in SIGNS {
            if let Some(rest) = self.rest.strip_prefix(sign) {
                self.rest = rest;
                if *sign == "\n" {
                    self.skip_heredocs();
                }
                return Some(token.clone());
            }
        }
        if self.rest.is_empty() { None } else { Some(Token::Word(self.word())) }
    }

    fn skip_past(&mut self, end: &str) {
        self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
    }

    fn skip_heredocs(&mut self) {
        for end in std::mem::take(&mut self.ends) {
            let mut line = "";
            while line.trim_start_matches('\t') != end && !self.rest.is_empty() {
                (line, self.rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            }
        }
    }

    fn word(&mut self) -> Word {
        let mut word = Word::default();
        let mut chars = self.rest.char_indices();
        // The quote that is open.
        let mut quote = None;
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some('\''), c) => word.text.push(c),
                (None, '\'' | '"') => quote = Some(c),
                (_, '\\') => match chars.next() {
                    Some((_, '\n')) | None => {}
                    Some((_, c)) => word.text.push(c),
                },
                (None, ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')') => {
                    end = at;
                    break;
                }
                // Relative paths begin there, wherever the commands before have gone.
                (_, '$') if word.text.is_empty() && names_cwd(&self.rest[at..]).is_some() => {
                    let name = names_cwd(&self.rest[at..]).unwrap_or_default();
                    chars.by_ref().nth(name.len() - 2);
                }
                (_, c) => {
                    let is_first = word.text.is_empty();
                    let replaced = matches!(c, '$' | '`')
                        || quote.is_none() && (matches!(c, '*' | '?' | '[' | '{') || c == '~' && is_first);
                    word.expands |= replaced;
                    word.text.push(c);
                }
            }
        }
        self.rest = &self.rest[end..];
        word
    }
}

/// The variable of the working directory and the slash behind it, if a text begins so.
fn names_cwd(text: &str) -> Option<&'static str> {
    ["$PWD/", "${PWD}/"].into_iter().find(|name| text.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(command: &str) -> Vec<String> {
        targets(command).into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn redirections_are_found_and_descriptors_inputs_and_heredocs_are_not() {
        assert_eq!(found("echo hi > a.txt"), ["a.txt"]);
        assert_eq!(found("echo hi>>'b c.txt' 2>&1"), ["b c.txt"]);
        assert_eq!(found("make 2>err.log >out.log </dev/null"), ["err.log", "out.log"]);
        assert_eq!(found("make &> all.log; true >| c"), ["all.log", "c"]);
        assert_eq!(found("cat <<EOF > d\nnot > this\nEOF\necho x > e"), ["d", "e"]);
        assert_eq!(found("cat <<'A' <<B > d\n> 1\nA\n> 2\nB\n: > e"), ["d", "e"]);
        assert_eq!(found("[ 3 -gt 2 ] && echo '> no' \"> no\" \\> no # > no"), [""; 0]);
        assert_eq!(found("wc -l < in 3<&0 >&2"), [""; 0]);
        assert_eq!(found("[[ $a > b && x < y ]] && echo > c; [[ a > b"), ["c"]);
    }

    #[test]
    fn what_the_shell_would_replace_is_not_guessed() {
        assert_eq!(found("echo x > \"$HOME/a\"; rm *.o; touch ~/b {c,d} `e` '$f'"), ["$f"]);
        assert_eq!(found("cd \"$D\" && echo > rel && echo > /abs"), ["/abs"]);
        assert_eq!(
            found("cd d; echo > \"$PWD/a\" 2>${PWD}/b; echo > '$PWD/c' >$PWD; echo > x$PWD/d"),
            ["d/a", "d/b", "d/$PWD/c"]
        );
    }

    #[test]
    fn the_usual_commands_are_known_by_what_they_write() {
        assert_eq!(found("ls | sudo tee -a a b | cat"), ["a", "b"]);
        assert_eq!(found("sed -i 's/x/y/' a b"), ["a", "b"]);
        assert_eq!(found("sed -i.bak -e s/x/y/ a"), ["a"]);
        assert_eq!(found("sed -n p a"), [""; 0]);
        assert_eq!(found("mv a b"), ["a", "b"]);
        assert_eq!(found("mv a b dir/"), ["a", "b", "dir/a", "dir/b"]);
        assert_eq!(found("cp -r x/a b"), ["b"]);
        assert_eq!(found("cp -t dir x/a"), ["dir/a"]);
        assert_eq!(found("rm -rf -- -odd dir"), ["-odd", "dir"]);
        assert_eq!(found("dd if=a of=b bs=1M"), ["b"]);
        assert_eq!(found("truncate -s 0 log"), ["log"]);
        assert_eq!(found("FOO=1 env BAR=2 touch a"), ["a"]);
        assert_eq!(found("echo rm a"), [""; 0]);
        assert_eq!(found("cd d; bash -lc 'echo > a; cd e && rm b' x > c"), ["d/c", "d/a", "d/e/b"]);
        assert_eq!(found("sh -c \"echo > $X; echo > \\$Y; echo > a\"; sh script > b"), ["a", "b"]);
    }

    #[test]
    fn only_a_command_that_takes_the_place_of_the_shell_does() {
        for command in ["exec a", "cd x && exec a", "if b; then X=1 exec a; fi", "(exec a)", "a | exec b"] {
            assert!(replaces_itself(command), "{command}");
        }
        for command in ["docker exec a", "find . -exec a", "echo exec", "a '; exec b'", "# exec a", "sh -c 'exec a'"] {
            assert!(!replaces_itself(command), "{command}");
        }
    }

    #[test]
    fn directories_are_followed_and_brackets_end_them() {
        assert_eq!(found("cd src && echo > a"), ["src/a"]);
        assert_eq!(found("(cd src; echo > a); echo > b"), ["src/a", "b"]);
        assert_eq!(found("cd /tmp\ncd x\n: > a"), ["/tmp/x/a"]);
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        for text in ["", ">", "<<", "'", "\"", "\\", "a >", "((((", "))))", "<<E\n", "$(", "`", "é > ü", "1>", "\u{0}"]
        {
            targets(text);
        }
        assert_eq!(found("é > ü"), ["ü"]);
    }
}
