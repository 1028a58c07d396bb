//! The rules of asking and holding, one claim a test, in a small notation.
//!
//! `desk.ask("ada", "x /f")` is a one-shot of ada that tries an exclusive lock on the file `/f`; `s` is shared, `a`
//! advisory, a path that ends in `/` is a subtree, `@name` a resource, `ada#1` is the library session 1 of ada, opened
//! when it is first named. The outcome is a word or two: see [`Desk::word`].

use flockd::limits::{self, HOUR, MINUTE, SECOND};
use flockd::model::*;
use flockd::scope::{FileId, Scope, Target};
use flockd::table::{LockTable, Outgoing, Step};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A table, a clock that the test turns, and the answers that nobody has read yet.
pub struct Desk {
    pub table: LockTable,
    pub now: Now,
    rows: BTreeMap<String, Record>,
    sessions: BTreeMap<String, SessionId>,
    callers: u64,
    asked_by: BTreeMap<Caller, String>,
    /// Answers to requests that had to wait, as `name: word`.
    pub news: Vec<String>,
    /// The latest answer.
    pub last: Option<Answer>,
    /// Whether notices reach whoever asks.
    answers_arrive: bool,
    ttl: Option<u64>,
    max_hold: Option<u64>,
    request: Option<RequestId>,
    bound: Option<Process>,
    pub steps: Vec<Step>,
    /// Where fences and event numbers begin after the next restart.
    numbers: u64,
}

/// The scope in a request's words; every directory and file exists, with an identity made from its name.
pub fn target(words: &str) -> Target {
    if let Some(name) = words.strip_prefix('@') {
        return Target::named(Scope::Resource(name.into()));
    }
    let path = if words == "/" { "/" } else { words.trim_end_matches('/') };
    let scope = match words.ends_with('/') {
        true => Scope::Subtree(path.as_bytes().into()),
        false => Scope::File(path.as_bytes().into()),
    };
    let mut ids = vec![FileId { device: 1, inode: 1, birth: 0 }];
    for (end, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]).filter(|_| path != "/") {
        let hash = path[..end].bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        ids.push(FileId { device: 1, inode: hash, birth: 0 });
    }
    Target { scope, ids: ids.into() }
}

impl Desk {
    pub fn new() -> Desk {
        Desk {
            table: LockTable::new(1, 1),
            now: Now { mono: Moment(HOUR), wall: Wall(0) },
            rows: BTreeMap::new(),
            sessions: BTreeMap::new(),
            callers: 0,
            asked_by: BTreeMap::new(),
            news: Vec::new(),
            last: None,
            answers_arrive: true,
            ttl: None,
            max_hold: None,
            request: None,
            bound: None,
            steps: Vec::new(),
            numbers: 0,
        }
    }

    /// For the next request only.
    pub fn ttl(&mut self, ms: u64) -> &mut Desk {
        self.ttl = Some(ms);
        self
    }

    fn max_hold(&mut self, ms: u64) -> &mut Desk {
        self.max_hold = Some(ms);
        self
    }

    pub fn bound(&mut self, process: Process) -> &mut Desk {
        self.bound = Some(process);
        self
    }

    pub fn request(&mut self, id: &str) -> &mut Desk {
        self.request = Some(RequestId::new(id).expect("an id"));
        self
    }

    /// Who `ada` or `ada#1` is.
    pub fn who(&mut self, name: &str) -> Who {
        let agent = Agent::new(name.split('#').next().expect("a name")).expect("a name");
        if !name.contains('#') {
            return Who { agent, session: None };
        }
        if !self.sessions.contains_key(name) {
            let id = SessionId(100 + self.sessions.len() as u64);
            let (kind, process) = (SessionKind::Library, Some(process_of(id)));
            let session = Session { id, secret: 7, agent: agent.clone(), process, kind, away_until: None };
            self.sessions.insert(name.to_owned(), id);
            let caller = self.caller(name);
            self.run(Command::OpenSession { caller, session });
        }
        Who { agent, session: Some(self.sessions[name]) }
    }

    pub fn caller(&mut self, name: &str) -> Caller {
        self.callers += 1;
        let caller = Caller { conn: 1, id: self.callers };
        self.asked_by.insert(caller, name.to_owned());
        caller
    }

    pub fn request_of(&mut self, name: &str, words: &str) -> Arc<Ask> {
        let (mode, scope) = words.split_once(' ').expect("a mode and a scope");
        let who = self.who(name);
        let ttl = self.ttl.take().unwrap_or(if who.session.is_some() { 0 } else { MINUTE });
        Arc::new(Ask {
            target: target(scope),
            mode: match mode {
                "s" => Mode::Shared,
                "a" => Mode::Advisory,
                _ => Mode::Exclusive,
            },
            who,
            lease: Lease { ttl, max_hold: self.max_hold.take() },
            note: None,
            process: None,
            bound: self.bound.take(),
            upgrades: None,
            set: None,
            request: self.request.take(),
            workspace: Workspace { root: b"/"[..].into() },
            os: false,
        })
    }

    /// Runs a command; answers with the word for `caller`, or `waits`.
    pub fn command(&mut self, caller: Caller, command: Command) -> String {
        let replies = self.run(command);
        let mine = replies.into_iter().find(|reply| reply.to == caller);
        self.last = mine.map(|reply| reply.answer);
        let told = self.last.iter().flat_map(|answer| &answer.lost).map(|ended| ended.id).collect::<Vec<_>>();
        if !told.is_empty() && self.answers_arrive {
            self.run(Command::LossesTold(told));
        }
        self.last.as_ref().map_or("waits".into(), |answer| Desk::word(&answer.reply))
    }

    /// Runs a command; the answers to others become news.
    pub fn run(&mut self, command: Command) -> Vec<Outgoing> {
        let by = match &command {
            Command::Lock { caller, .. }
            | Command::LockSet { caller, .. }
            | Command::Upgrade { caller, .. }
            | Command::WaitFree { caller, .. } => Some(*caller),
            _ => None,
        };
        let step = self.table.apply(self.now, command);
        self.keep(step, by)
    }

    fn keep(&mut self, step: Step, by: Option<Caller>) -> Vec<Outgoing> {
        for record in &step.records {
            let key = match record {
                Record::Lock(id, _) => format!("lock {}", id.0),
                Record::Waiter(id, _) => format!("waiter {}", id.0),
                Record::Session(id, _) => format!("session {}", id.0),
                Record::Ended(id, _) => format!("ended {}", id.0),
                Record::Webhook(id, _) => format!("webhook {}", id.0),
                Record::Event(_) | Record::Reserve { .. } => continue,
            };
            self.rows.insert(key, record.clone());
        }
        let replies = step.replies.clone();
        for reply in replies.iter().filter(|reply| Some(reply.to) != by) {
            let word = Desk::word(&reply.answer.reply);
            let is_grant = !reply.answer.reply.grants().is_empty();
            let waited = is_grant || matches!(reply.answer.reply, Reply::Refused(_) | Reply::Free);
            if waited {
                self.news.push(format!("{}: {word}", self.asked_by[&reply.to]));
            }
        }
        self.steps.push(step);
        replies
    }

