//! Which agent of a family runs which shell command: notes in the home, made before a command begins and when it ends.
//!
//! A program that runs several agents may tell its shells of the first alone, and who really acts to its hooks only.
//! So the hooks note each command here, and whoever is called in it looks for the shell above by its text and start.
//! The notes are files and not the daemon's memory, because they must be there before a daemon runs, and after it was
//! started anew in the middle of a command.

use super::home::Home;
use crate::clock;
use crate::limits;
use crate::model::{Agent, Process};
use crate::planted::{Bug, planted};
use fs4::FileExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fstat, inotify, lstat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// The notes on an agent's commands and on those of all below it.
pub struct Commands {
    dir: PathBuf,
    path: PathBuf,
    /// What the file was before there was too much in it.
    older: PathBuf,
    /// How the names of this boot's files begin: moments and processes of another mean nothing now.
    boot: String,
}

/// Stands for the text of a shell that has put another program in its place, and has none any more. No text is that.
pub const EXEC: &str = "\0exec";

/// A command, as hooks hear of it before and after.
pub struct Command {
    /// Of the texts by which its shell may be known.
    digests: Vec<String>,
    /// Of the word that stands for this call of it, or none: others may change the text meanwhile.
    id: String,
}

/// Stands for the digest of no word.
const NONE: &str = "-";

impl Command {
    /// A command whose shell may be known by any of these texts, and the word that stands for this call of it.
    pub fn new(texts: &[&str], id: Option<&str>) -> Command {
        let digests = texts.iter().map(|text| digest(text)).collect();
        Command { digests, id: id.map_or_else(|| NONE.to_owned(), digest) }
    }

    fn is(&self, span: &Span) -> bool {
        if self.id == NONE { self.digests.contains(&span.digest) } else { self.id == span.id }
    }
}

/// A process that may be the shell of a command, or be started by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    process: Process,
    /// The number of the process that began its session of processes.
    session: u32,
    /// Of what it may have been told to run.
    digests: Vec<String>,
}

impl Shell {
    /// One that may have been told one of these.
    pub fn new(process: Process, session: u32, texts: &[String]) -> Shell {
        Shell { process, session, digests: texts.iter().map(|text| digest(text)).collect() }
    }

    /// Whether it may run this command.
    pub fn may_run(&self, command: &Command) -> bool {
        self.digests.iter().any(|digest| command.digests.contains(digest))
    }

    /// Whether its session of processes has a number here: in a namespace of its own what is outside has none.
    fn is_in_sight(&self) -> bool {
        self.session != 0
    }

    fn runs(&self, span: &Span) -> bool {
        self.digests.contains(&span.digest) && span.has(self.process.start)
    }
}

/// A process with those above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Outermost first.
    pub shells: Vec<Shell>,
    /// How the outermost is known to be of a command of the program's.
    pub origin: Origin,
}

/// What says that a process is part of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The program is above it, and starts other things as well: only the text tells.
    Below,
    /// The program is above it and has put a text into its own form of commands, perhaps another than was noted.
    Command,
    /// The program is out of sight: a command that has ended may have left it behind.
    Left,
}

impl Chain {
    /// Whether more may be known soon: what its command has left is noted when that is over, which is about now.
    pub fn may_be_noted(&self) -> bool {
        self.origin == Origin::Left && self.shells.last().is_some_and(Shell::is_in_sight)
    }
}

/// How certain it is which command has left a session of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// No other has.
    Known,
    /// Another's may have, which has ended and whose hook comes yet.
    Possible,
}

