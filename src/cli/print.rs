//! Answers for people and for programs. Data goes to stdout, everything else to stderr; a closed pipe is no error.

use super::Failure;
use crate::client::ClientError;
use crate::wire::render::duration;
use crate::wire::{
    Answer, Body, Code, ContentionBody, DaemonBody, EventBody, GapBody, Held, KeptBy, LockBody, LocksBody, Loss, Mode,
    StatusBody, WaiterBody,
};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

const NAME: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default();

fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Set when an answer could not be written: the exit status must not say that all is well.
static CUT_OFF: AtomicBool = AtomicBool::new(false);

/// Writes to stdout. Whoever closed the pipe has read enough; any other failure is one.
pub(super) fn out(text: &str) {
    out_arrives(text);
}

/// The same, and whether all of it was written.
pub(super) fn out_arrives(text: &str) -> bool {
    let mut stdout = anstream::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Err(error) = &written
        && error.kind() != ErrorKind::BrokenPipe
    {
        CUT_OFF.store(true, Ordering::Relaxed);
        err(&format!("{} the answer cannot be written: {error}\n", paint(BAD, "flockd:")));
    }
    written.is_ok()
}

/// Whether an answer could not be written.
pub(super) fn is_cut_off() -> bool {
    CUT_OFF.load(Ordering::Relaxed)
}

/// Writes to stderr, where nobody can be told that it failed.
pub(super) fn err(text: &str) {
    err_arrives(text);
}

/// The same, and whether all of it was written.
pub(super) fn err_arrives(text: &str) -> bool {
    anstream::stderr().lock().write_all(text.as_bytes()).is_ok()
}

/// Prints a value as one line of JSON.
pub(super) fn json(value: &impl Serialize) {
    out(&json_line(value));
}

/// A value as one line of JSON.
pub(super) fn json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("messages have string keys") + "\n"
}

/// A name as it can be shown on a terminal: what would steer it is written out.
pub(super) fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A scope as whoever asked would name it: relative where it lies below the working directory, else whole. What would
/// be taken for something else begins with `./`.
pub(super) fn name(path: &str) -> String {
    let cwd = std::env::current_dir().ok().map(|cwd| crate::wire::escape(cwd.as_os_str().as_bytes()));
    let (glob, path) = path.strip_prefix("glob:").map_or(("", path), |path| ("glob:", path));
    let below = cwd.and_then(|cwd| path.strip_prefix(&cwd)?.strip_prefix('/').map(str::to_owned));
    if !glob.is_empty() {
        return format!("{glob}{}", shown(below.as_deref().unwrap_or(path)));
    }
    match below.as_deref() {
        None => shown(path),
        Some("") => "./".to_owned(),
        Some(below) if below.starts_with(['@', '-']) => format!("./{}", shown(below)),
        Some(below) => shown(below),
    }
}

/// The error line of a command.
pub(super) fn failure(failure: &Failure, as_json: bool) {
    if as_json {
        #[derive(Serialize)]
        struct Line<'a> {
            error: Error<'a>,
        }
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Error<'a> {
            Wire(&'a crate::wire::WireError),
            Own { code: &'a str, message: &'a str },
        }
        let error = match &failure.error {
            Some(error) => Error::Wire(error),
            None => Error::Own { code: failure.exit.code(), message: &failure.message },
        };
        json(&Line { error });
        return;
    }
    err(&format!("{} {}\n", paint(BAD, "flockd:"), shown(&failure.message)));
    for holder in failure.error.iter().flat_map(|error| &error.holders) {
        err(&format!("  {}\n", holder_line(holder)));
    }
}