    fn word(reply: &Reply) -> String {
        let names = |locks: &[Lock]| locks.iter().map(|lock| lock.ask.who.agent.to_string()).collect::<Vec<_>>();
        match reply {
            Reply::Granted(granted) if granted.already_held => "already held".into(),
            Reply::Granted(granted) if granted.resumed.is_some() => "resumed".into(),
            Reply::Granted(granted) if granted.again => "granted again".into(),
            Reply::Granted(granted) if granted.upgraded => "upgraded".into(),
            Reply::Granted(_) => "granted".into(),
            Reply::GrantedSet(all) => {
                let word = |granted: &Granted| Desk::word(&Reply::Granted(Box::new(granted.clone())));
                let mut words: Vec<String> = all.iter().map(word).collect();
                words.dedup();
                words.join(", ")
            }
            Reply::Refused(refused) => match &refused.why {
                RefusedFor::Held => format!("held by {}", names(&refused.holders).join(" ")),
                RefusedFor::OwnLock => "own lock".into(),
                RefusedFor::Timeout => "timeout".into(),
                RefusedFor::Deadlock(cycle) => {
                    let names: Vec<&str> = cycle.iter().map(|link| link.waits.as_str()).collect();
                    format!("deadlock {}", names.join(" > "))
                }
            },
            Reply::Failed(fault) => match fault {
                Fault::NotFound | Fault::NoWebhook(_) => "not found".into(),
                Fault::Delegated(locks) => format!("delegated to {}", names(locks).join(" ")),
                Fault::NotHolder(holders) => format!("held by {}", names(holders).join(" ")),
                Fault::OnlyAdvisory(..) => "only advisory".into(),
                Fault::Lost(ended, _) => format!("lost: {:?}", ended.why),
                Fault::Invalid(_) => "invalid".into(),
                Fault::Unavailable(_) => "unavailable".into(),
                Fault::UnknownSession => "unknown session".into(),
                Fault::TooMany(_) | Fault::Denied(_) => "refused".into(),
                Fault::Changed(_) => "changed".into(),
                Fault::NotDurable(_) => "not durable".into(),
            },
            Reply::Checked(Ok(_)) => "yes".into(),
            Reply::Checked(Err(holders)) => format!("no {}", names(holders).join(" ")).trim_end().into(),
            Reply::Released(locks) => format!("released {}", locks.len()),
            Reply::Renewed(locks) => format!("renewed {}", locks.len()),
            Reply::Cancelled(was_there) => format!("cancelled {was_there}"),
            Reply::Free => "free".into(),
            Reply::Webhook(_) | Reply::Webhooks(_) | Reply::WebhookRemoved(_) => unreachable!("webhooks.rs has those"),
            Reply::Broken(_) => "broken".into(),
            Reply::Committed(..) => "committed".into(),
            Reply::SessionOpen(_) => "open".into(),
            Reply::Bound(_) => "bound".into(),
            Reply::Downgraded(_) => "shared".into(),
            Reply::Status { .. } => "status".into(),
            Reply::News { more } => format!("news and {more} more"),
        }
    }

    pub fn ask(&mut self, name: &str, words: &str) -> String {
        self.lock(name, words, Wait::Try)
    }

    /// As [`Desk::ask`], for a target that the words have no way to say.
    pub fn ask_for(&mut self, name: &str, mode: &str, target: Target) -> String {
        self.lock_for(name, mode, target, Wait::Try)
    }

    pub fn wait_at(&mut self, name: &str, target: Target) -> String {
        self.lock_for(name, "x", target, Wait::Forever)
    }

    fn lock_for(&mut self, name: &str, mode: &str, target: Target, wait: Wait) -> String {
        let caller = self.caller(name);
        let ask = self.request_of(name, &format!("{mode} /"));
        let ask = Arc::new(Ask { target, ..(*ask).clone() });
        self.command(caller, Command::Lock { caller, ask, wait })
    }

    /// As [`Desk::unlock`], for such a target.
    pub fn free_by(&mut self, name: &str, target: Target) -> String {
        let (caller, who) = (self.caller(name), self.who(name));
        self.command(
            caller,
            Command::Unlock { caller: Some(caller), who, which: Which::Scope(target), leaves_loan: false },
        )
    }

    pub fn wait(&mut self, name: &str, words: &str) -> String {
        self.lock(name, words, Wait::Forever)
    }

    pub fn wait_for(&mut self, ms: u64, name: &str, words: &str) -> String {
        self.lock(name, words, Wait::Until(self.now.mono.after(ms)))
    }

    /// As [`Desk::ask`], for a set: `x /f /g`.
    pub fn ask_all(&mut self, name: &str, words: &str) -> String {
        self.lock_set(name, words, Wait::Try)
    }

    pub fn wait_all(&mut self, name: &str, words: &str) -> String {
        self.lock_set(name, words, Wait::Forever)
    }

    pub fn lock_set(&mut self, name: &str, words: &str, wait: Wait) -> String {
        let (mode, scopes) = words.split_once(' ').expect("a mode and scopes");
        let first = self.request_of(name, &format!("{mode} /"));
        let of = scopes.split(' ').count() as u16;
        let member = |(index, scope)| {
            Arc::new(Ask { target: target(scope), set: Some(SetMember { index, of }), ..(*first).clone() })
        };
        let asks = (0..).zip(scopes.split(' ')).map(member).collect();
        let caller = self.caller(name);
        self.command(caller, Command::LockSet { caller, asks, wait })
    }

    fn lock(&mut self, name: &str, words: &str, wait: Wait) -> String {
        let ask = self.request_of(name, words);
        let caller = self.caller(name);
        self.command(caller, Command::Lock { caller, ask, wait })
    }

    /// Gives a kept place up.
    pub fn give_up(&mut self, name: &str, ticket: TicketId) -> String {
        let who = self.who(name);
        let caller = self.caller(name);
        self.command(caller, Command::GiveUp { caller, who, ticket })
    }

    pub fn wait_free(&mut self, name: &str, words: &str) -> String {
        let ask = self.request_of(name, words);
        let caller = self.caller(name);
        self.command(caller, Command::WaitFree { caller, ask, wait: Wait::Forever })
    }

    pub fn which(&self, words: &str) -> Which {
        match words.strip_prefix("lk_") {
            Some(_) => Which::Id(words.parse().expect("an id")),
            None if words == "all" => Which::All,
            None => Which::Scope(target(words)),
        }
    }

    /// Releases a scope, an id, or `all`.
    pub fn unlock(&mut self, name: &str, words: &str) -> String {
        let (who, which) = (self.who(name), self.which(words));
        let caller = self.caller(name);
        self.command(caller, Command::Unlock { caller: Some(caller), who, which, leaves_loan: false })
    }

    pub fn renew(&mut self, name: &str, words: &str, ttl: Option<u64>) -> String {
        let (who, which) = (self.who(name), self.which(words));
        let caller = self.caller(name);
        self.command(caller, Command::Renew { caller, who, which, ttl })
    }

    pub fn upgrade(&mut self, name: &str, words: &str, wait: Wait) -> String {
        let (who, which, request) = (self.who(name), self.which(words), self.request.take());
        let caller = self.caller(name);
        self.command(caller, Command::Upgrade { caller, who, which, wait, request })
    }

    pub fn downgrade(&mut self, name: &str, words: &str) -> String {
        let (who, which) = (self.who(name), self.which(words));
        let caller = self.caller(name);
        self.command(caller, Command::Downgrade { caller, who, which })
    }

    pub fn check(&mut self, name: &str, words: &str, fence: Option<Fence>) -> String {
        let who = self.who(name);
        let caller = self.caller(name);
        self.command(caller, Command::Check { caller, who, target: target(words), fence })
    }

    /// Puts a file in place of another, in as far as the table has a say: `waits` while the file system is at work.
    pub fn commit(&mut self, name: &str, words: &str, fence: Option<Fence>) -> String {
        let (who, caller) = (self.who(name), self.caller(name));
        let prepared = Prepared { name: b"new"[..].into(), device: 1, inode: 99, unchanged: None };
        let prepared = Arc::new(prepared);
        self.command(caller, Command::Commit { caller, who, target: target(words), fence, prepared })
    }

    /// The file system has done what it was last asked.
    pub fn in_place(&mut self) {
        self.in_place_as(None);
    }

    /// The same, and this file stands there now.
    pub fn in_place_as(&mut self, file: Option<FileId>) {
        let effects = self.steps.iter().flat_map(|step| &step.effects);
        let mut ordered = effects.filter_map(|effect| match effect {
            Effect::Commit { commit, lock, .. } => Some((*commit, *lock)),
            _ => None,
        });
        let (commit, lock) = ordered.next_back().expect("something was to be put in place");
        let answer = CommitAnswer::InPlace(Placed { bytes: 3, file, flocked: false, again: false });
        self.run(Command::CommitDone { commit, lock, answer });
    }

    pub fn break_lock(&mut self, name: &str, id: LockId) -> String {
        let who = self.who(name);
        let caller = self.caller(name);
        self.command(caller, Command::Break { caller, who, id, reason: "stuck".into() })
    }

    pub fn bind(&mut self, name: &str, id: LockId, process: Process) -> String {
        let who = self.who(name);
        let caller = self.caller(name);
        self.command(caller, Command::Bind { caller, who, id, process })
    }