/// Whose commands end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
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
        let (dir, name) = (home.commands(), digest(family.as_str()));
        let [path, older] = ["", ".old"].map(|end| dir.join(format!("{boot}{name}{end}")));
        Ok(Commands { dir, path, older, boot })
    }

    /// Makes sure that commands are noted from now on, also those of whoever alone would need no notes.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn make(&self, home: &Home) -> io::Result<()> {
        home.ensure()?;
        match std::fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(self.failed(error)),
            _ => {}
        }
        if self.open(true).and_then(|file| file.metadata()).map_err(|error| self.failed(error))?.len() == 0 {
            self.sweep();
        }
        Ok(())
    }

    /// This agent is going to run a command; `is_given` says that the name of the agent above was given to the program,
    /// and is not that of its session. Nothing is noted where nothing was [made](Commands::make).
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn begins(&self, agent: &Agent, command: &Command, is_given: bool) -> io::Result<()> {
        let Command { digests, id } = command;
        let begins = |digest: &String| What::Begins { digest: digest.clone(), id: id.clone(), is_given };
        self.note(agent, digests.iter().map(begins))
    }

    /// The command has ended, or goes on in the background: what is left of it is in these sessions of processes.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn ended(&self, agent: &Agent, command: &Command, left: &BTreeMap<u32, Certainty>) -> io::Result<()> {
        let Command { digests, id } = command;
        let ends = digests.iter().map(|digest| What::Ends { digest: digest.clone(), id: id.clone() });
        let left = left.iter().map(|(session, certainty)| match certainty {
            Certainty::Known => What::Left(*session),
            Certainty::Possible => What::MayBeLeft(*session),
        });
        self.note(agent, left.chain(ends))
    }

    /// None of them begins any more: those that were never heard of again did not run.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn all_ended(&self, agent: &Agent, whose: Whose) -> io::Result<()> {
        self.note(agent, std::iter::once(What::AllEnd(whose)))
    }

    /// Adds them by one write, so that notes do not mix.
    fn note(&self, agent: &Agent, what: impl Iterator<Item = What>) -> io::Result<()> {
        let at = clock::boot_ticks();
        let lines: String = what.map(|what| Note { what, at, agent: agent.clone() }.line()).collect();
        let added = self.open(false).and_then(|mut file| {
            file.write_all(lines.as_bytes())?;
            if file.metadata()?.len() > limits::COMMANDS_BYTES { self.put_aside(&file) } else { Ok(()) }
        });
        match added {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    /// Waits for nobody, whatever stands in the place of the file.
    fn open(&self, create: bool) -> io::Result<File> {
        let open = |create| {
            let mut options = OpenOptions::new();
            regular(options.append(true).create(create).mode(0o600).custom_flags(FLAGS).open(&self.path)?)
        };
        match open(create) {
            // It was there and has been put aside just now.
            Err(error) if error.kind() == ErrorKind::NotFound && self.older.exists() => open(true),
            opened => opened,
        }
    }

    /// Makes the file the older one, in whose place nobody looks any more. Of several who find it too long one does,
    /// since the lock and the place are of the same file; and whoever adds to it meanwhile is read all the same.
    fn put_aside(&self, file: &File) -> io::Result<()> {
        match FileExt::try_lock(file) {
            Ok(()) if self.is_in_place(file)? => std::fs::rename(&self.path, &self.older),
            Ok(()) | Err(fs4::TryLockError::WouldBlock) => return Ok(()),
            Err(fs4::TryLockError::Error(error)) => return Err(error),
        }?;
        self.open(true).map(drop)
    }

    /// All that is noted; none where nothing was [made](Commands::make).
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn read(&self) -> io::Result<Option<Notes>> {
        let open = |path| match OpenOptions::new().read(true).custom_flags(FLAGS).open(path).and_then(regular) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // What is wrong with a home is said by whoever needs it.
            Err(_) if self.dir.parent().is_none_or(|home| Home::at(home).check().is_err()) => Ok(None),
            file => file.map(Some).map_err(|error| self.failed(error)),
        };
        // In this order, what is put aside meanwhile is read once or twice, and what is read twice changes nothing.
        let (now, older) = (open(&self.path)?, open(&self.older)?);
        if now.is_none() && older.is_none() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for mut file in [older, now].into_iter().flatten() {
            file.read_to_end(&mut bytes).map_err(|error| self.failed(error))?;
        }
        Ok(Some(Notes::of(&bytes)))
    }

    /// Reads the notes again each time that something is noted, until they say what is wanted, nothing is noted at all
    /// or this time, in milliseconds, is over. Where the system can tell nobody of changes, it reads them once.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn read_until(&self, within: u64, is_wanted: impl Fn(&Notes) -> bool) -> io::Result<Option<Notes>> {
        let until = clock::monotonic_ns() + within * 1_000_000;
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_FROM;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let watch = watch.and_then(|watch| inotify::add_watch(&watch, &self.dir, what).map(|_| watch));
        let Ok(watch) = watch else { return self.read() };
        loop {
            // After it is watched, so that nothing is noted unseen.
            let notes = self.read()?;
            let left = until.saturating_sub(clock::monotonic_ns());
            if left == 0 || notes.as_ref().is_none_or(&is_wanted) {
                return Ok(notes);
            }
            let left = Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
            match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            while rustix::io::read(&watch, &mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {}
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

    /// Removes what is of another boot, and where there are many families those who have been silent for longest. What
    /// cannot be removed is no harm.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let (mut of_now, old): (Vec<_>, Vec<_>) = entries
            .flatten()
            .map(|entry| (entry.metadata().and_then(|meta| meta.modified()).ok(), entry.path()))
            .partition(|(_, path)| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&self.boot)));
        of_now.sort();
        let silent = of_now.len().saturating_sub(limits::COMMANDS_FILES);
        for (_, path) in old.iter().chain(&of_now[..silent]) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn failed(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

/// A link is nobody's notes, and a pipe would be waited for.
const FLAGS: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("this is no file")),
    }
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
    Begins {
        digest: String,
        id: String,
        is_given: bool,
    },
    Ends {
        digest: String,
        id: String,
    },
    AllEnd(Whose),
    Left(u32),
    /// This or another command.
    MayBeLeft(u32),
}

