//! What happens in an agent, in words that all clients share, and what a hook has to say about it.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where in an agent's life something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A tool is about to run.
    BeforeTool,
    /// A tool has run.
    AfterTool,
    /// A session begins, or goes on.
    SessionStart,
    /// A sub-agent begins.
    SubagentStart,
    /// A person has said something.
    TurnStart,
    /// The agent has done what it was told to.
    TurnEnd,
    /// A sub-agent has.
    SubagentEnd,
    /// The session is over.
    SessionEnd,
    /// Nothing that concerns locks.
    Other,
}

/// One call of a hook, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) phase: Phase,
    /// What the client calls it: some answers repeat it.
    pub(super) name: String,
    /// The session, as the client names it; empty if it does not.
    pub(super) session: String,
    /// The program was in another session before.
    pub(super) has_moved: bool,
    /// The sub-agent in it that acts, if one does.
    pub(super) subagent: Option<String>,
    /// No hook is told of that sub-agent's end: it is over when the session's own agent goes on.
    pub(super) ends_untold: bool,
    /// Where the agent works.
    pub(super) cwd: PathBuf,
    /// The files that the tool writes, as far as they can be told, as the tool was given them.
    pub(super) targets: Vec<PathBuf>,
    /// What a tool of our own server was given, where nothing but that tells it, as `agent`, who calls.
    pub(super) unnamed: Option<Value>,
    /// The command that a shell runs, where nothing but that tells which of the session's agents runs it.
    pub(super) command: Option<Shell>,
}

/// A call of a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shell {
    pub(super) text: String,
    /// What the client calls this one, before it and after.
    pub(super) id: Option<String>,
}

impl Event {
    /// An event of the shape that most clients share: `session_id`, `cwd`, `hook_event_name`.
    pub(super) fn read(input: &Value, phase_of: fn(&str) -> Phase) -> Option<Event> {
        let name = text(input, "hook_event_name")?;
        Some(Event {
            phase: phase_of(name),
            name: name.to_owned(),
            session: text(input, "session_id").unwrap_or_default().to_owned(),
            has_moved: false,
            subagent: text(input, "agent_id").filter(|id| !id.is_empty()).map(str::to_owned),
            ends_untold: false,
            cwd: text(input, "cwd").map(PathBuf::from).unwrap_or_default(),
            targets: Vec::new(),
            unnamed: None,
            command: None,
        })
    }

    /// Whether somebody waits for the verdict before something happens that cannot be undone.
    pub(super) fn is_judged(&self) -> bool {
        self.phase == Phase::BeforeTool
    }

    /// The targets as absolute paths, each once.
    pub(super) fn absolute_targets(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.targets.iter().map(|target| self.cwd.join(target)).collect();
        paths.retain(|path| path.is_absolute() && !is_of_the_system(path));
        paths.sort();
        paths.dedup();
        paths
    }
}

/// Devices and the like: nobody's file.
fn is_of_the_system(path: &Path) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|top| path.starts_with(top))
}

/// What a hook says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Silence,
    /// Something that the agent should know; the tool runs.
    Tell(String),
    /// Something that the person should know; the tool runs.
    Warn(String),
    /// The tool does not run, and the agent is told why.
    Deny(String),
    /// The tool runs with these arguments instead, and there may be something to say.
    Instead(Value, Box<Verdict>),
}

impl Verdict {
    /// What is said, and the arguments that are to be taken instead.
    pub(super) fn parts(&self) -> (&Verdict, Option<&Value>) {
        match self {
            Verdict::Instead(arguments, verdict) => (verdict, Some(arguments)),
            verdict => (verdict, None),
        }
    }
}

impl Verdict {
    /// Lines that the agent should know, if there are any.
    pub(super) fn of_lines(lines: &[String]) -> Verdict {
        if lines.is_empty() { Verdict::Silence } else { Verdict::Tell(lines.join("\n")) }
    }
}

/// The same in the client's own form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Bytes for stdout.
    pub out: String,
    /// Bytes for stderr.
    pub err: String,
    /// Exit status, by the client's contract and never by ours.
    pub status: u8,
}

/// A text field of a JSON object.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// A field that holds one path.
pub(super) fn path(value: &Value, key: &str) -> Vec<PathBuf> {
    text(value, key).filter(|path| !path.is_empty()).map(PathBuf::from).into_iter().collect()
}
