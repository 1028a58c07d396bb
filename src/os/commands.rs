//! Which agent of a family runs which shell command: notes in the home, made before a command begins and when it ends.
//!
//! A program that runs several agents may tell its shells of the first alone, and who really acts to its hooks only.
//! So the hooks note each command here, and whoever is called in it looks for the shell above by its text and start.
//! The notes are files and not the daemon's memory, because they must be there before a daemon runs, and after it was
//! started anew in the middle of a command.

use super::home::Home;
use crate::clock;
use crate::limits;
use crate::model::Agent;
use crate::planted::{Bug, planted};
use fs4::FileExt;
use rustix::fs::{fstat, lstat};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// The notes on an agent's commands and on those of all below it.
pub struct Commands {
    dir: PathBuf,
    path: PathBuf,
    /// How the names of this boot's files begin: moments and processes of another mean nothing now.
    boot: String,
}

/// Stands for the text of a shell that has put another program in its place, and has none any more.
pub const EXEC: &str = "exec";

/// A process that may be the shell of a command, or be started by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// When it began, in clock ticks since boot.
    start: u64,
    /// Of what it may have been told to run.
    digests: Vec<String>,
}

impl Shell {
    /// One that began then, and may have been told one of these.
    pub fn new(start: u64, texts: &[String]) -> Shell {
        Shell { start, digests: texts.iter().map(|text| digest(text)).collect() }
    }

    fn runs(&self, span: &Span) -> bool {
        self.digests.contains(&span.digest)
    }
}

/// A process with those above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Outermost first.
    pub shells: Vec<Shell>,
    /// The program that started them is not above them any more: a command that has ended may have left them behind.
    pub is_left: bool,
}

/// Whose commands end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// An agent's own.
    Agent,
    /// Also those of all below it.
    Family,
}

impl Commands {
    /// Those of this agent and all below it; nothing is read or made yet.
    ///
    /// # Errors
    /// The system does not tell which boot this is.
    pub fn of(home: &Home, family: &Agent) -> io::Result<Commands> {
        let boot = format!("{:08x}-", clock::boot_id()? as u32);
        let dir = home.commands();
        let name = digest(family.as_str());
        Ok(Commands { path: dir.join(format!("{boot}{name}")), dir, boot })
    }

