//! Requests as commands: every field is checked here, so that the table sees only what makes sense.

use super::peer::Caller as CallerInfo;
use super::webhooks;
use crate::events::Filter;
use crate::limits;
use crate::model::{
    self, Agent, Ask, Caller, Command, Fence, Lease, LockId, Now, Prepared, Process, RequestId, SessionId, SetMember,
    Threshold, Unchanged, Wait, Which, Who, Workspace,
};
use crate::os::paths;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use crate::wire::render::{ABSENT, About};
use crate::wire::{self, Code, Op, Request, unescape};
use std::sync::Arc;

/// Who sent a request.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) info: CallerInfo,
    pub(super) session: Option<SessionId>,
    pub(super) process: Option<Process>,
    /// The process that came with the request as a pidfd.
    pub(super) passed: Option<Process>,
}

/// Why a request cannot be carried out.
pub(super) type Unfit = (Code, String);

fn invalid(text: impl Into<String>) -> Unfit {
    (Code::Invalid, text.into())
}

impl Sender {
    pub(super) fn agent(&self) -> Result<Agent, Unfit> {
        self.info.agent.clone().ok_or_else(|| {
            invalid("whose lock? give --agent NAME or set FLOCKD_AGENT, so that nobody is taken for somebody else")
        })
    }

    fn who(&self) -> Result<Who, Unfit> {
        Ok(Who { agent: self.agent()?, session: self.session })
    }
}

/// The bytes of a path that must be absolute.
pub(super) fn absolute(what: &str, text: &str) -> Result<Vec<u8>, Unfit> {
    match unescape(text) {
        Some(path) if path.first() == Some(&b'/') && path.len() <= limits::PATH_MAX => Ok(path),
        _ => Err(invalid(format!("the {what} {text:?} is no absolute path"))),
    }
}

/// From where a request is to be understood: from where its sender greeted, or the workspace that it names.
pub(super) fn place(request: &Request, greeted: &CallerInfo) -> Result<CallerInfo, Unfit> {
    let Some(text) = &request.workspace else { return Ok(greeted.clone()) };
    let root = absolute("workspace", text)?;
    let workspace = Workspace { root: root.as_slice().into() };
    Ok(CallerInfo { agent: greeted.agent.clone(), cwd: root.into(), workspace })
}

/// What a workspace says of contention, as a command.
pub(super) fn threshold(said: Option<wire::Threshold>, workspace: &Workspace) -> Result<Option<Command>, Unfit> {
    let Some(wire::Threshold { requests, within_ms }) = said else { return Ok(None) };
    let threshold = Threshold { requests, within: within_ms };
    threshold.check().map_err(|error| invalid(error.0))?;
    Ok(Some(Command::Contention { workspace: workspace.clone(), threshold }))
}

/// The bytes of the scopes that a request names, those of patterns with `glob:` before them however they were said.
/// What is no file is no pattern either: `@name` stays what it is among patterns.
pub(super) fn scopes_bytes(request: &Request) -> Result<Vec<Vec<u8>>, Unfit> {
    if !request.scopes.is_empty() && !matches!(request.op, Op::Lock | Op::Subscribe | Op::WebhookAdd | Op::Stats) {
        return Err(invalid("`scopes` is for `lock`, `subscribe`, `webhook_add` and `stats` alone"));
    }
    if request.op == Op::Lock && !request.scopes.is_empty() && request.scope.is_some() {
        return Err(invalid("name one `scope`, or several in `scopes`"));
    }
    match request.op {
        // Looked up one by one: a list that is too long is not begun.
        Op::Lock if request.scopes.len() > limits::SET_MAX => {
            let (count, most) = (request.scopes.len(), limits::SET_MAX);
            return Err(invalid(format!("{count} scopes are asked for; at most {most} may be at once")));
        }
        _ => check_count("scopes", request.scopes.len())?,
    }
    request.scope.iter().chain(&request.scopes).map(|scope| scope_bytes(scope, request.glob)).collect()
}

fn scope_bytes(scope: &str, is_pattern: bool) -> Result<Vec<u8>, Unfit> {
    let Some(mut bytes) = unescape(scope) else {
        return Err(invalid("the scope has a backslash that begins nothing: a backslash itself is written twice"));
    };
    if is_pattern && !bytes.starts_with(b"@") && !bytes.starts_with(paths::GLOB) {
        bytes = [paths::GLOB, &bytes].concat();
    }
    Ok(bytes)
}

