//! What comes of a call: structured, and the same in a few words. What other agents wrote stands in quotes, so that it
//! is not taken for ours.

use crate::client::ClientError;
use crate::wire::render::{Likeness, duration};
use crate::wire::stats::{Stats, Tally};
use crate::wire::{
    Code, CommitBody, Held, KeptBy, LockBody, LocksBody, Loss, StatusBody, WaiterBody, Wanted, WireError,
};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::{self, Write as _};

/// Why a call makes no sense or came to nothing: the client is told that it is an error.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) message: String,
    /// What the daemon said beside.
    error: Option<Box<WireError>>,
    /// The daemon said nothing: it is not asked for more.
    pub(super) is_silence: bool,
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), error: None, is_silence: false }
    }

    /// The daemon cannot be reached, or does not answer.
    pub(super) fn silence(message: impl Into<String>) -> Fault {
        Fault { is_silence: true, ..Fault::new(Code::Unavailable, message) }
    }

    /// Says what it is about, where nothing of that name is there.
    pub(super) fn about(mut self, name: Option<&str>) -> Fault {
        if let Some(name) = name.filter(|_| self.code == Code::NotFound) {
            self.message = format!("{name}: {}", self.message);
        }
        self
    }

    pub(super) fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(Code::Invalid, message)
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Fault {
        match error {
            ClientError::Refused(error) => {
                let message = in_tools(&error.message);
                Fault { error: Some(error.clone()), ..Fault::new(error.code, message) }
            }
            other => Fault::silence(other.to_string()),
        }
    }
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Said {
    value: Map<String, Value>,
    text: String,
    is_error: bool,
    /// The lock whose loss this tells of.
    pub(super) loss: Option<String>,
}

impl Said {
    fn new(value: Value, text: String) -> Said {
        let value = match value {
            Value::Object(value) => value,
            other => unreachable!("answers are objects: {other}"),
        };
        Said { value, text, is_error: false, loss: None }
    }

    /// Adds what the agent has to hear beside: what it lost, who waits for it, what the daemon warned of.
    /// Of many who wait those who came last, so that each is named once.
    pub(super) fn add(&mut self, lost: &[Loss], more_lost: usize, wanted: &[Wanted], warning: Option<&str>) {
        for loss in lost {
            let _ = write!(self.text, "\nyou lost {}", loss_line(loss));
        }
        if more_lost > 0 {
            let _ = write!(self.text, "\nyou lost {more_lost} more, of which the next answers tell");
            self.value.insert("more_lost".to_owned(), more_lost.into());
        }
        let (earlier, wanted) = wanted.split_at(wanted.len().saturating_sub(crate::limits::MCP_ROWS));
        for wanted in wanted {
            let (agent, file) = (&wanted.agent, &wanted.path);
            let why = quoted(wanted.note.as_deref());
            let _ = write!(self.text, "\n{agent} waits for {file}{why}: unlock_file it as soon as you are done");
        }
        if !earlier.is_empty() {
            let _ = write!(self.text, "\n{} more wait for locks of yours since before", earlier.len());
            self.value.insert("more_wanted".to_owned(), earlier.len().into());
        }
        if let Some(warning) = warning {
            let _ = write!(self.text, "\nwarning: {warning}");
            self.value.insert("warning".to_owned(), warning.into());
        }
        if !lost.is_empty() {
            self.value.insert("lost".to_owned(), plain(&lost));
        }
        if !wanted.is_empty() {
            self.value.insert("wanted".to_owned(), plain(&wanted));
        }
    }

    /// As it is sent.
    pub(super) fn into_result(self) -> CallToolResult {
        let mut result = CallToolResult::success(vec![ContentBlock::text(self.text)]);
        result.structured_content = Some(Value::Object(self.value));
        result.is_error = Some(self.is_error);
        result
    }
}

/// An error. `nothing` is what the tool's answer always has, so that its schema holds here as well.
pub(super) fn failed(fault: &Fault, nothing: &Value) -> Said {
    let Fault { code, message, error, .. } = fault;
    let mut said = Said::new(nothing.clone(), message.clone());
    said.is_error = true;
    said.value.insert("code".to_owned(), code.to_string().into());
    said.value.insert("message".to_owned(), message.as_str().into());
    if let Some(error) = error.as_deref() {
        said.text += &holder_lines(&error.holders);
        if !error.holders.is_empty() {
            said.value.insert("holders".to_owned(), plain(&error.holders));
        }
        if let Some(loss) = &error.loss {
            said.loss = Some(loss.lock_id.clone());
            said.value.insert("loss".to_owned(), plain(loss));
        }
    }
    said
}

