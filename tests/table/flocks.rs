//! The operating system's say, one claim a test: what ours let through is granted when its flock is ours, too.

use flockd::limits;
use flockd::model::*;
use flockd::scope::{FileId, Scope, Target};
use flockd::table::LockTable;
use std::sync::Arc;

/// A table with a system that answers what a test says.
struct Desk {
    table: LockTable,
    now: Now,
    calls: u64,
    /// Wishes that the system has not answered.
    wanted: Vec<LockId>,
    dropped: Vec<LockId>,
    passed: Vec<(LockId, LockId)>,
    shared: Vec<LockId>,
    replies: Vec<(u64, Reply)>,
}

fn file(exists: bool) -> Target {
    let id = |inode| FileId { device: 1, inode, birth: 0 };
    let ids = if exists { vec![id(1), id(2)] } else { vec![id(1)] };
    Target { scope: Scope::File(b"/f"[..].into()), ids: ids.into() }
}

fn foreigner() -> Foreigner {
    Foreigner { pid: Some(9), command: Some("vim".into()), mode: Mode::Exclusive, seen: Wall(3) }
}

/// An exclusive lock of ada's on the file.
fn terms() -> Ask {
    Ask {
        target: file(true),
        mode: Mode::Exclusive,
        who: Who { agent: Agent::new("ada").unwrap(), session: None },
        lease: Lease { ttl: limits::HOUR, max_hold: None },
        note: None,
        process: None,
        bound: None,
        upgrades: None,
        set: None,
        request: None,
        workspace: Workspace { root: b"/"[..].into() },
        os: true,
    }
}