fn check_count(what: &str, count: usize) -> Result<(), Unfit> {
    if count > limits::FILTER_MAX {
        let text = format!("{count} {what} are listed; a subscriber may list {} at most", limits::FILTER_MAX);
        return Err((Code::TooMany, text));
    }
    Ok(())
}

/// What a connection wants to be told.
#[derive(Debug)]
pub(super) enum Wish {
    /// These events, from behind this number or from now on.
    Events { since: Option<u64>, filter: Filter },
    /// No more.
    Nothing,
}

/// The wish that a request stands for, and the request's id. `targets` are its scopes, looked up.
pub(super) fn wish(request: &Request, targets: Vec<Target>) -> Result<(u64, Wish), Unfit> {
    let id =
        request.id.ok_or_else(|| invalid("only a release may go without an id: nothing else can be unanswered"))?;
    if request.op == Op::Unsubscribe {
        return Ok((id, Wish::Nothing));
    }
    check_count("events", request.events.len())?;
    check_count("agents", request.agents.len())?;
    check_count("workspaces", request.workspaces.len())?;
    let agent = |name: &String| Agent::new(name).map_err(|error| invalid(error.0));
    let filter = Filter {
        webhook: None,
        names: event_names(&request.events)?,
        targets,
        agents: request.agents.iter().map(agent).collect::<Result<_, _>>()?,
        workspaces: request.workspaces.clone(),
    };
    Ok((id, Wish::Events { since: request.since, filter }))
}

/// Events by their names.
pub(super) fn event_names(names: &[String]) -> Result<Vec<&'static str>, Unfit> {
    let name =
        |name: &String| {
            model::EVENT_NAMES.iter().copied().find(|known| known == name).ok_or_else(|| {
                invalid(format!("there is no event {name:?}; there are {}", model::EVENT_NAMES.join(", ")))
            })
        };
    names.iter().map(name).collect()
}

/// The command that a request stands for, and what its answer is about. `targets` is its scope, looked up.
pub(super) fn command(
    request: &Request,
    caller: Option<Caller>,
    sender: &Sender,
    mut targets: Vec<Target>,
    now: Now,
) -> Result<(Command, About), Unfit> {
    if matches!(request.op, Op::WebhookAdd | Op::WebhookList | Op::WebhookRemove | Op::WebhookRetry) {
        let caller = caller.ok_or_else(|| invalid("a request about webhooks needs an id"))?;
        return webhooks::command(request, caller, sender, targets);
    }
    if request.op == Op::Lock && !request.scopes.is_empty() {
        let caller = caller.ok_or_else(|| invalid("a lock that is asked for without an id would be nobody's"))?;
        return ask_set(request, caller, sender, targets, now);
    }
    let target = targets.pop();
    if request.op == Op::Unlock {
        let command = Command::Unlock {
            caller,
            who: sender.who()?,
            which: which(request, target)?,
            leaves_loan: request.leaves_loan,
        };
        return Ok((command, About::Other));
    }
    let caller =
        caller.ok_or_else(|| invalid("only a release may go without an id: nothing else can be unanswered"))?;
    let command = match request.op {
        Op::Lock | Op::Wait => return ask(request, caller, sender, target, now),
        Op::Upgrade => Command::Upgrade {
            caller,
            who: sender.who()?,
            which: which(request, target)?,
            wait: wait(request, now)?,
            request: request_id(request)?,
        },
        Op::Downgrade => Command::Downgrade { caller, who: sender.who()?, which: which(request, target)? },
        Op::Renew => Command::Renew { caller, who: sender.who()?, which: which(request, target)?, ttl: request.ttl_ms },
        Op::Check => {
            let (who, fence) = (sender.who()?, request.fence.map(Fence));
            let target = target.ok_or_else(|| invalid("check needs a scope"))?;
            let about = About::Check { target: target.clone(), agent: who.agent.clone(), fence };
            return Ok((Command::Check { caller, who, target, fence }, about));
        }
        Op::Commit => return commit(request, caller, sender, target),
        Op::Break => Command::Break { caller, who: sender.who()?, id: lock_id(request)?, reason: reason(request)? },
        Op::Status => Command::Status { caller, who: sender.who().ok(), target },
        Op::News => news(request, caller, sender)?,
        Op::Cancel => cancel(request, caller, sender)?,
        Op::Unlock | Op::Bind | Op::Subscribe | Op::Unsubscribe | Op::Stats | Op::Daemon | Op::Stop => {
            unreachable!("{:?} is no command of this kind", request.op)
        }
        Op::WebhookAdd | Op::WebhookList | Op::WebhookTest | Op::WebhookRemove | Op::WebhookRetry => {
            unreachable!("{:?} is no command of this kind", request.op)
        }
    };
    Ok((command, About::Other))
}

