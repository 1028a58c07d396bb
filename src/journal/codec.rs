//! Bytes of the journal: records, and the labels that begin every file of it.
//!
//! Everything here is frozen: a change of any layout is a new version beside the old one.
//!
//! # Records
//!
//! ```text
//! version   1 byte, now 2
//! checksum  4 bytes, little endian: CRC-32 (IEEE) of the version byte and the body
//! body      the rest, at most 64 KiB
//! ```
//!
//! Version and checksum stay where they are in all versions, so that damage is never mistaken for the future. The body
//! of version 2 is the `RecordV2` below, field after field in the order written there, in the standard configuration of
//! bincode 2, which is simple enough for anybody to read:
//!
//! - unsigned integers: below 251 one byte; else a byte 251 to 254 and then 2, 4, 8 or 16 bytes, little endian;
//! - byte strings, text (UTF-8) and lists: the count as such an integer, then the items; items that are bytes are raw;
//! - optional values: a byte 0, or a byte 1 and the value; truth values: a byte 0 or 1;
//! - alternatives: the place of the alternative in its list, from 0, as such an integer, then its fields.
//!
//! # Labels
//!
//! ```text
//! magic     8 bytes, another for each kind of file
//! version   4 bytes, little endian
//! checksum  4 bytes, little endian: CRC-32 of magic, version and fields
//! fields    little endian integers of fixed size, named where the label is made
//! ```
//!
//! bincode checks nothing: nine of ten flipped bits decode to another lock, a lying length asks for terabytes. Hence
//! checksum, size limit, and the rule that a body must be used up to its last byte.

use crate::model::{
    Acquired, Agent, Ask, Contended, Custody, Disabled, EVENT_NAMES, EndReason, Ended, Event, EventKind, EventSeq,
    Failing, Fence, Lease, Loan, Lock, LockId, Mode, Moment, Now, OsLock, OsWait, Process, Promised, Record, RequestId,
    Secret, Session, SessionId, SessionKind, SetMember, TicketId, Waiter, WaiterId, Wall, Webhook, WebhookId, Who,
    Workspace, Wrote,
};
use crate::pattern::Pattern;
use crate::scope::{FileId, Scope, Target};
use bincode::config;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::sync::Arc;

/// What is wrong with bytes; the caller knows whose they are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Whole, and of a version that we do not know.
    Future(u32),
    /// Whole, and of a version that we know no more.
    Past(u32),
    /// Not what was written; the text says how that shows.
    Damaged(String),
    /// Not of this kind at all.
    Foreign,
}

impl Fault {
    fn damaged(found: impl Into<String>) -> Fault {
        Fault::Damaged(found.into())
    }
}

// ── Labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Bytes of a label before its fields.
pub(super) const LABEL_HEAD: usize = 16;

/// Makes a label.
pub(super) fn label(magic: &[u8; 8], version: u32, fields: &[u8]) -> Vec<u8> {
    let version = version.to_le_bytes();
    let mut bytes = Vec::with_capacity(LABEL_HEAD + fields.len());
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&version);
    bytes.extend_from_slice(&crc32(&[magic, &version, fields]).to_le_bytes());
    bytes.extend_from_slice(fields);
    bytes
}

/// Takes a label apart that is exactly `bytes`, and returns its fields.
pub(super) fn read_label<'a, const FIELDS: usize>(
    magic: &[u8; 8],
    version: u32,
    bytes: &'a [u8],
) -> Result<&'a [u8; FIELDS], Fault> {
    if bytes.is_empty() {
        return Err(Fault::damaged("it is empty"));
    }
    if bytes.len() < LABEL_HEAD {
        return Err(Fault::damaged(format!("it ends after {} bytes", bytes.len())));
    }
    if bytes[..8] != *magic {
        return Err(Fault::Foreign);
    }
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"));
    let (found, checksum, fields) = (number(8), number(12), &bytes[LABEL_HEAD..]);
    // A newer label may have another length, so that version is looked at before length; a label of ours whose length
    // changed fails by its checksum.
    if checksum != crc32(&[&bytes[..12], fields]) {
        return Err(Fault::damaged("its label does not agree with its checksum"));
    }
    if found != version {
        return Err(Fault::Future(found));
    }
    fields.try_into().map_err(|_| Fault::damaged(format!("its label has {} bytes of fields", fields.len())))
}

