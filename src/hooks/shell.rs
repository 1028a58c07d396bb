//! Which files a shell command writes, and where it calls flockd, as far as its text tells.
//!
//! No text tells it in general: programs write what they like, and names come out of variables. So this reads what is
//! plain (redirections, and the usual commands with literal names) and says nothing about the rest. What it misses is
//! kept out by `flock(2)` at best; what it wrongly finds costs a lock until the end of the turn. Somebody's text is
//! changed only where no doubt is left: a wrong guess there would change what is run.

use std::path::{Path, PathBuf};

/// Words before a command that leave it what it is.
const PREFIXES: &[&str] = &["sudo", "env", "command", "exec", "nohup", "time", "builtin"];

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

/// What a simple command writes by its own doing.
fn written_by(words: &[Word]) -> Vec<PathBuf> {
    let is_prefix = |word: &&Word| PREFIXES.contains(&word.text.as_str()) || is_assignment(&word.text);
    let words = &words[words.iter().take_while(is_prefix).count()..];
    let Some((Some(name), args)) = words.split_first().map(|(name, args)| (name.plain(), args)) else {
        return Vec::new();
    };
    let name = name.rsplit('/').next().unwrap_or(name);
    match name {
        "sh" | "bash" | "dash" | "zsh" | "ksh" => script_of(args),
        "tee" | "rm" | "unlink" | "touch" | "rmdir" | "shred" => plain(&operands(args, &[])),
        "truncate" => plain(&operands(args, &["-s", "--size", "-r", "--reference"])),
        "dd" => args.iter().filter_map(|arg| arg.plain()?.strip_prefix("of=")).map(PathBuf::from).collect(),
        "sed" => edited_in_place(args),
        "mv" => copied(args, true),
        "cp" | "install" | "ln" => copied(args, false),
        _ => Vec::new(),
    }
}

/// What `sh -c SCRIPT` writes. What the outer shell replaces in the script is no plain word of it either.
fn script_of(args: &[Word]) -> Vec<PathBuf> {
    let is_c = |word: &Word| word.text.starts_with('-') && !word.text.starts_with("--") && word.text.ends_with('c');
    let script = args.iter().skip_while(|word| !is_c(word)).find(|word| !word.text.starts_with('-'));
    script.map(|word| targets(&word.text)).unwrap_or_default()
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

// ── Naming ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Our program, as a word of a command.
const PROGRAM: &str = "flockd";

/// Words of the grammar behind which a command begins.
const KEYWORDS: &[&str] = &["if", "then", "elif", "else", "while", "until", "do", "!", "{"];

/// Words that change what the words behind them are.
const DEFINES: &[&str] = &["case", "function", "alias", "select", "coproc"];

/// The command with `--agent=NAME` behind each `flockd` in it that is called as a command and says no name itself. None
/// where there is no such call, or it cannot be told for certain: then nobody touches somebody else's text.
pub(super) fn named(command: &str, agent: &str) -> Option<String> {
    if command.contains("FLOCKD_AGENT") {
        return None;
    }
    let mut found = calls(command)?;
    found.sort_unstable();
    let flag = format!(" --agent={}", super::text::quoted(Path::new(agent)));
    let (mut out, mut done) = (String::new(), 0);
    for end in found {
        out += &command[done..end];
        out += &flag;
        done = end;
    }
    (done > 0).then(|| out + &command[done..])
}

/// A simple command as far as it has been read.
#[derive(Default)]
struct Begun {
    /// What is run has been named.
    is_past_name: bool,
    /// What comes is not for our program, if it is for any.
    is_past_own: bool,
    /// Where the word ends that calls our program.
    call: Option<usize>,
}

impl Begun {
    /// One more word, and where it ends.
    fn read(&mut self, word: &Word, raw: &str, end: usize) {
        let text = word.text.as_str();
        if !self.is_past_name {
            self.is_past_name = !(KEYWORDS.contains(&text) || PREFIXES.contains(&text) || is_assignment(text));
            let is_ours = self.is_past_name && text.rsplit('/').next() == Some(PROGRAM);
            self.call = Some(end).filter(|_| is_ours && word.plain() == Some(raw));
        } else if !self.is_past_own {
            self.is_past_own = text == "--";
            let has_name = text == "--agent" || text.starts_with("--agent=");
            self.call = self.call.filter(|_| !has_name);
        }
    }
}

/// Where the words end that call our program and are to be named. None where quotes, heredocs or brackets might end
/// elsewhere than they seem to, or words mean something else than commands.
fn calls(command: &str) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    let mut tokens = Tokens { rest: command, ends: Vec::new() };
    let (mut now, mut outside) = (Begun::default(), Vec::new());
    // A bracket behind a word makes an array, a function or a pattern of it.
    let mut may_open = true;
    while let Some(token) = tokens.next() {
        let end = command.len() - tokens.rest.len();
        match token {
            Token::Word(word) if word.is_odd || !now.is_past_name && DEFINES.contains(&word.text.as_str()) => {
                return None;
            }
            Token::Word(word) if word.text == "[[" && !now.is_past_name => {
                tokens.skip_past(" ]]");
                now.is_past_name = true;
            }
            Token::Word(word) => {
                let is_keyword = !now.is_past_name && KEYWORDS.contains(&word.text.as_str());
                may_open = is_keyword || word.text.ends_with('$');
                now.read(&word, &command[end - word.len..end], end);
            }
            Token::Out | Token::In { .. } => {
                let Some(Token::Word(name)) = tokens.next().filter(|name| !name.is_odd()) else { return None };
                if matches!(token, Token::In { heredoc: true }) {
                    // Only some heredocs end at an indented word.
                    let is_end = |line: &str| line.starts_with('\t') && line.trim_start_matches('\t') == name.text;
                    if command.lines().any(is_end) {
                        return None;
                    }
                    tokens.ends.push(name.text);
                }
            }
            Token::Open if may_open || command[..end].ends_with(">(") || command[..end].ends_with("<(") => {
                outside.push(std::mem::take(&mut now));
                may_open = true;
            }
            Token::Open => return None,
            Token::Close => {
                found.extend(now.call);
                now = outside.pop()?;
                now.is_past_name = true;
                may_open = false;
            }
            Token::End => {
                found.extend(std::mem::take(&mut now).call);
                may_open = true;
            }
        }
    }
    found.extend(now.call);
    outside.is_empty().then_some(found)
}

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A word, and whether it means what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Word {
    text: String,
    /// Something in it is replaced by the shell.
    expands: bool,
    /// It may end elsewhere than it seems to: something nests in it, or a quote stays open.
    is_odd: bool,
    /// How long it is as it stands there.
    len: usize,
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

impl Token {
    fn is_odd(&self) -> bool {
        matches!(self, Token::Word(word) if word.is_odd)
    }
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
                    word.is_odd |= c == '`' || c == '$' && nests(&self.rest[at + 1..], quote);
                    let is_first = word.text.is_empty();
                    let replaced = matches!(c, '$' | '`')
                        || quote.is_none() && (matches!(c, '*' | '?' | '[' | '{') || c == '~' && is_first);
                    word.expands |= replaced;
                    word.text.push(c);
                }
            }
        }
        self.rest = &self.rest[end..];
        word.is_odd |= quote.is_some();
        word.len = end;
        word
    }
}