/// A value without what is null, which some clients take for a value of a wrong type.
fn plain(value: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(value).expect("messages have string keys");
    without_nulls(&mut value);
    value
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(all) => all.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

// ── Locks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A lock, or why not.
pub(super) fn lock(mut body: LockBody) -> Said {
    body.advice = body.advice.as_deref().map(in_tools);
    Said::new(plain(&body), if body.acquired { granted_text(&body) } else { refused_text(&body) })
}

/// A sentence that names commands, for somebody who has tools. What has no tool stays a command.
fn in_tools(text: &str) -> String {
    let upgrade = |text: String| match text.split_once("`flockd upgrade --id ") {
        Some((before, rest)) => {
            let (_, after) = rest.split_once('`').unwrap_or((rest, ""));
            format!("{before}lock_file and mode exclusive{after}")
        }
        None => text,
    };
    let of_id = |text: String| match text.split_once("`--id ") {
        Some((before, rest)) => format!("{before}lock_id {}", rest.replacen('`', "", 1)),
        None => text,
    };
    of_id(upgrade(text.replace("`flockd ls`", "check_lock_status").replace("`flockd lock`", "lock_file")))
}

/// Locks, or why none of them.
pub(super) fn locks(mut body: LocksBody) -> Said {
    body.advice = body.advice.as_deref().map(in_tools);
    let mut value = plain(&body);
    value["locks"].as_array_mut().into_iter().flatten().for_each(without_the_common);
    Said::new(value, if body.acquired { all_granted_text(&body) } else { none_granted_text(&body) })
}

/// Leaves out of a lock of a set what the answer says of all of them, and that there is nothing where there may be
/// something: a model reads 64 of these.
fn without_the_common(lock: &mut Value) {
    const COMMON: [&str; 3] = ["acquired", "workspace_id", "agent"];
    let is_nothing = |value: &Value| *value == json!([]) || *value == json!(0);
    if let Some(lock) = lock.as_object_mut() {
        lock.retain(|name, value| {
            let may_be_nothing = matches!(name.as_str(), "holders" | "more_holders" | "cycle");
            let is_needless = COMMON.contains(&name.as_str()) || (may_be_nothing && is_nothing(value));
            !is_needless
        });
    }
}

fn granted_text(body: &LockBody) -> String {
    let advice = body.advice.as_deref().map_or_else(String::new, |advice| format!("\n{advice}"));
    // With a grant they are in nobody's way, and still good to know of.
    let others = holder_lines(&body.holders);
    format!("{}; unlock_file it as soon as you are done{others}{advice}", lock_line(body))
}

fn all_granted_text(body: &LocksBody) -> String {
    let line = |lock: &LockBody| match &lock.advice {
        Some(advice) => format!("{}: {advice}", lock_line(lock)),
        None => lock_line(lock),
    };
    let lines: Vec<String> = body.locks.iter().map(line).collect();
    format!("{}\nunlock_file each as soon as you are done", lines.join("\n"))
}

/// A lock that is held now, in a line.
fn lock_line(body: &LockBody) -> String {
    let how = match (body.already_held, body.resumed, body.upgraded) {
        (true, ..) => "already yours",
        (_, true, _) => "yours again",
        (.., true) => "upgraded",
        _ => "locked",
    };
    let (path, mode) = (&body.path, body.mode);
    let (id, fence) = (body.lock_id.as_deref().unwrap_or_default(), body.fence.unwrap_or_default());
    let left = body.expires_in_ms.map_or_else(String::new, |ms| format!(", {} left", duration(ms)));
    let rank = body.rank.map_or_else(String::new, |rank| format!(", rank {rank}"));
    format!("{how}: {path} {mode}, {id}, fence {fence}{rank}{left}")
}

fn refused_text(body: &LockBody) -> String {
    let why = match body.code {
        Some(Code::Deadlock) if body.lock_id.is_some() => {
            "somebody who shares it waits to have it alone as well; you share it as before"
        }
        _ if body.lock_id.is_some() => "others share it, and you share it as before",
        Some(Code::Timeout) => "it was not free in time",
        Some(Code::Deadlock) => "to wait for it would never end, since the holders wait for you",
        _ => "it is held",
    };
    let LockBody { holders, more_holders, cycle, position, advice, .. } = body;
    let in_the_way = InTheWay { holders, more: *more_holders, cycle, position: *position, advice: advice.as_deref() };
    format!("not locked: {}: {why}{in_the_way}", body.path)
}

fn none_granted_text(body: &LocksBody) -> String {
    let why = match body.code {
        Some(Code::Timeout) => "they were not all free in time",
        Some(Code::Deadlock) => "to wait for them would never end, since the holders wait for you",
        _ => "they are not all free",
    };
    let LocksBody { holders, more_holders, cycle, position, advice, .. } = body;
    let in_the_way = InTheWay { holders, more: *more_holders, cycle, position: *position, advice: advice.as_deref() };
    format!("none is locked: {why}{in_the_way}")
}

/// What a refusal names.
struct InTheWay<'a> {
    holders: &'a [Held],
    more: usize,
    cycle: &'a [String],
    position: Option<usize>,
    advice: Option<&'a str>,
}