/// CRC-32 of parts as if they were one.
pub(super) fn crc32(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

// ── Records ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// 1 was that of builds before the first release, which are not read any more.
const VERSION: u8 = 2;
const RECORD_HEAD: usize = 5;
const BODY_MAX: usize = 64 * 1024;

fn bincode_config() -> impl config::Config {
    config::standard().with_limit::<BODY_MAX>()
}

/// Appends a record to `out`; on an error `out` is as it was.
///
/// # Errors
/// The record is larger than 64 KiB. With paths, words and notes within their limits none is.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    let written = bincode::serde::encode_into_std_write(RecordV2::from(record), out, bincode_config());
    let size = out.len() - start - RECORD_HEAD;
    if written.is_err() || size > BODY_MAX {
        out.truncate(start);
        return Err(format!("a record of {size} bytes is larger than {BODY_MAX}"));
    }
    let checksum = crc32(&[&[VERSION], &out[start + RECORD_HEAD..]]);
    out[start + 1..start + RECORD_HEAD].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Reads a record that is exactly `bytes`. A waiter comes back without its caller.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, Fault> {
    let Some((head, body)) = bytes.split_at_checked(RECORD_HEAD) else {
        return Err(Fault::damaged(format!("a record is {} bytes long", bytes.len())));
    };
    let checksum = u32::from_le_bytes(head[1..].try_into().expect("the head is five bytes"));
    if checksum != crc32(&[&head[..1], body]) {
        return Err(Fault::damaged("a record does not agree with its checksum"));
    }
    match head[0].cmp(&VERSION) {
        Ordering::Less => return Err(Fault::Past(head[0].into())),
        Ordering::Greater => return Err(Fault::Future(head[0].into())),
        Ordering::Equal => {}
    }
    if body.len() > BODY_MAX {
        return Err(Fault::damaged(format!("a record of {} bytes is larger than {BODY_MAX}", body.len())));
    }
    let (record, used) = bincode::serde::borrow_decode_from_slice::<RecordV2<'_>, _>(body, bincode_config())
        .map_err(|error| Fault::damaged(format!("a record cannot be read: {error}")))?;
    if used != body.len() {
        return Err(Fault::damaged(format!("a record has {} bytes too many", body.len() - used)));
    }
    Record::try_from(record)
}

#[derive(Serialize, Deserialize)]
enum RecordV2<'a> {
    Lock(u64, #[serde(borrow)] Option<LockV2<'a>>),
    Waiter(u64, #[serde(borrow)] Option<WaiterV2<'a>>),
    Session(u64, #[serde(borrow)] Option<SessionV2<'a>>),
    Ended(u64, #[serde(borrow)] Option<EndedV2<'a>>),
    Event(#[serde(borrow)] EventV2<'a>),
    Reserve {
        fences: u64,
        events: u64,
    },
    Webhook(u64, #[serde(borrow)] Option<WebhookV2<'a>>),
    /// A lock that a session has on loan from its agent.
    Lent(u64, #[serde(borrow)] LockV2<'a>, LoanV2<'a>),
}

#[derive(Serialize, Deserialize)]
struct LoanV2<'a> {
    asked_ttl: u64,
    max_hold: Option<u64>,
    ttl: u64,
    hold_until: Option<u64>,
    bound: Option<ProcessV2>,
    note: Option<&'a str>,
    process: Option<ProcessV2>,
}

#[derive(Serialize, Deserialize)]
struct LockV2<'a> {
    #[serde(borrow)]
    ask: AskV2<'a>,
    fence: u64,
    custody: CustodyV2,
    since: NowV2,
    ttl: u64,
    expires: Option<u64>,
    hold_until: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WaiterV2<'a> {
    #[serde(borrow)]
    ask: AskV2<'a>,
    takes: bool,
    at_once: bool,
    since: NowV2,
    deadline: Option<u64>,
    absent_until: Option<u64>,
    ticket: Option<u64>,
    offered_until: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct SessionV2<'a> {
    secret: u128,
    agent: &'a str,
    process: Option<ProcessV2>,
    kind: SessionKindV2,
    away_until: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct EndedV2<'a> {
    #[serde(borrow)]
    ask: AskV2<'a>,
    fence: u64,
    why: EndReasonV2<'a>,
    at: NowV2,
    untold: bool,
}

#[derive(Serialize, Deserialize)]
struct EventV2<'a> {
    seq: u64,
    after: Option<u64>,
    time: u64,
    #[serde(borrow)]
    kind: EventKindV2<'a>,
    lock: u64,
    ask: AskV2<'a>,
    fence: u64,
}

#[derive(Serialize, Deserialize)]
struct WebhookV2<'a> {
    url: &'a str,
    #[serde(borrow)]
    names: Vec<&'a str>,
    scopes: Vec<ScopeV2<'a>>,
    secret: &'a [u8],
    allow_private: bool,
    agent: &'a str,
    created: u64,
    until: Option<ProcessV2>,
    passed: u64,
    delivered: u64,
    failing: Option<FailingV2<'a>>,
}

#[derive(Serialize, Deserialize)]
struct FailingV2<'a> {
    attempts: u32,
    since: u64,
    why: &'a str,
    again: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct AskV2<'a> {
    #[serde(borrow)]
    scope: ScopeV2<'a>,
    /// Device, inode and birth of each component from the root.
    ids: Vec<(u64, u64, u64)>,
    mode: ModeV2,
    agent: &'a str,
    session: Option<u64>,
    ttl: u64,
    max_hold: Option<u64>,
    note: Option<&'a str>,
    process: Option<ProcessV2>,
    request: Option<&'a str>,
    workspace: &'a [u8],
    os: bool,
    bound: Option<ProcessV2>,
    upgrades: Option<u64>,
    /// Which one of a set, and of how many.
    set: Option<(u16, u16)>,
}

#[derive(Serialize, Deserialize)]
enum ScopeV2<'a> {
    File(&'a [u8]),
    Subtree(&'a [u8]),
    Resource(&'a str),
    /// The canonical fixed part, and the rest as text: the automaton is made anew.
    Pattern {
        prefix: &'a [u8],
        rest: &'a [u8],
    },
}

#[derive(Serialize, Deserialize)]
enum ModeV2 {
    Shared,
    Exclusive,
    Advisory,
}

#[derive(Serialize, Deserialize)]
struct ProcessV2 {
    pid: u32,
    start: u64,
}

#[derive(Serialize, Deserialize)]
struct NowV2 {
    mono: u64,
    wall: u64,
}

#[derive(Serialize, Deserialize)]
enum CustodyV2 {
    Detached,
    Session(u64),
    Process(ProcessV2),
}

#[derive(Serialize, Deserialize)]
enum SessionKindV2 {
    Library,
    Command,
}

#[derive(Serialize, Deserialize)]
enum EndReasonV2<'a> {
    Released,
    Expired,
    SessionEnded,
    Broken { by: &'a str, reason: &'a str },
    Silent,
    Rebooted,
}

#[derive(Serialize, Deserialize)]
enum AcquiredV2 {
    Granted,
    Resumed,
    Upgraded,
    Downgraded,
    Delegated,
}

#[derive(Serialize, Deserialize)]
enum EventKindV2<'a> {
    Acquired(AcquiredV2),
    Waiting {
        waiter: &'a str,
    },
    Detached,
    #[serde(borrow)]
    Released(EndReasonV2<'a>),
    Leader {
        former: Option<&'a str>,
    },
    Contention(ContendedV2),
    #[serde(borrow)]
    WebhookDisabled(DisabledV2<'a>),
    Violation {
        how: WroteV2,
    },
}

#[derive(Serialize, Deserialize)]
enum WroteV2 {
    Written,
    Replaced,
    Deleted,
}

#[derive(Serialize, Deserialize)]
struct ContendedV2 {
    refused: u64,
    queued: u64,
    over: u64,
    waiting: u64,
    longest_wait: u64,
    left_out: u64,
}

#[derive(Serialize, Deserialize)]
struct DisabledV2<'a> {
    webhook: u64,
    url: &'a str,
    is_gone: bool,
    why: &'a str,
}

// ── From the model ──────────────────────────────────────────────────────────────────────────────────────────────────

impl<'a> From<&'a Record> for RecordV2<'a> {
    /// A row carries its id twice, as key and inside; only the key is stored, so they must agree.
    fn from(record: &'a Record) -> Self {
        match record {
            Record::Lock(id, lock) => {
                assert!(lock.as_ref().is_none_or(|lock| lock.id == *id), "{id} is recorded under another id");
                match lock.as_ref().and_then(|lock| lock.lent.as_ref().map(|loan| (lock, loan))) {
                    Some((lock, loan)) => RecordV2::Lent(id.0, lock.into(), (&**loan).into()),
                    None => RecordV2::Lock(id.0, lock.as_ref().map(Into::into)),
                }
            }
            Record::Waiter(id, waiter) => {
                assert!(waiter.as_ref().is_none_or(|waiter| waiter.id == *id), "{id:?} is recorded under another id");
                RecordV2::Waiter(id.0, waiter.as_ref().map(Into::into))
            }
            Record::Session(id, session) => {
                assert!(session.as_ref().is_none_or(|session| session.id == *id), "{id} is recorded under another id");
                RecordV2::Session(id.0, session.as_ref().map(Into::into))
            }
            Record::Ended(id, ended) => {
                assert!(ended.as_ref().is_none_or(|ended| ended.id == *id), "{id} is recorded under another id");
                RecordV2::Ended(id.0, ended.as_ref().map(Into::into))
            }
            Record::Event(event) => RecordV2::Event(event.into()),
            &Record::Reserve { fences, events } => RecordV2::Reserve { fences, events },
            Record::Webhook(id, webhook) => {
                assert!(webhook.as_ref().is_none_or(|webhook| webhook.id == *id), "{id} is recorded under another id");
                RecordV2::Webhook(id.0, webhook.as_ref().map(Into::into))
            }
        }
    }
}

impl<'a> From<&'a Lock> for LockV2<'a> {
    fn from(lock: &'a Lock) -> Self {
        LockV2 {
            ask: (&*lock.ask).into(),
            fence: lock.fence.0,
            custody: match lock.custody {
                Custody::Detached => CustodyV2::Detached,
                Custody::Session(id) => CustodyV2::Session(id.0),
                Custody::Process(process) => CustodyV2::Process(process.into()),
            },
            since: lock.since.into(),
            ttl: lock.ttl,
            expires: lock.expires.map(|moment| moment.0),
            hold_until: lock.hold_until.map(|moment| moment.0),
        }
    }
}

impl<'a> From<&'a Loan> for LoanV2<'a> {
    fn from(loan: &'a Loan) -> Self {
        let promised = loan.promised;
        LoanV2 {
            asked_ttl: promised.lease.ttl,
            max_hold: promised.lease.max_hold,
            ttl: promised.ttl,
            hold_until: promised.hold_until.map(|moment| moment.0),
            bound: promised.bound.map(Into::into),
            note: loan.note.as_deref(),
            process: loan.process.map(Into::into),
        }
    }
}

