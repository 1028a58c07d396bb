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
use rustix::fs::{OFlags, fstat, lstat};
use std::collections::BTreeSet;
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

    /// This agent is going to run a command, whose shell may be known by any of these texts. Nothing is noted where
    /// nothing was [made](Commands::make).
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn begins(&self, agent: &Agent, texts: &[&str]) -> io::Result<()> {
        self.note(agent, texts.iter().map(|text| What::Begins(digest(text))))
    }

    /// The command has ended, or goes on in the background.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn ended(&self, agent: &Agent, texts: &[&str]) -> io::Result<()> {
        self.note(agent, texts.iter().map(|text| What::Ends(digest(text))))
    }

    /// None of them begins any more: those that were never heard of again did not run.
    ///
    /// # Errors
    /// What the file system says, as a sentence.
    pub fn all_ended(&self, agent: &Agent, of: Of) -> io::Result<()> {
        self.note(agent, std::iter::once(What::AllEnd(of)))
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

    /// Whether any command is noted.
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
        for path in [&self.older, &self.path] {
            let read = OpenOptions::new().read(true).custom_flags(FLAGS).open(path).and_then(regular);
            match read.and_then(|mut file| file.read_to_end(&mut bytes)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.failed(error)),
                _ => {}
            }
        }
        Ok(run_by(&spans(&bytes), chain, others))
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
    /// The command of this digest.
    Begins(String),
    Ends(String),
    AllEnd(Of),
}

impl Note {
    /// On a line of its own, also behind the piece of one that a full disk let through.
    fn line(&self) -> String {
        let Note { what, at, agent } = self;
        match what {
            What::Begins(digest) => format!("\nbegins {at} {agent} {digest}\n"),
            What::Ends(digest) => format!("\nends {at} {agent} {digest}\n"),
            What::AllEnd(Of::Agent) => format!("\nend {at} {agent}\n"),
            What::AllEnd(Of::Family) => format!("\nend-family {at} {agent}\n"),
        }
    }

    /// None for what is no note.
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
    fn has(&self, start: u64) -> bool {
        self.from <= start && self.to.is_none_or(|to| start <= to) || planted(Bug::TextTellsAll)
    }
}

