//! In whose name a call asks: the server's own agent, one below it, or the session that the client names with each
//! call.

use super::Setup;
use super::answer::Fault;
use crate::client::{self, ClientError, Connect, Connection, Launch, agent};
use crate::limits;
use crate::model::Agent;
use crate::wire::{Code, Loss};
use rmcp::model::RequestMetaObject;
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who the server's agent is, as far as its surroundings tell.
#[derive(Debug, Default)]
pub struct Identity {
    /// The name given by flag or variable. Nothing that a client says changes it.
    pub given: Option<Agent>,
    /// The name that the process around makes.
    pub surrounding: Option<Agent>,
    /// The agent program around.
    pub program: Option<String>,
    /// Its process.
    pub process: Option<OwnedFd>,
}

/// The program that names its session with each call, and the thread in it, since it hides both from servers and tells
/// them to shell commands.
const CODEX: &str = "codex";
/// Where it does.
const CODEX_TURN: &str = "x-codex-turn-metadata";
/// The program that is in one session after the other, and tells a server of the one alone in which it started it.
const CLAUDE_CODE: &str = "claude";
/// The program whose process may serve many sessions, and tells a server of none: our plugin there puts the name into
/// each call's `agent`, as hooks and commands have it.
const OPENCLAW: &str = "openclaw";

impl Identity {
    /// The process of which it may be said later that it goes by another name.
    fn may_move(&self) -> Option<&OwnedFd> {
        let may_move = self.given.is_none() && self.program.as_deref() == Some(CLAUDE_CODE);
        self.process.as_ref().filter(|_| may_move)
    }

    /// Whether its process is no more than a guess, and what a call says is known.
    fn yields(&self) -> bool {
        self.given.is_none() && self.program.as_deref() == Some(OPENCLAW)
    }

    /// The name that holds where a call itself says none; `now` is what was said of the process later.
    fn own(&self, now: Option<&Agent>, meta: &RequestMetaObject) -> Option<Agent> {
        let is_possible = self.program.as_deref().is_none_or(|program| program == CODEX);
        let turn = meta.get(CODEX_TURN).filter(|_| is_possible);
        let word = |name| turn?.get(name).and_then(serde_json::Value::as_str);
        let (session, thread) = (word("session_id"), word("thread_id"));
        match &self.given {
            Some(given) => agent::thread_below(given, session, thread).or_else(|| Some(given.clone())),
            None => {
                agent::in_thread(CODEX, session, thread).or_else(|| now.cloned()).or_else(|| self.surrounding.clone())
            }
        }
    }
}

/// All in whose names this server asks.
pub(super) struct Agents {
    pub(super) setup: Setup,
    known: Mutex<HashMap<Option<Agent>, Arc<Caller>>>,
    /// The name by which the agent program went when it was last asked for.
    now: Mutex<Option<Agent>>,
}

impl Agents {
    pub(super) fn new(setup: Setup) -> Agents {
        Agents { setup, known: Mutex::default(), now: Mutex::default() }
    }

    /// Asks by which name the agent program goes now. May wait for the daemon.
    ///
    /// # Errors
    /// When it is there and does not greet: it will not answer anything else either.
    pub(super) fn look_again(&self) -> Result<(), Fault> {
        let Some(process) = self.setup.identity.may_move() else { return Ok(()) };
        let options = Connect { launch: Launch::Never, ..self.setup.connect(None) };
        // Where nothing is said, what was said last holds.
        match client::goes_by(&options, process, false) {
            Ok(Some(name)) => *lock(&self.now) = Agent::new(&name).ok(),
            Err(error @ ClientError::NoAnswer(_)) => return Err(error.into()),
            Ok(None) | Err(_) => {}
        }
        Ok(())
    }

    fn own(&self, meta: &RequestMetaObject) -> Option<Agent> {
        self.setup.identity.own(lock(&self.now).as_ref(), meta)
    }

    /// Whoever a call asks for: `argument` is what it says itself.
    ///
    /// # Errors
    /// When nobody can be told for certain, or somebody else is meant.
    pub(super) fn caller(&self, argument: Option<&str>, meta: &RequestMetaObject) -> Result<Arc<Caller>, Fault> {
        let agent = self.named(argument, meta)?.ok_or_else(|| {
            let text = "whose lock? nothing around this server says which agent it serves: name it in the call, as \
                        agent, or start the server with --agent NAME or FLOCKD_AGENT if it serves one alone";
            Fault::invalid(text)
        })?;
        self.known(Some(agent))
    }