impl<'a> From<&'a Waiter> for WaiterV2<'a> {
    fn from(waiter: &'a Waiter) -> Self {
        WaiterV2 {
            ask: (&*waiter.ask).into(),
            takes: waiter.takes,
            at_once: waiter.at_once,
            since: waiter.since.into(),
            deadline: waiter.deadline.map(|moment| moment.0),
            absent_until: waiter.absent_until.map(|moment| moment.0),
            ticket: waiter.ticket.map(|ticket| ticket.0),
            offered_until: waiter.offered_until.map(|moment| moment.0),
        }
    }
}

impl<'a> From<&'a Session> for SessionV2<'a> {
    fn from(session: &'a Session) -> Self {
        SessionV2 {
            secret: session.secret,
            agent: session.agent.as_str(),
            process: session.process.map(Into::into),
            kind: match session.kind {
                SessionKind::Library => SessionKindV2::Library,
                SessionKind::Command => SessionKindV2::Command,
            },
            away_until: session.away_until.map(|moment| moment.0),
        }
    }
}

impl<'a> From<&'a Ended> for EndedV2<'a> {
    fn from(ended: &'a Ended) -> Self {
        EndedV2 {
            ask: (&*ended.ask).into(),
            fence: ended.fence.0,
            why: (&ended.why).into(),
            at: ended.at.into(),
            untold: ended.untold,
        }
    }
}

impl<'a> From<&'a Event> for EventV2<'a> {
    fn from(event: &'a Event) -> Self {
        EventV2 {
            seq: event.seq.0,
            after: event.after.map(|seq| seq.0),
            time: event.time.0,
            kind: match &event.kind {
                &EventKind::Acquired(how) => EventKindV2::Acquired(how.into()),
                EventKind::Waiting { waiter } => EventKindV2::Waiting { waiter: waiter.as_str() },
                EventKind::Detached => EventKindV2::Detached,
                EventKind::Released(why) => EventKindV2::Released(why.into()),
                EventKind::Leader { former } => EventKindV2::Leader { former: former.as_ref().map(Agent::as_str) },
                &EventKind::Contention(contended) => EventKindV2::Contention(contended.into()),
                EventKind::WebhookDisabled(disabled) => EventKindV2::WebhookDisabled(disabled.into()),
                &EventKind::Violation { how } => EventKindV2::Violation { how: how.into() },
            },
            lock: event.lock.0,
            ask: (&*event.ask).into(),
            fence: event.fence.0,
        }
    }
}

impl<'a> From<&'a Webhook> for WebhookV2<'a> {
    fn from(webhook: &'a Webhook) -> Self {
        WebhookV2 {
            url: &webhook.url,
            names: webhook.names.to_vec(),
            scopes: webhook.scopes.iter().map(Into::into).collect(),
            secret: webhook.secret.bytes(),
            allow_private: webhook.allow_private,
            agent: webhook.agent.as_str(),
            created: webhook.created.0,
            until: webhook.until.map(Into::into),
            passed: webhook.passed.0,
            delivered: webhook.delivered,
            failing: webhook.failing.as_ref().map(|failing| FailingV2 {
                attempts: failing.attempts,
                since: failing.since.0,
                why: &failing.why,
                again: failing.again.map(|moment| moment.0),
            }),
        }
    }
}

impl<'a> From<&'a Scope> for ScopeV2<'a> {
    fn from(scope: &'a Scope) -> Self {
        match scope {
            Scope::File(path) => ScopeV2::File(path),
            Scope::Subtree(path) => ScopeV2::Subtree(path),
            Scope::Resource(name) => ScopeV2::Resource(name),
            Scope::Pattern(pattern) => ScopeV2::Pattern { prefix: pattern.prefix(), rest: pattern.rest() },
        }
    }
}