impl fmt::Display for InTheWay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&holder_lines(self.holders))?;
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        self.cycle.iter().try_for_each(|step| write!(f, "\n{step}"))?;
        if let Some(position) = self.position.filter(|position| *position > 1) {
            write!(f, "\n{} asked before you", position - 1)?;
        }
        self.advice.map_or(Ok(()), |advice| write!(f, "\n{advice}"))
    }
}

/// What was released. Where it was named and no lock of the agent's was there, its place in the queue was.
pub(super) fn released(locks: &[Held], all: bool) -> Said {
    let text = match locks {
        [] if all => "nothing was held; places in queues, if there were any, are given up".to_owned(),
        [] => "the place in the queue was given up; nothing was held".to_owned(),
        locks => format!("released {}", locks.iter().map(|lock| lock.path.as_str()).collect::<Vec<_>>().join(", ")),
    };
    Said::new(json!({ "released": plain(&locks) }), text)
}

/// What was renewed.
pub(super) fn renewed(locks: &[Held]) -> Said {
    let text = format!("renewed{}", holder_lines(locks));
    Said::new(json!({ "renewed": plain(&locks) }), text)
}

fn holder_lines(holders: &[Held]) -> String {
    holders.iter().fold(String::new(), |text, held| text + "\n" + &holder_line(held))
}

/// A holder in a line.
pub(super) fn holder_line(held: &Held) -> String {
    let Held { agent, path, mode, lock_id, since, .. } = held;
    format!("{agent} holds {path} {mode} ({lock_id}) since {since}, {}{}", kept(held), quoted(held.note.as_deref()))
}

fn kept(held: &Held) -> String {
    match (held.expires_in_ms, held.kept_by) {
        (Some(ms), _) => format!("{} left", duration(ms)),
        (None, KeptBy::Process) => "while its command runs".to_owned(),
        (None, KeptBy::Flock) => "by flock(2), not through flockd".to_owned(),
        (None, _) => "while its session lives".to_owned(),
    }
}

/// Somebody's own words.
fn quoted(note: Option<&str>) -> String {
    note.map_or_else(String::new, |note| format!(", note: {note:?}"))
}

fn loss_line(loss: &Loss) -> String {
    let how = match (loss.reason.as_str(), &loss.by) {
        ("broken", Some(by)) => format!("{by} broke it{}", quoted(loss.note.as_deref())),
        ("expired", _) => "its lease ran out".to_owned(),
        ("rebooted", _) => "the machine was restarted".to_owned(),
        (reason, _) => reason.replace('_', " "),
    };
    let Loss { path, lock_id, at, .. } = loss;
    format!("{path} ({lock_id}) at {at}: {how}; others may have changed it, read it again")
}

// ── Status ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Who holds what and who waits; of one scope also what that means for the agent.
pub(super) fn status(body: &StatusBody, agent: Option<&str>, may_write: Option<bool>) -> Said {
    let shown = Rows::of(body);
    let mut value = shown.value();
    let mut text = String::new();
    if let Some(may_write) = may_write {
        let is_mine = |held: &&Held| Some(held.agent.as_str()) == agent;
        let others = body.locks.iter().filter(|held| !is_mine(held)).count();
        value.insert("may_write".to_owned(), may_write.into());
        value.insert("held_by_you".to_owned(), body.locks.iter().any(|held| is_mine(&held)).into());
        value.insert("held_by_others".to_owned(), (others > 0).into());
        text = match (may_write, others) {
            (true, _) => "you hold it exclusively and may write".to_owned(),
            (false, 0) => "you may not write yet: lock_file it first".to_owned(),
            (false, _) => "you may not write: others hold it".to_owned(),
        };
    } else if body.locks.is_empty() && body.waiters.is_empty() {
        text = "nothing is locked, nobody waits".to_owned();
    }
    text += &shown.text();
    Said::new(Value::Object(value), text.trim_start().to_owned())
}

