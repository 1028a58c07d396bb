//! The same random commands, crashes and restarts through the table and the naive model, and an auditor after each.

use crate::model::{Naive, first_row, is_in_the_way, overlaps};
use crate::{scaled, seed};
use flockd::limits::{self, MINUTE, SECOND};
use flockd::model::*;
use flockd::pattern::Pattern;
use flockd::scope::{FileId, Scope, Target};
use flockd::table::{LockTable, Outgoing, Step};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

const CASES: usize = 1_000;
const COMMANDS: usize = 300;
/// A few more are drawn: each may be left out, which is how a failing case becomes a short one.
const DRAWN: usize = 310;

#[test]
fn a_hundred_thousand_random_commands_end_as_in_the_naive_model() {
    let (seed, cases) = (seed(), scaled(CASES));
    eprintln!("{cases} cases of {COMMANDS} commands, FLOCKD_SEED={seed}");
    let config =
        Config { cases: cases as u32, failure_persistence: None, max_shrink_time: 120_000, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let done = std::cell::Cell::new(0);
    let seen = RefCell::new(BTreeMap::new());
    let outcome = runner.run(&case(), |case| {
        let mut world = World::new(case.weights, case.crowd);
        for raw in case.commands.iter().flatten() {
            world.turn(raw).map_err(|wrong| TestCaseError::fail(format!("{wrong}\n\n{}", world.story())))?;
        }
        for (outcome, count) in &world.seen {
            *seen.borrow_mut().entry(*outcome).or_insert(0) += count;
        }
        done.set(done.get() + case.commands.iter().flatten().count());
        Ok(())
    });
    match outcome {
        Ok(()) => {
            eprintln!("{} commands, with these outcomes: {:?}", done.get(), seen.borrow());
            assert!(done.get() >= cases * COMMANDS, "only {} commands were run", done.get());
            let missing = |outcome: &&&str| seen.borrow().get(**outcome).is_none_or(|count| *count == 0);
            let missing: Vec<_> = OUTCOMES.iter().filter(missing).collect();
            assert!(cases < CASES || missing.is_empty(), "never seen: {missing:?}");
        }
        Err(TestError::Fail(why, _)) => panic!("with FLOCKD_SEED={seed}: {why}"),
        Err(other) => panic!("with FLOCKD_SEED={seed}: {other}"),
    }
}

/// Every outcome that a full run must have met, or it proves less than it says.
const OUTCOMES: [&str; 51] = [
    "violation told",
    "set came back",
    "contention told",
    "granted",
    "granted later",
    "set granted",
    "set granted later",
    "set partly held",
    "set resumed",
    "set upgraded",
    "set granted again",
    "upgraded",
    "upgraded later",
    "downgraded",
    "already held",
    "already held later",
    "resumed",
    "resumed later",
    "free",
    "free later",
    "held",
    "own lock",
    "timeout",
    "place kept",
    "deadlock",
    "released",
    "renewed",
    "may write",
    "may not write",
    "broken",
    "committed",
    "changed",
    "not durable",
    "released after a commit",
    "bound",
    "cancelled",
    "not found",
    "not holder",
    "delegated",
    "lost",
    "invalid",
    "unknown session",
    "unavailable",
    "loss told",
    "waiter told",
    "advisory granted",
    "advisory resumed",
    "advisory beside what excludes others",
    "advisory named",
    "only advisory",
    "led by another",
];

/// Which outcome an answer is; `later` if it goes to another caller than the command's.
fn outcome(reply: &Reply, later: bool) -> &'static str {
    match reply {
        Reply::Granted(granted) if granted.already_held => {
            if later {
                "already held later"
            } else {
                "already held"
            }
        }
        Reply::Granted(granted) if granted.resumed.is_some() => {
            if later {
                "resumed later"
            } else {
                "resumed"
            }
        }
        Reply::Granted(granted) if granted.upgraded => {
            if later {
                "upgraded later"
            } else {
                "upgraded"
            }
        }
        Reply::Granted(_) => {
            if later {
                "granted later"
            } else {
                "granted"
            }
        }
        Reply::GrantedSet(all) => {
            let any = |is_so: &dyn Fn(&Granted) -> bool| all.iter().any(is_so);
            match () {
                () if any(&|granted| granted.again) => "set granted again",
                () if any(&|granted| granted.resumed.is_some()) => "set resumed",
                () if any(&|granted| granted.upgraded) => "set upgraded",
                () if any(&|granted| granted.already_held) => "set partly held",
                () if later => "set granted later",
                () => "set granted",
            }
        }
        Reply::Free => {
            if later {
                "free later"
            } else {
                "free"
            }
        }
        Reply::Refused(refused) => match refused.why {
            RefusedFor::Held => "held",
            RefusedFor::OwnLock => "own lock",
            _ if refused.ticket.is_some() => "place kept",
            RefusedFor::Timeout => "timeout",
            RefusedFor::Deadlock(_) => "deadlock",
        },
        Reply::Released(_) => {
            if later {
                "released after a commit"
            } else {
                "released"
            }
        }
        Reply::Renewed(_) => "renewed",
        Reply::Downgraded(_) => "downgraded",
        Reply::Checked(Ok(_)) => "may write",
        Reply::Checked(Err(_)) => "may not write",
        Reply::Broken(_) => "broken",
        Reply::Committed(..) => "committed",
        Reply::Bound(_) => "bound",
        Reply::Cancelled(_) => "cancelled",
        Reply::SessionOpen(_) => "session open",
        Reply::Status { .. } => "status",
        Reply::News { .. } => "news",
        Reply::Webhook(_) | Reply::Webhooks(_) | Reply::WebhookRemoved(_) => unreachable!("webhooks.rs tells of those"),
        Reply::Failed(fault) => match fault {
            Fault::NotFound | Fault::NoWebhook(_) => "not found",
            Fault::NotHolder(_) => "not holder",
            Fault::OnlyAdvisory(..) => "only advisory",
            Fault::Delegated(_) => "delegated",
            Fault::Lost(..) => "lost",
            Fault::Invalid(_) => "invalid",
            Fault::UnknownSession => "unknown session",
            Fault::Unavailable(_) => "unavailable",
            Fault::TooMany(_) => "too many",
            Fault::Denied(_) => "denied",
            Fault::Changed(_) => "changed",
            Fault::NotDurable(_) => "not durable",
        },
    }
}

// ── What is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────

/// What can happen in a turn. Each case draws how often, so that some are about one thing and some about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    LockOnce,
    LockInSession,
    SetOnce,
    SetInSession,
    AskAgain,
    ComeBack,
    Upgrade,
    Downgrade,
    WaitFree,
    UnlockId,
    UnlockScope,
    UnlockAll,
    Renew,
    Check,
    CommitBegin,
    CommitOver,
    Break,
    Status,
    News,
    Bind,
    ProcessGone,
    CallerGone,
    Cancel,
    GiveUp,
    OpenSession,
    EndSession,
    ReturnSession,
    TakeBack,
    LossesTold,
    Time,
    LongTime,
    Restart,
    Reboot,
    JournalFails,
    Resume,
    Contention,
    Wrote,
}

use Kind::*;

