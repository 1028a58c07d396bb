//! Hooks of coding agents: a program tells what it is about to do, and hears whether it may.
//!
//! Each client has a file that turns its payload into an [`Event`] and a [`Verdict`] into its answer; the rest is the
//! same for all. A hook is a door and a client of the daemon like any other. Two rules are its own: it answers a second
//! before the client would stop to listen, since most clients let a tool run then; and whatever fails in here, the
//! person's work goes on and the person is told, unless the workspace is strict.

mod claude_code;
mod codex;
mod commands;
mod event;
mod gemini;
mod locks;
mod openclaw;
mod patch;
mod settings;
mod shell;
mod text;

use commands::Noted;
pub(crate) use event::Answer;
use event::{Event, Phase, Verdict};
use locks::{Ending, Losses};
pub(crate) use settings::{Broken, Enforcement, Settings};

use crate::client::{Place, agent};
use crate::limits;
use crate::model::Agent;
use crate::planted::{Bug, planted};
use serde_json::Value;
use std::cell::Cell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// What a hook does about an edit that locks allow or forbid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It takes the lock and keeps it to the end of the turn.
    #[default]
    Auto,
    /// It refuses what others hold and takes nothing.
    Check,
    /// It says what others hold.
    Warn,
}

impl Mode {
    /// By the name that the flag has for it.
    pub(crate) fn named(name: &str) -> Option<Mode> {
        [("auto", Mode::Auto), ("check", Mode::Check), ("warn", Mode::Warn)]
            .into_iter()
            .find_map(|(known, mode)| (known == name).then_some(mode))
    }
}

/// One client: how it is understood and answered.
pub(crate) struct Client {
    /// What `--client` says.
    name: &'static str,
    /// The program, as its processes and agents are called.
    program: &'static str,
    read: fn(&Value) -> Option<Event>,
    answer: fn(&Verdict, Option<&Event>) -> Answer,
    /// Whether a shell of it is told the session, and not which of its agents runs it.
    has_unnamed_shells: bool,
    /// Whether it has sub-agents whose end no hook is told of.
    has_untold: bool,
    /// Whether the model is told of what comes with this event, while what happens goes on.
    takes_context: fn(&Event) -> bool,
    /// Where a payload says which tool is called.
    tool: &'static str,
    /// The tools whose call always names what it writes.
    writers: &'static [&'static str],
}

const CLAUDE_CODE: Client = Client {
    name: "claude-code",
    program: "claude",
    read: claude_code::read,
    answer: claude_code::answer,
    has_unnamed_shells: true,
    has_untold: false,
    takes_context: claude_code::takes_context,
    tool: "tool_name",
    writers: &["Write", "Edit", "MultiEdit", "NotebookEdit"],
};
const CODEX: Client = Client {
    name: "codex",
    program: "codex",
    read: codex::read,
    answer: codex::answer,
    has_unnamed_shells: false,
    has_untold: true,
    writers: &["apply_patch", "Write", "Edit"],
    ..CLAUDE_CODE
};
const GEMINI: Client = Client {
    name: "gemini",
    program: "gemini",
    read: gemini::read,
    answer: gemini::answer,
    has_unnamed_shells: false,
    has_untold: false,
    takes_context: gemini::takes_context,
    tool: "tool_name",
    writers: &["write_file", "replace"],
};
const OPENCLAW: Client = Client {
    name: "openclaw",
    program: "openclaw",
    read: openclaw::read,
    answer: openclaw::answer,
    has_unnamed_shells: false,
    has_untold: false,
    takes_context: openclaw::takes_context,
    tool: "toolName",
    writers: &["write", "edit", "apply_patch"],
};

/// A new client is a file and a row.
const CLIENTS: [&Client; 4] = [&CLAUDE_CODE, &CODEX, &GEMINI, &OPENCLAW];