/// How busy the locks are: the same few lines whatever has happened.
pub(super) fn stats(body: &Stats) -> Said {
    let Stats { since, now, total, scopes, .. } = body;
    let hottest: Vec<Value> = scopes
        .iter()
        .map(|one| {
            json!({
                "path": one.path,
                "requests": one.tally.requests,
                "contended": one.tally.contended,
                "contended_percent": one.tally.contended_percent,
                "refused": one.tally.refused,
                "held_p95_ms": one.tally.held.p95_ms,
                "waited_p95_ms": one.tally.waited.p95_ms,
            })
        })
        .collect();
    let mut text = format!(
        "{} locks are held, {} requests wait\nsince {since}: {} requests, {} contended ({} %), {} refused, {} expired, \
         {} broken\nhottest:",
        now.locks,
        now.waiters,
        total.requests,
        total.contended,
        total.contended_percent,
        total.refused,
        total.expired,
        total.broken
    );
    for one in scopes {
        let Tally { requests, contended_percent, waited, .. } = &one.tally;
        let waits = duration(waited.p95_ms);
        let _ =
            write!(text, "\n{}: {requests} requests, {contended_percent} % contended, waits up to {waits}", one.path);
    }
    if scopes.is_empty() {
        text += " none";
    }
    let value = json!({
        "since": since,
        "locks": now.locks,
        "waiters": now.waiters,
        "requests": total.requests,
        "contended": total.contended,
        "contended_percent": total.contended_percent,
        "refused": total.refused,
        "expired": total.expired,
        "broken": total.broken,
        "hottest": hottest,
    });
    Said::new(value, text)
}

/// As many rows as one answer lists.
pub(super) struct Rows<'a> {
    locks: &'a [Held],
    waiters: &'a [WaiterBody],
    more_locks: usize,
    more_waiters: usize,
}

impl Rows<'_> {
    pub(super) fn of(body: &StatusBody) -> Rows<'_> {
        let most = crate::limits::MCP_ROWS;
        let (locks, waiters) = (&body.locks, &body.waiters);
        Rows {
            locks: &locks[..locks.len().min(most)],
            waiters: &waiters[..waiters.len().min(most)],
            more_locks: locks.len().saturating_sub(most),
            more_waiters: waiters.len().saturating_sub(most),
        }
    }

    pub(super) fn value(&self) -> Map<String, Value> {
        let value = json!({
            "locks": plain(&self.locks),
            "waiters": plain(&self.waiters),
            "more_locks": self.more_locks,
            "more_waiters": self.more_waiters,
        });
        match value {
            Value::Object(value) => value,
            _ => Map::new(),
        }
    }

    fn text(&self) -> String {
        let mut text = holder_lines(self.locks);
        for waiter in self.waiters {
            let WaiterBody { agent, path, mode, position, .. } = waiter;
            let _ =
                write!(text, "\n{agent} waits for {path} {mode}, place {position}{}", quoted(waiter.note.as_deref()));
        }
        let more = self.more_locks + self.more_waiters;
        if more > 0 {
            let _ = write!(text, "\nand {more} more; name a path to see what concerns it");
        }
        text
    }
}

/// Why a request still waits, in a line; none if it waits no more. A set has rows that could be had, too.
pub(super) fn waiting(rows: &[WaiterBody], agent: &str) -> Option<String> {
    let mut own = rows.iter().filter(|waiter| waiter.agent == agent).peekable();
    let first = *own.peek()?;
    let waiter = own.find(|waiter| !waiter.holders.is_empty()).unwrap_or(first);
    let for_whom = waiter.holders.first().map_or_else(
        || format!("waiting for {}", waiter.path),
        |held| format!("waiting for {}: {} holds it, {}", waiter.path, held.agent, kept(held)),
    );
    let ahead = waiter.position.saturating_sub(1);
    Some(if ahead == 0 { for_whom } else { format!("{for_whom}; {ahead} ahead of you") })
}

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A file that was written. Where it was new and its name looks like something else, that is said.
pub(super) fn written(body: &CommitBody, hash: &str, like: Option<Likeness>) -> Said {
    let mut value = plain(body);
    value["written"] = true.into();
    value["hash"] = hash.into();
    let CommitBody { path, bytes, fence, .. } = body;
    let mut text = format!("wrote {path}: {bytes} bytes, BLAKE3 {hash}, under fence {fence}");
    if let Some(like) = like {
        let (sign, hint) = (like.sign(), like.hint());
        let advice = format!("{sign} is a part of this name, and the file is new: {hint} if you meant something else");
        let _ = write!(text, "\n{advice}");
        value["advice"] = advice.into();
    }
    Said::new(value, text)
}

/// A file that was not written, since others hold it.
pub(super) fn not_written(mut body: LockBody) -> Said {
    body.advice = body.advice.as_deref().map(in_tools);
    let mut value = plain(&body);
    if let Some(map) = value.as_object_mut() {
        map.remove("acquired");
        map.insert("written".to_owned(), false.into());
    }
    Said::new(value, format!("nothing was written; {}", refused_text(&body)))
}

/// A file that was not written, since it or its lock is not what it was.
pub(super) fn outdated(error: &WireError) -> Said {
    let mut value = plain(error);
    let message = in_tools(&error.message);
    let why = message.trim_end_matches("; nothing was written");
    let text = format!("nothing was written: {why}{}", holder_lines(&error.holders));
    value["written"] = false.into();
    value["message"] = message.into();
    Said { loss: error.loss.as_ref().map(|loss| loss.lock_id.clone()), ..Said::new(value, text) }
}