impl Desk {
    fn new() -> Desk {
        Desk {
            table: LockTable::new(100, 100),
            now: Now { mono: Moment(1_000), wall: Wall(5) },
            calls: 0,
            wanted: Vec::new(),
            dropped: Vec::new(),
            passed: Vec::new(),
            shared: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn run(&mut self, command: Command) {
        let step = self.table.apply(self.now, command);
        self.keep(step);
    }

    fn keep(&mut self, step: flockd::table::Step) {
        for effect in &step.effects {
            match effect {
                Effect::WantOs { lock, .. } => self.wanted.push(*lock),
                Effect::DropOs { lock } => {
                    self.wanted.retain(|wanted| wanted != lock);
                    self.dropped.push(*lock);
                }
                Effect::PassOs { from, to } => self.passed.push((*from, *to)),
                Effect::ShareOs { lock } => self.shared.push(*lock),
                Effect::Commit { .. } => unreachable!("nobody writes here"),
            }
        }
        self.replies.extend(step.replies.iter().map(|reply| (reply.to.id, reply.answer.reply.clone())));
    }

    fn ask_for(&mut self, target: Target, agent: &str, mode: Mode, wait: Wait) -> u64 {
        self.calls += 1;
        let who = Who { agent: Agent::new(agent).unwrap(), session: None };
        let ask = Arc::new(Ask { target, mode, who, ..terms() });
        self.run(Command::Lock { caller: Caller { conn: 1, id: self.calls }, ask, wait });
        self.calls
    }

    fn ask(&mut self, agent: &str, mode: Mode, wait: Wait) -> u64 {
        self.ask_for(file(true), agent, mode, wait)
    }

    fn answer(&mut self, answer: OsAnswer) {
        let lock = self.wanted.remove(0);
        self.run(Command::Os { lock, answer });
    }

    /// Whether each that waits has a kept place whose turn has come.
    fn offered(&mut self) -> Vec<bool> {
        self.calls += 1;
        self.run(Command::Status { caller: Caller { conn: 1, id: self.calls }, who: None, target: None });
        match self.replies.last() {
            Some((_, Reply::Status { waiters, .. })) => {
                waiters.iter().map(|queued| queued.waiter.offered_until.is_some()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono.after(ms);
        self.run(Command::Tick);
    }

    fn granted(&self, call: u64) -> Option<Lock> {
        self.replies.iter().find_map(|(to, reply)| match reply {
            Reply::Granted(granted) if *to == call => Some(granted.lock.clone()),
            _ => None,
        })
    }

    fn refused(&self, call: u64) -> Option<Refused> {
        self.replies.iter().find_map(|(to, reply)| match reply {
            Reply::Refused(refused) if *to == call => Some((**refused).clone()),
            _ => None,
        })
    }

    fn unlock(&mut self, agent: &str) {
        let who = Who { agent: Agent::new(agent).unwrap(), session: None };
        self.run(Command::Unlock { caller: None, who, which: Which::All, leaves_loan: false });
    }

    fn restart(&mut self) {
        // What the system gave, it has taken back by the death of the daemon.
        let forget = |record: Record| match record {
            Record::Lock(id, Some(lock)) => Record::Lock(id, Some(Lock { os: OsLock::None, ..lock })),
            Record::Waiter(id, Some(waiter)) => {
                Record::Waiter(id, Some(Waiter { os: OsWait::Idle, caller: None, ..waiter }))
            }
            other => other,
        };
        self.wanted.clear();
        let rows = self.table.rows().into_iter().map(forget).collect();
        let (table, step) = LockTable::restore(rows, self.now, false, 1 << 20, 1 << 20);
        self.table = table;
        self.keep(step);
    }
}

#[test]
fn a_lock_is_granted_only_when_its_flock_is_held() {
    let mut desk = Desk::new();
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Forever);
    assert_eq!((desk.granted(ada), desk.wanted.len()), (None, 1));
    desk.answer(OsAnswer::Held);
    let lock = desk.granted(ada).unwrap();
    assert_eq!(lock.os, OsLock::Held);
    desk.unlock("ada");
    assert_eq!(desk.dropped, [lock.id]);
}

#[test]
fn what_does_not_exist_or_cannot_be_flocked_is_granted_without_and_says_so() {
    let mut desk = Desk::new();
    let missing = desk.ask_for(file(false), "ada", Mode::Exclusive, Wait::Try);
    assert_eq!((desk.granted(missing).unwrap().os, desk.wanted.len()), (OsLock::None, 0));
    desk.unlock("ada");
    let unable = desk.ask("ada", Mode::Exclusive, Wait::Try);
    desk.answer(OsAnswer::Unable);
    assert_eq!(desk.granted(unable).unwrap().os, OsLock::None);
    desk.unlock("ada");
    assert_eq!(desk.dropped, []);
}

#[test]
fn a_scope_whose_flock_is_being_tried_is_reserved() {
    let mut desk = Desk::new();
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Forever);
    let bob = desk.ask("bob", Mode::Exclusive, Wait::Try);
    assert_eq!(desk.refused(bob).unwrap().position, 2);
    let cy = desk.ask("cy", Mode::Exclusive, Wait::Forever);
    desk.answer(OsAnswer::Held);
    assert!(desk.granted(ada).is_some() && desk.granted(cy).is_none());
    desk.unlock("ada");
    // The next is asked for before the last is let go, so that nobody slips in between.
    assert_eq!((desk.wanted.len(), desk.dropped.len()), (1, 1));
    desk.answer(OsAnswer::Held);
    assert!(desk.granted(cy).unwrap().fence > desk.granted(ada).unwrap().fence);
}

#[test]
fn readers_are_asked_for_together() {
    let mut desk = Desk::new();
    let first = desk.ask("ada", Mode::Shared, Wait::Forever);
    let second = desk.ask("bob", Mode::Shared, Wait::Forever);
    assert_eq!(desk.wanted.len(), 2);
    desk.answer(OsAnswer::Held);
    desk.answer(OsAnswer::Held);
    assert!(desk.granted(first).is_some() && desk.granted(second).is_some());
}

#[test]
fn a_foreign_holder_refuses_a_try_and_is_named() {
    let mut desk = Desk::new();
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Try);
    desk.answer(OsAnswer::Busy(foreigner()));
    let refused = desk.refused(ada).unwrap();
    assert_eq!((refused.why, refused.foreigner), (RefusedFor::Held, Some(foreigner())));
    assert_eq!((desk.table.waiters(), desk.table.next_deadline()), (0, None));
}

#[test]
fn a_foreign_holder_keeps_a_request_waiting_and_is_tried_again_in_growing_pauses() {
    let mut desk = Desk::new();
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Forever);
    for pause in [50, 100, 200, 400, 800, 1_000, 1_000] {
        desk.answer(OsAnswer::Busy(foreigner()));
        desk.pass(pause - 1);
        assert_eq!(desk.wanted.len(), 0, "before {pause}");
        desk.pass(1);
        assert_eq!(desk.wanted.len(), 1, "after {pause}");
    }
    desk.answer(OsAnswer::Held);
    assert!(desk.granted(ada).is_some());
}

#[test]
fn a_request_that_waits_in_vain_for_a_foreigner_names_it() {
    let mut desk = Desk::new();
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Until(Moment(1_060)));
    desk.answer(OsAnswer::Busy(foreigner()));
    desk.pass(50);
    desk.answer(OsAnswer::Busy(foreigner()));
    desk.pass(10);
    let refused = desk.refused(ada).unwrap();
    assert_eq!((refused.why, refused.foreigner), (RefusedFor::Timeout, Some(foreigner())));
    // Its place is kept, and it is still looked for whether the foreigner has gone.
    let ticket = refused.ticket.expect("its place is kept");
    assert_eq!(ticket.until, desk.now.mono.after(limits::TICKET_KEPT));
    desk.pass(100);
    desk.answer(OsAnswer::Busy(foreigner()));
    assert_eq!(desk.offered(), [false]);
    desk.pass(200);
    desk.answer(OsAnswer::Held);
    // Nobody is there to be told of a grant: the flock is let go, and the agent may come.
    assert_eq!(desk.offered(), [true]);
    assert_eq!(desk.dropped.len(), 1);
    desk.pass(limits::TICKET_OFFERED);
    assert_eq!(desk.table.next_deadline(), None);
}