impl Client {
    /// The client of this name; none for `auto` and for names that nobody has.
    pub(crate) fn named(name: &str) -> Option<&'static Client> {
        CLIENTS.into_iter().find(|client| client.name == name)
    }

    /// The names that there are.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        CLIENTS.iter().map(|client| client.name)
    }

    /// Why a payload does not tell what a tool is going to write, where it has to.
    fn damage(&self, input: &Value, event: &Event) -> Option<String> {
        let Some(tool) = event::text(input, self.tool).filter(|tool| !tool.is_empty()) else {
            return Some("what came on stdin names no tool".to_owned());
        };
        let is_told = event.targets.iter().any(|target| event.cwd.join(target).is_absolute());
        let is_damaged = self.writers.contains(&tool) && !is_told;
        is_damaged.then(|| format!("what came on stdin does not say which file {tool} writes"))
    }

    /// The client that a payload comes from, by its shape.
    fn of(input: &Value) -> &'static Client {
        let name = event::text(input, "hook_event_name").unwrap_or_default();
        match input {
            _ if input.get("openclaw_event").is_some() => &OPENCLAW,
            _ if gemini::is_its_own(name) => &GEMINI,
            // Both have sessions that start and end; only Gemini stamps them.
            _ if input.get("timestamp").is_some() => &GEMINI,
            _ if input.get("turn_id").is_some() => &CODEX,
            _ if event::text(input, "transcript_path").is_some_and(|path| path.contains("/.codex/")) => &CODEX,
            _ => &CLAUDE_CODE,
        }
    }
}

/// How a hook was called.
pub(crate) struct Call {
    /// None: told by the payload.
    pub(crate) client: Option<&'static Client>,
    pub(crate) mode: Mode,
    /// The agent's name, where it was given.
    pub(crate) agent: Option<Agent>,
    /// When the client stops to listen, in milliseconds.
    pub(crate) timeout: u64,
    /// How long to wait for a lock at most, in milliseconds.
    pub(crate) wait: u64,
    /// What was wrong with the call, if something was.
    pub(crate) complaint: Option<String>,
}