    /// Whoever only looks, in the name of the agent if there is one.
    pub(super) fn reader(&self, argument: Option<&str>, meta: &RequestMetaObject) -> Result<Arc<Caller>, Fault> {
        self.known(self.named(argument, meta)?)
    }

    fn named(&self, argument: Option<&str>, meta: &RequestMetaObject) -> Result<Option<Agent>, Fault> {
        let yields = argument.is_some() && self.setup.identity.yields();
        named(self.own(meta).filter(|_| !yields), argument)
    }

    fn known(&self, agent: Option<Agent>) -> Result<Arc<Caller>, Fault> {
        let mut known = lock(&self.known);
        if let Some(caller) = known.get(&agent) {
            return Ok(caller.clone());
        }
        if known.len() >= limits::MCP_AGENTS {
            // What nobody asks for just now is connected again when somebody does.
            known.retain(|_, caller| Arc::strong_count(caller) > 1);
        }
        if known.len() >= limits::MCP_AGENTS {
            let text = format!("this server speaks for {} agents at once already; try again", limits::MCP_AGENTS);
            return Err(Fault::new(Code::TooMany, text));
        }
        let caller = Arc::new(Caller { agent: agent.clone(), ..Caller::default() });
        known.insert(agent, caller.clone());
        Ok(caller)
    }
}

/// The name that a call means: its own word counts if the server has no name, or for what is below that name.
fn named(own: Option<Agent>, argument: Option<&str>) -> Result<Option<Agent>, Fault> {
    let Some(text) = argument else { return Ok(own) };
    let agent = Agent::new(text).map_err(|error| Fault::invalid(error.0))?;
    match own {
        Some(own) if !is_at_or_below(&agent, &own) => {
            let below =
                agent::below(&own, text).map_or_else(String::new, |it| format!("; your sub-agent would be {it}"));
            let text = format!(
                "you are {own}, and nobody asks in the name of another: leave `agent` out{below}; or if hooks put it \
                 in, take the name out of this server's settings"
            );
            Err(Fault::new(Code::Denied, text))
        }
        _ => Ok(Some(agent)),
    }
}