#[test]
fn who_comes_back_while_the_system_is_asked_for_its_place_has_it_asked_anew() {
    let mut desk = Desk::new();
    desk.ask("ada", Mode::Exclusive, Wait::Until(Moment(1_060)));
    desk.answer(OsAnswer::Busy(foreigner()));
    desk.pass(50);
    desk.answer(OsAnswer::Busy(foreigner()));
    desk.pass(10);
    desk.pass(100);
    let for_the_place = desk.wanted[0];
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Forever);
    assert_eq!((desk.dropped.clone(), desk.wanted.len()), (vec![for_the_place], 1));
    desk.answer(OsAnswer::Held);
    assert!(desk.granted(ada).is_some());
}

#[test]
fn who_goes_while_the_system_is_asked_leaves_nothing_behind() {
    let mut desk = Desk::new();
    desk.ask("ada", Mode::Exclusive, Wait::Forever);
    let (lock, bob) = (desk.wanted[0], desk.ask("bob", Mode::Exclusive, Wait::Forever));
    desk.run(Command::Cancel { caller: Caller { conn: 1, id: 77 }, waiting: Caller { conn: 1, id: 1 } });
    assert_eq!((desk.dropped.clone(), desk.wanted.len()), (vec![lock], 1));
    // The answer was on its way.
    desk.run(Command::Os { lock, answer: OsAnswer::Held });
    assert_eq!(desk.dropped, [lock, lock]);
    desk.answer(OsAnswer::Held);
    assert!(desk.granted(bob).is_some());
}