    /// What `status` shows of a name's view: locks, waiting requests, and what it is told along with it.
    pub fn status(&mut self, name: &str) -> (Vec<Lock>, Vec<Queued>) {
        let who = Some(self.who(name));
        let caller = self.caller(name);
        self.command(caller, Command::Status { caller, who, target: None });
        match self.last.clone().expect("status answers").reply {
            Reply::Status { locks, waiters } => (locks, waiters),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for news, of losses and of waiters.
    fn ask_news(&mut self, name: &str) -> String {
        let who = self.who(name);
        let caller = self.caller(name);
        self.command(caller, Command::News { caller, who, heard: Vec::new() })
    }

    /// Who waits, by arrival.
    pub fn queue(&mut self) -> Vec<String> {
        self.status("nobody").1.iter().map(|queued| queued.waiter.ask.who.agent.to_string()).collect()
    }

    pub fn end(&mut self, name: &str) {
        let id = self.sessions[name];
        self.run(Command::EndSession(id));
    }

    pub fn come_back(&mut self, name: &str, secret: u128) -> String {
        let id = self.sessions[name];
        let caller = self.caller(name);
        self.command(caller, Command::ReturnSession { caller, id, secret, process: Some(process_of(id)) })
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono.after(ms);
        self.now.wall.0 += ms;
        self.run(Command::Tick);
    }

    /// The daemon stops and starts again, or the machine does.
    pub fn restart(&mut self, rebooted: bool) {
        if rebooted {
            self.now.mono = Moment(5);
        }
        self.numbers += 1 << 30;
        let rows = self.rows.values().filter(|row| is_there(row)).cloned().collect();
        let (table, step) = LockTable::restore(rows, self.now, rebooted, self.numbers, self.numbers);
        self.table = table;
        self.keep(step, None);
        self.steps.clear();
    }

    /// The answers to waiting requests since the last look.
    pub fn news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    pub fn granted(&self) -> Lock {
        match &self.last.as_ref().expect("it was answered").reply {
            Reply::Granted(granted) => granted.lock.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Whose locks the latest grant names.
    pub fn granted_beside(&self) -> Vec<String> {
        let Some(Reply::Granted(granted)) = self.last.as_ref().map(|answer| &answer.reply) else { panic!("no grant") };
        granted.beside.iter().map(|lock| lock.ask.who.agent.to_string()).collect()
    }

    pub fn refused(&self) -> Refused {
        match &self.last.as_ref().expect("it was answered").reply {
            Reply::Refused(refused) => (**refused).clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Why the locks ended that the latest answer tells of.
    fn told(&self) -> Vec<EndReason> {
        self.last.as_ref().expect("it was answered").lost.iter().map(|ended| ended.why.clone()).collect()
    }
}

fn is_there(record: &Record) -> bool {
    !matches!(
        record,
        Record::Lock(_, None)
            | Record::Waiter(_, None)
            | Record::Session(_, None)
            | Record::Ended(_, None)
            | Record::Webhook(_, None)
    )
}

fn process_of(session: SessionId) -> Process {
    Process { pid: session.0 as u32, start: 9 }
}

const NOTHING: [&str; 0] = [];

// ── Modes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn readers_share_and_a_writer_is_alone() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "s /f"), "granted");
    assert_eq!(desk.ask("bo", "s /f"), "granted");
    assert_eq!(desk.ask("cy", "x /f"), "held by ada bo");
    assert_eq!(desk.ask("cy", "x /g"), "granted");
    assert_eq!(desk.ask("ada", "s /g"), "held by cy");
}

#[test]
fn a_subtree_excludes_what_lies_in_it_and_no_namesake() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /d/"), "granted");
    for inside in ["x /d/f", "s /d/e/f", "x /d/e/", "x /d/", "x /d"] {
        assert_eq!(desk.ask("bo", inside), "held by ada", "{inside}");
    }
    assert_eq!(desk.ask("bo", "s /"), "held by ada", "the root holds it all");
    assert_eq!(desk.ask("bo", "x /de"), "granted");
    assert_eq!(desk.ask("bo", "x @d"), "granted");
}

#[test]
fn two_names_of_one_file_are_one_lock() {
    let mut desk = Desk::new();
    let mut other_name = target("/e/g");
    let last = other_name.ids.len() - 1;
    other_name.ids[last] = target("/d/f").own_id().expect("it exists");
    assert_eq!(desk.ask("ada", "x /d/f"), "granted");
    let caller = desk.caller("bo");
    let ask = desk.request_of("bo", "x /e/g");
    let ask = Arc::new(Ask { target: other_name, ..(*ask).clone() });
    assert_eq!(desk.command(caller, Command::Lock { caller, ask, wait: Wait::Try }), "held by ada");
}

#[test]
fn whoever_waits_under_another_name_is_woken_though_its_identity_was_learned_late() {
    let mut desk = Desk::new();
    let root = target("/x").ids[0];
    let inode = FileId { device: 1, inode: 99, birth: 0 };
    let named = |path: &str, ids: &[FileId]| Target { scope: Scope::File(path.as_bytes().into()), ids: ids.into() };
    let mut ask = |name: &str, target: Target| {
        let ask = desk.request_of(name, "x /");
        let caller = desk.caller(name);
        let ask = Arc::new(Ask { target, ..(*ask).clone() });
        desk.command(caller, Command::Lock { caller, ask, wait: Wait::Forever })
    };
    assert_eq!(ask("ada", named("/x", &[root])), "granted", "it does not exist yet");
    assert_eq!(ask("bo", named("/x", &[root, inode])), "waits", "it does now");
    assert_eq!(ask("cy", named("/h", &[root, inode])), "waits", "behind bo");
    let waiting = *desk.asked_by.iter().find(|(_, name)| *name == "bo").expect("bo asked").0;
    let caller = desk.caller("bo");
    desk.command(caller, Command::Cancel { caller, waiting });
    assert_eq!(desk.news(), ["cy: granted"], "nobody is in its way");
}

// ── The queue ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn first_come_first_served() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    for name in ["bo", "cy", "di"] {
        assert_eq!(desk.wait(name, "x /f"), "waits");
    }
    assert_eq!(desk.queue(), ["bo", "cy", "di"]);
    for (holder, next) in [("ada", "bo"), ("bo", "cy"), ("cy", "di")] {
        desk.unlock(holder, "/f");
        assert_eq!(desk.news(), [format!("{next}: granted")]);
    }
}

#[test]
fn neighbouring_readers_are_granted_together_and_a_writer_comes_in_its_turn() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    for (name, words) in [("r1", "s /f"), ("r2", "s /f"), ("w1", "x /f"), ("r3", "s /f")] {
        assert_eq!(desk.wait(name, words), "waits");
    }
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["r1: granted", "r2: granted"]);
    desk.unlock("r1", "/f");
    assert_eq!(desk.news(), NOTHING, "r2 still reads");
    desk.unlock("r2", "/f");
    assert_eq!(desk.news(), ["w1: granted"]);
    desk.unlock("w1", "/f");
    assert_eq!(desk.news(), ["r3: granted"]);
}

#[test]
fn a_reader_does_not_overtake_a_writer_that_waits() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.ask("cy", "s /f"), "held by ", "nobody who holds it is in the way, but bo is first");
    assert_eq!(desk.refused().position, 2);
    assert_eq!(desk.wait("cy", "s /f"), "waits");
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn whoever_passes_its_own_waiting_requests_is_served_behind_them() {
    let mut desk = Desk::new();
    desk.ask("zoe", "s /f");
    desk.wait_for(SECOND, "bo#1", "x /f");
    for words in ["x /f", "x /f", "s /f"] {
        assert_eq!(desk.wait("ada", words), "waits");
    }
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["bo#1: timeout", "ada: granted"], "ada reads with zoe; its writers wait for zoe");
}

#[test]
fn a_subtree_waits_for_all_in_it_and_keeps_later_ones_out() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/f");
    desk.ask("bo", "x /d/g");
    assert_eq!(desk.wait("cy", "x /d/"), "waits");
    assert_eq!(desk.wait("di", "x /d/h"), "waits", "behind cy");
    desk.unlock("ada", "/d/f");
    assert_eq!(desk.news(), NOTHING);
    desk.unlock("bo", "/d/g");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn a_refusal_names_every_holder_and_the_place() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "s /f");
    desk.wait("cy", "x /f");
    desk.ask("di", "x /f");
    let refused = desk.refused();
    let holders: Vec<&str> = refused.holders.iter().map(|lock| lock.ask.who.agent.as_str()).collect();
    assert_eq!((holders, refused.more, refused.position), (vec!["ada", "bo"], 0, 2));
}

#[test]
fn a_wait_ends_at_its_deadline_and_leaves_nothing() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.wait_for(SECOND, "bo#1", "x /f");
    desk.wait("cy", "s /f");
    desk.pass(SECOND - 1);
    assert_eq!(desk.news(), NOTHING);
    desk.pass(1);
    assert_eq!(desk.news(), ["bo#1: timeout", "cy: granted"]);
    assert_eq!(desk.table.waiters(), 0);
}