/// What comes along with an answer: losses and who waits. What this very answer releases is none, though whoever held
/// it, a `flockd run` that was killed for one, did not release it.
pub(super) fn notices(answer: &Answer) {
    let released = match &answer.ok {
        Some(Body::Released(locks)) => locks.as_slice(),
        _ => &[],
    };
    let is_released = |loss: &&Loss| released.iter().any(|held| held.lock_id == loss.lock_id);
    let lost: Vec<Loss> = answer.lost.iter().filter(|loss| !is_released(loss)).cloned().collect();
    losses(&lost);
    for wanted in &answer.wanted {
        let (agent, file) = (shown(&wanted.agent), name(&wanted.path));
        err(&format!("{} {agent} waits for {file}; when you are done: flockd unlock {file}\n", paint(WARN, "flockd:")));
    }
}

/// Something that is not about the answer.
pub(super) fn warning(text: &str) {
    err(&format!("{} {}\n", paint(WARN, "flockd:"), shown(text)));
}

/// Locks that this agent lost and had not heard of.
pub(super) fn losses(lost: &[Loss]) {
    for loss in lost {
        err(&format!("{} {}\n", paint(WARN, "flockd:"), loss_line(loss)));
    }
}

pub(super) fn loss_line(loss: &Loss) -> String {
    let file = name(&loss.path);
    let how = match (loss.reason.as_str(), &loss.by) {
        ("broken", Some(by)) => {
            format!("{} broke it: {}", shown(by), shown(loss.note.as_deref().unwrap_or("no reason given")))
        }
        ("expired", _) => "its lease ran out".to_owned(),
        ("rebooted", _) => "the machine was restarted".to_owned(),
        ("silent", _) => "its session did not return after a restart of the daemon".to_owned(),
        ("released", _) => "it was released by another call of this agent".to_owned(),
        (reason, _) => reason.to_owned(),
    };
    format!("you lost {file} ({}) at {}: {how}", loss.lock_id, loss.at)
}

// ── Locks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// One line on a lock that is held now, and one on each that is beside it and not in its way.
pub(super) fn granted(body: &LockBody) -> String {
    let how = match (body.already_held, body.resumed, body.upgraded) {
        (true, ..) => "already held:",
        (_, true, _) => "resumed",
        (.., true) => "upgraded",
        _ => "locked",
    };
    held_now(how, body)
}

/// The same of a lock that was to become a shared one.
pub(super) fn shared(body: &LockBody, was_shared: bool) -> String {
    held_now(if was_shared { "shared already:" } else { "downgraded" }, body)
}

fn held_now(how: &str, body: &LockBody) -> String {
    let lease = body.expires_in_ms.map_or_else(String::new, |ms| format!(", {} left", duration(ms)));
    let id = body.lock_id.as_deref().unwrap_or_default();
    let fence = body.fence.unwrap_or_default();
    let file = paint(NAME, &name(&body.path));
    let rank = match (body.rank, &body.leader) {
        (Some(rank), Some(leader)) => format!(", rank {rank}: {} leads", shown(leader)),
        _ => String::new(),
    };
    let mut text = format!("{how} {file} {}, {id}, fence {fence}{lease}{rank}\n", body.mode);
    for holder in &body.holders {
        let _ = writeln!(text, "  {}", holder_line(holder));
    }
    if body.more_holders > 0 {
        let _ = writeln!(text, "  and {} more", body.more_holders);
    }
    if let Some(hint) = hint(body) {
        let _ = writeln!(text, "  {}", shown(hint));
    }
    text
}

/// What is odd about a name that was locked. What is true of all patterns and advisory locks is not said each time.
pub(super) fn hint(body: &LockBody) -> Option<&str> {
    let is_same_for_all = body.mode == Mode::Advisory || body.path.starts_with("glob:");
    body.advice.as_deref().filter(|_| !is_same_for_all)
}

/// One line on who leads now.
pub(super) fn leads(body: &LockBody) -> String {
    let (agent, name) = (shown(&body.agent), paint(NAME, &shown(&body.file_id)));
    let (id, fence) = (body.lock_id.as_deref().unwrap_or_default(), body.fence.unwrap_or_default());
    format!("{agent} leads {name}, {id}, fence {fence}\n")
}