#[test]
fn after_a_restart_flocks_are_taken_again_and_a_foreigner_is_listed_as_contesting() {
    let mut desk = Desk::new();
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Forever);
    desk.answer(OsAnswer::Held);
    let lock = desk.granted(ada).unwrap();
    desk.restart();
    assert_eq!(desk.wanted, [lock.id]);
    desk.answer(OsAnswer::Busy(foreigner()));
    desk.calls += 1;
    desk.run(Command::Status { caller: Caller { conn: 1, id: 50 }, who: None, target: None });
    let Some((50, Reply::Status { locks, .. })) = desk.replies.last() else { panic!("status answers") };
    assert!(matches!(&locks[0].os, OsLock::Contested { by, .. } if *by == foreigner()), "{:?}", locks[0].os);
    desk.pass(limits::OS_PAUSE_MAX);
    desk.answer(OsAnswer::Held);
    desk.unlock("ada");
    assert_eq!(desk.dropped, [lock.id]);
}

#[test]
fn while_grants_are_stopped_nothing_is_asked_of_the_system_and_afterwards_it_is() {
    let mut desk = Desk::new();
    let ada = desk.ask("ada", Mode::Exclusive, Wait::Forever);
    let bob = desk.ask("bob", Mode::Exclusive, Wait::Forever);
    desk.table.pause("no disk".to_owned());
    desk.answer(OsAnswer::Held);
    assert_eq!((desk.granted(ada), desk.dropped.len(), desk.wanted.len()), (None, 1, 0));
    let step = desk.table.resume(desk.now);
    desk.keep(step);
    desk.answer(OsAnswer::Held);
    assert!(desk.granted(ada).is_some() && desk.granted(bob).is_none());
}

#[test]
fn while_grants_are_stopped_a_contested_flock_is_left_alone_and_tried_again_later() {
    let mut desk = Desk::new();
    desk.ask("ada", Mode::Exclusive, Wait::Forever);
    desk.answer(OsAnswer::Held);
    desk.restart();
    desk.answer(OsAnswer::Busy(foreigner()));
    desk.table.pause("no disk".to_owned());
    desk.pass(limits::OS_PAUSE_MAX);
    assert_eq!(desk.wanted, []);
    let step = desk.table.resume(desk.now);
    desk.keep(step);
    desk.pass(limits::OS_PAUSE_MAX);
    assert_eq!(desk.wanted.len(), 1);
}

#[test]
fn a_try_that_its_own_agent_has_passed_meanwhile_is_refused_and_does_not_begin_to_wait() {
    let mut desk = Desk::new();
    let writer = desk.ask("ada", Mode::Exclusive, Wait::Try);
    let reader = desk.ask("ada", Mode::Shared, Wait::Try);
    let lock = desk.wanted.pop().unwrap();
    desk.run(Command::Os { lock, answer: OsAnswer::Held });
    assert!(desk.granted(reader).is_some());
    desk.answer(OsAnswer::Held);
    assert_eq!(desk.refused(writer).map(|refused| refused.why), Some(RefusedFor::OwnLock));
    assert_eq!(desk.table.waiters(), 0);
}

#[test]
fn a_lock_that_is_resumed_has_a_flock_if_the_new_terms_want_one() {
    let mut desk = Desk::new();
    let open = |desk: &mut Desk, number: u64| {
        let id = SessionId(number);
        let agent = Agent::new("ada").unwrap();
        let session = Session { id, secret: 0, agent, process: None, kind: SessionKind::Library, away_until: None };
        desk.run(Command::OpenSession { caller: Caller { conn: number, id: 0 }, session });
    };
    let hold = |desk: &mut Desk, number: u64, os: bool| {
        open(desk, number);
        let who = Who { agent: Agent::new("ada").unwrap(), session: Some(SessionId(number)) };
        let ask = Arc::new(Ask { who, os, ..terms() });
        desk.run(Command::Lock { caller: Caller { conn: number, id: 1 }, ask, wait: Wait::Try });
    };
    hold(&mut desk, 10, true);
    desk.answer(OsAnswer::Held);
    desk.run(Command::EndSession(SessionId(10)));
    assert_eq!(desk.dropped, [], "its lease is running");
    hold(&mut desk, 11, false);
    assert_eq!((desk.dropped.len(), desk.wanted.len()), (1, 0), "its program flocks the file itself");
    desk.run(Command::EndSession(SessionId(11)));
    hold(&mut desk, 12, true);
    assert_eq!((desk.dropped.len(), desk.wanted.len()), (1, 1));
}