fn news(request: &Request, caller: Caller, sender: &Sender) -> Result<Command, Unfit> {
    // Whoever names a scope expects to hear of that alone.
    if request.scope.is_some() {
        return Err(invalid("news are of all that the agent has: without `scope`"));
    }
    let heard = request.heard.iter().map(|id| id.parse());
    let heard = heard.collect::<Result<_, _>>().map_err(|error: model::Invalid| invalid(error.0))?;
    Ok(Command::News { caller, who: sender.who()?, heard })
}

fn cancel(request: &Request, caller: Caller, sender: &Sender) -> Result<Command, Unfit> {
    match (request.of, &request.ticket) {
        (Some(of), None) => Ok(Command::Cancel { caller, waiting: Caller { conn: caller.conn, id: of } }),
        (None, Some(ticket)) => {
            let ticket = ticket.parse().map_err(|error: model::Invalid| invalid(error.0))?;
            Ok(Command::GiveUp { caller, who: sender.who()?, ticket })
        }
        _ => Err(invalid("cancel needs `of`, the id of a waiting request, or `ticket`, that of a kept place")),
    }
}

fn commit(
    request: &Request,
    caller: Caller,
    sender: &Sender,
    target: Option<Target>,
) -> Result<(Command, About), Unfit> {
    let target = target.ok_or_else(|| invalid("commit needs a scope"))?;
    let file = request.prepared.as_ref().ok_or_else(|| invalid("commit needs a prepared file"))?;
    let name = unescape(&file.name).filter(|name| is_name(name));
    let name = name.ok_or_else(|| invalid("the prepared file is named by its name in the directory of the file"))?;
    let numbers =
        file.file.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let (device, inode) =
        numbers.ok_or_else(|| invalid("which file was prepared is said as `st_dev:st_ino`, in decimal"))?;
    let unchanged = request.if_unchanged.as_deref().map(unchanged).transpose()?;
    let prepared = Arc::new(Prepared { name: name.into(), device, inode, unchanged });
    let who = sender.who()?;
    let (workspace, agent) = (sender.info.workspace.clone(), who.agent.clone());
    let fence = request.fence.map(Fence);
    let about = About::Write { target: target.clone(), workspace, agent, fence };
    Ok((Command::Commit { caller, who, target, fence, prepared }, about))
}

/// Whether bytes are the name of something in a directory.
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= limits::NAME_MAX
        && !name.iter().any(|byte| b"/\0".contains(byte))
}

/// What a file must be before it is written.
fn unchanged(text: &str) -> Result<Unchanged, Unfit> {
    if text == ABSENT {
        return Ok(Unchanged::Absent);
    }
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    let is_hash = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    if !is_hash {
        return Err(invalid(
            "if_unchanged is a BLAKE3 hash of 64 hexadecimal digits, as `b3sum` prints it, or `absent`",
        ));
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(digits).expect("they are digits");
        *byte = u8::from_str_radix(pair, 16).expect("they are digits");
    }
    Ok(Unchanged::Hash(hash))
}