#[test]
fn a_cancelled_request_leaves_no_holder_no_place_and_no_late_grant() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.wait("bo", "x /f");
    let waiting = Caller { conn: 1, id: desk.callers };
    let caller = desk.caller("bo");
    assert_eq!(desk.command(caller, Command::Cancel { caller, waiting }), "cancelled true");
    assert_eq!(desk.command(caller, Command::Cancel { caller, waiting }), "cancelled false");
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), NOTHING);
    assert_eq!((desk.table.locks(), desk.table.waiters()), (0, 0));
}

#[test]
fn a_caller_that_is_gone_is_granted_nothing_while_its_requests_go() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    // The first is in the way of the second: when it goes, the second must not be served in passing.
    desk.wait("bo", "x /f");
    desk.wait("cy", "s /f");
    desk.run(Command::CallerGone { conn: 1 });
    assert_eq!(desk.news(), NOTHING);
    assert_eq!((desk.table.locks(), desk.table.waiters()), (1, 0));
}

#[test]
fn waiting_for_free_takes_nothing_and_keeps_nobody_out() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.wait_free("bo", "x /f"), "waits");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bo: free", "cy: granted"]);
    assert_eq!(desk.wait_free("bo", "x /g"), "free");
    assert_eq!(desk.table.locks(), 1);
}

#[test]
fn waiting_for_free_under_a_request_id_does_not_make_a_retry_lose_its_grant() {
    let mut desk = Desk::new();
    desk.request("r1").ask("ada", "x /f");
    let id = desk.granted().id;
    desk.ask("bo", "x /g");
    assert_eq!(desk.request("r1").wait_free("ada", "x /g"), "waits");
    desk.unlock("bo", "/g");
    assert_eq!(desk.request("r1").ask("ada", "x /f"), "granted again");
    assert_eq!(desk.granted().id, id);
}

#[test]
fn one_connection_cannot_wait_twice_under_one_number() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let (caller, wait) = (desk.caller("bo"), Wait::Forever);
    let ask = desk.request_of("bo", "x /f");
    assert_eq!(desk.command(caller, Command::Lock { caller, ask: ask.clone(), wait }), "waits");
    assert_eq!(desk.command(caller, Command::Lock { caller, ask: ask.clone(), wait }), "invalid");
    assert_eq!(desk.command(caller, Command::WaitFree { caller, ask, wait }), "invalid");
    assert_eq!(desk.table.waiters(), 1);
}

// ── Own locks ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn what_an_agent_holds_answers_it_and_its_lease_starts_anew_and_is_never_added_up() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada", "x /d/");
    let first = desk.granted();
    desk.pass(20 * SECOND);
    for words in ["x /d/", "s /d/f", "x /d/e/"] {
        assert_eq!(desk.ttl(MINUTE).ask("ada", words), "already held", "{words}");
        let again = desk.granted();
        assert_eq!((again.id, again.fence), (first.id, first.fence));
        assert_eq!(again.expires, Some(desk.now.mono.after(MINUTE)));
    }
    assert_eq!(desk.table.locks(), 1);
}

#[test]
fn a_stronger_lock_of_its_own_answers_and_a_weaker_one_does_not() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    assert_eq!(desk.ask("ada", "s /f"), "already held");
    desk.ask("ada#1", "s /g");
    assert_eq!(desk.wait("ada", "x /g"), "own lock", "it would wait for itself");
    assert_eq!(desk.refused().holders[0].ask.who.agent.as_str(), "ada");
}

#[test]
fn a_partial_overlap_of_its_own_is_granted_beside() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/f");
    assert_eq!(desk.ask("ada", "x /d/"), "granted");
    assert_eq!(desk.table.locks(), 2);
    assert_eq!(desk.ask("bo", "s /d/f"), "held by ada ada");
}

#[test]
fn two_sessions_of_one_agent_exclude_each_other() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada#1", "x /f"), "granted");
    assert_eq!(desk.ask("ada#2", "x /f"), "held by ada");
    assert_eq!(desk.wait("ada#2", "x /f"), "waits");
    desk.unlock("ada#1", "/f");
    assert_eq!(desk.news(), ["ada#2: granted"]);
}

#[test]
fn one_session_that_asks_again_is_refused_and_named() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /d/");
    for words in ["x /d/", "s /d/f"] {
        assert_eq!(desk.wait("ada#1", words), "own lock");
        assert_eq!(desk.refused().holders[0].keeper(), Some(desk.sessions["ada#1"]));
    }
}

#[test]
fn a_one_shot_uses_what_a_session_of_its_agent_holds() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /f");
    assert_eq!(desk.ask("ada", "x /f"), "already held");
    assert_eq!(desk.check("ada", "/f", None), "yes");
    assert_eq!(desk.check("bo", "/f", None), "no ada");
}

#[test]
fn a_waiting_one_shot_is_answered_when_its_agent_gets_a_lock_that_covers_it() {
    let mut desk = Desk::new();
    desk.ask("zoe", "x /d/y");
    assert_eq!(desk.wait("bo#1", "x /d/"), "waits");
    assert_eq!(desk.wait("ada", "x /d/x"), "waits", "behind bo's session");
    assert_eq!(desk.wait("bo", "x /d/x"), "waits", "behind ada");
    desk.unlock("zoe", "/d/y");
    assert_eq!(desk.news(), ["bo#1: granted", "bo: already held"]);
}

// ── Sessions, leases, resume ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn without_a_lease_the_end_of_the_session_frees_and_with_one_it_detaches() {
    let mut desk = Desk::new();
    desk.ttl(0).ask("ada#1", "x /f");
    desk.ttl(MINUTE).ask("ada#1", "x /g");
    desk.pass(HOUR);
    assert_eq!(desk.table.locks(), 2, "a live session needs no heartbeat");
    desk.end("ada#1");
    assert_eq!(desk.ask("bo", "x /f"), "granted");
    assert_eq!(desk.wait("bo", "x /g"), "waits");
    desk.pass(MINUTE - 1);
    assert_eq!(desk.news(), NOTHING);
    desk.pass(1);
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn a_lock_ends_with_the_process_that_it_is_bound_to_whatever_is_left_of_its_lease() {
    let (tool, other) = (Process { pid: 9, start: 9 }, Process { pid: 9, start: 10 });
    let mut desk = Desk::new();
    assert_eq!(desk.bound(tool).ask("ada", "x /f"), "granted");
    desk.run(Command::ProcessGone(other));
    assert_eq!(desk.table.locks(), 1, "another process with its number");
    assert_eq!(desk.bound(tool).ask("ada", "x /f"), "already held");
    assert_eq!(desk.bound(other).ask("ada", "x /f"), "granted", "one that ends with another process is another lock");
    assert_eq!(desk.ask("ada", "x /f"), "granted", "and so is one that ends with none");
    assert_eq!(desk.table.processes().collect::<std::collections::BTreeSet<_>>(), [tool, other].into());
    desk.run(Command::ProcessGone(tool));
    assert_eq!((desk.table.locks(), desk.table.processes().collect::<Vec<_>>()), (2, vec![other]));
    desk.pass(MINUTE);
    assert_eq!((desk.table.locks(), desk.table.processes().count()), (0, 0), "the lease runs all the same");
}

#[test]
fn whoever_waits_for_a_lock_that_is_to_end_with_a_process_goes_with_it() {
    let tool = Process { pid: 9, start: 9 };
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.bound(tool).wait("bo", "x /f"), "waits");
    desk.wait("cy", "x /f");
    assert_eq!(desk.table.processes().collect::<Vec<_>>(), [tool]);
    let told = desk.run(Command::ProcessGone(tool));
    assert_eq!(told.iter().map(|reply| Desk::word(&reply.answer.reply)).collect::<Vec<_>>(), ["invalid"]);
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["cy: granted"]);
    assert_eq!(desk.bound(tool).ask("bo#1", "x /g"), "invalid", "a session has other ways");
}

#[test]
fn a_bound_lock_that_a_session_takes_up_answers_its_agent_who_waits() {
    let mut desk = Desk::new();
    desk.bound(Process { pid: 9, start: 9 }).ask("ada", "s /f");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    desk.restart(false);
    // While bo is absent it waits for nobody, so this closes no cycle.
    assert_eq!(desk.wait("ada", "s /f"), "waits", "the lock that it has ends too early for it");
    assert_eq!(desk.ask("ada#1", "s /f"), "resumed");
    assert_eq!(desk.news(), NOTHING, "what it has of it ends as early as before");
    desk.run(Command::ProcessGone(Process { pid: 9, start: 9 }));
    assert_eq!(desk.news(), ["ada: already held"], "now it is the session's, which has it for its agent");
}