impl<'a> From<&'a Ask> for AskV2<'a> {
    fn from(ask: &'a Ask) -> Self {
        AskV2 {
            scope: (&ask.target.scope).into(),
            ids: ask.target.ids.iter().map(|id| (id.device, id.inode, id.birth)).collect(),
            mode: match ask.mode {
                Mode::Shared => ModeV2::Shared,
                Mode::Exclusive => ModeV2::Exclusive,
                Mode::Advisory => ModeV2::Advisory,
            },
            agent: ask.who.agent.as_str(),
            session: ask.who.session.map(|id| id.0),
            ttl: ask.lease.ttl,
            max_hold: ask.lease.max_hold,
            note: ask.note.as_deref(),
            process: ask.process.map(Into::into),
            request: ask.request.as_ref().map(RequestId::as_str),
            workspace: &ask.workspace.root,
            os: ask.os,
            bound: ask.bound.map(Into::into),
            upgrades: ask.upgrades.map(|lock| lock.0),
            set: ask.set.map(|member| (member.index, member.of)),
        }
    }
}

impl<'a> From<&'a EndReason> for EndReasonV2<'a> {
    fn from(why: &'a EndReason) -> Self {
        match why {
            EndReason::Released => EndReasonV2::Released,
            EndReason::Expired => EndReasonV2::Expired,
            EndReason::SessionEnded => EndReasonV2::SessionEnded,
            EndReason::Broken { by, reason } => EndReasonV2::Broken { by: by.as_str(), reason },
            EndReason::Silent => EndReasonV2::Silent,
            EndReason::Rebooted => EndReasonV2::Rebooted,
        }
    }
}

impl From<Acquired> for AcquiredV2 {
    fn from(how: Acquired) -> Self {
        match how {
            Acquired::Granted => AcquiredV2::Granted,
            Acquired::Resumed => AcquiredV2::Resumed,
            Acquired::Upgraded => AcquiredV2::Upgraded,
            Acquired::Downgraded => AcquiredV2::Downgraded,
            Acquired::Delegated => AcquiredV2::Delegated,
        }
    }
}

impl From<Wrote> for WroteV2 {
    fn from(how: Wrote) -> Self {
        match how {
            Wrote::Written => WroteV2::Written,
            Wrote::Replaced => WroteV2::Replaced,
            Wrote::Deleted => WroteV2::Deleted,
        }
    }
}

impl From<Contended> for ContendedV2 {
    fn from(contended: Contended) -> Self {
        let Contended { refused, queued, over, waiting, longest_wait, left_out } = contended;
        ContendedV2 { refused, queued, over, waiting, longest_wait, left_out }
    }
}

impl<'a> From<&'a Disabled> for DisabledV2<'a> {
    fn from(disabled: &'a Disabled) -> Self {
        let Disabled { webhook, url, is_gone, why } = disabled;
        DisabledV2 { webhook: webhook.0, url, is_gone: *is_gone, why }
    }
}

impl From<Process> for ProcessV2 {
    fn from(process: Process) -> Self {
        ProcessV2 { pid: process.pid, start: process.start }
    }
}

impl From<Now> for NowV2 {
    fn from(now: Now) -> Self {
        NowV2 { mono: now.mono.0, wall: now.wall.0 }
    }
}

// ── To the model ────────────────────────────────────────────────────────────────────────────────────────────────────

impl TryFrom<RecordV2<'_>> for Record {
    type Error = Fault;

    fn try_from(record: RecordV2<'_>) -> Result<Record, Fault> {
        Ok(match record {
            RecordV2::Lock(id, lock) => {
                Record::Lock(LockId(id), lock.map(|lock| lock.into_model(LockId(id))).transpose()?)
            }
            RecordV2::Lent(id, lock, loan) => {
                let lock = Lock { lent: Some(Box::new(loan.into_model())), ..lock.into_model(LockId(id))? };
                Record::Lock(LockId(id), Some(lock))
            }
            RecordV2::Waiter(id, waiter) => {
                Record::Waiter(WaiterId(id), waiter.map(|waiter| waiter.into_model(WaiterId(id))).transpose()?)
            }
            RecordV2::Session(id, session) => {
                Record::Session(SessionId(id), session.map(|session| session.into_model(SessionId(id))).transpose()?)
            }
            RecordV2::Ended(id, ended) => {
                Record::Ended(LockId(id), ended.map(|ended| ended.into_model(LockId(id))).transpose()?)
            }
            RecordV2::Event(event) => Record::Event(event.into_model()?),
            RecordV2::Reserve { fences, events } => Record::Reserve { fences, events },
            RecordV2::Webhook(id, webhook) => {
                Record::Webhook(WebhookId(id), webhook.map(|webhook| webhook.into_model(WebhookId(id))).transpose()?)
            }
        })
    }
}

impl LockV2<'_> {
    fn into_model(self, id: LockId) -> Result<Lock, Fault> {
        Ok(Lock {
            id,
            ask: self.ask.into_model()?,
            fence: Fence(self.fence),
            custody: match self.custody {
                CustodyV2::Detached => Custody::Detached,
                CustodyV2::Session(id) => Custody::Session(SessionId(id)),
                CustodyV2::Process(process) => Custody::Process(process.into()),
            },
            since: self.since.into(),
            ttl: self.ttl,
            expires: self.expires.map(Moment),
            hold_until: self.hold_until.map(Moment),
            lent: None,
            os: OsLock::None,
            in_flight: None,
        })
    }
}

impl LoanV2<'_> {
    fn into_model(self) -> Loan {
        let promised = Promised {
            lease: Lease { ttl: self.asked_ttl, max_hold: self.max_hold },
            ttl: self.ttl,
            hold_until: self.hold_until.map(Moment),
            bound: self.bound.map(Into::into),
        };
        Loan { promised, note: self.note.map(Into::into), process: self.process.map(Into::into) }
    }
}

impl WaiterV2<'_> {
    fn into_model(self, id: WaiterId) -> Result<Waiter, Fault> {
        Ok(Waiter {
            id,
            ask: self.ask.into_model()?,
            takes: self.takes,
            at_once: self.at_once,
            os: OsWait::Idle,
            since: self.since.into(),
            deadline: self.deadline.map(Moment),
            caller: None,
            absent_until: self.absent_until.map(Moment),
            ticket: self.ticket.map(TicketId),
            offered_until: self.offered_until.map(Moment),
            // It waits, so it was.
            is_counted: true,
            level: 0,
        })
    }
}