/// Why a lock is not held, who holds it or, where nobody does, is before us, and what to do.
pub(super) fn refused(body: &LockBody, ahead: &[WaiterBody]) -> String {
    let file = paint(NAME, &name(&body.path));
    let why = match body.code {
        Some(Code::Deadlock) if body.lock_id.is_some() => {
            "would never become yours alone: to wait for that would close a cycle"
        }
        _ if body.lock_id.is_some() => "is shared by others, and you share it as before",
        Some(Code::Timeout) => "was not free in time",
        Some(Code::Deadlock) => "would never become free: to wait for it would close a cycle",
        _ if !ahead.is_empty() => "was asked for before",
        _ => "is held",
    };
    let mut text = format!("{} {file} {why}\n", paint(BAD, "flockd:"));
    for waiter in ahead {
        let _ = writeln!(text, "  {}", waiter_line(waiter));
    }
    let LockBody { holders, more_holders, cycle, advice, .. } = body;
    let position = body.position.filter(|_| ahead.is_empty());
    let in_the_way = InTheWay { holders, more: *more_holders, cycle, position, advice: advice.as_deref() };
    in_the_way.write(&mut text);
    text
}

/// Why none of several locks is held, who holds any of them and what to do.
pub(super) fn refused_set(body: &LocksBody) -> String {
    let why = match body.code {
        Some(Code::Timeout) => "were not all free in time",
        Some(Code::Deadlock) => "would never become free together: to wait for them would close a cycle",
        _ => "are not all free",
    };
    let files: Vec<String> = body.file_ids.iter().map(|file| paint(NAME, &shown(file))).collect();
    let mut text = format!("{} {} {why}; none is locked\n", paint(BAD, "flockd:"), files.join(", "));
    let LocksBody { holders, more_holders, cycle, position, advice, .. } = body;
    let in_the_way = InTheWay { holders, more: *more_holders, cycle, position: *position, advice: advice.as_deref() };
    in_the_way.write(&mut text);
    text
}

/// What a refusal names.
struct InTheWay<'a> {
    holders: &'a [Held],
    more: usize,
    cycle: &'a [String],
    position: Option<usize>,
    advice: Option<&'a str>,
}

impl InTheWay<'_> {
    fn write(&self, text: &mut String) {
        for holder in self.holders {
            let _ = writeln!(text, "  {}", holder_line(holder));
        }
        if self.more > 0 {
            let _ = writeln!(text, "  and {} more", self.more);
        }
        for step in self.cycle {
            let _ = writeln!(text, "  {}", shown(step));
        }
        // A cycle says already who waits for whom.
        if let Some(position) = self.position.filter(|position| *position > 1 && self.cycle.is_empty()) {
            let _ = writeln!(text, "  {} asked before you", position - 1);
        }
        if let Some(advice) = self.advice {
            let _ = writeln!(text, "  {}", shown(advice));
        }
    }
}

/// A holder in a line: `claw-1 holds data.json exclusive since …, 9m left, pid 12: why`.
pub(super) fn holder_line(held: &Held) -> String {
    let (agent, file) = (paint(NAME, &shown(&held.agent)), name(&held.path));
    let pid = held.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
    let note = held.note.as_deref().map_or_else(String::new, |note| format!(": {}", shown(note)));
    format!("{agent} holds {file} {} ({}) since {}, {}{pid}{note}", held.mode, held.lock_id, held.since, kept(held))
}

/// Somebody's place in the queue in a line.
fn waiter_line(waiter: &WaiterBody) -> String {
    let (agent, file) = (paint(NAME, &shown(&waiter.agent)), name(&waiter.path));
    let kept = waiter.kept_ms.map(duration);
    match (kept, waiter.absent) {
        (Some(kept), _) if waiter.offered => format!("it is the turn of {agent}, for whom {file} is kept {kept} more"),
        (Some(kept), _) => format!("{agent} has place {} for {file}, kept {kept} more", waiter.position),
        (None, true) => format!("{agent} waited for {file} and is expected back"),
        (None, false) => format!("{agent} waits for {file}"),
    }
}