/// What the thread that does the work has found out so far.
enum Progress {
    Understood(&'static Client, Box<Event>),
    /// Where the workspace says so, failure means no.
    Strict,
    /// If the tool runs, then with these arguments.
    Instead(Value),
    /// The verdict that follows tells of these.
    Tells(Losses),
    /// If the tool runs, then in another's name, for this reason.
    Unnoted(String),
    Done(Verdict),
    Failed(String),
}

/// Reads what happens, does what it means to locks, and answers in the client's form. Never later than a second before
/// the client's time is up, never with a status that the client has not given a meaning. The losses that the answer
/// tells the model of come with it: they count as told when they are said to.
pub(crate) fn run(call: Call, input: impl Read + Send + 'static) -> (Answer, Option<Losses>) {
    let deadline = crate::clock::monotonic_ns() + 1_000_000 * call.timeout.saturating_sub(limits::HOOK_MARGIN);
    let (client, complaint) = (call.client, call.complaint.clone());
    let (tell, told) = mpsc::channel();
    let work = std::thread::Builder::new().name("flockd-hook".into()).spawn(move || {
        // Nobody listens any more once the time is up.
        let _ = tell.send(match judge(&call, deadline, input, &tell) {
            Ok(verdict) => Progress::Done(verdict),
            Err(why) => Progress::Failed(why),
        });
    });
    let mut found = Found { client, event: None, strict: false, losses: None, instead: None, unnoted: None };
    let verdict = match work {
        Ok(_) => found.follow(&told, deadline),
        Err(error) => Err(format!("no thread can be had: {error}")),
    };
    let verdict = verdict.unwrap_or_else(|why| found.failure(&why));
    let verdict = match (found.unnoted.take(), verdict) {
        (Some(why), verdict @ (Verdict::Silence | Verdict::Tell(_) | Verdict::Warn(_))) => match found.strict {
            true => found.failure(&why),
            false => with_complaint(verdict, Some(why)),
        },
        (_, verdict) => verdict,
    };
    let losses = found.losses.take().filter(|_| found.is_for_the_model(&verdict));
    (found.answer(with_complaint(verdict, complaint)), losses)
}

/// What is wrong with the call is said beside whatever else is.
fn with_complaint(verdict: Verdict, complaint: Option<String>) -> Verdict {
    let Some(complaint) = complaint.map(|complaint| format!("flockd: {complaint}")) else { return verdict };
    match verdict {
        Verdict::Instead(..) => unreachable!("other arguments are put in when all is said"),
        Verdict::Silence => Verdict::Warn(complaint),
        Verdict::Tell(what) => Verdict::Tell(what + "\n" + &complaint),
        Verdict::Warn(what) => Verdict::Warn(what + "\n" + &complaint),
        Verdict::Deny(why) => Verdict::Deny(why + "\n" + &complaint),
    }
}

/// What is known when it is answered.
struct Found {
    client: Option<&'static Client>,
    event: Option<Box<Event>>,
    strict: bool,
    instead: Option<Value>,
    /// What the verdict tells of.
    losses: Option<Losses>,
    /// Why the tool would run in another's name.
    unnoted: Option<String>,
}

impl Found {
    fn follow(&mut self, told: &mpsc::Receiver<Progress>, deadline: u64) -> Result<Verdict, String> {
        loop {
            let left = deadline.saturating_sub(crate::clock::monotonic_ns());
            let left = if planted(Bug::HookAnswersLate) { u64::from(u32::MAX) * 1_000 } else { left };
            match told.recv_timeout(Duration::from_nanos(left)) {
                Ok(Progress::Understood(client, event)) => {
                    self.client = Some(client);
                    self.event = Some(event);
                }
                Ok(Progress::Strict) => self.strict = true,
                Ok(Progress::Instead(arguments)) => self.instead = Some(arguments),
                Ok(Progress::Tells(losses)) => self.losses = Some(losses),
                Ok(Progress::Unnoted(why)) => self.unnoted = Some(why),
                Ok(Progress::Done(verdict)) => return Ok(verdict),
                Ok(Progress::Failed(why)) => return Err(why),
                Err(mpsc::RecvTimeoutError::Timeout) => return Err("there was no answer in time".to_owned()),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err("the hook itself failed".to_owned()),
            }
        }
    }

    /// What a failure in here means: that the person is told, or where so much was wanted, that nothing happens.
    fn failure(&mut self, why: &str) -> Verdict {
        self.losses = None;
        let is_judged = self.event.as_ref().is_none_or(|event| event.is_judged());
        match self.strict && is_judged && !planted(Bug::StrictnessForgotten) {
            true => Verdict::Deny(text::refused_by_strictness(why)),
            false => Verdict::Warn(text::unprotected(why)),
        }
    }

    /// Whether the model reads it: a refusal in any case, all else where its client hands it on.
    fn is_for_the_model(&self, verdict: &Verdict) -> bool {
        match (verdict, self.client, &self.event) {
            (Verdict::Deny(_), ..) => true,
            (Verdict::Tell(_), Some(client), Some(event)) => {
                (client.takes_context)(event) || planted(Bug::PersonIsModel)
            }
            _ => false,
        }
    }