impl SessionV2<'_> {
    fn into_model(self, id: SessionId) -> Result<Session, Fault> {
        Ok(Session {
            id,
            secret: self.secret,
            agent: agent(self.agent)?,
            process: self.process.map(Into::into),
            kind: match self.kind {
                SessionKindV2::Library => SessionKind::Library,
                SessionKindV2::Command => SessionKind::Command,
            },
            away_until: self.away_until.map(Moment),
        })
    }
}

impl EndedV2<'_> {
    fn into_model(self, id: LockId) -> Result<Ended, Fault> {
        Ok(Ended {
            id,
            ask: self.ask.into_model()?,
            fence: Fence(self.fence),
            why: self.why.into_model()?,
            at: self.at.into(),
            untold: self.untold,
        })
    }
}

impl EventV2<'_> {
    fn into_model(self) -> Result<Event, Fault> {
        Ok(Event {
            seq: EventSeq(self.seq),
            after: self.after.map(EventSeq),
            time: Wall(self.time),
            kind: match self.kind {
                EventKindV2::Acquired(how) => EventKind::Acquired(how.into()),
                EventKindV2::Waiting { waiter } => EventKind::Waiting { waiter: agent(waiter)? },
                EventKindV2::Detached => EventKind::Detached,
                EventKindV2::Released(why) => EventKind::Released(why.into_model()?),
                EventKindV2::Leader { former } => EventKind::Leader { former: former.map(agent).transpose()? },
                EventKindV2::Contention(contended) => EventKind::Contention(contended.into()),
                EventKindV2::WebhookDisabled(disabled) => EventKind::WebhookDisabled(disabled.into()),
                EventKindV2::Violation { how } => EventKind::Violation { how: how.into() },
            },
            lock: LockId(self.lock),
            ask: self.ask.into_model()?,
            fence: Fence(self.fence),
        })
    }
}

impl WebhookV2<'_> {
    fn into_model(self, id: WebhookId) -> Result<Webhook, Fault> {
        Ok(Webhook {
            id,
            url: self.url.into(),
            names: self.names.into_iter().map(event_name).collect::<Result<_, _>>()?,
            scopes: self.scopes.into_iter().map(ScopeV2::into_model).collect::<Result<_, _>>()?,
            secret: Secret::new(self.secret),
            allow_private: self.allow_private,
            agent: agent(self.agent)?,
            created: Wall(self.created),
            until: self.until.map(Into::into),
            passed: EventSeq(self.passed),
            delivered: self.delivered,
            failing: self.failing.map(|failing| Failing {
                attempts: failing.attempts,
                since: Wall(failing.since),
                why: failing.why.into(),
                again: failing.again.map(Moment),
            }),
        })
    }
}

/// A name that no event has is of a later version, whose events would not be told.
fn event_name(name: &str) -> Result<&'static str, Fault> {
    let known = EVENT_NAMES.iter().find(|known| **known == name);
    known.copied().ok_or_else(|| Fault::damaged(format!("a webhook wants {name:?}, which is no event")))
}

impl ScopeV2<'_> {
    fn into_model(self) -> Result<Scope, Fault> {
        Ok(match self {
            ScopeV2::File(path) => Scope::File(path.into()),
            ScopeV2::Subtree(path) => Scope::Subtree(path.into()),
            ScopeV2::Resource(name) => Scope::Resource(name.into()),
            ScopeV2::Pattern { prefix, rest } => {
                Scope::Pattern(Pattern::new(prefix, rest).map_err(|invalid| Fault::Damaged(invalid.0))?)
            }
        })
    }
}

impl AskV2<'_> {
    fn into_model(self) -> Result<Arc<Ask>, Fault> {
        let request = self.request.map(RequestId::new).transpose();
        Ok(Arc::new(Ask {
            target: Target {
                scope: self.scope.into_model()?,
                ids: self.ids.into_iter().map(|(device, inode, birth)| FileId { device, inode, birth }).collect(),
            },
            mode: match self.mode {
                ModeV2::Shared => Mode::Shared,
                ModeV2::Exclusive => Mode::Exclusive,
                ModeV2::Advisory => Mode::Advisory,
            },
            who: Who { agent: agent(self.agent)?, session: self.session.map(SessionId) },
            lease: Lease { ttl: self.ttl, max_hold: self.max_hold },
            note: self.note.map(Into::into),
            process: self.process.map(Into::into),
            request: request.map_err(|invalid| Fault::Damaged(invalid.0))?,
            workspace: Workspace { root: self.workspace.into() },
            os: self.os,
            bound: self.bound.map(Into::into),
            upgrades: self.upgrades.map(LockId),
            set: self.set.map(set_member).transpose()?,
        }))
    }
}

impl EndReasonV2<'_> {
    fn into_model(self) -> Result<EndReason, Fault> {
        Ok(match self {
            EndReasonV2::Released => EndReason::Released,
            EndReasonV2::Expired => EndReason::Expired,
            EndReasonV2::SessionEnded => EndReason::SessionEnded,
            EndReasonV2::Broken { by, reason } => EndReason::Broken { by: agent(by)?, reason: reason.into() },
            EndReasonV2::Silent => EndReason::Silent,
            EndReasonV2::Rebooted => EndReason::Rebooted,
        })
    }
}

impl From<AcquiredV2> for Acquired {
    fn from(how: AcquiredV2) -> Self {
        match how {
            AcquiredV2::Granted => Acquired::Granted,
            AcquiredV2::Resumed => Acquired::Resumed,
            AcquiredV2::Upgraded => Acquired::Upgraded,
            AcquiredV2::Downgraded => Acquired::Downgraded,
            AcquiredV2::Delegated => Acquired::Delegated,
        }
    }
}

impl From<WroteV2> for Wrote {
    fn from(how: WroteV2) -> Self {
        match how {
            WroteV2::Written => Wrote::Written,
            WroteV2::Replaced => Wrote::Replaced,
            WroteV2::Deleted => Wrote::Deleted,
        }
    }
}

impl From<ContendedV2> for Contended {
    fn from(contended: ContendedV2) -> Self {
        let ContendedV2 { refused, queued, over, waiting, longest_wait, left_out } = contended;
        Contended { refused, queued, over, waiting, longest_wait, left_out }
    }
}