fn kept(held: &Held) -> String {
    if let Some(by) = &held.contested_by {
        return format!("flocked by {}", shown(by));
    }
    match (held.expires_in_ms, held.kept_by) {
        (Some(ms), _) if held.bound_pid.is_some() => {
            format!("{} left, ends with process {}", duration(ms), held.bound_pid.unwrap_or_default())
        }
        (Some(ms), _) => format!("{} left", duration(ms)),
        (None, KeptBy::Process) => "while its command runs".to_owned(),
        (None, KeptBy::Flock) => "by flock(2), not through flockd".to_owned(),
        (None, _) => "while its session lives".to_owned(),
    }
}

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// An event as one line.
pub(super) fn event(event: &EventBody) -> String {
    if let (Some(webhook), Some(url)) = (&event.webhook_id, &event.url) {
        let why = event.note.as_ref().map_or_else(String::new, |note| format!(": {}", shown(note)));
        let (time, word) = (paint(DIM, &event.timestamp), paint(BAD, &event.event));
        let back = format!("`flockd webhook retry {webhook}` wants it back");
        return format!("{time} {word} {} {webhook}{why}; {back}\n", name(url));
    }
    let (file, agent) = (name(&event.path), paint(NAME, &shown(&event.acquired_by)));
    let style = match (event.event.as_str(), event.reason.as_deref()) {
        ("lock.acquired", _) => AnsiColor::Green.on_default(),
        ("lock.released", None | Some("released")) => AnsiColor::Cyan.on_default(),
        ("lock.released", _) | ("lock.violation", _) => BAD,
        _ => WARN,
    };
    let word = paint(style, event.event.strip_prefix("lock.").unwrap_or(&event.event));
    let waiter =
        event.waiter.as_ref().map_or_else(String::new, |waiter| format!("{} for ", paint(NAME, &shown(waiter))));
    let reason = event.reason.as_deref().filter(|reason| *reason != "released");
    let reason = reason.map_or_else(String::new, |reason| format!(", {}", reason.replace('_', " ")));
    let by = event.by.as_ref().map_or_else(String::new, |by| format!(" by {}", shown(by)));
    let note = event.note.as_ref().map_or_else(String::new, |note| format!(": {}", shown(note)));
    let former = event.former_leader.as_ref().map_or_else(String::new, |former| format!(", after {}", shown(former)));
    let note = event.contention.as_ref().map_or(note, contention);
    let note = event.how.as_ref().map_or(note, |how| format!(": the file was {} around the lock", shown(how)));
    let time = paint(DIM, &event.timestamp);
    format!("{time} {word} {waiter}{agent} {file} {} ({}){reason}{by}{former}{note}\n", event.mode, event.lock_id)
}

fn contention(body: &ContentionBody) -> String {
    let ContentionBody { failed, queued, over_ms, waiting, longest_wait_ms, left_out } = body;
    let longest = match waiting {
        0 => String::new(),
        _ => format!(", for {} at most", duration(*longest_wait_ms)),
    };
    let others = match left_out {
        0 => String::new(),
        _ => format!("; {left_out} more scopes were contended and not told"),
    };
    let over = duration(*over_ms);
    format!(": {failed} refused and {queued} queued in {over}, {waiting} waiting{longest}{others}")
}

/// What is missing, as one line.
pub(super) fn gap(gap: &GapBody) -> String {
    format!("{}\n", paint(WARN, &missing(gap)))
}

/// The same as a sentence.
pub(super) fn missing(gap: &GapBody) -> String {
    let GapBody { from, to, events } = gap;
    match events {
        Some(1) => format!("1 event is missing, number {from} to {to}"),
        Some(events) => format!("{events} events are missing, number {from} to {to}"),
        None => format!("events may be missing, number {from} to {to}: they are too old, or a power cut took them"),
    }
}