impl Note {
    /// On a line of its own, also behind the piece of one that a full disk let through.
    fn line(&self) -> String {
        let Note { what, at, agent } = self;
        match what {
            What::Begins { digest, id, is_given: false } => format!("\nbegins {at} {agent} {digest} {id}\n"),
            What::Begins { digest, id, is_given: true } => format!("\nbegins {at} {agent} {digest} {id} given\n"),
            What::Ends { digest, id } => format!("\nends {at} {agent} {digest} {id}\n"),
            What::AllEnd(Whose::Agent) => format!("\nend {at} {agent}\n"),
            What::AllEnd(Whose::Family) => format!("\nend-family {at} {agent}\n"),
            What::Left(session) => format!("\nleft {at} {agent} {session}\n"),
            What::MayBeLeft(session) => format!("\nmaybe-left {at} {agent} {session}\n"),
        }
    }

    /// None for what is no note.
    fn read(line: &str) -> Option<Note> {
        let words: Vec<&str> = line.split(' ').collect();
        let begins = |digest: &str, id: &str, is_given| What::Begins { digest: digest.into(), id: id.into(), is_given };
        let (what, at, agent) = match words[..] {
            ["begins", at, agent, digest, id] => (begins(digest, id, false), at, agent),
            ["begins", at, agent, digest, id, "given"] => (begins(digest, id, true), at, agent),
            ["ends", at, agent, digest, id] => (What::Ends { digest: digest.into(), id: id.into() }, at, agent),
            ["end", at, agent] => (What::AllEnd(Whose::Agent), at, agent),
            ["end-family", at, agent] => (What::AllEnd(Whose::Family), at, agent),
            ["left", at, agent, session] => (What::Left(session.parse().ok()?), at, agent),
            ["maybe-left", at, agent, session] => (What::MayBeLeft(session.parse().ok()?), at, agent),
            _ => return None,
        };
        Some(Note { what, at: at.parse().ok()?, agent: Agent::new(agent).ok()? })
    }
}