    fn answer(self, verdict: Verdict) -> Answer {
        let event = self.event.as_deref();
        let verdict = match (verdict, self.instead) {
            (Verdict::Deny(why), _) => Verdict::Deny(why),
            (verdict, Some(arguments)) => Verdict::Instead(arguments, Box::new(verdict)),
            (verdict, None) => verdict,
        };
        match self.client {
            Some(client) => (client.answer)(&verdict, event),
            // Nobody's form is known, so only what all take in the same way: stderr, and 2 for no.
            None => match verdict {
                Verdict::Silence | Verdict::Instead(..) => Answer::default(),
                Verdict::Deny(why) => Answer { err: why + "\n", status: 2, ..Answer::default() },
                Verdict::Tell(what) | Verdict::Warn(what) => Answer { err: what + "\n", ..Answer::default() },
            },
        }
    }
}

/// Understands what happens and does what it means to locks.
fn judge(call: &Call, deadline: u64, input: impl Read, tell: &mpsc::Sender<Progress>) -> Result<Verdict, String> {
    let is_strict_here = Cell::new(false);
    let strict = || {
        is_strict_here.set(true);
        let _ = tell.send(Progress::Strict);
    };
    // Before anything is understood, the workspace around this process is the one that is meant.
    if std::env::current_dir().is_ok_and(|cwd| is_strict(&Settings::of(&root_at(&cwd, &cwd)))) {
        strict();
    }
    let mut bytes = Vec::new();
    input.take(limits::HOOK_INPUT_MAX).read_to_end(&mut bytes).map_err(|error| format!("stdin: {error}"))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| format!("no JSON came on stdin: {error}"))?;
    let client = call.client.unwrap_or_else(|| Client::of(&value));
    let event = (client.read)(&value).ok_or("what came on stdin is no event of this client")?;
    let _ = tell.send(Progress::Understood(client, Box::new(event.clone())));
    let other = Client::of(&value);
    if event.phase == Phase::Other && other.name != client.name && is_of(other, &value) {
        return Err(format!("this hook is for {}, and {} calls it: install it for that", client.name, other.name));
    }
    let caller = Caller { call, client, event: &event, deadline, tell };
    match event.phase {
        Phase::BeforeTool => {
            if let Some(arguments) = caller.named() {
                let _ = tell.send(Progress::Instead(arguments));
            }
            caller.command_begins();
            let verdict = caller.before_tool(client.damage(&value, &event), &strict);
            let is_refused = verdict.as_ref().map_or(is_strict_here.get(), |it| matches!(it, Verdict::Deny(_)));
            if is_refused {
                caller.command_ended();
            }
            verdict
        }
        Phase::AfterTool => {
            caller.command_ended();
            caller.after_tool()
        }
        Phase::SessionStart => caller.begin(true),
        Phase::SubagentStart => caller.begin_below(),
        Phase::TurnStart => {
            // Of a turn that was broken off nobody has heard.
            let _ = caller.noted(|noted| noted.all_ended(Ending::Turn));
            caller.untold_have_ended()?;
            caller.begin(false)
        }
        Phase::TurnEnd => caller.end(Ending::Turn),
        Phase::SubagentEnd if event.subagent.is_none() => Ok(Verdict::Silence),
        // Nobody comes back to what a sub-agent holds; a session may.
        Phase::SubagentEnd => caller.end(Ending::Subagent),
        Phase::SessionEnd => caller.end(Ending::Session),
        Phase::Other => Ok(Verdict::Silence),
    }
}

/// Whether it is an event of this client that concerns locks.
fn is_of(client: &Client, value: &Value) -> bool {
    (client.read)(value).is_some_and(|event| event.phase != Phase::Other)
}

/// Who calls about what.
struct Caller<'a> {
    call: &'a Call,
    client: &'static Client,
    event: &'a Event,
    deadline: u64,
    tell: &'a mpsc::Sender<Progress>,
}

/// A file that is to be written, and what its workspace wants.
struct Target {
    path: PathBuf,
    root: PathBuf,
    mode: Mode,
}