#[test]
fn whatever_an_agent_asks_about_a_place_renews_its_leases_there_and_nowhere_else() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /d/");
    desk.ask("ada", "x /e");
    let left = |desk: &Desk| {
        let due = desk.table.next_deadline().expect("leases run");
        due.left(desk.now.mono)
    };
    for how in ["status", "check", "wait"] {
        desk.pass(MINUTE / 2);
        assert_eq!(desk.ask("ada", "x /e"), "already held");
        let (caller, who, place) = (desk.caller("ada"), desk.who("ada"), target("/d/x"));
        let ask = desk.request_of("ada", "s /d/x");
        desk.run(match how {
            "status" => Command::Status { caller, who: Some(who), target: Some(place) },
            "check" => Command::Check { caller, who, target: place, fence: None },
            _ => Command::WaitFree { caller, ask, wait: Wait::Try },
        });
        assert_eq!(left(&desk), MINUTE, "{how}");
        // Neither another agent nor another place.
        desk.pass(1);
        let (caller, who) = (desk.caller("bo"), desk.who("bo"));
        desk.run(Command::Status { caller, who: Some(who), target: Some(target("/d/x")) });
        let (caller, who) = (desk.caller("ada"), desk.who("ada"));
        desk.run(Command::Status { caller, who: Some(who), target: Some(target("/a")) });
        assert_eq!(left(&desk), MINUTE - 1, "{how}");
    }
}

#[test]
fn the_death_of_its_process_ends_a_session() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /f");
    desk.wait("bo", "x /f");
    let process = process_of(desk.sessions["ada#1"]);
    desk.run(Command::ProcessGone(Process { start: 8, ..process }));
    assert_eq!(desk.news(), NOTHING, "another process with its number");
    desk.run(Command::ProcessGone(process));
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn the_end_of_a_session_takes_its_requests_out_of_the_queue() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.wait("bo#1", "x /f");
    desk.wait("cy", "s /f");
    desk.end("bo#1");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn a_new_session_takes_a_detached_lock_up_with_a_new_fence() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada#1", "x /f");
    let first = desk.granted();
    desk.wait("bo", "x /f");
    desk.end("ada#1");
    assert_eq!(desk.ttl(MINUTE).ask("ada#2", "x /f"), "resumed", "bo waits, but it is still ada's");
    let again = desk.granted();
    assert_eq!(again.id, first.id);
    assert!(again.fence > first.fence);
    assert_eq!(again.expires, None, "its session keeps it now");
    assert_eq!(desk.check("ada", "/f", Some(first.fence)), "no ada", "the old fence is void");
    assert_eq!(desk.check("ada", "/f", Some(again.fence)), "yes");
}

#[test]
fn what_a_one_shot_had_goes_back_to_its_agent_when_a_session_is_done_with_it() {
    let done: [fn(&mut Desk, &str, LockId); 3] = [
        |desk, session, id| drop(desk.unlock(session, &id.to_string())),
        |desk, session, _| desk.end(session),
        |desk, session, id| {
            // As `run` does, in whichever order these two arrive.
            let child = Process { pid: 77, start: 3 };
            assert_eq!(desk.bind(session, id, child), "bound");
            desk.run(Command::ProcessGone(child));
            assert_eq!(desk.unlock(session, &id.to_string()), "released 0", "it is a fellow's guard by now");
        },
    ];
    for done in done {
        let mut desk = Desk::new();
        assert_eq!(desk.ttl(10 * MINUTE).ask("ada", "x /f"), "granted");
        let id = desk.granted().id;
        for (session, fellow) in [("ada#1", "ada#2"), ("ada#3", "ada#4")] {
            assert_eq!(desk.ttl(0).ask(session, "x /f"), "resumed");
            assert_eq!(desk.wait(fellow, "x /f"), "waits", "it is a guard");
            done(&mut desk, session, id);
            assert_eq!(desk.news(), [format!("{fellow}: resumed")]);
            assert_eq!(desk.ask("ada#0", "x /f"), "held by ada", "still");
            desk.end(fellow);
        }
        assert_eq!(desk.ask("bo", "x /f"), "held by ada");
        desk.pass(10 * MINUTE - 1);
        assert_eq!(desk.ask("bo", "x /f"), "held by ada", "the lease that was promised runs anew");
        assert_eq!(desk.unlock("ada", "/f"), "released 1");
        assert_eq!(desk.ask("bo", "x /f"), "granted");
    }
}

#[test]
fn what_a_session_has_on_loan_stays_its_own_when_the_process_dies_that_it_was_bound_to() {
    let shell = Process { pid: 9, start: 9 };
    let mut desk = Desk::new();
    desk.bound(shell).ask("ada", "x /f");
    assert_eq!(desk.ttl(0).request("r").ask("ada#1", "x /f"), "resumed");
    assert_eq!(desk.ttl(0).request("r").ask("ada#1", "x /f"), "granted again");
    desk.run(Command::ProcessGone(shell));
    assert_eq!(desk.ask("bo", "x /f"), "held by ada");
    assert_eq!(desk.unlock("ada#1", "/f"), "released 1");
    assert_eq!(desk.ask("bo", "x /f"), "granted", "nothing is left of what was promised");
    // The other way round it ends with the process as before.
    desk.bound(shell).ask("ada", "x /g");
    desk.ttl(0).ask("ada#1", "x /g");
    desk.unlock("ada#1", "/g");
    assert_eq!(desk.ask("bo", "x /g"), "held by ada");
    desk.run(Command::ProcessGone(shell));
    assert_eq!(desk.ask("bo", "x /g"), "granted");
}

#[test]
fn what_is_renewed_while_it_is_on_loan_has_that_lease_when_it_goes_back() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada", "x /f");
    desk.ask("ada#1", "x /f");
    assert_eq!(desk.renew("ada", "/f", Some(HOUR)), "renewed 1");
    desk.end("ada#1");
    desk.pass(HOUR - 1);
    assert_eq!(desk.ask("bo", "x /f"), "held by ada");
    // A short renewal does not make it the next session's for good.
    desk.renew("ada", "/f", Some(SECOND));
    assert_eq!(desk.ttl(MINUTE).ask("ada#2", "x /f"), "resumed");
    desk.end("ada#2");
    assert_eq!(desk.status("nobody").0[0].ttl, SECOND);
}

#[test]
fn a_loan_that_nobody_heard_of_and_one_over_a_restart_go_back_as_well() {
    let mut desk = Desk::new();
    desk.ttl(10 * MINUTE).max_hold(15 * MINUTE).ask("ada", "x /f");
    let before = desk.granted();
    assert_eq!(desk.ask("ada#1", "x /f"), "resumed");
    take_back(&mut desk);
    let after = desk.status("nobody").0[0].clone();
    assert_eq!((&after.ask, after.ttl, after.lent), (&before.ask, before.ttl, None));
    assert_eq!(desk.ask("ada#1", "x /f"), "resumed", "it is on loan anew");
    desk.pass(20 * MINUTE);
    desk.restart(false);
    assert_eq!(desk.ask("bo", "x /f"), "held by ada", "its session is expected back");
    desk.pass(limits::SESSION_SILENCE - 1);
    assert_eq!(desk.ask("bo", "x /f"), "held by ada");
    desk.pass(1);
    // Its agent was to have it for no longer than that, and hears that it has it no more.
    assert_eq!(desk.ask("bo", "x /f"), "granted");
    assert_eq!(desk.check("ada", "/f", None), "no bo");
    assert_eq!(desk.told(), [EndReason::Expired]);
}

#[test]
fn what_goes_back_when_its_time_is_over_ends_at_once() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).max_hold(2 * MINUTE).ask("ada", "x /f");
    desk.ask("ada#1", "x /f");
    desk.pass(3 * MINUTE);
    assert_eq!(desk.ask("bo", "x /f"), "held by ada", "while its session has it");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.unlock("ada#1", "/f"), "released 1");
    assert_eq!((desk.told(), desk.news()), (vec![EndReason::Expired], vec!["bo: granted".to_owned()]));
}

#[test]
fn the_loss_of_what_has_gone_back_is_told_to_its_agent() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let id = desk.granted().id;
    desk.ask("ada#1", "x /f");
    desk.unlock("ada#1", "/f");
    assert_eq!(desk.break_lock("bo", id), "broken");
    desk.check("ada", "/f", None);
    assert_eq!(desk.told().len(), 1);
}