/// The kinds and how often each is drawn at most.
const KINDS: [(Kind, u32); 37] = [
    (LockOnce, 30),
    (LockInSession, 40),
    (SetOnce, 20),
    (SetInSession, 24),
    (AskAgain, 8),
    (Upgrade, 16),
    (Downgrade, 8),
    (WaitFree, 4),
    (UnlockId, 20),
    (UnlockScope, 8),
    (UnlockAll, 3),
    (Renew, 5),
    (Check, 5),
    (CommitBegin, 16),
    (CommitOver, 20),
    (Break, 4),
    (Status, 3),
    (News, 3),
    (Bind, 5),
    (ProcessGone, 3),
    (CallerGone, 4),
    (Cancel, 6),
    (ComeBack, 12),
    (GiveUp, 2),
    (OpenSession, 10),
    (EndSession, 6),
    (ReturnSession, 8),
    (TakeBack, 4),
    (LossesTold, 6),
    (Time, 10),
    (LongTime, 2),
    (Restart, 3),
    (Reboot, 1),
    (JournalFails, 3),
    (Resume, 10),
    (Contention, 3),
    (Wrote, 8),
];

/// One turn before it meets the world: numbers that are read as choices among what is there then. So any part of a
/// failing case can be left out and the rest still means something.
#[derive(Clone, Debug)]
struct Raw {
    kind: u32,
    agent: usize,
    place: usize,
    shared: bool,
    /// Below the share of advisory locks in percent that the case has, it is one.
    advisory: u32,
    lease: usize,
    wait: usize,
    pick: usize,
    odd: u8,
}

#[derive(Clone, Debug)]
struct Case {
    weights: Vec<u32>,
    crowd: Crowd,
    commands: Vec<Option<Raw>>,
}

/// How many agents want how many places, and which: from one place for all to room for everybody.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    agents: usize,
    places: usize,
    first_place: usize,
    advisory: u32,
}