// ── Sets ────────────────────────────────────────────────────────────────────────────────────────────────────────────

impl Desk {
    /// A set of ada's on these files, which exist.
    fn ask_all(&mut self, names: &[&str], wait: Wait) -> u64 {
        self.calls += 1;
        let of = names.len() as u16;
        let member = |(index, name): (u16, &&str)| {
            let inode = name.bytes().fold(9, |hash: u64, byte| hash * 31 + u64::from(byte));
            let id = |inode| FileId { device: 1, inode, birth: 0 };
            let target = Target { scope: Scope::File(name.as_bytes().into()), ids: [id(1), id(inode)].into() };
            Arc::new(Ask { target, set: Some(SetMember { index, of }), ..terms() })
        };
        let asks = (0..).zip(names).map(member).collect();
        self.run(Command::LockSet { caller: Caller { conn: 1, id: self.calls }, asks, wait });
        self.calls
    }

    fn granted_set(&self, call: u64) -> Vec<Lock> {
        let mine = self.replies.iter().filter(|(to, _)| *to == call).flat_map(|(_, reply)| reply.grants());
        mine.map(|granted| granted.lock.clone()).collect()
    }
}

#[test]
fn a_set_is_granted_when_the_last_of_its_flocks_is_had() {
    let mut desk = Desk::new();
    let ada = desk.ask_all(&["/a", "/b", "/c"], Wait::Try);
    assert_eq!(desk.wanted.len(), 3, "all are asked for at once");
    desk.answer(OsAnswer::Held);
    desk.answer(OsAnswer::Unable);
    assert_eq!((desk.granted_set(ada), desk.table.locks()), (vec![], 0));
    desk.answer(OsAnswer::Held);
    let os: Vec<OsLock> = desk.granted_set(ada).into_iter().map(|lock| lock.os).collect();
    assert_eq!((os, desk.dropped.len()), (vec![OsLock::Held, OsLock::None, OsLock::Held], 0));
    desk.unlock("ada");
    assert_eq!(desk.dropped.len(), 2);
}

#[test]
fn nothing_of_a_set_is_flocked_before_ours_let_all_of_it_through() {
    let mut desk = Desk::new();
    let bob = desk.ask_for(file(false), "bob", Mode::Exclusive, Wait::Try);
    assert!(desk.granted(bob).is_some());
    let ada = desk.ask_all(&["/a", "/f"], Wait::Forever);
    assert_eq!((desk.wanted.len(), desk.table.waiters()), (0, 2));
    desk.unlock("bob");
    assert_eq!(desk.wanted.len(), 2);
    desk.answer(OsAnswer::Held);
    desk.answer(OsAnswer::Held);
    assert_eq!(desk.granted_set(ada).len(), 2);
}

#[test]
fn while_a_foreigner_has_one_file_of_a_set_no_flock_of_it_is_kept() {
    let mut desk = Desk::new();
    let ada = desk.ask_all(&["/a", "/b", "/c"], Wait::Forever);
    let asked = desk.wanted.clone();
    desk.answer(OsAnswer::Held);
    desk.answer(OsAnswer::Busy(foreigner()));
    assert_eq!((desk.dropped.clone(), desk.wanted.len()), (vec![asked[0], asked[2]], 0));
    // One answer was on its way.
    desk.run(Command::Os { lock: asked[2], answer: OsAnswer::Held });
    assert_eq!(desk.dropped.last(), Some(&asked[2]));
    for pause in [50, 100, 200, 400, 800, 1_000, 1_000] {
        desk.pass(pause - 1);
        assert_eq!(desk.wanted.len(), 0, "before {pause}");
        desk.pass(1);
        assert_eq!(desk.wanted.len(), 3, "all are tried again after {pause}");
        desk.answer(OsAnswer::Held);
        let had = desk.dropped.len();
        desk.answer(OsAnswer::Busy(foreigner()));
        assert_eq!((desk.dropped.len(), desk.wanted.len()), (had + 2, 0));
    }
    desk.pass(1_000);
    (0..3).for_each(|_| desk.answer(OsAnswer::Held));
    assert_eq!(desk.granted_set(ada).len(), 3);
}