fn ask(
    request: &Request,
    caller: Caller,
    sender: &Sender,
    target: Option<Target>,
    now: Now,
) -> Result<(Command, About), Unfit> {
    let takes = request.op == Op::Lock;
    let wait = wait(request, now)?;
    let note = request.note.as_deref().map(model::note).transpose().map_err(|error| invalid(error.0))?;
    let id = request_id(request)?;
    // Who only waits takes nothing in custody: it needs no name.
    let who = match takes {
        true => sender.who()?,
        false => Who { agent: sender.agent().unwrap_or_else(|_| nobody()), session: None },
    };
    let ask = Arc::new(Ask {
        target: target.ok_or_else(|| invalid("lock and wait need a scope"))?,
        mode: match request.mode {
            Some(crate::wire::Mode::Shared) => model::Mode::Shared,
            Some(crate::wire::Mode::Advisory) => model::Mode::Advisory,
            Some(crate::wire::Mode::Exclusive) | None => model::Mode::Exclusive,
        },
        lease: lease(request, who.session.is_some()),
        who,
        note,
        process: sender.process,
        request: id.filter(|_| takes),
        workspace: sender.info.workspace.clone(),
        os: takes && !request.no_os_lock,
        bound: sender.passed.filter(|_| takes),
        upgrades: None,
        set: None,
    });
    let about = About::Ask { ask: ask.clone(), takes };
    let command = match takes {
        true => Command::Lock { caller, ask, wait },
        false => Command::WaitFree { caller, ask, wait },
    };
    Ok((command, about))
}

/// Several scopes at once. One that is named twice is meant once.
fn ask_set(
    request: &Request,
    caller: Caller,
    sender: &Sender,
    targets: Vec<Target>,
    now: Now,
) -> Result<(Command, About), Unfit> {
    let mut apart: Vec<Target> = Vec::with_capacity(targets.len());
    for target in targets {
        if apart.iter().all(|other| other.scope != target.scope) {
            apart.push(target);
        }
    }
    let first = ask(request, caller, sender, apart.first().cloned(), now)?;
    let (Command::Lock { ask: first, wait, .. }, _) = first else { unreachable!("a set is asked for by `lock`") };
    let of = apart.len() as u16;
    let member = |(index, target)| Arc::new(Ask { target, set: Some(SetMember { index, of }), ..(*first).clone() });
    let asks: Vec<Arc<Ask>> = (0..).zip(apart).map(member).collect();
    Ok((Command::LockSet { caller, asks: asks.clone(), wait }, About::Set(asks)))
}

fn wait(request: &Request, now: Now) -> Result<Wait, Unfit> {
    match request.wait_ms {
        None => Ok(Wait::Forever),
        Some(0) => Ok(Wait::Try),
        Some(ms) if ms <= limits::WAIT_MAX => Ok(Wait::Until(now.mono.after(ms))),
        Some(_) => Err(invalid("the wait is above 24 h; to wait for ever, leave wait_ms out")),
    }
}

fn request_id(request: &Request) -> Result<Option<RequestId>, Unfit> {
    request.request_id.as_deref().map(RequestId::new).transpose().map_err(|error| invalid(error.0))
}

/// The name under which somebody waits who takes nothing and gave none. It holds nothing and nobody waits for it.
fn nobody() -> Agent {
    Agent::new("(nobody)").expect("the name is short and has no spaces")
}

fn lease(request: &Request, has_session: bool) -> Lease {
    match has_session {
        true => Lease { ttl: request.ttl_ms.unwrap_or(limits::TTL_SESSION), max_hold: request.max_hold_ms },
        false => {
            let ttl = request.ttl_ms.unwrap_or(limits::TTL_ONE_SHOT);
            // Whoever asks for a longer lease means it.
            Lease { ttl, max_hold: Some(request.max_hold_ms.unwrap_or(limits::MAX_HOLD.max(ttl))) }
        }
    }
}

fn which(request: &Request, target: Option<Target>) -> Result<Which, Unfit> {
    match (&request.lock_id, target, request.all) {
        (Some(_), None, false) => lock_id(request).map(Which::Id),
        (None, Some(target), false) => Ok(Which::Scope(target)),
        (None, None, true) => Ok(Which::All),
        _ => Err(invalid("name exactly one of `lock_id`, `scope` and `all`")),
    }
}

/// The lock that a request names by its id.
pub(super) fn lock_id(request: &Request) -> Result<LockId, Unfit> {
    let text = request.lock_id.as_deref().ok_or_else(|| invalid("this needs the lock's exact id: lock_id"))?;
    text.parse().map_err(|error: model::Invalid| invalid(error.0))
}

fn reason(request: &Request) -> Result<Arc<str>, Unfit> {
    match request.reason.as_deref().map(str::trim) {
        None | Some("") if !planted(Bug::BreakWithoutReason) => {
            Err(invalid("a break needs a reason: the holder is told of it"))
        }
        given => model::note(given.unwrap_or_default()).map_err(|error| invalid(error.0)),
    }
}
