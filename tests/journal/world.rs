//! Random batches of records, and what state they should lead to.

use crate::mem_disk::Random;
use flockd::journal::{Journal, Loaded, Tuning};
use flockd::model::*;
use flockd::scope::{FileId, Scope, Target};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const BOOT: u128 = 7;
pub const INSTANCE: u64 = 0xABCD;
pub const FLOOR: u64 = 1_700_000_000 << 20;

/// Rows by table and number, as the fold of records.
pub type Rows = BTreeMap<(u8, u64), Record>;

pub fn ask(random: &mut Random) -> Arc<Ask> {
    let id = |random: &mut Random| FileId { device: random.below(9), inode: random.next(), birth: random.next() };
    let process = random.chance(50).then(|| Process { pid: random.below(1 << 22) as u32, start: random.next() });
    Arc::new(Ask {
        target: Target {
            scope: match random.below(3) {
                0 => Scope::File(format!("/w/{}", random.below(99)).into_bytes().into()),
                1 => Scope::Subtree(vec![b'/', 0xFF, random.next() as u8 | 0x80].into()),
                _ => Scope::Resource(format!("port-{}", random.below(99)).into()),
            },
            ids: (0..random.below(4)).map(|_| id(random)).collect(),
        },
        mode: if random.chance(50) { Mode::Shared } else { Mode::Exclusive },
        who: Who {
            agent: Agent::new(&format!("claw-{}", random.below(9))).unwrap(),
            session: random.chance(50).then(|| SessionId(random.next())),
        },
        lease: Lease { ttl: random.below(1 << 40), max_hold: random.chance(50).then(|| random.next()) },
        note: random.chance(50).then(|| "because".into()),
        process,
        request: random.chance(50).then(|| RequestId::new("again").unwrap()),
        workspace: Workspace { root: b"/w".as_slice().into() },
        os: random.chance(50),
        bound: process.filter(|_| process.is_some_and(|process| process.pid.is_multiple_of(2))),
        upgrades: None,
        set: None,
    })
}

fn now(random: &mut Random) -> Now {
    Now { mono: Moment(random.next()), wall: Wall(random.below(1 << 41)) }
}

pub fn lock(random: &mut Random, id: u64, fence: u64) -> Record {
    let custody = match random.below(3) {
        0 => Custody::Detached,
        1 => Custody::Session(SessionId(random.next())),
        _ => Custody::Process(Process { pid: 9, start: random.next() }),
    };
    let (since, expires, hold_until) = (now(random), random.chance(50).then_some(Moment(5)), None);
    let lock = Lock {
        id: LockId(id),
        ask: ask(random),
        fence: Fence(fence),
        custody,
        since,
        expires,
        hold_until,
        ttl: 7,
        lent: None,
        in_flight: None,
        os: OsLock::None,
    };
    Record::Lock(LockId(id), Some(lock))
}

/// A change of a row out of few, so that rows are often replaced and removed.
pub fn change(random: &mut Random) -> Record {
    let (id, fence, gone) = (random.below(12), random.below(1 << 30), random.chance(35));
    match random.below(5) {
        0 if gone => Record::Lock(LockId(id), None),
        0 => lock(random, id, fence),
        1 => Record::Waiter(
            WaiterId(id),
            (!gone).then(|| Waiter {
                at_once: false,
                os: OsWait::Idle,
                is_counted: true,
                level: 0,
                id: WaiterId(id),
                ask: ask(random),
                takes: random.chance(90),
                since: now(random),
                deadline: None,
                caller: None,
                absent_until: Some(Moment(random.next())),
                ticket: random.chance(50).then(|| TicketId(random.next())),
                offered_until: random.chance(50).then(|| Moment(random.next())),
            }),
        ),
        2 => Record::Session(
            SessionId(id),
            (!gone).then(|| Session {
                id: SessionId(id),
                secret: u128::from(random.next()) << 64 | u128::from(random.next()),
                agent: Agent::new("claw-1").unwrap(),
                process: None,
                kind: if random.chance(50) { SessionKind::Library } else { SessionKind::Command },
                away_until: None,
            }),
        ),
        3 => Record::Webhook(WebhookId(id), (!gone).then(|| webhook(random, id))),
        _ => Record::Ended(
            LockId(id),
            (!gone).then(|| Ended {
                id: LockId(id),
                ask: ask(random),
                fence: Fence(fence),
                why: EndReason::Broken { by: Agent::new("claw-2").unwrap(), reason: "in the way".into() },
                at: now(random),
                untold: random.chance(50),
            }),
        ),
    }
}