#[test]
fn a_set_that_a_foreigner_keeps_waiting_is_refused_as_one_and_names_it() {
    let mut desk = Desk::new();
    let tried = desk.ask_all(&["/a", "/b"], Wait::Try);
    desk.answer(OsAnswer::Held);
    desk.answer(OsAnswer::Busy(foreigner()));
    assert_eq!(desk.refused(tried).and_then(|refused| refused.foreigner), Some(foreigner()));
    assert_eq!((desk.dropped.len(), desk.table.waiters(), desk.table.next_deadline()), (2, 0, None));
    let waited = desk.ask_all(&["/a", "/b"], Wait::Until(Moment(1_010)));
    desk.answer(OsAnswer::Busy(foreigner()));
    desk.pass(10);
    let refused = desk.refused(waited).expect("its time is over");
    assert_eq!((refused.why, refused.foreigner), (RefusedFor::Timeout, Some(foreigner())));
    assert!(refused.ticket.is_some(), "its place is kept as one");
    assert_eq!(desk.table.waiters(), 2);
    // The foreigner is looked for all the same, and no flock is held for whoever is not there.
    desk.pass(100);
    assert_eq!(desk.wanted.len(), 2);
    let had = desk.dropped.len();
    (0..2).for_each(|_| desk.answer(OsAnswer::Held));
    assert_eq!((desk.dropped.len(), desk.table.locks()), (had + 2, 0));
    let back = desk.ask_all(&["/a", "/b"], Wait::Try);
    (0..2).for_each(|_| desk.answer(OsAnswer::Held));
    assert_eq!((desk.granted_set(back).len(), desk.table.waiters()), (2, 0));
}

#[test]
fn a_set_that_goes_while_the_system_is_asked_leaves_no_flock_behind() {
    let mut desk = Desk::new();
    desk.ask_all(&["/a", "/b"], Wait::Forever);
    let asked = desk.wanted.clone();
    desk.answer(OsAnswer::Held);
    desk.run(Command::Cancel { caller: Caller { conn: 1, id: 77 }, waiting: Caller { conn: 1, id: 1 } });
    assert_eq!((desk.dropped.clone(), desk.table.waiters()), (asked, 0));
}

#[test]
fn what_has_come_in_the_way_of_a_set_while_the_system_was_asked_keeps_it_waiting_without_flocks() {
    let mut desk = Desk::new();
    let ada = desk.ask_all(&["/a", "/b"], Wait::Forever);
    // A weaker lock of its own agent passes by the queue, and nothing is granted beside it.
    let target = Target { scope: Scope::File(b"/b"[..].into()), ids: [].into() };
    let reader = desk.ask_for(target, "ada", Mode::Shared, Wait::Try);
    assert!(desk.granted(reader).is_some());
    desk.answer(OsAnswer::Held);
    desk.answer(OsAnswer::Held);
    assert_eq!((desk.granted_set(ada).len(), desk.dropped.len(), desk.table.waiters()), (0, 2, 2));
    desk.unlock("ada");
    (0..2).for_each(|_| desk.answer(OsAnswer::Held));
    assert_eq!(desk.granted_set(ada).len(), 2);
}

#[test]
fn a_set_whose_flocks_are_had_while_grants_are_stopped_lets_them_go_and_begins_anew() {
    let mut desk = Desk::new();
    let ada = desk.ask_all(&["/a", "/b"], Wait::Forever);
    desk.answer(OsAnswer::Held);
    desk.table.pause("no disk".to_owned());
    desk.answer(OsAnswer::Held);
    assert_eq!((desk.granted_set(ada).len(), desk.dropped.len()), (0, 2));
    let step = desk.table.resume(desk.now);
    desk.keep(step);
    (0..2).for_each(|_| desk.answer(OsAnswer::Held));
    assert_eq!(desk.granted_set(ada).len(), 2);
}