#[test]
fn whoever_wants_exclusively_what_goes_back_meanwhile_is_told_so() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "s /f");
    assert_eq!(desk.ask("ada#1", "s /f"), "resumed");
    assert_eq!(desk.upgrade("ada#1", "/f", Wait::Forever), "waits");
    desk.end("ada#1");
    desk.unlock("bo", "/f");
    assert_eq!(desk.check("ada", "/f", None), "no ada", "it is shared as before");
    assert_eq!(desk.status("nobody").0[0].ttl, MINUTE);
}

#[test]
fn what_a_session_has_on_loan_and_makes_exclusive_goes_back_as_that() {
    let mut desk = Desk::new();
    desk.ttl(10 * MINUTE).ask("ada", "s /f");
    assert_eq!(desk.ttl(0).ask("ada#1", "s /f"), "resumed");
    assert_eq!(desk.upgrade("ada#1", "/f", Wait::Try), "upgraded");
    desk.end("ada#1");
    assert_eq!(desk.ask("bo", "s /f"), "held by ada");
    assert_eq!(desk.check("ada", "/f", None), "yes");
}

#[test]
fn a_session_that_waits_behind_others_takes_up_what_its_fellow_leaves() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada#1", "x /f");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.wait("ada#2", "x /f"), "waits");
    desk.end("ada#1");
    assert_eq!(desk.news(), ["ada#2: resumed"]);
}

#[test]
fn a_stronger_lock_is_not_taken_up_over_a_fellow_sessions_guard() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/f");
    assert_eq!(desk.ask("ada#1", "s /d/"), "granted", "beside a one-shot's");
    assert_eq!(desk.ask("ada#2", "s /d/f"), "granted", "not resumed: it would come back exclusive");
    assert_eq!(desk.granted().ask.mode, Mode::Shared);
}

#[test]
fn a_process_keeps_a_lock_whose_session_died_and_no_other_ones_guard_it_becomes() {
    let mut desk = Desk::new();
    let child = Process { pid: 77, start: 3 };
    desk.ask("ada#1", "x /f");
    let id = desk.granted().id;
    assert_eq!(desk.bind("ada#1", id, child), "bound");
    desk.end("ada#1");
    assert_eq!(desk.ask("bo", "x /f"), "held by ada");
    assert_eq!(desk.ask("ada#2", "x /f"), "held by ada", "it is still a guard");
    desk.run(Command::ProcessGone(child));
    assert_eq!(desk.ask("bo", "x /f"), "granted");
}

#[test]
fn binding_does_not_make_a_fellows_lock_ones_own_guard() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /f");
    let id = desk.granted().id;
    assert_eq!(desk.bind("ada#2", id, Process { pid: 77, start: 3 }), "bound");
    assert_eq!(desk.wait("ada#1", "x /f"), "own lock");
    assert_eq!(desk.ask("ada#2", "x /f"), "held by ada");
}

#[test]
fn a_one_shot_needs_a_lease_and_none_is_above_a_day() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(0).ask("ada", "x /f"), "invalid");
    assert_eq!(desk.ttl(limits::TTL_MAX + 1).ask("ada", "x /f"), "invalid");
    assert_eq!(desk.ttl(limits::TTL_MAX).ask("ada", "x /f"), "granted");
    assert_eq!(desk.renew("ada", "/f", Some(0)), "invalid");
}

#[test]
fn however_often_it_is_renewed_a_one_shot_ends_after_max_hold() {
    let mut desk = Desk::new();
    desk.ttl(10 * SECOND).max_hold(25 * SECOND).ask("ada", "x /f");
    for _ in 0..3 {
        desk.pass(8 * SECOND);
        assert_eq!(desk.renew("ada", "/f", None), "renewed 1");
    }
    desk.pass(SECOND);
    assert_eq!(desk.renew("ada", "/f", None), "lost: Expired");
}

#[test]
fn a_renewal_is_from_now_with_the_new_ttl() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada", "x /f");
    desk.pass(SECOND);
    assert_eq!(desk.renew("ada", "/f", Some(2 * MINUTE)), "renewed 1");
    let (locks, _) = desk.status("ada");
    assert_eq!(locks[0].expires, Some(desk.now.mono.after(2 * MINUTE)));
    assert_eq!(desk.renew("bo", "/f", None), "held by ada");
}

// ── Request ids ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_retry_gets_the_same_grant_and_other_parameters_are_invalid() {
    let mut desk = Desk::new();
    desk.request("r1").ask("ada#1", "x /f");
    let first = desk.granted();
    assert_eq!(desk.request("r1").ask("ada#1", "x /f"), "granted again");
    assert_eq!(desk.granted(), first);
    for (name, words) in [("ada#1", "s /f"), ("ada#1", "x /g"), ("ada#2", "x /f")] {
        assert_eq!(desk.request("r1").ask(name, words), "invalid", "{name} {words}");
    }
    assert_eq!(desk.request("r1").ttl(5).ask("ada#1", "x /f"), "invalid");
    assert_eq!(desk.request("r1").ask("bo", "s /g"), "granted", "ids are each agent's own");
}

#[test]
fn a_retry_of_a_resumed_grant_gets_that_though_the_lock_has_kept_another_mode_and_name() {
    let name = |name: &str| Target { scope: target(name).scope, ids: target("/f").ids };
    for (mode, link) in [("s", "/f"), ("x", "/link"), ("s", "/link")] {
        let mut desk = Desk::new();
        desk.ttl(MINUTE).ask("ada#0", "x /f");
        desk.end("ada#0");
        desk.ttl(MINUTE).request("r1");
        assert_eq!(desk.ask_for("ada#1", mode, name(link)), "resumed");
        let first = desk.granted();
        assert!(first.ask.target == target("/f") && first.ask.mode == Mode::Exclusive);
        desk.ttl(MINUTE).request("r1");
        assert_eq!(desk.ask_for("ada#1", mode, name(link)), "granted again");
        assert_eq!(desk.granted(), first);
        assert_eq!(desk.request("r1").ask("ada#1", "s /g"), "invalid");
        assert_eq!(desk.unlock("ada#1", "/f"), "released 1");
        desk.ttl(MINUTE).request("r1");
        assert_eq!(desk.ask_for("ada#1", mode, name(link)), "lost: Released");
    }
}

#[test]
fn a_retry_of_a_waiting_request_keeps_its_place() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.request("r1").wait("bo", "x /f");
    desk.wait("cy", "x /f");
    assert_eq!(desk.request("r1").wait("bo", "x /f"), "waits");
    assert_eq!(desk.table.waiters(), 2);
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn a_retry_after_the_release_grants_nothing_for_ten_minutes() {
    let mut desk = Desk::new();
    desk.request("r1").ask("ada", "x /f");
    desk.unlock("ada", "/f");
    desk.pass(limits::ENDED_KEPT - 1);
    assert_eq!(desk.request("r1").ask("ada", "x /f"), "lost: Released");
    desk.pass(1);
    assert_eq!(desk.request("r1").ask("ada", "x /f"), "granted");
}

// ── Release, break, loss ────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn nobody_releases_anothers_lock() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let id = desk.granted().id;
    assert_eq!(desk.unlock("bo", "/f"), "held by ada");
    assert_eq!(desk.unlock("bo", &id.to_string()), "held by ada");
    assert_eq!(desk.unlock("bo", "all"), "released 0");
    assert_eq!(desk.unlock("ada", "/g"), "not found");
    assert_eq!(desk.unlock("ada", "/"), "invalid", "the exact scope is needed");
    assert_eq!(desk.unlock("ada", &id.to_string()), "released 1");
    assert_eq!(desk.table.locks(), 0);
}

#[test]
fn breaking_needs_the_exact_id_and_the_holder_is_told_once() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let id = desk.granted().id;
    assert_eq!(desk.break_lock("bo", LockId(id.0 + 1)), "not found");
    assert_eq!(desk.break_lock("bo", id), "broken");
    assert!(desk.break_lock("bo", id).starts_with("lost: Broken"));
    desk.ask("ada", "x /f");
    let by = Agent::new("bo").expect("a name");
    assert_eq!(desk.told(), [EndReason::Broken { by, reason: "stuck".into() }]);
    desk.ask("ada", "x /f");
    assert_eq!(desk.told(), []);
}