/// When a command can have begun.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    digest: String,
    id: String,
    agent: Agent,
    from: u64,
    /// None while it was not heard of again.
    to: Option<u64>,
}

impl Span {
    fn has(&self, start: u64) -> bool {
        self.from <= start && self.to.is_none_or(|to| start <= to) || planted(Bug::TextTellsAll)
    }
}

/// What is noted of a family's commands.
#[derive(Debug, Default)]
pub struct Notes {
    spans: Vec<Span>,
    /// Whose is what commands have left in a session of processes, and when that was noted.
    left: BTreeMap<u32, (u64, Agent)>,
    /// By whom a session may have been left of which that is not certain.
    may_be_left: BTreeMap<u32, BTreeSet<Agent>>,
    is_given: bool,
}

impl Notes {
    fn of(bytes: &[u8]) -> Notes {
        let mut notes = Notes::default();
        for note in String::from_utf8_lossy(bytes).lines().filter_map(Note::read) {
            notes.add(note);
        }
        notes
    }

    fn add(&mut self, Note { what, at, agent }: Note) {
        let open = self.spans.iter_mut().filter(|span| span.to.is_none());
        match what {
            What::Begins { digest, id, is_given } => {
                // Of two alike the later is there for both. And who runs something else has begun what it was to run a
                // while before, or was not allowed to.
                let is_over = |span: &Span| span.digest == digest || span.from + limits::COMMAND_BEGINS_WITHIN < at;
                open.filter(|span| span.agent == agent && is_over(span)).for_each(|span| span.to = Some(at));
                self.spans.push(Span { digest, id, agent, from: at, to: None });
                self.is_given = is_given;
            }
            What::Ends { digest, id } => {
                let command = Command { digests: vec![digest], id };
                open.filter(|span| span.agent == agent && command.is(span)).for_each(|span| span.to = Some(at));
            }
            What::AllEnd(whose) => {
                let is_meant = |other: &Agent| *other == agent || whose == Whose::Family && agent.is_above(other);
                open.filter(|span| is_meant(&span.agent)).for_each(|span| span.to = Some(at));
            }
            What::Left(session) => {
                // One that is noted again is another with the same number.
                self.left.insert(session, (at, agent));
            }
            What::MayBeLeft(session) => {
                self.may_be_left.entry(session).or_default().insert(agent);
            }
        }
    }

    /// Whether the name of the agent above was given to its program.
    pub fn is_given(&self) -> bool {
        self.is_given
    }

    /// When this agent was going to begin a command.
    pub fn since(&self, agent: &Agent, command: &Command) -> Option<u64> {
        let its = self.spans.iter().filter(|span| span.agent == *agent && command.is(span));
        its.map(|span| span.from).max()
    }

    /// How certain it is that this agent's command has left a session whose process began then.
    pub fn certainty(&self, agent: &Agent, session: u32, start: u64, now: u64, others: &[Shell]) -> Certainty {
        let is_just_over = |span: &&Span| span.agent != *agent && self.is_young(span, now) && !runs_now(span, others);
        let may_be_anothers = self.spans.iter().filter(is_just_over).any(|span| span.has(start));
        let is_claimed = self.may_be_left.get(&session).is_some_and(|agents| agents.iter().any(|other| other != agent));
        if may_be_anothers || is_claimed { Certainty::Possible } else { Certainty::Known }
    }

    /// A command that is not heard of again for longer is seen to run, or was not allowed to.
    fn is_young(&self, span: &Span, now: u64) -> bool {
        span.to.is_none() && now.saturating_sub(span.from) <= limits::COMMAND_BEGINS_WITHIN
    }