fn raw() -> impl Strategy<Value = Raw> {
    let numbers = (any::<u32>(), 0..AGENTS.len(), 0..1_000_usize, any::<bool>());
    let more = (0..12_usize, 0..8_usize, 0..1_000_usize, any::<u8>(), 0..100_u32);
    (numbers, more).prop_map(|((kind, agent, place, shared), (lease, wait, pick, odd, advisory))| Raw {
        kind,
        agent,
        place,
        shared,
        advisory,
        lease,
        wait,
        pick,
        odd,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let weights: Vec<_> = KINDS.iter().map(|(_, most)| prop_oneof![1 => Just(0), 4 => 0..=*most]).collect();
    let commands = proptest::collection::vec(proptest::option::weighted(0.99, raw()), DRAWN);
    let places = prop_oneof![1..4_usize, 1..12_usize, Just(1_000_usize)];
    let advisory = prop_oneof![3 => Just(0_u32), 2 => Just(15), 1 => Just(70)];
    let crowd = (1..=AGENTS.len(), places, 0..1_000_usize, advisory);
    let crowd =
        crowd.prop_map(|(agents, places, first_place, advisory)| Crowd { agents, places, first_place, advisory });
    (weights, crowd, commands).prop_map(|(weights, crowd, commands)| Case { weights, crowd, commands })
}

/// Strangers first, then two families, so that a small crowd has none.
const AGENTS: [&str; 9] = ["ada", "bo", "ada/x", "ada/y", "ada/x/p", "bo/x", "cy", "di", "ada/x/q"];

fn id(inode: u64) -> FileId {
    FileId { device: 1, inode, birth: 0 }
}

/// A path, the inodes along it, from the root to where it ends to exist, and the rest of a pattern whose fixed part it
/// is, or nothing.
type Place = (&'static str, &'static [u64], &'static str);

/// A small world in which much overlaps: three levels, a directory mounted twice (`/d` and `/m`) and one in itself
/// (`/d/l`), two names of one file, names that do not exist and then do, a file that was replaced, a directory that
/// was, and patterns of all these.
const PLACES: [Place; 34] = [
    ("/", &[1], ""),
    ("/d", &[1, 2], ""),
    ("/d/a", &[1, 2, 3], ""),
    ("/d", &[1, 2], "**/x"),
    ("/d/a/x", &[1, 2, 3, 4], ""),
    ("/d/a", &[1, 2, 3], "?"),
    ("/d/a/y", &[1, 2, 3, 5], ""),
    ("/d/b", &[1, 2, 6], ""),
    ("/d", &[1, 2], "{a,b}/**"),
    ("/d/b/z", &[1, 2, 6, 7], ""),
    ("/d/b/z", &[1, 2, 6, 17], ""),
    ("/d", &[1, 2], "*"),
    ("/m", &[1, 2], ""),
    ("/m/a", &[1, 2, 3], ""),
    ("/m", &[1, 2], "a/*"),
    ("/m/a/x", &[1, 2, 3, 4], ""),
    ("/m/b/z", &[1, 2, 6, 17], ""),
    ("/m/a", &[1, 2, 3], "?"),
    ("/h", &[1, 4], ""),
    ("/h2", &[1, 8], ""),
    ("/", &[1], "[dm]/*"),
    ("/d/new", &[1, 2], ""),
    ("/d/new", &[1, 2, 8], ""),
    ("/", &[1], "**/new"),
    ("/d/new", &[1, 2], "**"),
    ("/m/new", &[1, 2], ""),
    ("/d/new/deep", &[1, 2], ""),
    ("/d/new", &[1, 2, 8], "*"),
    ("/m/new/deep", &[1, 2, 8], ""),
    ("/d/new/deep", &[1, 2, 8, 9], ""),
    ("/e/f", &[1, 10, 11], ""),
    ("/e/f", &[1, 12], ""),
    ("/d/l", &[1, 2, 2], ""),
    ("/d/l/a/x", &[1, 2, 2, 3, 4], ""),
];

fn target(place: usize) -> Target {
    // Two of these are no files. Of the others mostly the directories are meant with all below them.
    const ALL: usize = PLACES.len() + 2;
    match place % ALL {
        34 => Target::named(Scope::Resource("port".into())),
        35 => Target::named(Scope::Resource("d".into())),
        n => {
            let (path, ids, rest) = PLACES[n];
            let is_directory = matches!(path, "/" | "/d" | "/d/a" | "/d/b" | "/d/l" | "/m" | "/m/a");
            let is_odd = (place / ALL).is_multiple_of(8);
            let as_tree = is_directory != is_odd;
            let path = path.as_bytes();
            let scope = match (rest, as_tree) {
                ("", true) => Scope::Subtree(path.into()),
                ("", false) => Scope::File(path.into()),
                _ => Scope::Pattern(Pattern::new(path, rest.as_bytes()).unwrap()),
            };
            Target { scope, ids: ids.iter().map(|inode| id(*inode)).collect() }
        }
    }
}

/// The same name, for whatever it may stand.
fn namesake(meant: &Target, from: usize) -> Option<Target> {
    (0..PLACES.len()).map(|n| target(from + n)).find(|other| other.scope == meant.scope && other.ids != meant.ids)
}

/// The rule for two, by which events are told, is the one by which locks meet in the table.
#[test]
fn two_targets_meet_exactly_if_a_lock_on_one_is_in_the_way_of_the_other() {
    // Each place as a file and as a directory.
    let all: Vec<Target> = (0..(PLACES.len() + 2) * 2).map(target).collect();
    let mut pairs = [0, 0];
    for (n, a) in all.iter().enumerate() {
        for b in &all[..=n] {
            let meet = overlaps(a, b);
            assert_eq!((a.meets(b), b.meets(a)), (meet, meet), "{a:?}\n{b:?}");
            pairs[usize::from(meet)] += 1;
        }
    }
    assert!(pairs.iter().all(|count| *count > 300), "{pairs:?}");
}

fn process(n: usize) -> Process {
    Process { pid: 100 + n as u32 % 5, start: 1 }
}

// ── The two of them ─────────────────────────────────────────────────────────────────────────────────────────────────

/// The rows that the records make, folded the plain way.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rows {
    locks: BTreeMap<LockId, Lock>,
    waiters: BTreeMap<WaiterId, Waiter>,
    sessions: BTreeMap<SessionId, Session>,
    ended: BTreeMap<LockId, Ended>,
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Rows {
    fn fold(&mut self, record: Record) {
        match record {
            Record::Lock(id, row) => put(&mut self.locks, id, row),
            Record::Waiter(id, row) => put(&mut self.waiters, id, row),
            Record::Session(id, row) => put(&mut self.sessions, id, row),
            Record::Ended(id, row) => put(&mut self.ended, id, row),
            Record::Webhook(id, _) => unreachable!("{id}: webhooks.rs tells of those"),
            Record::Event(_) | Record::Reserve { .. } => {}
        }
    }

    fn of(naive: &Naive) -> Rows {
        Rows {
            locks: naive.locks.iter().map(|row| (row.id, row.clone())).collect(),
            waiters: naive.waiters.iter().map(|row| (row.id, row.clone())).collect(),
            sessions: naive.sessions.iter().map(|row| (row.id, row.clone())).collect(),
            ended: naive.ended.iter().map(|row| (row.id, row.clone())).collect(),
        }
    }

    fn records(&self) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        records.extend(self.locks.values().map(|row| Record::Lock(row.id, Some(row.clone()))));
        records.extend(self.waiters.values().map(|row| Record::Waiter(row.id, Some(row.clone()))));
        records.extend(self.ended.values().map(|row| Record::Ended(row.id, Some(row.clone()))));
        records.extend(self.sessions.values().map(|row| Record::Session(row.id, Some(row.clone()))));
        records
    }
}

/// What was before a step that may still be taken back.
struct Past {
    step: Step,
    naive: Naive,
    rows: Rows,
    numbers: Numbers,
}

/// Fences and event numbers as the records have them.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// The newest that were given out.
    fence: u64,
    event: u64,
    /// The first that are not reserved.
    fences: u64,
    events: u64,
}

struct World {
    weights: Vec<u32>,
    crowd: Crowd,
    table: LockTable,
    naive: Naive,
    rows: Rows,
    /// Of what was written.
    numbers: Numbers,
    /// The newest fence and event number that this run of the table gave out, written or not.
    newest: (u64, u64),
    past: Vec<Past>,
    now: Now,
    callers: u64,
    opened: Vec<Session>,
    /// Requests with an id, sets and single ones.
    asked: Vec<Vec<Arc<Ask>>>,
    told: Vec<String>,
    seen: BTreeMap<&'static str, usize>,
    /// The kept places that went into grants.
    places: BTreeMap<LockId, KeptPlace>,
}

/// What went wrong, in words.
type Wrong = String;

impl World {
    fn new(mut weights: Vec<u32>, crowd: Crowd) -> World {
        if weights.iter().sum::<u32>() == 0 {
            weights[0] = 1;
        }
        World {
            weights,
            crowd,
            table: LockTable::new(1_000, 1),
            naive: Naive::new(1_000),
            rows: Rows::default(),
            numbers: Numbers { fence: 0, event: 0, fences: 1_000, events: 1 },
            newest: (0, 0),
            past: Vec::new(),
            now: Now { mono: Moment(1_000_000), wall: Wall(5) },
            callers: 0,
            opened: Vec::new(),
            asked: Vec::new(),
            told: Vec::new(),
            seen: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    fn story(&self) -> String {
        self.told.join("\n")
    }

    fn turn(&mut self, raw: &Raw) -> Result<(), Wrong> {
        let mut n = raw.kind % self.weights.iter().sum::<u32>();
        let mut kinds = KINDS.iter().zip(&self.weights);
        let kind = loop {
            let ((kind, _), weight) = kinds.next().expect("the numbers stay below their sum");
            if n < *weight {
                break *kind;
            }
            n -= weight;
        };
        if raw.odd.is_multiple_of(4) {
            self.pass(u64::from(raw.odd) * 8);
        }
        // The disk comes back before long, also where nothing else would say so.
        if self.naive.paused && raw.pick.is_multiple_of(5) {
            self.resume()?;
        }
        match kind {
            Restart => self.restart(raw, false)?,
            Reboot => self.restart(raw, true)?,
            JournalFails => self.journal_fails(raw)?,
            Resume => self.resume()?,
            kind => {
                let command = self.command(kind, raw);
                self.both(command)?;
                if kind == TakeBack {
                    // It alone leaves undone what is due.
                    self.both(Command::Tick)?;
                }
            }
        }
        self.look(raw)
    }

    fn agent(&self, raw: &Raw) -> Agent {
        Agent::new(AGENTS[raw.agent % self.crowd.agents]).expect("a name")
    }

    fn target(&self, raw: &Raw) -> Target {
        target(self.crowd.first_place + raw.place % self.crowd.places)
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono.after(ms);
        self.now.wall.0 += ms;
    }

    // ── From numbers to commands ────────────────────────────────────────────────────────────────────────────────────

    /// What a lock may have promised before a session took it up.
    fn promised(&self, raw: &Raw) -> Promised {
        let hold_until = Some(self.now.mono.after(MINUTE)).filter(|_| raw.odd % 4 == 1);
        let lease = Lease { ttl: 20 * SECOND, max_hold: hold_until.map(|_| MINUTE) };
        Promised { lease, ttl: [5 * SECOND, 10 * MINUTE][raw.wait % 2], hold_until, bound: None }
    }

    fn unlock(&self, kind: Kind, caller: Caller, who: Who, raw: &Raw) -> Command {
        let leaves_loan = raw.odd.is_multiple_of(3);
        let (caller, who, which) = match kind {
            Kind::UnlockId => (Some(caller), self.owner(raw), Which::Id(self.lock_id(raw))),
            Kind::UnlockScope => (Some(caller).filter(|_| raw.shared), who, Which::Scope(self.place(raw))),
            _ => (Some(caller), who, Which::All),
        };
        Command::Unlock { caller, who, which, leaves_loan }
    }

    fn command(&mut self, kind: Kind, raw: &Raw) -> Command {
        let caller = self.caller(raw);
        let who = self.who(raw);
        match kind {
            LockOnce => self.lock(caller, Who { session: None, ..who }, raw),
            LockInSession => self.in_session(caller, raw, World::lock),
            SetOnce => self.lock_set(caller, Who { session: None, ..who }, raw),
            SetInSession => self.in_session(caller, raw, World::lock_set),
            AskAgain => self.ask_again(caller, raw),
            Upgrade => {
                let request =
                    Some(raw.odd % 32).filter(|n| *n < 6).map(|n| RequestId::new(&format!("r{n}")).expect("an id"));
                Command::Upgrade { caller, who: self.owner(raw), which: self.one(raw), wait: self.wait(raw), request }
            }
            Downgrade => Command::Downgrade { caller, who: self.owner(raw), which: self.one(raw) },
            WaitFree => Command::WaitFree { caller, ask: self.ask(who, raw), wait: self.wait(raw) },
            UnlockId | UnlockScope | UnlockAll => self.unlock(kind, caller, who, raw),
            Renew => {
                let which = match raw.wait {
                    0 => Which::All,
                    1..4 => Which::Scope(self.place(raw)),
                    _ => Which::Id(self.lock_id(raw)),
                };
                let ttl = [None, None, Some(20 * SECOND), Some(0), Some(limits::TTL_MAX + 1)][raw.lease % 5];
                Command::Renew { caller, who: self.owner(raw), which, ttl }
            }
            Check => {
                let fence = Some(Fence(self.lock_id(raw).0)).filter(|_| raw.shared);
                Command::Check { caller, who, target: self.place(raw), fence }
            }
            CommitBegin => {
                let fence = Some(self.fence_of(self.lock_id(raw))).filter(|_| raw.shared);
                let who = if raw.odd.is_multiple_of(2) { self.owner(raw) } else { who };
                let prepared = Prepared { name: b"new"[..].into(), device: 1, inode: 99, unchanged: None };
                Command::Commit { caller, who, target: self.place(raw), fence, prepared: Arc::new(prepared) }
            }
            CommitOver => self.commit_over(raw),
            Break => Command::Break { caller, who, id: self.lock_id(raw), reason: "stuck".into() },
            Status => {
                let target = Some(self.target(raw)).filter(|_| raw.shared);
                Command::Status { caller, who: Some(who), target }
            }
            News => Command::News { caller, who, heard: vec![self.lock_id(raw); usize::from(raw.shared)] },
            Bind => Command::Bind { caller, who: self.owner(raw), id: self.lock_id(raw), process: process(raw.lease) },
            ProcessGone => Command::ProcessGone(process(raw.pick)),
            CallerGone => Command::CallerGone { conn: caller.conn },
            Cancel => Command::Cancel { caller, waiting: self.waiting(raw) },
            ComeBack => self.come_back(caller, raw),
            GiveUp => {
                let kept: Vec<_> = self.naive.waiters.iter().filter(|waiter| waiter.ticket.is_some()).collect();
                match kept.get(raw.pick % kept.len().max(1)) {
                    Some(waiter) => {
                        let who = if raw.odd % 8 == 1 { who } else { waiter.ask.who.clone() };
                        Command::GiveUp { caller, who, ticket: waiter.ticket.expect("it has one") }
                    }
                    None => Command::GiveUp { caller, who, ticket: TicketId(5) },
                }
            }
            OpenSession => self.open_session(caller, raw),
            EndSession => Command::EndSession(self.session(raw).map_or(SessionId(0), |session| session.id)),
            ReturnSession => self.return_session(caller, raw),
            TakeBack => {
                let id = self.lock_id(raw);
                let fence = self.fence_of(id);
                let fence = Fence(fence.0 - u64::from(raw.odd % 8 == 1));
                let is_exclusive =
                    self.naive.locks.iter().any(|lock| lock.id == id && lock.ask.mode == Mode::Exclusive);
                // Only what is exclusive can have been made so.
                let upgraded = raw.lease % 2 == 1 && is_exclusive;
                let place = self.places.get(&id).copied();
                let promised = self.promised(raw);
                let resumed = Some(promised).filter(|_| raw.lease < 6);
                let what = Unheard { is_new: !raw.shared, resumed, upgraded, place };
                Command::TakeBack { id, fence, what }
            }
            LossesTold => Command::LossesTold(vec![self.lock_id(raw), self.lock_id(raw)]),
            Time => {
                self.pass([0, 1, 999, 1_001, 5_000, 10_000, 20_000, 61_000][raw.wait]);
                Command::Tick
            }
            LongTime => {
                self.pass([11 * MINUTE, 61 * MINUTE, limits::NOTICE_KEPT][raw.lease % 3]);
                Command::Tick
            }
            Contention => {
                let threshold = match raw.lease % 4 {
                    0 => Threshold::default(),
                    requests => Threshold { requests: requests as u32, within: [1, 10, 3_600][raw.wait % 3] * SECOND },
                };
                Command::Contention { workspace: Workspace { root: b"/d"[..].into() }, threshold }
            }
            Wrote => self.wrote(raw),
            Restart | Reboot | JournalFails | Resume => unreachable!("these are no commands"),
        }
    }

    /// Somebody writes to a file, whoever holds it.
    fn wrote(&self, raw: &Raw) -> Command {
        use flockd::model::Wrote::{Deleted, Replaced, Written};
        let place = self.place(raw);
        let file = match &place.scope {
            Scope::File(_) => Some(place.scope.clone()),
            Scope::Subtree(_) => place.scope.other_kind(),
            Scope::Pattern(_) | Scope::Resource(_) => None,
        };
        let how = [Written, Replaced, Deleted][raw.lease % 3];
        file.map_or(Command::Tick, |scope| Command::Wrote { target: Target { scope, ids: place.ids }, how })
    }

    /// One of a few connections, with a number of its own for each request.
    fn caller(&mut self, raw: &Raw) -> Caller {
        self.callers += 1;
        Caller { conn: raw.odd as u64 % 5, id: self.callers }
    }

    fn who(&self, raw: &Raw) -> Who {
        let agent = self.agent(raw);
        let session = self.session(raw).filter(|session| raw.odd.is_multiple_of(3) && session.agent == agent);
        Who { agent, session: session.map(|session| session.id) }
    }

    /// Mostly who holds the lock that is meant, sometimes anybody.
    fn owner(&self, raw: &Raw) -> Who {
        let lock = self.naive.locks.iter().find(|lock| lock.id == self.lock_id(raw));
        match lock {
            Some(lock) if raw.odd % 8 != 1 => {
                let session = if raw.odd % 8 == 3 { None } else { lock.ask.who.session };
                Who { session, ..lock.ask.who.clone() }
            }
            _ => self.who(raw),
        }
    }

    /// Mostly one that is held, sometimes one that was, rarely one that never was.
    fn lock_id(&self, raw: &Raw) -> LockId {
        let (locks, ended) = (&self.naive.locks, &self.naive.ended);
        match raw.pick % 8 {
            0 if !ended.is_empty() => ended[raw.pick / 8 % ended.len()].id,
            1 => LockId(7),
            _ if !locks.is_empty() => locks[raw.pick / 8 % locks.len()].id,
            _ => LockId(8),
        }
    }

    /// One lock, mostly by its id.
    fn one(&self, raw: &Raw) -> Which {
        match raw.lease {
            0 if raw.odd.is_multiple_of(16) => Which::All,
            0..4 => Which::Scope(self.place(raw)),
            _ => Which::Id(self.lock_id(raw)),
        }
    }

    fn fence_of(&self, id: LockId) -> Fence {
        self.naive.locks.iter().find(|lock| lock.id == id).map_or(Fence(id.0), |lock| lock.fence)
    }

    /// The file system answers one of the commits in flight, mostly well.
    fn commit_over(&self, raw: &Raw) -> Command {
        let of = |lock: &Lock| lock.in_flight.as_ref().map(|it| (lock.id, it.commits[raw.pick % it.commits.len()].id));
        let in_flight: Vec<_> = self.naive.locks.iter().filter_map(of).collect();
        let Some((lock, commit)) = in_flight.get(raw.place % in_flight.len().max(1)).copied() else {
            return Command::Tick;
        };
        let file = match raw.lease % 4 {
            0 => None,
            1 => self.target(raw).own_id(),
            _ => Some(id(1000 + raw.odd as u64)),
        };
        let placed = Placed { bytes: 3, file, flocked: raw.shared, again: raw.wait == 1 };
        let answer = match raw.odd % 16 {
            0 => CommitAnswer::Late,
            1 => CommitAnswer::NotDurable(placed, "the disk is gone".into()),
            2 => CommitAnswer::Refused(Fault::Changed(Some([7; 32]))),
            3 => CommitAnswer::Refused(Fault::Denied("somebody writes it".into())),
            _ => CommitAnswer::InPlace(placed),
        };
        Command::CommitDone { commit, lock, answer }
    }

    /// Mostly a place where somebody holds something.
    fn place(&self, raw: &Raw) -> Target {
        match self.naive.locks.get(raw.pick % (self.naive.locks.len() + 2)) {
            Some(lock) => lock.ask.target.clone(),
            None => self.target(raw),
        }
    }

    /// A session that was opened, mostly one that is open.
    fn session(&self, raw: &Raw) -> Option<Session> {
        let open = &self.naive.sessions;
        match raw.pick % 16 {
            0 => self.opened.get(raw.pick / 16 % self.opened.len().max(1)).cloned(),
            _ => open.get(raw.pick / 16 % open.len().max(1)).cloned(),
        }
    }

    fn waiting(&self, raw: &Raw) -> Caller {
        let callers: Vec<Caller> = self.naive.waiters.iter().filter_map(|waiter| waiter.caller).collect();
        callers.get(raw.pick % (callers.len() + 1)).copied().unwrap_or(Caller { conn: 99, id: 1 })
    }

    fn mode(&self, raw: &Raw) -> Mode {
        match raw.shared {
            _ if raw.advisory < self.crowd.advisory => Mode::Advisory,
            true => Mode::Shared,
            false => Mode::Exclusive,
        }
    }

    fn wait(&self, raw: &Raw) -> Wait {
        match raw.wait {
            0 | 1 => Wait::Try,
            2 => Wait::Until(self.now.mono.after(3 * SECOND)),
            3 => Wait::Until(self.now.mono.after(30 * SECOND)),
            4 => Wait::Until(self.now.mono),
            _ => Wait::Forever,
        }
    }

    fn ask(&self, who: Who, raw: &Raw) -> Arc<Ask> {
        let ttls = match who.session {
            None => [5 * SECOND, MINUTE, 10 * MINUTE, 5 * SECOND],
            Some(_) => [0, 5 * SECOND, MINUTE, 0],
        };
        let ttl = match raw.odd {
            255 => limits::TTL_MAX + 1,
            254 => 0,
            _ => ttls[raw.lease % 4],
        };
        let max_hold = if raw.lease / 4 == 0 { Some(8 * SECOND) } else { None };
        // Few names, so that some are used again, with the same and with other parameters.
        let request = Some(raw.odd % 32).filter(|n| *n < 10).map(|n| RequestId::new(&format!("r{n}")).expect("an id"));
        let bound = Some(process(raw.lease)).filter(|_| who.session.is_none() && raw.odd % 4 == 2);
        Arc::new(Ask {
            bound,
            target: self.target(raw),
            mode: self.mode(raw),
            who,
            lease: Lease { ttl, max_hold },
            note: None,
            process: Some(process(raw.pick)),
            request,
            workspace: Workspace { root: b"/d"[..].into() },
            os: false,
            upgrades: None,
            set: None,
        })
    }

    fn in_session(&mut self, caller: Caller, raw: &Raw, ask: fn(&mut World, Caller, Who, &Raw) -> Command) -> Command {
        match self.session(raw) {
            Some(Session { agent, id, .. }) => ask(self, caller, Who { agent, session: Some(id) }, raw),
            None => self.open_session(caller, raw),
        }
    }

    fn lock(&mut self, caller: Caller, who: Who, raw: &Raw) -> Command {
        let ask = self.ask(who, raw);
        if ask.request.is_some() {
            self.asked.push(vec![ask.clone()]);
        }
        Command::Lock { caller, ask, wait: self.wait(raw) }
    }

    /// One to four places, some of which may have something in common.
    fn lock_set(&mut self, caller: Caller, who: Who, raw: &Raw) -> Command {
        let ask = self.ask(who, raw);
        let mut targets = vec![ask.target.clone()];
        for n in 0..raw.pick % 4 {
            let next = self.target(&Raw { place: raw.place + (n + 1) * (1 + raw.lease), ..raw.clone() });
            if targets.iter().all(|target| target.scope != next.scope) {
                targets.push(next);
            }
        }
        let of = targets.len() as u16;
        let member = |(index, target)| Arc::new(Ask { target, set: Some(SetMember { index, of }), ..(*ask).clone() });
        let asks: Vec<Arc<Ask>> = (0..).zip(targets).map(member).collect();
        if ask.request.is_some() {
            self.asked.push(asks.clone());
        }
        Command::LockSet { caller, asks, wait: self.wait(raw) }
    }

    /// The same request once more, sometimes with something changed.
    fn ask_again(&mut self, caller: Caller, raw: &Raw) -> Command {
        let Some(before) = self.asked.get(raw.pick % self.asked.len().max(1)) else {
            return Command::Tick;
        };
        if before[0].set.is_some() {
            return self.ask_set_again(caller, before, raw);
        }
        let mut ask = (*before[0]).clone();
        match raw.lease {
            0 => ask.mode = self.mode(raw),
            1 => ask.lease.ttl += 1,
            2 => ask.target = self.target(raw),
            3 => ask.who.session = None,
            4 => ask.note = Some("once more".into()),
            _ => {}
        }
        Command::Lock { caller, ask: Arc::new(ask), wait: self.wait(raw) }
    }

    /// Whoever has waited in vain asks again, sometimes for something else or on other terms.
    fn come_back(&mut self, caller: Caller, raw: &Raw) -> Command {
        let kept: Vec<_> = self.naive.waiters.iter().filter(|waiter| waiter.is_kept()).collect();
        let Some(place) = kept.get(raw.pick % kept.len().max(1)) else { return Command::Tick };
        if place.ask.set.is_some() {
            return self.come_back_for_set(caller, first_row(place), raw);
        }
        let mut ask = (*place.ask).clone();
        match raw.lease {
            0 => ask.mode = if raw.shared { Mode::Shared } else { Mode::Exclusive },
            1 => ask.lease.ttl += 1,
            2 => ask.target = self.target(raw),
            3 => ask.who = self.who(raw),
            // Another file under the same name.
            4..7 => ask.target = namesake(&ask.target, raw.place).unwrap_or(ask.target),
            _ => {}
        }
        if raw.odd % 4 < 3 {
            ask.request = None;
        }
        Command::Lock { caller, ask: Arc::new(ask), wait: self.wait(raw) }
    }

    /// The same for a set: all of it, or a part by itself.
    fn come_back_for_set(&mut self, caller: Caller, first: WaiterId, raw: &Raw) -> Command {
        *self.seen.entry("set came back").or_default() += 1;
        let rows = self.naive.waiters.iter().filter(|row| first_row(row) == first);
        let mut asks: Vec<Ask> = rows.map(|row| (*row.ask).clone()).collect();
        match raw.lease {
            0 => asks.iter_mut().for_each(|ask| ask.lease.ttl += 1),
            1 => asks.reverse(),
            2..5 => {
                let target = namesake(&asks[0].target, raw.place).unwrap_or(asks[0].target.clone());
                asks[0].target = target;
            }
            _ => {}
        }
        if raw.odd % 4 < 3 {
            asks.iter_mut().for_each(|ask| ask.request = None);
        }
        if raw.lease == 5 {
            let ask = Ask { set: None, ..asks[0].clone() };
            return Command::Lock { caller, ask: Arc::new(ask), wait: self.wait(raw) };
        }
        let of = asks.len() as u16;
        let member = |(index, ask)| Arc::new(Ask { set: Some(SetMember { index, of }), ..ask });
        Command::LockSet { caller, asks: (0..).zip(asks).map(member).collect(), wait: self.wait(raw) }
    }

    fn ask_set_again(&self, caller: Caller, before: &[Arc<Ask>], raw: &Raw) -> Command {
        let mut asks: Vec<Ask> = before.iter().map(|ask| (**ask).clone()).collect();
        match raw.lease {
            0 => asks.iter_mut().for_each(|ask| ask.lease.ttl += 1),
            1 => asks[0].target = self.target(raw),
            2 if asks.len() > 1 => drop(asks.pop()),
            3 => asks.iter_mut().for_each(|ask| ask.who.session = None),
            _ => {}
        }
        if raw.lease == 4 {
            let ask = Ask { set: None, ..asks[0].clone() };
            return Command::Lock { caller, ask: Arc::new(ask), wait: self.wait(raw) };
        }
        let of = asks.len() as u16;
        let member = |(index, ask)| Arc::new(Ask { set: Some(SetMember { index, of }), ..ask });
        let asks = (0..).zip(asks).map(member).collect();
        Command::LockSet { caller, asks, wait: self.wait(raw) }
    }

    fn open_session(&mut self, caller: Caller, raw: &Raw) -> Command {
        let session = Session {
            id: SessionId(1_000 + self.opened.len() as u64),
            secret: self.opened.len() as u128 * 7,
            agent: self.agent(raw),
            process: Some(process(raw.pick)).filter(|_| raw.wait > 0),
            kind: if raw.shared { SessionKind::Library } else { SessionKind::Command },
            away_until: None,
        };
        self.opened.push(session.clone());
        Command::OpenSession { caller, session }
    }

    fn return_session(&mut self, caller: Caller, raw: &Raw) -> Command {
        let Some(session) = self.session(raw) else { return Command::Tick };
        let secret = session.secret + u128::from(raw.odd % 8 == 1);
        let process = if raw.odd % 8 == 2 { Some(process(raw.lease)) } else { session.process };
        Command::ReturnSession { caller, id: session.id, secret, process }
    }

    // ── Through both ────────────────────────────────────────────────────────────────────────────────────────────────

    fn both(&mut self, command: Command) -> Result<(), Wrong> {
        self.told.push(format!("{} {}", self.now.mono.0, brief(&command)));
        let (naive, rows) = (self.naive.clone(), self.rows.clone());
        let step = self.table.apply(self.now, command.clone());
        for (after, before) in step.changes() {
            let is_row = !matches!(after, Record::Event(_) | Record::Reserve { .. });
            assert_eq!(before.map(row), Some(row(after)).filter(|_| is_row), "statistics read one row as another");
        }
        let said = self.naive.apply(self.now, &command);
        let ordered = step.effects.iter().filter(|effect| matches!(effect, Effect::Commit { .. })).count() as u64;
        let begun = self.naive.next_commit - naive.next_commit;
        if ordered != begun {
            return Err(format!("{ordered} commits were ordered where {begun} began"));
        }
        self.compare(naive, rows, step, said)?;
        // What is taken back alone leaves undone what is due.
        if matches!(command, Command::TakeBack { .. }) { Ok(()) } else { self.nothing_outlives_its_time() }
    }

    fn compare(&mut self, naive: Naive, rows: Rows, step: Step, said: Vec<Outgoing>) -> Result<(), Wrong> {
        let by_table = step.replies.iter().map(|reply| self.plain(reply)).collect::<Result<Vec<_>, _>>()?;
        let by_model: Vec<Outgoing> = said.iter().map(plain_text).collect();
        if by_table != by_model {
            let (table, model) = (lines(&by_table), lines(&by_model));
            return Err(format!("the answers differ\n\ntable:\n{table}\n\nmodel:\n{model}"));
        }
        for said in &by_table {
            let later = said.to.id != self.callers;
            *self.seen.entry(outcome(&said.answer.reply, later)).or_default() += 1;
            *self.seen.entry("loss told").or_default() += said.answer.lost.len();
            *self.seen.entry("waiter told").or_default() += said.answer.wanted.len();
            if let Reply::Granted(granted) = &said.answer.reply {
                self.count_advisory(granted);
                self.places.extend(granted.place.map(|place| (granted.lock.id, place)));
            }
        }
        self.same_leaders(&step)?;
        self.same_contention(&step)?;
        self.same_violations(&step)?;
        let numbers = self.numbers;
        self.write(&step)?;
        self.past.push(Past { step, naive, rows, numbers });
        if self.past.len() > 8 {
            self.past.remove(0);
        }
        self.same_rows()
    }

    fn same_contention(&mut self, step: &Step) -> Result<(), Wrong> {
        let told = step.records.iter().filter_map(|record| match record {
            Record::Event(Event { kind: EventKind::Contention(contended), lock, ask, .. }) => {
                Some((*lock, ask.target.scope.clone(), *contended))
            }
            _ => None,
        });
        let (by_table, by_model) = (told.collect::<Vec<_>>(), std::mem::take(&mut self.naive.contended));
        if by_table != by_model {
            return Err(format!("contention differs\n\ntable:\n{by_table:?}\n\nmodel:\n{by_model:?}"));
        }
        *self.seen.entry("contention told").or_default() += by_table.len();
        *self.seen.entry("contention left out").or_default() +=
            by_table.iter().filter(|(.., c)| c.left_out > 0).count();
        Ok(())
    }

    fn same_violations(&mut self, step: &Step) -> Result<(), Wrong> {
        let told = step.records.iter().filter_map(|record| match record {
            Record::Event(Event { kind: EventKind::Violation { how }, lock, .. }) => Some((*lock, *how)),
            _ => None,
        });
        let (by_table, by_model) = (told.collect::<Vec<_>>(), std::mem::take(&mut self.naive.violated));
        if by_table != by_model {
            return Err(format!("violations differ\n\ntable:\n{by_table:?}\n\nmodel:\n{by_model:?}"));
        }
        *self.seen.entry("violation told").or_default() += by_table.len();
        Ok(())
    }

    fn count_advisory(&mut self, granted: &Granted) {
        let is_advisory = granted.lock.ask.mode == Mode::Advisory;
        let mut count = |outcome, is_so| *self.seen.entry(outcome).or_default() += usize::from(is_so);
        count("advisory granted", is_advisory && granted.is_new());
        count("advisory resumed", is_advisory && granted.resumed.is_some());
        count("advisory named", !is_advisory && !granted.beside.is_empty());
        let excludes = granted.beside.first().is_some_and(|lock| lock.ask.mode != Mode::Advisory);
        count("advisory beside what excludes others", excludes);
    }

    /// Whoever leads from now on is told, once, and by the end of the step everybody who leads has been.
    fn same_leaders(&mut self, step: &Step) -> Result<(), Wrong> {
        let leader = |record: &Record| match record {
            Record::Event(Event { kind: EventKind::Leader { former }, lock, .. }) => Some((*lock, former.clone())),
            _ => None,
        };
        let mut by_table: Vec<_> = step.records.iter().filter_map(leader).collect();
        let mut by_model = self.naive.led.clone();
        // Of several that follow at once the order is nobody's business.
        by_table.sort_unstable_by_key(|(id, _)| *id);
        by_model.sort_unstable_by_key(|(id, _)| *id);
        if by_table != by_model {
            return Err(format!("told to lead: {by_table:?}, where by the model it is {by_model:?}"));
        }
        *self.seen.entry("led by another").or_default() += by_table.iter().filter(|(_, of)| of.is_some()).count();
        let untold =
            self.naive.locks.iter().find(|lock| self.naive.leads(lock) != self.naive.leaders.contains(&lock.id));
        untold.map_or(Ok(()), |lock| Err(format!("{} leads and was not told, or the other way round", lock.id)))
    }

    fn same_rows(&self) -> Result<(), Wrong> {
        let model = Rows::of(&self.naive);
        if self.rows == model {
            return Ok(());
        }
        Err(format!("the rows differ\n\ntable, by its records:\n{:#?}\n\nmodel:\n{model:#?}", self.rows))
    }

    /// An answer without what table and model may say differently: texts, and which of several cycles.
    fn plain(&self, said: &Outgoing) -> Result<Outgoing, Wrong> {
        if let Reply::Refused(refused) = &said.answer.reply
            && let RefusedFor::Deadlock(cycle) = &refused.why
        {
            is_cycle(cycle, &self.naive.waits_then)?;
        }
        Ok(plain_text(said))
    }

    /// Folds a step's records into the rows, and looks at the numbers in them.
    fn write(&mut self, step: &Step) -> Result<(), Wrong> {
        for record in &step.records {
            self.rows.fold(record.clone());
            match record {
                Record::Event(event) => {
                    grows(&mut self.newest.1, event.seq.0)?;
                    self.numbers.event = event.seq.0;
                    if matches!(event.kind, EventKind::Acquired(how) if how != Acquired::Downgraded) {
                        grows(&mut self.newest.0, event.fence.0)?;
                        self.numbers.fence = event.fence.0;
                    }
                }
                Record::Reserve { fences, events } => {
                    (self.numbers.fences, self.numbers.events) = (*fences, *events);
                }
                _ => {}
            }
        }
        let Numbers { fence, event, fences, events } = self.numbers;
        if fence < fences && event < events {
            return Ok(());
        }
        Err(format!("numbers were given out beyond those reserved: {:?}", self.numbers))
    }

    /// A restart of the daemon, or of the machine, from what the records made.
    fn restart(&mut self, raw: &Raw, rebooted: bool) -> Result<(), Wrong> {
        self.told.push(format!("{} restart, rebooted: {rebooted}", self.now.mono.0));
        if rebooted {
            self.now.mono = Moment(u64::from(raw.odd) * 100);
        }
        // The journal keeps nothing that is in flight.
        self.rows.locks.values_mut().for_each(|lock| lock.in_flight = None);
        let mut records = self.rows.records();
        // A store gives its rows back in any order.
        let by = raw.pick % records.len().max(1);
        records.rotate_left(by);
        let Numbers { fences, events, .. } = self.numbers;
        let (table, step) = LockTable::restore(records, self.now, rebooted, fences, events);
        self.table = table;
        // What nobody has heard of is taken back before its daemon ends, or never.
        self.places.clear();
        match rebooted {
            false => self.naive.restart(self.now, fences),
            true => self.naive.reboot(self.now, fences),
        }
        if !step.replies.is_empty() {
            return Err("a restart answered somebody".into());
        }
        self.newest = (self.numbers.fence, self.numbers.event);
        self.write(&step)?;
        self.past.clear();
        self.same_rows()
    }

    /// A write fails: the last steps are taken back, newest first, and grants stop.
    fn journal_fails(&mut self, raw: &Raw) -> Result<(), Wrong> {
        self.told.push(format!("the last {} steps fail", raw.pick % 5));
        for _ in 0..raw.pick % 5 {
            let Some(past) = self.past.pop() else { break };
            self.table.undo(past.step);
            // Numbers once given out are not given out again.
            let given = (self.naive.next_fence, self.naive.next_waiter, self.naive.next_commit);
            // What a workspace says is no step that could fail.
            let threshold = self.naive.threshold;
            self.naive = past.naive;
            (self.naive.next_fence, self.naive.next_waiter, self.naive.next_commit) = given;
            self.naive.threshold = threshold;
            (self.rows, self.numbers) = (past.rows, past.numbers);
        }
        self.past.clear();
        self.table.pause("the disk is full".into());
        self.naive.paused = true;
        self.same_rows()
    }

    fn resume(&mut self) -> Result<(), Wrong> {
        self.told.push("resume".into());
        let (naive, rows) = (self.naive.clone(), self.rows.clone());
        let step = self.table.resume(self.now);
        let said = self.naive.resume(self.now);
        self.compare(naive, rows, step, said)?;
        self.nothing_outlives_its_time()
    }

    // ── The auditor ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// What anybody can see of the table is what the model has, and what must be true of it is.
    fn look(&mut self, raw: &Raw) -> Result<(), Wrong> {
        self.callers += 1;
        let caller = Caller { conn: 50, id: self.callers };
        self.both(Command::Status { caller, who: None, target: None })?;
        self.told.pop();
        let seen = &self.past.last().expect("a step was just taken").step.replies;
        let Some(Reply::Status { locks, waiters }) = seen.last().map(|said| said.answer.reply.clone()) else {
            return Err("status was not answered".into());
        };
        nobody_excludes_another(&locks)?;
        self.nobody_waits_for_nothing(&locks, &waiters)?;
        let counts = (self.table.locks(), self.table.waiters(), self.table.sessions());
        let rows = (self.rows.locks.len(), self.rows.waiters.len(), self.rows.sessions.len());
        if counts != rows {
            return Err(format!("the table counts {counts:?} where there are {rows:?}"));
        }
        if raw.pick.is_multiple_of(8) { self.its_own_rows() } else { Ok(()) }
    }

    /// The rows that the table would write anew are the fold of its records.
    fn its_own_rows(&mut self) -> Result<(), Wrong> {
        let mut rows = Rows::default();
        for record in self.table.rows() {
            if let Record::Reserve { fences, events } = record {
                (self.numbers.fences, self.numbers.events) = (fences, events);
            }
            rows.fold(record);
        }
        // A new journal was begun: what is before it cannot be taken back any more.
        self.past.clear();
        if rows == self.rows {
            return Ok(());
        }
        Err(format!("the table's own rows are not those of its records\n{rows:#?}\n\nrecords:\n{:#?}", self.rows))
    }

    fn nothing_outlives_its_time(&self) -> Result<(), Wrong> {
        let step = &self.past.last().expect("a step was taken").step;
        let now = self.now.mono;
        let is_due = |due: Option<Moment>| due.is_some_and(|due| due <= now);
        let is_new = |row: &dyn Fn(&Record) -> bool| step.records.iter().any(row);
        for lock in self.rows.locks.values().filter(|lock| is_due(lock.expires) && lock.in_flight.is_none()) {
            // Only one whose lease ended at this very moment: its turn comes next.
            if !is_new(&|record| matches!(record, Record::Lock(id, Some(_)) if *id == lock.id)) {
                return Err(format!("{} is held past its lease", lock.id));
            }
        }
        let is_over = |w: &&Waiter| is_due(w.deadline) || is_due(w.absent_until) || is_due(w.offered_until);
        for waiter in self.rows.waiters.values().filter(is_over) {
            if !is_new(&|record| matches!(record, Record::Waiter(id, Some(_)) if *id == waiter.id)) {
                return Err(format!("{:?} waits past its deadline", waiter.id));
            }
        }
        match self.rows.sessions.values().find(|session| is_due(session.away_until)) {
            Some(session) => Err(format!("{} is awaited for too long", session.id)),
            None => Ok(()),
        }
    }

    /// Whoever waits and listens has a holder, an earlier request or a weaker lock of its own in the way.
    fn nobody_waits_for_nothing(&self, locks: &[Lock], waiters: &[Queued]) -> Result<(), Wrong> {
        let waits_for_nothing = |queued: &Queued| {
            let ask = &queued.waiter.ask;
            let own = |lock: &Lock| lock.ask.who.agent == ask.who.agent && lock.ask.mode.is_weaker_than(ask.mode);
            queued.behind.is_empty() && queued.position == 1 && !locks.iter().any(own)
        };
        for queued in waiters.iter().filter(|queued| queued.waiter.caller.is_some() && !self.naive.paused) {
            let rows = waiters.iter().filter(|row| first_row(&row.waiter) == first_row(&queued.waiter));
            if rows.clone().count() != queued.waiter.ask.set.map_or(1, |member| usize::from(member.of)) {
                return Err(format!("not all rows of a set wait: {:?}", queued.waiter));
            }
            if rows.into_iter().all(waits_for_nothing) {
                return Err(format!("{:?} waits for nothing", queued.waiter));
            }
        }
        for queued in waiters.iter().filter(|queued| queued.waiter.is_kept() && !self.naive.paused) {
            let own = |lock: &Lock| lock.ask.who.agent == queued.waiter.ask.who.agent;
            let mut rows = waiters.iter().filter(|row| first_row(&row.waiter) == first_row(&queued.waiter));
            let is_free = rows.all(|row| row.behind.is_empty() && row.position == 1);
            if !locks.iter().any(own) && is_free != queued.waiter.offered_until.is_some() {
                return Err(format!("{:?} is offered where it is not free, or free and not offered", queued.waiter));
            }
        }
        Ok(())
    }
}

fn grows(newest: &mut u64, number: u64) -> Result<(), Wrong> {
    if number <= *newest {
        return Err(format!("number {number} was given out after {newest}"));
    }
    *newest = number;
    Ok(())
}

/// No two locks that are held together clash in scope, mode and owner.
fn nobody_excludes_another(locks: &[Lock]) -> Result<(), Wrong> {
    for (n, lock) in locks.iter().enumerate() {
        for other in &locks[..n] {
            // A parent may have held it before, but not its child.
            let excludes = |one: &Lock, two: &Lock| {
                let who = Who { session: two.keeper(), ..two.ask.who.clone() };
                is_in_the_way(one, &who, &two.ask.target, two.ask.mode)
            };
            if excludes(lock, other) && excludes(other, lock) {
                return Err(format!("both are held:\n{other:?}\n{lock:?}"));
            }
        }
    }
    Ok(())
}

/// Whether each waits for the next and the last for the first, and each of these waits is real.
fn is_cycle(cycle: &[Link], real: &[Link]) -> Result<(), Wrong> {
    for (n, link) in cycle.iter().enumerate() {
        let next = &cycle[(n + 1) % cycle.len()];
        if link.behind != next.waits || !real.contains(link) {
            return Err(format!("no cycle: {cycle:#?}\n\nthe waits there are: {real:#?}"));
        }
    }
    if cycle.len() < 2 { Err(format!("a cycle of fewer than two: {cycle:?}")) } else { Ok(()) }
}

fn plain_text(said: &Outgoing) -> Outgoing {
    let mut said = said.clone();
    match &mut said.answer.reply {
        Reply::Refused(refused) => {
            if let RefusedFor::Deadlock(cycle) = &mut refused.why {
                cycle.clear();
            }
        }
        Reply::Failed(Fault::Invalid(text) | Fault::TooMany(text) | Fault::Unavailable(text) | Fault::Denied(text)) => {
            text.clear();
        }
        _ => {}
    }
    said
}

fn lines(said: &[Outgoing]) -> String {
    said.iter().map(|said| format!("{said:?}")).collect::<Vec<_>>().join("\n")
}

/// A command on one line.
fn brief(command: &Command) -> String {
    let request = |verb: &str, caller: &Caller, ask: &Ask, wait: &Wait| {
        let inodes: Vec<u64> = ask.target.ids.iter().map(|id| id.inode).collect();
        let session = ask.who.session.map(|session| session.to_string());
        format!(
            "{}:{} {verb} {} {inodes:?} {} by {} in {session:?} {:?} {:?} {wait:?}",
            caller.conn,
            caller.id,
            ask.mode.as_str(),
            ask.target.scope,
            ask.who.agent,
            ask.lease,
            ask.request.as_ref().map(RequestId::as_str),
        )
    };
    match command {
        Command::Lock { caller, ask, wait } => request("lock", caller, ask, wait),
        Command::LockSet { caller, asks, wait } => {
            let all: Vec<String> = asks.iter().map(|ask| request("of a set", caller, ask, wait)).collect();
            all.join("\n    ")
        }
        Command::WaitFree { caller, ask, wait } => request("wait", caller, ask, wait),
        Command::Unlock { who, which: Which::Scope(target), .. } => format!("unlock {} by {who:?}", target.scope),
        Command::Renew { who, which: Which::Scope(target), .. } => format!("renew {} by {who:?}", target.scope),
        Command::Check { who, target, fence, .. } => format!("check {} by {who:?} {fence:?}", target.scope),
        Command::Status { who, target, .. } => {
            format!("status of {:?} by {who:?}", target.as_ref().map(|target| target.scope.to_string()))
        }
        other => format!("{other:?}"),
    }
}

/// Which row a record is about.
fn row(record: &Record) -> String {
    match record {
        Record::Lock(id, _) => format!("lock {id}"),
        Record::Waiter(id, _) => format!("waiter {}", id.0),
        Record::Session(id, _) => format!("session {}", id.0),
        Record::Ended(id, _) => format!("ended {id}"),
        Record::Webhook(id, _) => format!("webhook {id}"),
        Record::Event(_) | Record::Reserve { .. } => String::new(),
    }
}