impl From<DisabledV2<'_>> for Disabled {
    fn from(disabled: DisabledV2<'_>) -> Self {
        let DisabledV2 { webhook, url, is_gone, why } = disabled;
        Disabled { webhook: WebhookId(webhook), url: url.into(), is_gone, why: why.into() }
    }
}

impl From<ProcessV2> for Process {
    fn from(process: ProcessV2) -> Self {
        Process { pid: process.pid, start: process.start }
    }
}

impl From<NowV2> for Now {
    fn from(now: NowV2) -> Self {
        Now { mono: Moment(now.mono), wall: Wall(now.wall) }
    }
}

fn set_member((index, of): (u16, u16)) -> Result<SetMember, Fault> {
    if index >= of {
        return Err(Fault::Damaged(format!("a set of {of} has no member {index}")));
    }
    Ok(SetMember { index, of })
}

fn agent(name: &str) -> Result<Agent, Fault> {
    Agent::new(name).map_err(|invalid| Fault::Damaged(invalid.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use crate::model::Caller;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn scope() -> impl Strategy<Value = Scope> {
        prop_oneof![
            vec(any::<u8>(), 0..40).prop_map(|path| Scope::File(path.into())),
            vec(any::<u8>(), 0..40).prop_map(|path| Scope::Subtree(path.into())),
            "[a-z]{1,9}".prop_map(|name| Scope::Resource(name.into())),
            (vec(any::<u8>(), 0..40), r"[a-z?]{1,9}/\*[é.]{1,3}")
                .prop_map(|(prefix, rest)| Scope::Pattern(Pattern::new(&prefix, rest.as_bytes()).unwrap())),
        ]
    }

    fn agent() -> impl Strategy<Value = Agent> {
        "[a-zé]{1,5}(/[a-zé]{1,3}){0,2}".prop_map(|name| Agent::new(&name).unwrap())
    }

    fn process() -> impl Strategy<Value = Process> {
        any::<(u32, u64)>().prop_map(|(pid, start)| Process { pid, start })
    }

    fn now() -> impl Strategy<Value = Now> {
        any::<(u64, u64)>().prop_map(|(mono, wall)| Now { mono: Moment(mono), wall: Wall(wall) })
    }

    fn moment() -> impl Strategy<Value = Option<Moment>> {
        option::of(any::<u64>().prop_map(Moment))
    }

    fn mode() -> impl Strategy<Value = Mode> {
        proptest::sample::select(vec![Mode::Shared, Mode::Exclusive, Mode::Advisory])
    }

    fn ask() -> impl Strategy<Value = Arc<Ask>> {
        let names = (agent(), option::of("[a-z ]{0,30}"), option::of("[a-z0-9]{1,9}"), vec(any::<u8>(), 0..20));
        let numbers = (any::<(u64, Option<u64>, Option<u64>, bool)>(), mode(), vec(any::<(u64, u64, u64)>(), 0..5));
        let processes = (option::of(process()), option::of(process()));
        (scope(), names, numbers, processes).prop_map(
            |(scope, (agent, note, request, root), ((ttl, max_hold, session, os), mode, ids), (process, bound))| {
                let ids = ids.into_iter().map(|(device, inode, birth)| FileId { device, inode, birth }).collect();
                Arc::new(Ask {
                    target: Target { scope, ids },
                    mode,
                    who: Who { agent, session: session.map(SessionId) },
                    lease: Lease { ttl, max_hold },
                    note: note.map(Into::into),
                    process,
                    request: request.map(|id| RequestId::new(&id).unwrap()),
                    workspace: Workspace { root: root.into() },
                    os,
                    bound,
                    upgrades: max_hold.map(LockId),
                    set: session.map(|n| SetMember { index: n as u16 % 64, of: n as u16 % 64 + 1 }),
                })
            },
        )
    }

    fn reason() -> impl Strategy<Value = EndReason> {
        prop_oneof![
            Just(EndReason::Released),
            Just(EndReason::Expired),
            Just(EndReason::SessionEnded),
            (agent(), "[a-z ]{0,20}").prop_map(|(by, reason)| EndReason::Broken { by, reason: reason.into() }),
            Just(EndReason::Silent),
            Just(EndReason::Rebooted),
        ]
    }

    fn custody() -> impl Strategy<Value = Custody> {
        prop_oneof![
            Just(Custody::Detached),
            any::<u64>().prop_map(|id| Custody::Session(SessionId(id))),
            process().prop_map(Custody::Process),
        ]
    }

    fn lock() -> impl Strategy<Value = Record> {
        (any::<(u64, u64, u64, bool)>(), ask(), custody(), now(), moment(), moment()).prop_map(
            |((id, fence, ttl, is_lent), ask, custody, since, expires, hold_until)| {
                let (id, fence) = (LockId(id), Fence(fence));
                let (lease, bound) = (ask.lease, ask.bound);
                let promised = Promised { lease, ttl, hold_until: expires, bound };
                let loan = || Loan { promised, note: ask.note.clone(), process: ask.process };
                let lent = is_lent.then(|| Box::new(loan()));
                Record::Lock(
                    id,
                    Some(Lock {
                        id,
                        ask,
                        fence,
                        custody,
                        since,
                        ttl,
                        expires,
                        hold_until,
                        lent,
                        os: OsLock::None,
                        in_flight: None,
                    }),
                )
            },
        )
    }

    fn waiter() -> impl Strategy<Value = Record> {
        (any::<(u64, bool, Option<u64>)>(), ask(), now(), moment(), moment(), moment()).prop_map(
            |((id, takes, ticket), ask, since, deadline, absent_until, offered_until)| {
                let id = WaiterId(id);
                Record::Waiter(
                    id,
                    Some(Waiter {
                        id,
                        at_once: !takes,
                        ask,
                        takes,
                        since,
                        deadline,
                        caller: None,
                        absent_until,
                        ticket: ticket.map(TicketId),
                        offered_until,
                        os: OsWait::Idle,
                        is_counted: true,
                        level: 0,
                    }),
                )
            },
        )
    }

    fn session() -> impl Strategy<Value = Record> {
        (any::<(u64, u128, bool)>(), agent(), option::of(process()), moment()).prop_map(
            |((id, secret, library), agent, process, away_until)| {
                let id = SessionId(id);
                let kind = if library { SessionKind::Library } else { SessionKind::Command };
                Record::Session(id, Some(Session { id, secret, agent, process, kind, away_until }))
            },
        )
    }

    fn ended() -> impl Strategy<Value = Record> {
        (any::<(u64, u64, bool)>(), ask(), reason(), now()).prop_map(|((id, fence, untold), ask, why, at)| {
            let (id, fence) = (LockId(id), Fence(fence));
            Record::Ended(id, Some(Ended { id, ask, fence, why, at, untold }))
        })
    }

    fn acquired() -> impl Strategy<Value = Acquired> {
        use Acquired::{Delegated, Downgraded, Granted, Resumed, Upgraded};
        proptest::sample::select(vec![Granted, Resumed, Upgraded, Downgraded, Delegated])
    }

    fn event() -> impl Strategy<Value = Record> {
        let kind = prop_oneof![
            acquired().prop_map(EventKind::Acquired),
            agent().prop_map(|waiter| EventKind::Waiting { waiter }),
            Just(EventKind::Detached),
            reason().prop_map(EventKind::Released),
            option::of(agent()).prop_map(|former| EventKind::Leader { former }),
            any::<(u64, u64, u64, u64, u64, u64)>().prop_map(
                |(refused, queued, over, waiting, longest_wait, left_out)| {
                    EventKind::Contention(Contended { refused, queued, over, waiting, longest_wait, left_out })
                }
            ),
            any::<(u64, String, bool, String)>().prop_map(|(webhook, url, is_gone, why)| {
                let (webhook, url, why) = (WebhookId(webhook), url.into(), why.into());
                EventKind::WebhookDisabled(Disabled { webhook, url, is_gone, why })
            }),
            proptest::sample::select(vec![Wrote::Written, Wrote::Replaced, Wrote::Deleted])
                .prop_map(|how| EventKind::Violation { how }),
        ];
        (any::<(u64, u64, u64, u64, Option<u64>)>(), kind, ask()).prop_map(
            |((seq, time, lock, fence, after), kind, ask)| {
                let (seq, time, lock, fence) = (EventSeq(seq), Wall(time), LockId(lock), Fence(fence));
                Record::Event(Event { seq, after: after.map(EventSeq), time, kind, lock, ask, fence })
            },
        )
    }

    fn failing() -> impl Strategy<Value = Failing> {
        (any::<(u32, u64, Option<u64>)>(), "[a-z ]{0,30}").prop_map(|((attempts, since, again), why)| Failing {
            attempts,
            since: Wall(since),
            why: why.into(),
            again: again.map(Moment),
        })
    }

    fn webhook() -> impl Strategy<Value = Record> {
        let names = vec(proptest::sample::select(EVENT_NAMES), 0..4);
        let bytes = (vec(any::<u8>(), 24..64), vec(scope(), 0..4));
        let numbers = any::<(u64, u64, u64, u64, bool)>();
        ("[a-z:/]{1,40}", names, bytes, numbers, agent(), option::of(process()), option::of(failing())).prop_map(
            |(url, names, (secret, scopes), (id, created, passed, delivered, allow_private), agent, until, failing)| {
                let webhook = Webhook {
                    id: WebhookId(id),
                    url: url.into(),
                    names: names.into(),
                    scopes: scopes.into(),
                    secret: Secret::new(&secret),
                    allow_private,
                    agent,
                    created: Wall(created),
                    until,
                    passed: EventSeq(passed),
                    delivered,
                    failing,
                };
                Record::Webhook(WebhookId(id), Some(webhook))
            },
        )
    }

    fn record() -> impl Strategy<Value = Record> {
        let gone = any::<(u64, u8)>().prop_map(|(id, table)| match table % 5 {
            4 => Record::Webhook(WebhookId(id), None),
            0 => Record::Lock(LockId(id), None),
            1 => Record::Waiter(WaiterId(id), None),
            2 => Record::Session(SessionId(id), None),
            _ => Record::Ended(LockId(id), None),
        });
        let reserve = any::<(u64, u64)>().prop_map(|(fences, events)| Record::Reserve { fences, events });
        prop_oneof![lock(), waiter(), session(), ended(), event(), webhook(), gone, reserve]
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(record, &mut bytes).unwrap();
        bytes
    }

    /// Bytes with a checksum that agrees, whatever the body.
    fn sealed(version: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![version];
        bytes.extend_from_slice(&crc32(&[&[version], body]).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn damaged(bytes: &[u8], says: &str) {
        match decode(bytes) {
            Err(Fault::Damaged(found)) => assert!(found.contains(says), "{found}"),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn every_record_reads_back_as_it_was_written(record in record()) {
            let mut bytes = b"before".to_vec();
            encode(&record, &mut bytes).unwrap();
            prop_assert_eq!(decode(&bytes[6..]), Ok(record));
        }

        #[test]
        fn the_caller_of_a_waiter_is_forgotten(record in waiter()) {
            let mut called = record.clone();
            let Record::Waiter(_, Some(waiter)) = &mut called else { unreachable!() };
            waiter.caller = Some(Caller { conn: 1, id: 2 });
            prop_assert_eq!(decode(&encoded(&called)), Ok(record));
        }

        #[test]
        fn no_flipped_bit_is_read_silently(record in record()) {
            let bytes = encoded(&record);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(matches!(decode(&flipped), Err(Fault::Damaged(_))), "bit {}", bit);
            }
        }

        #[test]
        fn no_length_but_the_right_one_is_read(record in record()) {
            let bytes = encoded(&record);
            for end in 0..bytes.len() {
                prop_assert!(matches!(decode(&bytes[..end]), Err(Fault::Damaged(_))));
                if end >= RECORD_HEAD {
                    prop_assert!(matches!(decode(&sealed(VERSION, &bytes[RECORD_HEAD..end])), Err(Fault::Damaged(_))));
                }
            }
        }

        #[test]
        fn bytes_of_any_kind_are_read_without_panic(body in vec(any::<u8>(), 0..200)) {
            drop(decode(&sealed(VERSION, &body)));
            drop(decode(&body));
        }
    }

    #[test]
    fn an_unknown_version_is_the_future_only_with_a_good_checksum() {
        assert_eq!(decode(&sealed(VERSION + 1, b"whatever it holds")), Err(Fault::Future(3)));
        assert_eq!(decode(&sealed(VERSION - 1, b"whatever it held")), Err(Fault::Past(1)));
        let mut bytes = sealed(VERSION + 1, b"whatever it holds");
        bytes[9] ^= 1;
        damaged(&bytes, "checksum");
    }

    #[test]
    fn bytes_behind_the_record_and_lying_lengths_are_damage() {
        let bytes = encoded(&Record::Reserve { fences: 1, events: 2 });
        damaged(&sealed(VERSION, &[&bytes[RECORD_HEAD..], &[0]].concat()), "1 bytes too many");
        // A session whose agent claims to be 2^62 bytes long.
        let liar = [&[2, 1, 1, 0, 253][..], &(1u64 << 62).to_le_bytes()].concat();
        damaged(&sealed(VERSION, &liar), "cannot be read");
        damaged(&sealed(VERSION, &vec![0; BODY_MAX + 1]), "larger than");
    }

    #[test]
    fn the_layout_is_the_one_that_is_documented() {
        assert_eq!(encoded(&Record::Reserve { fences: 7, events: 300 })[RECORD_HEAD..], [5, 7, 251, 44, 1]);
        assert_eq!(encoded(&Record::Ended(LockId(1 << 20), None))[RECORD_HEAD..], [3, 252, 0, 0, 16, 0, 0]);
    }

    /// One record a line, of every kind, as a build wrote it once. Whoever has to change a line has changed the layout:
    /// that is a new version, beside this one.
    const STORED: &str = include_str!("stored_v2.hex");

    #[test]
    fn what_was_stored_once_is_read_and_written_the_same() {
        let mut kinds = std::collections::BTreeSet::new();
        for line in STORED.lines() {
            let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect();
            let record = decode(&bytes).unwrap();
            assert_eq!(encoded(&record), bytes, "{record:?}");
            kinds.insert(match &record {
                Record::Event(event) => event.kind.name(),
                Record::Lock(_, Some(Lock { lent: Some(_), .. })) => "a lock on loan",
                Record::Lock(_, Some(_)) => "a lock",
                Record::Waiter(_, Some(_)) => "a waiter",
                Record::Session(_, Some(_)) => "a session",
                Record::Ended(_, Some(_)) => "an ended lock",
                Record::Webhook(_, Some(_)) => "a webhook",
                Record::Reserve { .. } => "numbers",
                _ => "one that is gone",
            });
        }
        assert_eq!(kinds.len(), 8 + 7, "{kinds:?}");
    }

    #[test]
    fn the_largest_request_that_is_allowed_fits() {
        let word = |length: usize| "x".repeat(length);
        let path: Box<[u8]> = b"/a".repeat(limits::PATH_MAX / 2).into();
        let components = limits::PATH_MAX / 2 + 1;
        let ask = Arc::new(Ask {
            target: Target {
                scope: Scope::File(path.clone()),
                ids: vec![FileId { device: u64::MAX, inode: u64::MAX, birth: u64::MAX }; components].into(),
            },
            mode: Mode::Exclusive,
            who: Who { agent: Agent::new(&word(limits::AGENT_MAX)).unwrap(), session: Some(SessionId(u64::MAX)) },
            lease: Lease { ttl: u64::MAX, max_hold: Some(u64::MAX) },
            note: Some(word(limits::NOTE_MAX).into()),
            process: Some(Process { pid: u32::MAX, start: u64::MAX }),
            bound: Some(Process { pid: u32::MAX, start: u64::MAX }),
            upgrades: Some(LockId(u64::MAX)),
            set: Some(SetMember { index: u16::MAX - 1, of: u16::MAX }),
            request: Some(RequestId::new(&word(limits::REQUEST_ID_MAX)).unwrap()),
            workspace: Workspace { root: path.to_vec().into() },
            os: true,
        });
        let by = Agent::new(&word(limits::AGENT_MAX)).unwrap();
        let why = EndReason::Broken { by, reason: word(limits::NOTE_MAX).into() };
        let id = LockId(u64::MAX);
        let ended = Ended { id, ask, fence: Fence(u64::MAX), why, at: Now::default(), untold: true };
        let record = Record::Ended(id, Some(ended));
        assert_eq!(decode(&encoded(&record)), Ok(record));
    }

    #[test]
    fn the_largest_webhook_that_is_allowed_fits() {
        let word = |length: usize| "x".repeat(length);
        let id = WebhookId(u64::MAX);
        let process = Process { pid: u32::MAX, start: u64::MAX };
        let webhook = Webhook {
            id,
            url: word(limits::WEBHOOK_URL_MAX).into(),
            names: EVENT_NAMES.into(),
            scopes: vec![Scope::File(vec![0xFF; limits::PATH_MAX].into()); limits::WEBHOOK_SCOPES_MAX].into(),
            secret: Secret::new(&[0xFF; limits::WEBHOOK_SECRET_MAX]),
            allow_private: true,
            agent: Agent::new(&word(limits::AGENT_MAX)).unwrap(),
            created: Wall(u64::MAX),
            until: Some(process),
            passed: EventSeq(u64::MAX),
            delivered: u64::MAX,
            failing: Some(Failing {
                attempts: u32::MAX,
                since: Wall(u64::MAX),
                why: word(limits::NOTE_MAX).into(),
                again: Some(Moment(u64::MAX)),
            }),
        };
        let record = Record::Webhook(id, Some(webhook));
        assert_eq!(decode(&encoded(&record)), Ok(record));
    }

    #[test]
    fn a_label_is_read_only_as_it_was_written() {
        let bytes = label(b"flockd.T", 3, &[1, 2, 3, 4]);
        assert_eq!(read_label::<4>(b"flockd.T", 3, &bytes), Ok(&[1, 2, 3, 4]));
        assert_eq!(read_label::<4>(b"flockd.X", 3, &bytes), Err(Fault::Foreign));
        assert_eq!(read_label::<4>(b"flockd.T", 2, &bytes), Err(Fault::Future(3)));
        assert!(matches!(read_label::<5>(b"flockd.T", 3, &bytes), Err(Fault::Damaged(_))));
        for end in 0..bytes.len() {
            assert!(matches!(read_label::<4>(b"flockd.T", 3, &bytes[..end]), Err(Fault::Damaged(_))), "{end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(read_label::<4>(b"flockd.T", 3, &flipped), Err(Fault::Damaged(_) | Fault::Foreign)));
        }
    }
}