impl Caller<'_> {
    /// The agent of the session, as all its commands are named.
    fn head(&self) -> Result<Agent, String> {
        let named = self.call.agent.clone().or_else(|| agent::in_session(self.client.program, &self.event.session));
        named.or_else(agent::surrounding).ok_or_else(|| "whose edit it is cannot be told: set FLOCKD_AGENT".to_owned())
    }

    /// The agent that acts: that of the session, and in a sub-agent one below it.
    fn agent(&self) -> Result<Agent, String> {
        let head = self.head()?;
        match &self.event.subagent {
            Some(id) if !planted(Bug::SubagentIsParent) => agent::below(&head, id).ok_or_else(|| {
                format!("{head} has as many parts between slashes as a name may have, or is too long for one more")
            }),
            _ => Ok(head),
        }
    }

    /// The arguments of a tool of ours with the name of the agent in them, where nothing else tells it. A name below
    /// that one is left: the agent has said it.
    fn named(&self) -> Option<Value> {
        let given = self.event.unnamed.as_ref()?;
        let (agent, mut arguments) = (self.agent().ok()?, given.clone());
        let said = event::text(given, "agent").and_then(|name| Agent::new(name).ok());
        if said.is_some_and(|said| said == agent || agent.is_above(&said)) {
            return None;
        }
        arguments.as_object_mut()?.insert("agent".to_owned(), agent.to_string().into());
        Some(arguments)
    }

    /// Whoever is called in the command of a shell finds out by this who runs it. Whatever the workspace wants of
    /// edits, an agent has its own name.
    fn command_begins(&self) {
        let Some(command) = self.event.command.as_ref().filter(|_| !planted(Bug::CommandIsParents)) else { return };
        match self.noted(|noted| noted.begins(command)) {
            // The shells of the session's own agent have its name anyway.
            Err(why) if self.event.subagent.is_some() => drop(self.tell.send(Progress::Unnoted(why))),
            _ => {}
        }
    }

    fn command_ended(&self) {
        if let Some(command) = &self.event.command {
            let _ = self.noted(|noted| noted.ended(command));
        }
    }

    fn noted(&self, act: impl FnOnce(Noted) -> Result<(), String>) -> Result<(), String> {
        act(Noted {
            program: self.client.program,
            session: &self.event.session,
            head: &self.head()?,
            is_given: self.call.agent.is_some(),
            agent: &self.agent()?,
        })
    }

    /// A verdict that tells of these.
    fn telling(&self, (verdict, losses): (Verdict, Option<Losses>)) -> Verdict {
        if let Some(losses) = losses {
            // Nobody listens any more once the time is up; then none of them was told.
            let _ = self.tell.send(Progress::Tells(losses));
        }
        verdict
    }

    fn before_tool(&self, damage: Option<String>, strict: &dyn Fn()) -> Result<Verdict, String> {
        if let Some(why) = damage {
            let settings = Settings::of(&root_at(&self.event.cwd, &self.event.cwd));
            if is_strict(&settings) {
                strict();
            }
            return match settings?.enforcement {
                Enforcement::Off => Ok(Verdict::Silence),
                Enforcement::Warn | Enforcement::Deny => Err(why),
            };
        }
        let mut targets = Vec::new();
        for path in self.event.absolute_targets() {
            let root = root_of(&path, &self.event.cwd);
            let settings = Settings::of(&root);
            if is_strict(&settings) {
                strict();
            }
            let mode = match settings?.enforcement {
                Enforcement::Off => continue,
                Enforcement::Warn => Mode::Warn,
                Enforcement::Deny => self.call.mode,
            };
            targets.push(Target { path, root, mode });
        }
        // Those of one workspace are asked for together.
        targets.sort_by(|a, b| a.root.cmp(&b.root));
        match targets.is_empty() {
            true => Ok(Verdict::Silence),
            false => locks::before(&self.agent()?, &self.event.cwd, &targets, self.patience(), self.event.ends_untold)
                .map(|it| self.telling(it)),
        }
    }

    /// How long there is to wait for locks, in milliseconds.
    fn patience(&self) -> u64 {
        let left = self.deadline.saturating_sub(crate::clock::monotonic_ns()) / 1_000_000;
        // What is asked afterwards needs a moment as well.
        self.call.wait.min(left.saturating_sub(limits::HOOK_MARGIN))
    }

    /// The lease of what the tool wrote begins anew.
    fn after_tool(&self) -> Result<Verdict, String> {
        match (self.call.mode, self.event.absolute_targets()) {
            (Mode::Auto, targets) if !targets.is_empty() => {
                locks::after(&self.agent()?, &self.event.cwd, &targets).map(|it| self.telling(it))
            }
            _ => Ok(Verdict::Silence),
        }
    }

    fn begin(&self, is_new: bool) -> Result<Verdict, String> {
        let root = root_at(&self.event.cwd, &self.event.cwd);
        if Settings::of(&root)?.enforcement == Enforcement::Off {
            return Ok(Verdict::Silence);
        }
        let agent = self.agent()?;
        if self.event.subagent.is_none() && !planted(Bug::SessionNotHandedOn) {
            locks::goes_by(&agent, &self.event.cwd, self.event.has_moved)?;
        }
        let (mut lines, losses) = locks::news(&agent, &self.event.cwd)?;
        if is_new && self.call.mode == Mode::Auto {
            lines.insert(0, text::WELCOME.to_owned());
        }
        Ok(self.telling((Verdict::of_lines(&lines), losses)))
    }

    fn begin_below(&self) -> Result<Verdict, String> {
        if self.event.subagent.is_some() && self.client.has_unnamed_shells {
            let _ = self.noted(|noted| noted.make());
        }
        let root = root_at(&self.event.cwd, &self.event.cwd);
        match Settings::of(&root)?.enforcement {
            Enforcement::Off => Ok(Verdict::Silence),
            _ if self.event.subagent.is_none() => Ok(Verdict::Silence),
            _ => Ok(Verdict::Tell(text::named(&self.agent()?))),
        }
    }

    /// The session's own agent goes on, so what was between is over.
    fn untold_have_ended(&self) -> Result<(), String> {
        match self.client.has_untold && self.event.subagent.is_none() {
            true => locks::release(&self.agent()?, Ending::Untold, &self.event.cwd),
            false => Ok(()),
        }
    }

    fn end(&self, what: Ending) -> Result<Verdict, String> {
        // The locks come first, and what is not noted is at worst asked for.
        let _ = self.noted(|noted| noted.all_ended(what));
        locks::release(&self.agent()?, what, &self.event.cwd)?;
        Ok(Verdict::Silence)
    }
}