fn is_at_or_below(agent: &Agent, own: &Agent) -> bool {
    let rest = agent.as_str().strip_prefix(own.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One in whose name is asked, with a connection to the daemon that is made when it is needed.
#[derive(Default)]
pub(super) struct Caller {
    pub(super) agent: Option<Agent>,
    link: Mutex<Option<Arc<Connection>>>,
    told: Mutex<Told>,
}

/// Losses of which the daemon need not tell any more, by the ids of their locks. It does until it has read that the
/// agent has heard of them.
#[derive(Default)]
struct Told {
    /// Answers with these are on their way.
    under_way: Vec<String>,
    /// The agent has heard of these, the latest last.
    heard: VecDeque<String>,
}

impl Caller {
    /// The connection, made anew if it was given up. May wait for a daemon to start.
    pub(super) fn connection(&self, setup: &Setup) -> Result<Arc<Connection>, ClientError> {
        let mut link = lock(&self.link);
        if let Some(connection) = link.as_ref().filter(|connection| connection.why_over().is_none()) {
            return Ok(connection.clone());
        }
        let connect = setup.connect(self.agent.clone());
        let process = setup.identity.process.as_ref().filter(|_| self.agent.is_some());
        let process = process.map(OwnedFd::try_clone).transpose()?;
        let connection = Arc::new(Connection::connect_between(connect, process)?);
        *link = Some(connection.clone());
        Ok(connection)
    }

    /// The connection, if there is one.
    pub(super) fn open_connection(&self) -> Option<Arc<Connection>> {
        lock(&self.link).clone()
    }

    /// Those of the losses that the daemon tells of just now of which the agent has to hear: from now on they are under
    /// way, as is `said`, which the answer tells of by itself. What is under way already, or was heard of, is left out.
    pub(super) fn untold(&self, said: Option<&str>, lost: Vec<Loss>) -> Vec<Loss> {
        let mut told = lock(&self.told);
        told.under_way.extend(said.map(str::to_owned));
        let (mut losses, mut again) = (Vec::new(), Vec::new());
        for loss in lost {
            if told.heard.contains(&loss.lock_id) {
                again.push(loss.lock_id);
            } else if !told.under_way.contains(&loss.lock_id) {
                told.under_way.push(loss.lock_id.clone());
                losses.push(loss);
            }
        }
        if let Some(connection) = self.open_connection().filter(|_| !again.is_empty()) {
            connection.heard_of(again);
        }
        losses
    }

    /// An answer with these was written, or else will not be: then the daemon tells of them again.
    pub(super) fn arrived(&self, losses: Vec<String>, is_heard: bool) {
        if losses.is_empty() {
            return;
        }
        let mut told = lock(&self.told);
        told.under_way.retain(|id| !losses.contains(id));
        if is_heard {
            told.heard.extend(losses.iter().cloned());
            let over = told.heard.len().saturating_sub(limits::CLIENT_NOTICES_MAX);
            told.heard.drain(..over);
            if let Some(connection) = self.open_connection() {
                connection.heard_of(losses);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agent(name: &str) -> Agent {
        Agent::new(name).unwrap()
    }

    fn own(identity: &Identity, meta: serde_json::Value) -> Option<String> {
        let meta: RequestMetaObject = serde_json::from_value(meta).unwrap();
        identity.own(None, &meta).map(|agent| agent.to_string())
    }

    #[test]
    fn a_session_that_codex_names_with_each_call_is_its_agent_and_nobody_elses() {
        let call = json!({ CODEX_TURN: { "session_id": "0dd5", "turn_id": "1" } });
        let around = |program: Option<&str>, given: Option<&str>| Identity {
            given: given.map(agent),
            surrounding: program.map(|program| agent(&format!("{program}-7-x"))),
            program: program.map(str::to_owned),
            process: None,
        };
        assert_eq!(own(&around(Some("codex"), None), call.clone()).as_deref(), Some("codex-0dd5"));
        assert_eq!(own(&around(Some("codex"), None), json!({})).as_deref(), Some("codex-7-x"));
        assert_eq!(own(&around(None, None), call.clone()).as_deref(), Some("codex-0dd5"));
        assert_eq!(own(&around(Some("gemini"), None), call.clone()).as_deref(), Some("gemini-7-x"), "said by another");
        assert_eq!(own(&around(Some("codex"), Some("claw-1")), call).as_deref(), Some("claw-1"));
        assert_eq!(own(&around(None, None), json!({ "session_id": "0dd5" })), None);
        let in_thread = |thread| json!({ CODEX_TURN: { "session_id": "0dd5", "thread_id": thread } });
        assert_eq!(own(&around(Some("codex"), None), in_thread("5e55")).as_deref(), Some("codex-0dd5/5e55"));
        assert_eq!(own(&around(Some("codex"), None), in_thread("0dd5")).as_deref(), Some("codex-0dd5"));
        assert_eq!(own(&around(Some("codex"), Some("ada")), in_thread("5e55")).as_deref(), Some("ada/5e55"));
        assert_eq!(own(&around(Some("codex"), Some("ada")), in_thread("0dd5")).as_deref(), Some("ada"));
        assert_eq!(own(&around(Some("gemini"), Some("ada")), in_thread("5e55")).as_deref(), Some("ada"));
        let moved = |identity: &Identity| identity.own(Some(&agent("claude-5e55")), &RequestMetaObject::default());
        assert_eq!(moved(&around(Some("claude"), None)), Some(agent("claude-5e55")), "it goes by that now");
        assert_eq!(moved(&around(Some("claude"), Some("claw-1"))), Some(agent("claw-1")));
    }

    #[test]
    fn a_call_speaks_for_the_servers_agent_and_those_below_it_and_for_anybody_where_it_has_none() {
        let says = |own: Option<&str>, said| named(own.map(agent), said).ok().flatten().map(|agent| agent.to_string());
        assert_eq!(says(Some("claw-1"), None).as_deref(), Some("claw-1"));
        assert_eq!(says(Some("claw-1"), Some("claw-1/tests")).as_deref(), Some("claw-1/tests"));
        for other in ["claw-2", "claw-12", "claw"] {
            assert_eq!(named(Some(agent("claw-1")), Some(other)).unwrap_err().code, Code::Denied, "{other}");
        }
        assert_eq!(says(None, Some("main/7")).as_deref(), Some("main/7"));
        assert_eq!(says(None, None), None);
        assert_eq!(named(None, Some("two words")).unwrap_err().code, Code::Invalid);
    }
}