// ── Upgrades ────────────────────────────────────────────────────────────────────────────────────────────────────────

impl Desk {
    fn upgrade(&mut self, agent: &str, wait: Wait) -> u64 {
        self.calls += 1;
        let (who, which) = (Who { agent: Agent::new(agent).unwrap(), session: None }, Which::Scope(file(true)));
        let caller = Caller { conn: 1, id: self.calls };
        self.run(Command::Upgrade { caller, who, which, wait, request: None });
        self.calls
    }

    fn downgrade(&mut self, agent: &str) {
        self.calls += 1;
        let (who, which) = (Who { agent: Agent::new(agent).unwrap(), session: None }, Which::Scope(file(true)));
        self.run(Command::Downgrade { caller: Caller { conn: 1, id: self.calls }, who, which });
    }

    fn locks(&mut self) -> Vec<Lock> {
        self.calls += 1;
        self.run(Command::Status { caller: Caller { conn: 1, id: self.calls }, who: None, target: None });
        match &self.replies.last().expect("status answers").1 {
            Reply::Status { locks, .. } => locks.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_upgrade_takes_the_flock_while_it_keeps_the_shared_one() {
    let mut desk = Desk::new();
    desk.ask("ada", Mode::Shared, Wait::Forever);
    desk.answer(OsAnswer::Held);
    let before = desk.locks();
    let upgrade = desk.upgrade("ada", Wait::Forever);
    let name = desk.wanted[0];
    assert_ne!(name, before[0].id);
    let late = desk.ask("bob", Mode::Shared, Wait::Try);
    assert!(desk.refused(late).is_some(), "the scope is reserved");
    desk.answer(OsAnswer::Busy(foreigner()));
    assert_eq!(desk.locks(), before, "a foreign reader keeps it waiting, and it is shared as before");
    desk.pass(limits::OS_PAUSE_FIRST);
    let name = desk.wanted[0];
    desk.answer(OsAnswer::Held);
    let lock = desk.granted(upgrade).expect("it is upgraded");
    assert_eq!((lock.id, lock.os, lock.ask.mode), (before[0].id, OsLock::Held, Mode::Exclusive));
    assert_eq!((desk.passed.as_slice(), desk.dropped.as_slice()), ([(name, lock.id)].as_slice(), [].as_slice()));
    desk.downgrade("ada");
    assert_eq!(desk.shared, [lock.id]);
}

#[test]
fn an_upgrade_given_up_for_a_foreign_reader_drops_only_what_it_asked_for() {
    let mut desk = Desk::new();
    desk.ask("ada", Mode::Shared, Wait::Forever);
    desk.answer(OsAnswer::Held);
    let before = desk.locks();
    let attempt = desk.upgrade("ada", Wait::Try);
    desk.answer(OsAnswer::Busy(foreigner()));
    let refused = desk.refused(attempt).expect("it was not to wait");
    assert_eq!((refused.foreigner, refused.kept.as_deref()), (Some(foreigner()), before.first()));
    desk.dropped.clear();
    desk.upgrade("ada", Wait::Until(desk.now.mono.after(5)));
    let name = desk.wanted[0];
    desk.pass(5);
    assert_eq!(desk.dropped, [name]);
    assert_eq!(desk.locks(), before);
}

#[test]
fn an_upgrade_without_a_flock_to_be_had_says_so_and_lets_the_shared_one_go() {
    let mut desk = Desk::new();
    desk.ask("ada", Mode::Shared, Wait::Forever);
    desk.answer(OsAnswer::Held);
    let upgrade = desk.upgrade("ada", Wait::Try);
    desk.answer(OsAnswer::Unable);
    let lock = desk.granted(upgrade).expect("ours does not rest on it");
    assert_eq!((lock.os, desk.dropped.as_slice()), (OsLock::None, [lock.id].as_slice()));
}