    /// This agent is going to run a command.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn begins(&self, home: &Home, agent: &Agent, text: &str) -> io::Result<()> {
        home.ensure()?;
        match std::fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(self.failed(error)),
            _ => {}
        }
        let at = clock::boot_ticks();
        for text in texts(text) {
            let note = Note { what: What::Begins(digest(text)), at, agent: agent.clone() };
            let before = self.add(&note, true).map_err(|error| self.failed(error))?;
            if before == 0 {
                self.sweep();
            }
            if before > limits::COMMANDS_BYTES {
                self.shrink().map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// The command has ended, or goes on in the background.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn ended(&self, agent: &Agent, text: &str) -> io::Result<()> {
        texts(text).try_for_each(|text| self.end(What::Ends(digest(text)), agent))
    }

    /// None of them begins any more: those that were never heard of again did not run.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn all_ended(&self, agent: &Agent, of: Of) -> io::Result<()> {
        self.end(What::AllEnd(of), agent)
    }

    fn end(&self, what: What, agent: &Agent) -> io::Result<()> {
        match self.add(&Note { what, at: clock::boot_ticks(), agent: agent.clone() }, false) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Whether there are any.
    pub fn are_noted(&self) -> bool {
        self.path.exists()
    }

    /// Who runs the command that a process is part of; none if none is that was noted, several if they run the same
    /// one at once, or if it can have been left behind by several. `others` are the shells that run now.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn run_by(&self, chain: &Chain, others: impl FnOnce() -> Vec<Shell>) -> io::Result<BTreeSet<Agent>> {
        let mut bytes = Vec::new();
        match File::open(&self.path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(run_by(&spans(&bytes), chain, others)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Adds a note; answers with how long the file was before. One write, so that notes do not mix; the shared lock
    /// keeps it out of a file that is being replaced.
    fn add(&self, note: &Note, create: bool) -> io::Result<u64> {
        loop {
            let mut file = OpenOptions::new().append(true).create(create).mode(0o600).open(&self.path)?;
            FileExt::lock_shared(&file)?;
            if self.is_in_place(&file)? {
                let length = file.metadata()?.len();
                file.write_all(note.line().as_bytes())?;
                return Ok(length);
            }
        }
    }

    fn is_in_place(&self, file: &File) -> io::Result<bool> {
        let there = match lstat(&self.path) {
            Ok(there) => there,
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let own = fstat(file)?;
        Ok((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino))
    }

    /// Forgets the oldest, by a new file in the place of the old one: whoever reads sees one of them whole.
    fn shrink(&self) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        match FileExt::try_lock(&file) {
            Ok(()) if self.is_in_place(&file)? => {}
            // Somebody else is at it, or has done it.
            Ok(()) | Err(fs4::TryLockError::WouldBlock) => return Ok(()),
            Err(fs4::TryLockError::Error(error)) => return Err(error),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let spans = spans(&bytes);
        // Named like the others, or a sweep would take it for another boot's.
        let mut new = tempfile::Builder::new().prefix(&self.boot).tempfile_in(&self.dir)?;
        for span in &spans[spans.len().saturating_sub(limits::COMMANDS_KEPT)..] {
            new.write_all(span.lines().as_bytes())?;
        }
        new.persist(&self.path)?;
        Ok(())
    }

    /// Removes what is of another boot, and where there are many families those who have been silent for longest. What
    /// cannot be removed is no harm.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let (mut of_now, old): (Vec<_>, Vec<_>) = entries
            .flatten()
            .map(|entry| (entry.metadata().and_then(|meta| meta.modified()).ok(), entry.path()))
            .partition(|(_, path)| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&self.boot)));
        of_now.sort();
        let silent = of_now.len().saturating_sub(limits::COMMANDS_FAMILIES);
        for (_, path) in old.iter().chain(&of_now[..silent]) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn failed(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

/// By which a shell with this text may be known.
fn texts(text: &str) -> impl Iterator<Item = &str> {
    let has_exec = text.split(|c: char| !c.is_alphanumeric()).any(|word| word == EXEC);
    std::iter::once(text).chain(has_exec.then_some(EXEC))
}

/// What the file has instead of texts, which may be long and secret.
fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

/// A line of the file.
struct Note {
    what: What,
    /// In clock ticks since boot, as starts of processes are.
    at: u64,
    agent: Agent,
}

enum What {
    /// The command of this digest.
    Begins(String),
    Ends(String),
    AllEnd(Of),
}

impl Note {
    fn line(&self) -> String {
        let Note { what, at, agent } = self;
        match what {
            What::Begins(digest) => format!("begins {at} {agent} {digest}\n"),
            What::Ends(digest) => format!("ends {at} {agent} {digest}\n"),
            What::AllEnd(Of::Agent) => format!("end {at} {agent}\n"),
            What::AllEnd(Of::Family) => format!("end-family {at} {agent}\n"),
        }
    }

    /// None for what is no note, such as the piece that a full disk let through.
    fn read(line: &str) -> Option<Note> {
        let words: Vec<&str> = line.split(' ').collect();
        let (what, at, agent) = match words[..] {
            ["begins", at, agent, digest] => (What::Begins(digest.to_owned()), at, agent),
            ["ends", at, agent, digest] => (What::Ends(digest.to_owned()), at, agent),
            ["end", at, agent] => (What::AllEnd(Of::Agent), at, agent),
            ["end-family", at, agent] => (What::AllEnd(Of::Family), at, agent),
            _ => return None,
        };
        Some(Note { what, at: at.parse().ok()?, agent: Agent::new(agent).ok()? })
    }
}

/// When a command can have begun.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    digest: String,
    agent: Agent,
    from: u64,
    /// None while it was not heard of again.
    to: Option<u64>,
}

impl Span {
    fn lines(&self) -> String {
        let note = |what, at| Note { what, at, agent: self.agent.clone() }.line();
        let end = self.to.map(|at| note(What::Ends(self.digest.clone()), at));
        note(What::Begins(self.digest.clone()), self.from) + &end.unwrap_or_default()
    }

    fn has(&self, start: u64) -> bool {
        self.from <= start && self.to.is_none_or(|to| start <= to) || planted(Bug::TextTellsAll)
    }
}

fn spans(bytes: &[u8]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for Note { what, at, agent } in String::from_utf8_lossy(bytes).lines().filter_map(Note::read) {
        let mut open = spans.iter_mut().filter(|span| span.to.is_none());
        match what {
            What::Begins(digest) => spans.push(Span { digest, agent, from: at, to: None }),
            // Of two alike either may be meant: they are one agent's.
            What::Ends(digest) => {
                if let Some(span) = open.find(|span| span.digest == digest && span.agent == agent) {
                    span.to = Some(at);
                }
            }
            What::AllEnd(of) => {
                let is_meant = |other: &Agent| *other == agent || of == Of::Family && agent.is_above(other);
                open.filter(|span| is_meant(&span.agent)).for_each(|span| span.to = Some(at));
            }
        }
    }
    spans
}

fn run_by(spans: &[Span], chain: &Chain, others: impl FnOnce() -> Vec<Shell>) -> BTreeSet<Agent> {
    let agents = |is_its: &dyn Fn(&Span, &Shell) -> bool| {
        let of = |shell: &Shell| -> BTreeSet<Agent> {
            spans.iter().filter(|span| is_its(span, shell)).map(|span| span.agent.clone()).collect()
        };
        chain.shells.iter().map(of).find(|agents| !agents.is_empty()).unwrap_or_default()
    };
    // Two agents may run the same text one after the other: then the start tells.
    let found = agents(&|span, shell| shell.runs(span) && span.has(shell.start));
    if !found.is_empty() || !chain.is_left {
        return found;
    }
    // A part of a shell begins later than that.
    let found = agents(&|span, shell| shell.runs(span) && span.from <= shell.start);
    if !found.is_empty() {
        return found;
    }
    // Nothing is left of the shell. It was started while its command ran, and that of a shell that still runs did not.
    let others = others();
    let still_runs = |span: &Span| others.iter().any(|other| other.runs(span) && span.has(other.start));
    agents(&|span, shell| span.has(shell.start) && !still_runs(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> Agent {
        Agent::new(name).unwrap()
    }

    fn shell(start: u64, text: &str) -> Shell {
        Shell::new(start, &[text.to_owned()])
    }

    fn span(name: &str, text: &str, from: u64, to: Option<u64>) -> Span {
        Span { digest: digest(text), agent: agent(name), from, to }
    }

    fn names(spans: &[Span], shells: &[Shell]) -> Vec<String> {
        let chain = Chain { shells: shells.to_vec(), is_left: false };
        run_by(spans, &chain, || unreachable!("nothing was left behind")).iter().map(Agent::to_string).collect()
    }

    fn left(spans: &[Span], shells: &[Shell], others: &[Shell]) -> Vec<String> {
        let chain = Chain { shells: shells.to_vec(), is_left: true };
        run_by(spans, &chain, || others.to_vec()).iter().map(Agent::to_string).collect()
    }

    #[test]
    fn a_command_is_that_of_whoever_was_going_to_run_its_text_when_its_shell_began() {
        let spans = [span("a", "make", 10, Some(20)), span("a/x", "make", 30, Some(40)), span("a/y", "ls", 35, None)];
        assert_eq!(names(&spans, &[shell(10, "make")]), ["a"]);
        assert_eq!(names(&spans, &[shell(40, "make")]), ["a/x"]);
        assert_eq!(names(&spans, &[shell(35, "ls")]), ["a/y"]);
        for (start, text) in [(9, "make"), (25, "make"), (41, "make"), (34, "ls"), (35, "make ls")] {
            assert_eq!(names(&spans, &[shell(start, text)]), [""; 0], "{text} at {start}");
        }
    }

    #[test]
    fn several_who_run_the_same_at_once_are_all_named() {
        let spans = [span("a", "make", 10, None), span("a/x", "make", 15, None), span("a/x", "make", 16, None)];
        assert_eq!(names(&spans, &[shell(16, "make")]), ["a", "a/x"]);
        assert_eq!(names(&spans, &[shell(12, "make")]), ["a"]);
    }

    #[test]
    fn the_outermost_shell_counts_and_what_is_in_it_where_that_is_unknown() {
        let spans = [span("a/x", "./all", 10, None), span("a/y", "make", 10, None)];
        assert_eq!(names(&spans, &[shell(10, "./all"), shell(11, "make")]), ["a/x"]);
        assert_eq!(names(&spans, &[shell(10, "sandbox"), shell(11, "make")]), ["a/y"]);
    }

    #[test]
    fn what_is_left_of_a_shell_that_has_ended_is_known_by_its_text() {
        let spans = [span("a/x", "make", 10, Some(11)), span("a", "sleep", 45, None)];
        assert_eq!(left(&spans, &[shell(50, "make")], &[]), ["a/x"]);
        assert_eq!(left(&spans, &[shell(9, "make")], &[]), [""; 0]);
        assert_eq!(names(&spans, &[shell(50, "make")]), [""; 0], "another one, below the program");
    }

    #[test]
    fn what_a_shell_has_left_without_a_trace_is_of_whoever_had_a_command_then_that_does_not_run_any_more() {
        let spans = [span("a", "sleep", 1, None), span("a/x", "./serve &", 10, Some(12)), span("a/y", "ls", 20, None)];
        let (reaper, own) = (shell(0, "init"), shell(11, "./serve"));
        let chain = [reaper.clone(), own.clone(), shell(99, "flockd")];
        assert_eq!(left(&spans, &chain, &[shell(1, "sleep")]), ["a/x"]);
        assert_eq!(left(&spans, &chain, &[]), ["a", "a/x"], "both have ended");
        assert_eq!(left(&spans, &[reaper, shell(15, "flockd")], &[shell(1, "sleep")]), [""; 0]);
        assert_eq!(names(&spans, &chain), [""; 0], "below the program");
    }

    #[test]
    fn notes_are_kept_in_order_until_there_are_too_many_and_odd_lines_are_no_notes() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = Commands::of(&home, &agent("a")).unwrap();
        commands.ended(&agent("a"), "never begun").unwrap();
        assert!(!commands.are_noted());
        for number in 0..3_000 {
            commands.begins(&home, &agent("a/x"), &format!("make {number}")).unwrap();
            commands.ended(&agent("a/x"), &format!("make {number}")).unwrap();
        }
        commands.begins(&home, &agent("a/x"), "open").unwrap();
        commands.begins(&home, &agent("a"), "own").unwrap();
        let length = std::fs::metadata(&commands.path).unwrap().len();
        assert!(length < 2 * limits::COMMANDS_BYTES, "{length}");
        OpenOptions::new().append(true).open(&commands.path).unwrap().write_all(b"begins 1 a\n\xff\nends\n").unwrap();
        let chain = |text: &str| Chain { shells: vec![shell(clock::boot_ticks(), text)], is_left: false };
        let by = |text: &str| commands.run_by(&chain(text), Vec::new).unwrap();
        assert_eq!(by("open"), [agent("a/x")].into());
        commands.all_ended(&agent("a"), Of::Family).unwrap();
        let spans = spans(&std::fs::read(&commands.path).unwrap());
        assert!(spans.iter().all(|span| span.to.is_some()), "{spans:?}");
        let last: Vec<&str> = spans[spans.len() - 3..].iter().map(|span| span.digest.as_str()).collect();
        assert_eq!(last, [digest("make 2999"), digest("open"), digest("own")]);
    }

    #[test]
    fn a_new_family_sweeps_out_what_is_of_another_boot() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = |name: &str| Commands::of(&home, &agent(name)).unwrap();
        commands("a").begins(&home, &agent("a"), "make").unwrap();
        let old = commands("a").dir.join("another-boot");
        std::fs::write(&old, "").unwrap();
        commands("a").begins(&home, &agent("a"), "make").unwrap();
        assert!(old.exists(), "once in a session is enough");
        commands("b").begins(&home, &agent("b"), "make").unwrap();
        assert!(!old.exists() && commands("a").are_noted() && commands("b").are_noted());
    }

    #[test]
    fn of_many_families_the_longest_silent_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let begins = |name: &str| {
            let commands = Commands::of(&home, &agent(name)).unwrap();
            commands.begins(&home, &agent(name), "make").unwrap();
            commands
        };
        let (first, second) = (begins("first"), begins("second"));
        for number in 2..limits::COMMANDS_FAMILIES {
            begins(&format!("a{number}"));
        }
        // Which of two was silent for longer is not told apart within a tick.
        File::open(&second.path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        begins("first");
        begins("last");
        assert!(first.are_noted() && !second.are_noted());
        assert_eq!(std::fs::read_dir(&first.dir).unwrap().count(), limits::COMMANDS_FAMILIES);
    }
}