#[test]
fn news_tell_all_losses_a_part_at_a_time_and_who_waits_for_any_lock() {
    let mut desk = Desk::new();
    let count = 3 * limits::NEWS_LOSSES / 2;
    for number in 0..count {
        desk.ask("ada", &format!("x /f{number}"));
    }
    desk.pass(MINUTE / 2);
    for number in 0..=limits::WANTED_LOOKED_AT {
        desk.ask("ada", &format!("x /g{number}"));
    }
    desk.wait("bo", &format!("x /g{}", limits::WANTED_LOOKED_AT));
    desk.pass(MINUTE / 2);
    for (told, more) in [(limits::NEWS_LOSSES, count - limits::NEWS_LOSSES), (count - limits::NEWS_LOSSES, 0), (0, 0)] {
        assert_eq!(desk.ask_news("ada"), format!("news and {more} more"));
        assert_eq!(desk.told(), vec![EndReason::Expired; told]);
        let wanted = &desk.last.as_ref().expect("it is answered").wanted;
        assert_eq!(wanted.iter().map(|waiter| waiter.ask.who.agent.as_str()).collect::<Vec<_>>(), ["bo"]);
    }
    assert_eq!(desk.ask_news("bo"), "news and 0 more");
    assert_eq!(desk.last, Some(Answer::bare(Reply::News { more: 0 })), "another agent");
    desk.pass(MINUTE / 2);
    assert_eq!(desk.ask("ada", "x /h"), "granted", "leases go on as they were");
    desk.ask_news("ada");
    assert_eq!(desk.told().len(), limits::WANTED_LOOKED_AT + 1);
}

#[test]
fn a_loss_counts_as_told_when_its_own_agent_says_that_it_has_heard_of_it() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let first = desk.granted().id;
    desk.ask("ada", "x /g");
    let second = desk.granted().id;
    desk.pass(MINUTE);
    desk.answers_arrive = false;
    for (name, heard, left) in [("bo", vec![first], 2), ("ada", vec![], 2), ("ada", vec![first], 1), ("ada", vec![], 1)]
    {
        let (caller, who) = (desk.caller(name), desk.who(name));
        desk.command(caller, Command::News { caller, who, heard });
        desk.ask_news("ada");
        assert_eq!(desk.told().len(), left, "{name}");
    }
    assert_eq!(desk.last.as_ref().expect("it is answered").lost[0].id, second);
}

#[test]
fn releasing_a_lost_lock_says_why_when_and_who_has_it_now() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let id = desk.granted().id;
    desk.pass(MINUTE);
    let when = desk.now;
    desk.pass(SECOND);
    desk.ask("bo", "x /f");
    for words in ["/f", &id.to_string()] {
        assert_eq!(desk.unlock("ada", words), "lost: Expired");
        let Some(Answer { reply: Reply::Failed(Fault::Lost(ended, holders)), .. }) = &desk.last else { panic!() };
        assert_eq!((ended.at, ended.id), (when, id));
        assert_eq!(holders[0].ask.who.agent.as_str(), "bo");
    }
}

#[test]
fn an_expiry_is_told_before_the_next_success_there_or_at_ls() {
    let mut desk = Desk::new();
    for words in ["x /f", "x /g"] {
        desk.ask("ada", words);
    }
    desk.pass(MINUTE);
    assert_eq!(desk.ask("ada", "x /h"), "granted");
    assert_eq!(desk.told(), [], "another scope");
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert_eq!(desk.told(), [EndReason::Expired]);
    desk.status("bo");
    assert_eq!(desk.told(), [], "another agent");
    desk.status("ada");
    assert_eq!(desk.told(), [EndReason::Expired]);
}

#[test]
fn a_guard_that_is_released_over_its_head_is_told() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /f");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.told(), [], "who released it knows");
    desk.status("ada");
    assert_eq!(desk.told(), [], "nobody else is told in the session's place");
    assert_eq!(desk.ask("ada#1", "x /f"), "granted");
    assert_eq!(desk.told(), [EndReason::Released], "its session is, before its next success");
    desk.unlock("ada#1", "/f");
    assert_eq!(desk.told(), [], "its own release is no news");
}

#[test]
fn a_session_hears_of_its_losses_whatever_it_asks_for() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /f");
    let id = desk.granted().id;
    desk.break_lock("bo", id);
    desk.ask("ada#1", "x /elsewhere");
    assert_eq!(desk.told().len(), 1);
}

#[test]
fn a_notice_is_told_until_one_arrives_and_by_others_when_its_session_has_ended() {
    let mut desk = Desk::new();
    desk.answers_arrive = false;
    desk.ask("ada#1", "x /f");
    let id = desk.granted().id;
    desk.break_lock("bo", id);
    for scope in ["s /elsewhere", "s /there"] {
        desk.ask("ada#1", scope);
        assert_eq!(desk.told().len(), 1);
    }
    desk.status("ada");
    assert_eq!(desk.told(), [], "not its own, and its session can still be told");
    desk.run(Command::EndSession(SessionId(100)));
    desk.answers_arrive = true;
    for told in [1, 0] {
        desk.status("ada");
        assert_eq!(desk.told().len(), told);
    }
}

#[test]
fn notices_survive_a_restart_and_a_reboot_and_end_after_a_week() {
    for rebooted in [false, true] {
        let mut desk = Desk::new();
        desk.ask("ada", "x /f");
        desk.ask("ada", "x /g");
        desk.pass(MINUTE);
        desk.restart(rebooted);
        desk.ask("ada", "x /f");
        assert_eq!(desk.told(), [EndReason::Expired]);
        desk.pass(limits::NOTICE_KEPT);
        desk.ask("ada", "x /g");
        assert_eq!(desk.told(), []);
    }
}

#[test]
fn only_so_many_notices_wait_and_the_oldest_go_first() {
    let mut desk = Desk::new();
    for n in 0..=limits::NOTICES_MAX {
        assert_eq!(desk.ask("ada", &format!("x /{n}")), "granted");
        desk.pass(1);
    }
    desk.pass(MINUTE);
    desk.status("ada");
    let lost = &desk.last.as_ref().expect("status answers").lost;
    assert_eq!(lost.len(), limits::NOTICES_MAX);
    assert_eq!(lost[0].ask.target.scope.to_string(), "/1");
}

#[test]
fn a_holder_hears_who_waits_for_it() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.wait("bo", "s /f");
    desk.wait("cy", "x /f");
    desk.check("ada", "/f", None);
    let wanted: Vec<_> = desk.last.as_ref().expect("check answers").wanted.iter().map(|w| w.id).collect();
    assert_eq!(wanted, [WaiterId(1)], "the first behind the lock");
}

// ── Restart ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn after_a_restart_locks_and_queue_are_back_and_leases_start_anew() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada", "x /f");
    let before = desk.granted();
    desk.request("r1").wait("bo", "x /f");
    desk.pass(50 * SECOND);
    desk.restart(false);
    let (locks, waiters) = desk.status("nobody");
    assert_eq!((locks[0].id, locks[0].fence, locks[0].ask.mode), (before.id, before.fence, Mode::Exclusive));
    assert_eq!(locks[0].expires, Some(desk.now.mono.after(MINUTE)));
    assert_eq!(waiters.len(), 1);
    assert_eq!(desk.request("r1").wait("bo", "x /f"), "waits");
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn an_absent_waiter_keeps_its_place_for_ten_seconds_and_is_not_served() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.request("r1").wait("bo", "x /f");
    desk.restart(false);
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), NOTHING, "nobody would hear of the grant");
    assert_eq!(desk.wait("cy", "x /f"), "waits", "bo's place is kept");
    desk.pass(limits::WAITER_ABSENCE - 1);
    assert_eq!(desk.news(), NOTHING);
    desk.pass(1);
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn an_absent_waiter_that_comes_back_is_served_at_once() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.request("r1").wait("bo", "x /f");
    desk.restart(false);
    desk.unlock("ada", "/f");
    assert_eq!(desk.request("r1").wait("bo", "x /f"), "granted");
}

#[test]
fn a_session_is_expected_back_for_a_minute_then_its_locks_are_lost_with_notice() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /f");
    desk.ask("bo#1", "x /g");
    desk.restart(false);
    assert_eq!(desk.ask("cy", "x /f"), "held by ada");
    assert_eq!(desk.come_back("ada#1", 8), "unknown session", "a wrong secret");
    assert_eq!(desk.come_back("ada#1", 7), "open");
    desk.pass(limits::SESSION_SILENCE);
    assert_eq!(desk.ask("cy", "x /f"), "held by ada");
    assert_eq!(desk.ask("cy", "x /g"), "granted");
    desk.status("bo");
    assert_eq!(desk.told(), [EndReason::Silent]);
    assert_eq!(desk.come_back("bo#1", 7), "unknown session");
}