fn spans(bytes: &[u8]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for Note { what, at, agent } in String::from_utf8_lossy(bytes).lines().filter_map(Note::read) {
        let open = spans.iter_mut().filter(|span| span.to.is_none());
        match what {
            // Of two alike of one agent the later is there for both: the earlier may have been forbidden.
            What::Begins(digest) => {
                open.filter(|span| span.digest == digest && span.agent == agent).for_each(|span| span.to = Some(at));
                spans.push(Span { digest, agent, from: at, to: None });
            }
            What::Ends(digest) => {
                open.filter(|span| span.digest == digest && span.agent == agent).for_each(|span| span.to = Some(at));
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
    let agents = |shells: &[Shell], is_its: &dyn Fn(&Span, &Shell) -> bool| {
        let of = |shell: &Shell| -> BTreeSet<Agent> {
            spans.iter().filter(|span| is_its(span, shell)).map(|span| span.agent.clone()).collect()
        };
        shells.iter().map(of).find(|agents| !agents.is_empty()).unwrap_or_default()
    };
    // Two agents may run the same text one after the other: then the start tells.
    let found = agents(&chain.shells, &|span, shell| shell.runs(span) && span.has(shell.start));
    if !found.is_empty() || chain.origin == Origin::Below {
        return found;
    }
    let shells = match chain.origin {
        Origin::Left => {
            // A part of a shell begins later than that.
            let found = agents(&chain.shells, &|span, shell| shell.runs(span) && span.from <= shell.start);
            if !found.is_empty() {
                return found;
            }
            &chain.shells[..]
        }
        _ => &chain.shells[..chain.shells.len().min(1)],
    };
    // No text tells. It began while some command could; what another shell runs now is not that command.
    let others = others();
    let runs_elsewhere = |span: &Span| others.iter().any(|other| other.runs(span) && span.has(other.start));
    let counts = |span: &Span| !runs_elsewhere(span) || planted(Bug::OthersCommandCounts);
    agents(shells, &|span, shell| span.has(shell.start) && counts(span))
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
        let chain = Chain { shells: shells.to_vec(), origin: Origin::Below };
        run_by(spans, &chain, || unreachable!("nothing was left behind")).iter().map(Agent::to_string).collect()
    }

    fn left(spans: &[Span], shells: &[Shell], others: &[Shell]) -> Vec<String> {
        let chain = Chain { shells: shells.to_vec(), origin: Origin::Left };
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
    fn a_command_whose_text_was_changed_is_of_whoever_had_one_then_that_does_not_run_elsewhere() {
        let spans = [span("a", "sleep", 1, None), span("a/x", "make 2>nul", 10, None)];
        let changed = |origin, others: &[Shell]| {
            let chain = Chain { shells: vec![shell(11, "make 2>/dev/null"), shell(50, "flockd")], origin };
            run_by(&spans, &chain, || others.to_vec()).iter().map(Agent::to_string).collect::<Vec<_>>()
        };
        assert_eq!(changed(Origin::Command, &[shell(1, "sleep")]), ["a/x"]);
        assert_eq!(changed(Origin::Command, &[]), ["a", "a/x"]);
        assert_eq!(
            changed(Origin::Command, &[shell(1, "sleep"), shell(12, "make 2>nul")]),
            [""; 0],
            "typed by a person"
        );
        assert_eq!(changed(Origin::Below, &[shell(1, "sleep")]), [""; 0]);
    }

    #[test]
    fn notes_are_kept_in_order_until_there_are_too_many_and_odd_lines_are_no_notes() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = Commands::of(&home, &agent("a")).unwrap();
        commands.begins(&agent("a"), &["never made"]).unwrap();
        assert!(!commands.are_noted());
        commands.make(&home).unwrap();
        for number in 0..3_000 {
            commands.begins(&agent("a/x"), &[&format!("make {number}")]).unwrap();
            commands.ended(&agent("a/x"), &[&format!("make {number}")]).unwrap();
        }
        commands.begins(&agent("a/x"), &["open", "exec"]).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&commands.path)
            .unwrap()
            .write_all(b"begins 1 a\n\xff\nends\nbegins 1")
            .unwrap();
        commands.begins(&agent("a"), &["own"]).unwrap();
        for path in [&commands.path, &commands.older] {
            let length = std::fs::metadata(path).unwrap().len();
            assert!(length < limits::COMMANDS_BYTES + 1_000, "{length}");
        }
        let chain = |text: &str| Chain { shells: vec![shell(clock::boot_ticks(), text)], origin: Origin::Below };
        let by = |text: &str| commands.run_by(&chain(text), Vec::new).unwrap();
        assert_eq!([by("open"), by("exec"), by("own")], ["a/x", "a/x", "a"].map(|name| [agent(name)].into()));
        commands.all_ended(&agent("a"), Of::Family).unwrap();
        let notes = [&commands.older, &commands.path].map(|path| std::fs::read(path).unwrap()).concat();
        let spans = spans(&notes);
        assert!(spans.iter().all(|span| span.to.is_some()), "{spans:?}");
        let last: Vec<&str> = spans[spans.len() - 4..].iter().map(|span| span.digest.as_str()).collect();
        assert_eq!(last, ["make 2999", "open", "exec", "own"].map(digest));
    }

    #[test]
    fn many_who_note_at_once_lose_nothing_while_files_are_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = Commands::of(&home, &agent("a")).unwrap();
        commands.make(&home).unwrap();
        // As many as two files hold at most and at least: one is put aside, and the other not yet.
        let each = usize::try_from(limits::COMMANDS_BYTES).unwrap() * 3 / 2 / 60 / 8;
        std::thread::scope(|scope| {
            for name in 0..8 {
                let (commands, agent) = (&commands, agent(&format!("a/{name}")));
                scope.spawn(move || (0..each).for_each(|n| commands.begins(&agent, &[&n.to_string()]).unwrap()));
            }
        });
        let notes = [&commands.older, &commands.path].map(|path| std::fs::read(path).unwrap()).concat();
        assert_eq!(spans(&notes).len(), 8 * each);
    }

    #[test]
    fn what_is_no_file_is_an_error_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = Commands::of(&home, &agent("a")).unwrap();
        commands.make(&home).unwrap();
        std::fs::remove_file(&commands.path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &commands.path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        let chain = Chain { shells: Vec::new(), origin: Origin::Below };
        assert!(commands.begins(&agent("a"), &["make"]).is_err());
        assert!(commands.run_by(&chain, Vec::new).is_err());
    }

    #[test]
    fn a_new_family_sweeps_out_what_is_of_another_boot() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let commands = |name: &str| Commands::of(&home, &agent(name)).unwrap();
        commands("a").make(&home).unwrap();
        let old = commands("a").dir.join("another-boot");
        std::fs::write(&old, "").unwrap();
        commands("a").begins(&agent("a"), &["make"]).unwrap();
        commands("a").make(&home).unwrap();
        assert!(old.exists(), "once in a session is enough");
        commands("b").make(&home).unwrap();
        assert!(!old.exists() && commands("a").are_noted() && commands("b").are_noted());
    }

    #[test]
    fn of_many_families_the_longest_silent_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let begins = |name: &str| {
            let commands = Commands::of(&home, &agent(name)).unwrap();
            commands.make(&home).unwrap();
            commands.begins(&agent(name), &["make"]).unwrap();
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
        assert!(first.are_noted() && !second.are_noted());
        assert_eq!(std::fs::read_dir(&first.dir).unwrap().count(), limits::COMMANDS_FILES);
    }
}