/// Whether what stands behind a dollar has quotes or ends of its own. A bracket outside of quotes is a token.
fn nests(behind: &str, quote: Option<char>) -> bool {
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match behind.chars().next() {
        Some('{') => !behind[1..].split_once('}').is_some_and(|(name, _)| is_plain(name)),
        Some('(') => quote.is_some(),
        Some('\'' | '"') => quote.is_none(),
        _ => false,
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
    fn directories_are_followed_and_brackets_end_them() {
        assert_eq!(found("cd src && echo > a"), ["src/a"]);
        assert_eq!(found("(cd src; echo > a); echo > b"), ["src/a", "b"]);
        assert_eq!(found("cd /tmp\ncd x\n: > a"), ["/tmp/x/a"]);
    }

    #[test]
    fn a_call_of_ours_is_named_wherever_it_stands_as_a_command() {
        for (command, expected) in [
            ("flockd lock a", "flockd@ lock a"),
            ("flockd", "flockd@"),
            ("cd d && ./bin/flockd ls;flockd ls", "cd d && ./bin/flockd@ ls;flockd@ ls"),
            (
                "if ! flockd check a >/dev/null 2>&1; then\n  flockd wait a\nfi",
                "if ! flockd@ check a >/dev/null 2>&1; then\n  flockd@ wait a\nfi",
            ),
            ("x=$(flockd ls --json | jq .) ; echo \"$x ${x}\"", "x=$(flockd@ ls --json | jq .) ; echo \"$x ${x}\""),
            ("flockd unlock $(flockd ls) # flockd ls", "flockd@ unlock $(flockd@ ls) # flockd ls"),
            (
                "A=1 exec \\\n flockd run a -- sh -c 'flockd ls' --agent",
                "A=1 exec \\\n flockd@ run a -- sh -c 'flockd ls' --agent",
            ),
            ("cat <<E >a; (flockd ls)\nflockd ls\nE\nflockd ls", "cat <<E >a; (flockd@ ls)\nflockd ls\nE\nflockd@ ls"),
            ("flockd ls --agent=b; flockd ls", "flockd ls --agent=b; flockd@ ls"),
            ("é && flockd ls || [[ a > b && flockd ]]", "é && flockd@ ls || [[ a > b && flockd ]]"),
        ] {
            assert_eq!(named(command, "A/x").as_deref(), Some(&*expected.replace('@', " --agent=A/x")), "{command}");
        }
        assert_eq!(named("flockd ls", "it's").as_deref(), Some("flockd --agent='it'\\''s' ls"));
    }

    #[test]
    fn what_is_no_call_of_ours_or_may_be_none_stays_as_it_is() {
        for command in [
            "echo flockd",
            "command -v flockd; which flockd; 'flockd' ls; my-flockd ls; flockd-x",
            "flockd ls --agent b",
            "flockd lock $(echo a) --agent=b",
            "FLOCKD_AGENT=b flockd ls",
            "export FLOCKD_AGENT=b\nflockd ls",
            "a=(flockd ls)",
            "flockd() { :; }; flockd ls",
            "case x in flockd) flockd ls;; esac",
            "git commit -m \"$(cat <<'E'\nSay \"x\nflockd ls\" now\nE\n)\"",
            "echo `flockd ls`; flockd ls",
            "echo $'\\'' ; flockd ls '",
            "echo \"${x:-\"a}\n flockd ls",
            "echo 'open\nflockd ls",
            "cat <<E\n\tE\nflockd ls\nE",
            "echo $(date) flockd ls",
            "(flockd ls",
            "flockd ls)",
            "",
        ] {
            assert_eq!(named(command, "A/x"), None, "{command}");
        }
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        for text in ["", ">", "<<", "'", "\"", "\\", "a >", "((((", "))))", "<<E\n", "$(", "`", "é > ü", "1>", "\u{0}"]
        {
            targets(text);
            named(text, "A/x");
        }
        assert_eq!(found("é > ü"), ["ü"]);
    }
}