// ── Status ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// All locks and waiting requests, or those about one scope, in columns.
pub(super) fn status(body: &StatusBody, scope: Option<&OsStr>) -> String {
    if body.locks.is_empty() && body.waiters.is_empty() {
        return match scope {
            None => "nothing is locked, nobody waits\n".to_owned(),
            Some(scope) => {
                format!("nothing about {} is locked here, nobody waits for it\n", name(&scope.to_string_lossy()))
            }
        };
    }
    let mut rows: Vec<[String; 6]> = vec![["SCOPE", "MODE", "AGENT", "LOCK", "LEASE", "NOTE"].map(str::to_owned)];
    rows.extend(by_family(&body.locks).into_iter().map(lock_row));
    rows.extend(body.waiters.iter().map(waiter_row));
    columns(&rows)
}

/// Each family together, parents before their sub-agents, families by their oldest lock.
fn by_family(locks: &[Held]) -> Vec<&Held> {
    let family = |held: &Held| held.agent.split('/').next().unwrap_or_default().to_owned();
    let mut oldest: HashMap<String, usize> = HashMap::new();
    for (age, held) in locks.iter().enumerate() {
        oldest.entry(family(held)).or_insert(age);
    }
    let mut rows: Vec<&Held> = locks.iter().collect();
    rows.sort_by_key(|held| (oldest[&family(held)], &held.agent));
    rows
}

fn lock_row(held: &Held) -> [String; 6] {
    let note = held.note.as_deref().map(shown).unwrap_or_default();
    let mode = held.rank.map_or_else(|| held.mode.to_string(), |rank| format!("{} #{rank}", held.mode));
    [name(&held.path), mode, shown(&held.agent), held.lock_id.clone(), kept(held), note]
}

fn waiter_row(waiter: &WaiterBody) -> [String; 6] {
    let behind = waiter.holders.first().map(|first| format!("behind {}", shown(&first.agent))).unwrap_or_default();
    let left = match (waiter.absent, waiter.wait_left_ms) {
        (true, _) if waiter.ticket.is_some() => {
            let turn = if waiter.offered { "its turn, " } else { "" };
            format!("{turn}kept {} more", duration(waiter.kept_ms.unwrap_or_default()))
        }
        (true, _) => "expected back".to_owned(),
        (false, Some(ms)) => format!("waits {} more", duration(ms)),
        (false, None) => "waits for ever".to_owned(),
    };
    let set = waiter.set.map(|set| format!("{} of {} together", set.number, set.of));
    let behind = [set.unwrap_or_default(), behind].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let behind = behind.join(", ");
    let note = waiter.note.as_deref().map_or(behind.clone(), |note| format!("{behind}: {}", shown(note)));
    let place = format!("place {}", waiter.position);
    [name(&waiter.path), waiter.mode.to_string(), shown(&waiter.agent), place, left, note]
}

/// What stands above others.
pub(super) fn heading(text: &str) -> String {
    paint(DIM, text)
}

/// Rows in columns; the first one is the head.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("  ").trim_end().to_owned();
        let _ = writeln!(text, "{}", if number == 0 { heading(&line) } else { line });
    }
    text
}

/// The daemon in a few lines.
pub(super) fn daemon(body: &DaemonBody) -> String {
    let mut text = format!(
        "flockd {} has run for {} as process {}\n  home {}\n  locks {}, waiting {}, sessions {}, connections {}\n",
        body.version,
        duration(body.uptime_ms),
        body.pid,
        shown(&body.home),
        body.locks,
        body.waiters,
        body.sessions,
        body.connections
    );
    if let Some(trouble) = &body.trouble {
        let _ = writeln!(text, "  {} {}", paint(BAD, "trouble:"), shown(trouble));
    }
    text
}

/// A failure of the client as the sentence it is.
pub(super) fn sentence(error: &ClientError) -> String {
    shown(&error.to_string())
}