    /// Whose a session of processes is, if that is noted; `leader` is when its first process began, if that is there.
    pub fn whose(&self, session: u32, leader: Option<u64>) -> Option<&Agent> {
        let (at, agent) = self.left.get(&session)?;
        // One that began later has only the same number.
        leader.is_none_or(|start| start <= *at).then_some(agent)
    }

    /// Who runs the command that a process is part of; none if none is that was noted, several if they may all be
    /// meant. `others` are the first shells of the commands that run now.
    pub fn run_by(&self, chain: &Chain, others: impl FnOnce() -> Vec<Shell>) -> BTreeSet<Agent> {
        let left = || {
            let leader = |shell: &Shell| (shell.process.pid == shell.session).then_some(shell.process.start);
            let of = |shell: &Shell| self.whose(shell.session, leader(shell));
            let agent = chain.shells.iter().find_map(of).filter(|_| !planted(Bug::LeftIsForgotten));
            agent.map(|agent| BTreeSet::from([agent.clone()]))
        };
        if chain.origin == Origin::Left
            && let Some(agent) = left()
        {
            return agent;
        }
        // Two agents may run the same text one after the other: then the start tells. What was left behind may run a
        // text that another's shell was told as well, unless it is itself the first shell.
        let is_first = |it: &Shell| chain.origin != Origin::Left || it.process.pid == it.session || !it.is_in_sight();
        let found = self.agents(&chain.shells, &|span, shell| is_first(shell) && shell.runs(span));
        if !found.is_empty() {
            return found;
        }
        if let Some(agent) = left() {
            return agent;
        }
        // No text tells, and it was not yet noted what its command has left. So that command is not heard of again
        // yet, and no other shell is seen to run it. A shell begins soon after its hook, whatever it leaves later.
        let (shells, within) = match chain.origin {
            Origin::Below => return BTreeSet::new(),
            Origin::Command => (&chain.shells[..chain.shells.len().min(1)], limits::COMMAND_BEGINS_WITHIN),
            Origin::Left => (&chain.shells[..], u64::MAX),
        };
        let (others, now) = (others(), clock::boot_ticks());
        let possible: BTreeSet<Agent> =
            shells.iter().filter_map(|shell| self.may_be_left.get(&shell.session)).flatten().cloned().collect();
        let counts = |span: &Span| {
            let is_known = possible.is_empty() || self.is_young(span, now);
            is_known && !runs_now(span, &others)
        };
        let may_be = |span: &Span, shell: &Shell| {
            let start = shell.process.start;
            span.to.is_none() && span.has(start) && start.saturating_sub(span.from) <= within && counts(span)
        };
        possible.union(&self.agents(shells, &may_be)).cloned().collect()
    }

    /// Whose span it is that belongs to the outermost of these to which any does.
    fn agents(&self, shells: &[Shell], is_its: &dyn Fn(&Span, &Shell) -> bool) -> BTreeSet<Agent> {
        let of = |shell: &Shell| -> BTreeSet<Agent> {
            self.spans.iter().filter(|span| is_its(span, shell)).map(|span| span.agent.clone()).collect()
        };
        shells.iter().map(of).find(|agents| !agents.is_empty()).unwrap_or_default()
    }
}