/// A webhook that anything may have happened to.
pub fn webhook(random: &mut Random, id: u64) -> Webhook {
    Webhook {
        id: WebhookId(id),
        url: "http://localhost:8080/".into(),
        names: ["lock.released"].into(),
        scopes: [Scope::File(b"/w/a".as_slice().into())].into(),
        secret: Secret::new(&[7; 32]),
        allow_private: random.chance(50),
        agent: Agent::new("claw-1").unwrap(),
        created: Wall(random.below(1 << 41)),
        until: None,
        passed: EventSeq(random.next()),
        delivered: random.below(99),
        failing: random.chance(30).then(|| Failing {
            attempts: 3,
            since: Wall(random.below(1 << 41)),
            why: "it answered 500".into(),
            again: random.chance(50).then(|| Moment(random.next())),
        }),
    }
}

pub fn event(random: &mut Random, seq: u64) -> Record {
    Record::Event(Event {
        seq: EventSeq(seq),
        after: seq.checked_sub(1).map(EventSeq),
        time: Wall(random.below(1 << 41)),
        kind: EventKind::Acquired(if random.chance(50) { Acquired::Granted } else { Acquired::Upgraded }),
        lock: LockId(random.below(99)),
        ask: ask(random),
        fence: Fence(random.below(99)),
    })
}

/// One to five changes, and lock 1000 with the batch's own number as its fence, so that no two states are equal.
pub fn batch(random: &mut Random, number: u64) -> Vec<Record> {
    let mut records: Vec<Record> = (0..random.below(5)).map(|_| change(random)).collect();
    records.insert(random.below(records.len() as u64 + 1) as usize, lock(random, 1000, number));
    records
}

pub fn fold(rows: &mut Rows, records: &[Record]) {
    for record in records {
        let (key, there) = match record {
            Record::Lock(id, row) => ((0, id.0), row.is_some()),
            Record::Waiter(id, row) => ((1, id.0), row.is_some()),
            Record::Session(id, row) => ((2, id.0), row.is_some()),
            Record::Ended(id, row) => ((3, id.0), row.is_some()),
            Record::Webhook(id, row) => ((4, id.0), row.is_some()),
            Record::Event(_) | Record::Reserve { .. } => continue,
        };
        if there { drop(rows.insert(key, record.clone())) } else { drop(rows.remove(&key)) }
    }
}

pub fn rows(records: &[Record]) -> Rows {
    let mut rows = Rows::new();
    fold(&mut rows, records);
    assert_eq!(rows.len(), records.len(), "a row was loaded twice, or as gone");
    rows
}

pub fn open(
    disk: &(impl flockd::journal::disk::Disk + Clone + 'static),
    tuning: Tuning,
) -> Result<(Journal, Loaded), flockd::journal::JournalError> {
    Journal::open_tuned(Arc::new(disk.clone()), BOOT, INSTANCE, FLOOR, tuning)
}

/// What `open` refuses with.
pub fn refusal(disk: &(impl flockd::journal::disk::Disk + Clone + 'static)) -> String {
    match open(disk, Tuning::default()) {
        Err(error) => error.to_string(),
        Ok((_, loaded)) => panic!("the home was opened: {loaded:?}"),
    }
}