#[test]
fn an_absent_session_whose_process_is_dead_frees_at_once() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /f");
    desk.restart(false);
    assert_eq!(desk.table.processes().collect::<Vec<_>>(), [process_of(desk.sessions["ada#1"])]);
    let process = process_of(desk.sessions["ada#1"]);
    desk.run(Command::ProcessGone(process));
    assert_eq!(desk.ask("bo", "x /f"), "granted");
}

#[test]
fn after_a_reboot_what_hung_on_a_process_is_void_and_the_rest_has_its_full_lease() {
    let mut desk = Desk::new();
    desk.ttl(0).ask("ada#1", "x /a");
    desk.ttl(MINUTE).ask("ada#1", "x /b");
    desk.ttl(MINUTE).ask("ada", "x /c");
    let bound = desk.granted().id;
    desk.bind("ada", bound, Process { pid: 77, start: 3 });
    desk.ttl(MINUTE).ask("ada", "x /d");
    desk.wait("bo", "x /d");
    desk.bound(Process { pid: 78, start: 3 }).ttl(MINUTE).ask("cy", "x /e");
    desk.restart(true);
    assert_eq!((desk.table.locks(), desk.table.sessions(), desk.table.waiters()), (2, 0, 0));
    for (words, outcome) in [("x /a", "granted"), ("x /b", "held by ada"), ("x /c", "granted"), ("x /d", "held by ada")]
    {
        assert_eq!(desk.ask("bo", words), outcome, "{words}");
    }
    assert_eq!(desk.ask("bo", "x /e"), "granted");
    desk.pass(MINUTE);
    assert_eq!(desk.ask("bo", "x /b"), "granted");
    desk.status("ada");
    assert_eq!(desk.told(), [EndReason::Rebooted, EndReason::Expired, EndReason::Rebooted, EndReason::Expired]);
}

// ── The journal fails ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn while_paused_grants_stop_and_releases_go_on_and_then_all_are_served_in_order() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.wait("bo", "x /f");
    desk.wait("cy", "x /f");
    desk.table.pause("the disk is full".into());
    assert_eq!(desk.ask("di", "x /g"), "unavailable");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.news(), NOTHING);
    let step = desk.table.resume(desk.now);
    desk.keep(step, None);
    assert_eq!(desk.news(), ["bo: granted"]);
    assert_eq!(desk.queue(), ["cy"]);
}

#[test]
fn whose_time_came_while_paused_is_not_served_after_it() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.wait_for(SECOND, "bo", "x /f");
    desk.table.pause("the disk is full".into());
    desk.unlock("ada", "/f");
    desk.now.mono = desk.now.mono.after(SECOND);
    let step = desk.table.resume(desk.now);
    desk.keep(step, None);
    assert_eq!(desk.news(), ["bo: timeout"]);
}

#[test]
fn undone_steps_leave_the_rows_as_they_were_and_no_fence_twice() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.wait("bo", "x /f");
    desk.steps.clear();
    let mut before = desk.table.rows();
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bo: granted"]);
    desk.ask("cy", "x /g");
    let given = desk.granted().fence;
    for step in std::mem::take(&mut desk.steps).into_iter().rev() {
        desk.table.undo(step);
    }
    let mut after = desk.table.rows();
    // The last row is the reservation, which has moved on.
    assert!(before.pop().is_some() && after.pop().is_some());
    assert_eq!(after, before);
    desk.ask("cy", "x /g");
    assert!(desk.granted().fence > given);
}

#[test]
fn every_grant_has_a_larger_fence_than_all_before_it() {
    let mut desk = Desk::new();
    let mut newest = Fence(0);
    for n in 0..100 {
        let name = if n % 3 == 0 { "ada" } else { "bo#1" };
        desk.ask(name, &format!("x /{n}"));
        assert!(desk.granted().fence > newest);
        newest = desk.granted().fence;
        if n == 50 {
            desk.restart(false);
            desk.come_back("bo#1", 7);
        }
    }
}

#[test]
fn a_session_cannot_take_up_a_lock_whose_waiters_it_waits_for() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("bo#1", "x /b");
    assert_eq!(desk.wait("ada#2", "x /b"), "waits");
    assert_eq!(desk.wait("bo#1", "x /a"), "waits");
    assert!(desk.ask("ada#2", "x /a").starts_with("deadlock"), "bo waits for ada, ada's session for bo");
    assert_eq!(desk.unlock("ada", "/a"), "released 1");
    assert_eq!(desk.news(), ["bo#1: granted"]);
}

#[test]
fn a_grant_that_is_taken_back_has_never_been() {
    let mut desk = Desk::new();
    desk.request("r1").ask("ada", "x /f");
    let lock = desk.granted();
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    desk.run(Command::TakeBack {
        id: lock.id,
        fence: Fence(lock.fence.0 + 1),
        what: Unheard { is_new: true, ..Unheard::default() },
    });
    assert_eq!(desk.table.locks(), 1, "a later grant is not meant");
    desk.run(Command::TakeBack {
        id: lock.id,
        fence: lock.fence,
        what: Unheard { is_new: true, ..Unheard::default() },
    });
    assert_eq!(desk.news(), ["bo: granted"]);
    assert_eq!(desk.request("r1").ask("ada", "x /f"), "held by bo", "its request id is as good as new");
}

/// The latest answer is a grant, and does not reach its client.
pub fn take_back(desk: &mut Desk) {
    let Some(Reply::Granted(granted)) = desk.last.as_ref().map(|answer| &answer.reply) else { panic!("no grant") };
    let (id, fence, what) = (granted.lock.id, granted.lock.fence, granted.unheard());
    desk.run(Command::TakeBack { id, fence, what });
}

#[test]
fn a_lock_whose_resumption_is_taken_back_has_the_terms_that_its_agent_knows() {
    for session_ttl in [0, SECOND] {
        let mut desk = Desk::new();
        assert_eq!(desk.ttl(10 * MINUTE).max_hold(15 * MINUTE).ask("ada", "x /f"), "granted");
        let before = desk.granted();
        desk.pass(MINUTE);
        assert_eq!(desk.ttl(session_ttl).ask("ada#1", "x /f"), "resumed");
        take_back(&mut desk);
        desk.end("ada#1");
        let after = desk.status("nobody").0[0].clone();
        assert_eq!((after.ttl, after.hold_until, after.ask.lease), (before.ttl, before.hold_until, before.ask.lease));
        assert_eq!((after.custody, after.expires), (Custody::Detached, Some(desk.now.mono.after(10 * MINUTE))));
        assert_eq!(desk.ask("bo", "x /f"), "held by ada");
        desk.pass(10 * MINUTE);
        assert_eq!(desk.ask("bo", "x /f"), "granted");
        assert_eq!(desk.ask("ada", "x /f"), "held by bo");
        let lost = &desk.last.as_ref().expect("it was answered").lost;
        assert_eq!(lost.iter().map(|ended| &ended.why).collect::<Vec<_>>(), [&EndReason::Expired]);
    }
}

#[test]
fn a_lock_whose_resumption_is_taken_back_runs_on_as_a_lease_and_can_be_resumed_anew() {
    let mut desk = Desk::new();
    desk.ttl(60_000).ask("ada#1", "x /f");
    desk.run(Command::EndSession(SessionId(100)));
    assert_eq!(desk.ttl(60_000).request("r1").ask("ada#2", "x /f"), "resumed");
    let lock = desk.granted();
    take_back(&mut desk);
    assert_eq!(desk.ask("bo", "x /f"), "held by ada", "its lease is promised");
    assert_eq!(desk.ttl(60_000).request("r1").ask("ada#2", "x /f"), "resumed");
    assert!(desk.granted().fence > lock.fence);
}

#[test]
fn a_retry_is_held_against_what_was_asked_whatever_the_lock_was_renewed_with() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(MINUTE).request("r").ask("ada", "x /f"), "granted");
    assert_eq!(desk.renew("ada", "/f", Some(5 * SECOND)), "renewed 1");
    assert_eq!(desk.ttl(MINUTE).request("r").ask("ada", "x /f"), "granted again");
    assert_eq!(desk.granted().ttl, 5 * SECOND);
    assert_eq!(desk.ttl(5 * SECOND).request("r").ask("ada", "x /f"), "invalid");
    // And so it is while the lock is remembered.
    desk.pass(5 * SECOND);
    assert_eq!(desk.ttl(MINUTE).request("r").ask("ada", "x /f"), "lost: Expired");
}