/// Whether failure means no there. Settings that are wrong elsewhere say it as well.
fn is_strict(settings: &Result<Settings, Broken>) -> bool {
    match settings {
        Ok(settings) => settings.strict,
        Err(broken) => broken.strict,
    }
}

/// The workspace that a file belongs to: that of its own place, not of whoever writes it.
fn root_of(path: &Path, cwd: &Path) -> PathBuf {
    root_at(path.parent().unwrap_or(path), cwd)
}

/// The workspace of a directory. Where none can be seen it is the directory that is worked in, or else that one.
fn root_at(dir: &Path, cwd: &Path) -> PathBuf {
    let named = std::env::var_os("FLOCKD_WORKSPACE").filter(|named| !named.is_empty()).map(PathBuf::from);
    let is_around = |root: &&Path| dir.starts_with(root);
    let named = named.as_deref().filter(is_around);
    named.or_else(|| Place::root_above(dir)).or(Some(cwd).filter(is_around)).unwrap_or(dir).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_payload_tells_which_client_it_comes_from() {
        let of = |value: Value| Client::of(&value).name;
        assert_eq!(of(json!({"hook_event_name": "PreToolUse", "session_id": "s"})), "claude-code");
        assert_eq!(of(json!({"hook_event_name": "PreToolUse", "session_id": "s", "turn_id": "t"})), "codex");
        assert_eq!(of(json!({"hook_event_name": "Stop", "transcript_path": "/h/.codex/sessions/x"})), "codex");
        assert_eq!(of(json!({"hook_event_name": "BeforeTool"})), "gemini");
        assert_eq!(of(json!({"hook_event_name": "SessionEnd", "timestamp": "2026"})), "gemini");
        assert_eq!(of(json!({"openclaw_event": "before_tool_call"})), "openclaw");
    }
}