fn runs_now(span: &Span, others: &[Shell]) -> bool {
    others.iter().any(|other| other.runs(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> Agent {
        Agent::new(name).unwrap()
    }

    /// The first shell of a command, or what is in it.
    fn shell(start: u64, text: &str) -> Shell {
        Shell::new(Process { pid: 7, start }, 7, &[text.to_owned()])
    }

    fn part(session: u32, start: u64, text: &str) -> Shell {
        Shell::new(Process { pid: 99, start }, session, &[text.to_owned()])
    }

    fn span(name: &str, text: &str, from: u64, to: Option<u64>) -> Span {
        Span { digest: digest(text), id: NONE.to_owned(), agent: agent(name), from, to }
    }

    fn notes(spans: &[Span]) -> Notes {
        Notes { spans: spans.to_vec(), ..Notes::default() }
    }

    fn told(notes: &Notes, origin: Origin, shells: &[Shell], others: &[Shell]) -> Vec<String> {
        let chain = Chain { shells: shells.to_vec(), origin };
        notes.run_by(&chain, || others.to_vec()).iter().map(Agent::to_string).collect()
    }

    fn names(spans: &[Span], shells: &[Shell]) -> Vec<String> {
        told(&notes(spans), Origin::Below, shells, &[])
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
    fn what_a_command_has_left_is_known_by_its_session_of_processes_whoever_runs_something_then() {
        let spans = [span("a/x", "make", 10, None), span("a", "make", 10, Some(90))];
        let mut notes = notes(&spans);
        notes.add(Note { what: What::Left(8), at: 12, agent: agent("a/y") });
        notes.add(Note { what: What::Left(8), at: 14, agent: agent("a/z") });
        assert_eq!(told(&notes, Origin::Left, &[shell(0, "init"), part(8, 50, "make")], &[]), ["a/z"]);
        assert_eq!(told(&notes, Origin::Below, &[part(8, 11, "none"), part(9, 12, "x")], &[]), ["a/z"]);
        assert_eq!(
            told(&notes, Origin::Below, &[part(9, 11, "make"), part(8, 12, "x")], &[]),
            ["a", "a/x"],
            "in sight"
        );
        let leader = |start| Shell::new(Process { pid: 8, start }, 8, &["none".to_owned()]);
        assert_eq!(told(&notes, Origin::Below, &[leader(14)], &[]), ["a/z"]);
        assert_eq!(told(&notes, Origin::Below, &[leader(15)], &[]), [""; 0], "another with its number");
        assert_eq!(told(&notes, Origin::Left, &[shell(0, "init"), part(6, 50, "make")], &[]), ["a/x"], "by the time");
    }

    #[test]
    fn what_may_have_been_left_by_several_is_of_all_of_them_until_one_is_struck_out() {
        let (now, spans) = (clock::boot_ticks(), [span("a/x", "x", 10, Some(20)), span("a/y", "y", 5, None)]);
        let mut notes = notes(&spans);
        let (x, y) = (agent("a/x"), agent("a/y"));
        assert_eq!(notes.certainty(&x, 8, 11, 30, &[]), Certainty::Possible, "the other's hook may come yet");
        assert_eq!(notes.certainty(&x, 8, 11, 30, &[shell(6, "y")]), Certainty::Known, "it is seen to run");
        assert_eq!(notes.certainty(&x, 8, 11, now, &[]), Certainty::Known, "it would have come");
        assert_eq!(notes.certainty(&y, 8, 11, 30, &[]), Certainty::Known);
        notes.add(Note { what: What::MayBeLeft(8), at: 21, agent: x });
        assert_eq!(notes.certainty(&y, 8, 11, 30, &[]), Certainty::Possible);
        let told = |notes: &Notes| told(notes, Origin::Left, &[part(8, 11, "x")], &[]);
        assert_eq!(told(&notes), ["a/x"], "who has said nothing for so long has left nothing");
        notes.add(Note { what: What::MayBeLeft(8), at: 22, agent: y });
        assert_eq!(told(&notes), ["a/x", "a/y"]);
    }

    #[test]
    fn what_is_not_yet_noted_to_be_left_is_of_whoever_has_a_command_then_that_is_not_seen_to_run() {
        let spans =
            [span("a", "sleep", 1, None), span("a/x", "./serve &", 10, None), span("a/y", "./serve", 10, Some(12))];
        let chain = [part(0, 0, "init"), part(8, 11, "./serve"), part(8, 99, "flockd")];
        let left = |others: &[Shell]| told(&notes(&spans), Origin::Left, &chain, others);
        assert_eq!(left(&[shell(1, "sleep")]), ["a/x"], "though another has run that text");
        assert_eq!(left(&[]), ["a", "a/x"], "both have ended");
        assert_eq!(left(&[shell(1, "sleep"), shell(11, "./serve &")]), [""; 0]);
        assert_eq!(names(&spans[..2], &chain), [""; 0], "below the program");
        assert_eq!(told(&notes(&spans), Origin::Left, &[shell(11, "./serve")], &[]), ["a/y"], "its shell lives");
    }

    #[test]
    fn a_command_whose_text_was_changed_is_of_whoever_was_just_going_to_run_one() {
        let soon = 10 + limits::COMMAND_BEGINS_WITHIN;
        let spans = [span("a", "sleep", 1, None), span("a/x", "make 2>nul", 10, None)];
        let changed = |start, others: &[Shell]| {
            let shells = [shell(start, "make 2>/dev/null"), part(7, 5_000, "flockd")];
            told(&notes(&spans), Origin::Command, &shells, others)
        };
        assert_eq!(changed(soon, &[shell(1, "sleep")]), ["a/x"]);
        assert_eq!(changed(soon + 1, &[shell(1, "sleep")]), [""; 0], "typed by a person, while it may begin");
        assert_eq!(changed(11, &[]), ["a", "a/x"]);
        assert_eq!(changed(11, &[shell(1, "sleep"), shell(12, "make 2>nul")]), [""; 0], "typed while it runs");
        let below = [shell(11, "make 2>/dev/null")];
        assert_eq!(told(&notes(&spans), Origin::Below, &below, &[]), [""; 0]);
    }

    #[test]
    fn a_command_ends_by_its_call_or_by_its_text_or_when_its_agent_has_gone_on() {
        let mut notes = Notes::default();
        let mut add = |what: &str| notes.add(Note::read(what).unwrap());
        add("begins 10 a/x one id1");
        add("begins 11 a/y one id2 given");
        add("ends 12 a/x changed id1");
        add("begins 13 a/x two -");
        add("ends 14 a/x two -");
        add("begins 15 a/x denied id4");
        add("begins 16 a/x three id5");
        add(&format!("begins {} a/x four id6", 16 + limits::COMMAND_BEGINS_WITHIN));
        let open = |notes: &Notes| {
            let open = notes.spans.iter().filter(|span| span.to.is_none());
            open.map(|span| format!("{} {}", span.agent, span.digest)).collect::<Vec<_>>()
        };
        assert_eq!(open(&notes), ["a/y one", "a/x three", "a/x four"]);
        notes.add(Note::read("end-family 900 a").unwrap());
        assert_eq!(open(&notes), [""; 0]);
    }

    #[test]
    fn notes_are_kept_in_order_until_there_are_too_many_and_odd_lines_are_no_notes() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = Commands::of(&home, &agent("a")).unwrap();
        let command = |text: &str| Command::new(&[text], None);
        let nothing = BTreeMap::new();
        commands.begins(&agent("a"), &command("never made"), false).unwrap();
        assert!(commands.read().unwrap().is_none());
        commands.make(&home).unwrap();
        for number in 0..3_000 {
            let command = command(&format!("make {number}"));
            commands.begins(&agent("a/x"), &command, false).unwrap();
            commands.ended(&agent("a/x"), &command, &nothing).unwrap();
        }
        commands.begins(&agent("a/x"), &Command::new(&["open", "exec"], Some("toolu_1 é")), true).unwrap();
        let piece = b"begins 1 a\n\xff\nends\nbegins 1";
        OpenOptions::new().append(true).open(&commands.path).unwrap().write_all(piece).unwrap();
        commands.begins(&agent("a"), &command("own"), true).unwrap();
        for path in [&commands.path, &commands.older] {
            let length = std::fs::metadata(path).unwrap().len();
            assert!(length < limits::COMMANDS_BYTES + 1_000, "{length}");
        }
        let by = |text: &str| {
            let now = Shell::new(Process { pid: 7, start: clock::boot_ticks() }, 7, &[text.to_owned()]);
            let chain = Chain { shells: vec![now], origin: Origin::Below };
            commands.read().unwrap().unwrap().run_by(&chain, Vec::new)
        };
        assert_eq!([by("open"), by("exec"), by("own")], ["a/x", "a/x", "a"].map(|name| [agent(name)].into()));
        assert!(commands.read().unwrap().unwrap().is_given());
        commands
            .ended(
                &agent("a"),
                &command("own"),
                &BTreeMap::from([(70, Certainty::Known), (80, Certainty::Known), (90, Certainty::Possible)]),
            )
            .unwrap();
        commands.all_ended(&agent("a"), Whose::Family).unwrap();
        // Whoever puts aside may be killed at any point.
        std::fs::rename(&commands.path, &commands.older).unwrap();
        let notes = commands.read().unwrap().unwrap();
        assert_eq!([70, 80, 90, 7].map(|session| notes.whose(session, None).is_some()), [true, true, false, false]);
        assert!(notes.spans.iter().all(|span| span.to.is_some()), "{notes:?}");
        let last: Vec<&str> = notes.spans[notes.spans.len() - 4..].iter().map(|span| span.digest.as_str()).collect();
        assert_eq!(last, ["make 2999", "open", "exec", "own"].map(digest));
    }

    #[test]
    fn many_who_note_at_once_lose_nothing_while_files_are_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = Commands::of(&home, &agent("a")).unwrap();
        commands.make(&home).unwrap();
        // More than one file holds, and less than two do.
        let each = usize::try_from(limits::COMMANDS_BYTES).unwrap() * 3 / 2 / 60 / 8;
        std::thread::scope(|scope| {
            for name in 0..8 {
                let (commands, agent) = (&commands, agent(&format!("a/{name}")));
                let begins = move |n: usize| commands.begins(&agent, &Command::new(&[&n.to_string()], None), false);
                scope.spawn(move || (0..each).for_each(|n| begins(n).unwrap()));
            }
        });
        assert_eq!(commands.read().unwrap().unwrap().spans.len(), 8 * each);
    }

    #[test]
    fn what_is_no_file_is_an_error_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = Commands::of(&home, &agent("a")).unwrap();
        commands.make(&home).unwrap();
        std::fs::remove_file(&commands.path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &commands.path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(commands.begins(&agent("a"), &Command::new(&["make"], None), false).is_err());
        assert!(commands.read().is_err());
    }

    #[test]
    fn a_new_family_sweeps_out_what_is_of_another_boot() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = |name: &str| Commands::of(&home, &agent(name)).unwrap();
        commands("a").make(&home).unwrap();
        let old = commands("a").dir.join("another-boot");
        std::fs::write(&old, "").unwrap();
        commands("a").begins(&agent("a"), &Command::new(&["make"], None), false).unwrap();
        commands("a").make(&home).unwrap();
        assert!(old.exists(), "once in a session is enough");
        commands("b").make(&home).unwrap();
        assert!(!old.exists() && commands("a").path.exists() && commands("b").path.exists());
    }

    #[test]
    fn of_many_families_the_longest_silent_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let begins = |name: &str| {
            let commands = Commands::of(&home, &agent(name)).unwrap();
            commands.make(&home).unwrap();
            commands.begins(&agent(name), &Command::new(&["make"], None), false).unwrap();
            commands
        };
        let (first, second) = (begins("first"), begins("second"));
        for number in 2..limits::COMMANDS_FILES {
            begins(&format!("a{number}"));
        }
        // Which of two was silent for longer is not told apart within a tick.
        File::open(&second.path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        begins("first");
        begins("last");
        assert!(first.path.exists() && !second.path.exists());
        assert_eq!(std::fs::read_dir(&first.dir).unwrap().count(), limits::COMMANDS_FILES);
    }
}
