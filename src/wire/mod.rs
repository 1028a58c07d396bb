//! The messages on the socket: one JSON document a line, both ways. PROTOCOL.md shows an example of each.
//!
//! These are the serde twins of the model; conversions stand in `render.rs`. Field names are a contract with scripts
//! and with clients in other languages: they are only added to.

mod escape;
mod lines;
pub mod render;
pub mod sign;
pub mod stats;
pub mod webhooks;

pub use escape::{escape, unescape};
pub use lines::{decode_hello, decode_line, decode_request, encode, encode_into};

use serde::{Deserialize, Serialize};
use std::fmt;

/// The protocol spoken here. Raised when an old peer would misunderstand; additions do not raise it.
pub const PROTOCOL: u32 = 1;
/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether version `a` is newer than `b`. One that is not three numbers is newer than none.
pub fn is_newer(a: &str, b: &str) -> bool {
    fn numbers(version: &str) -> Option<[u64; 3]> {
        let mut parts = version.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok());
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(numbers)
    }
    numbers(a).is_some_and(|a| numbers(b).is_none_or(|b| a > b))
}

// ── Hello ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The first line of a client: `{"hello":{…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HelloLine {
    /// The greeting.
    pub hello: Hello,
}

/// Who calls and from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the client.
    pub protocol: u32,
    /// Version of the client, three numbers.
    pub version: String,
    /// Whose locks are meant; reading needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Working directory, escaped; relative scopes begin there.
    pub cwd: String,
    /// Root of the workspace, escaped; none means the working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// A session to open or to return to; none for one-shots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionWish>,
    /// A pidfd of the agent's own process comes with the line, so that two of one name are found out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent_process: bool,
    /// With both: that process goes by this name from now on, as far as anybody asks for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_by: bool,
    /// When a scope of the workspace counts as contended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contention: Option<Threshold>,
    /// A loss counts as told when this client says so, by `heard`, and not when it was sent to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirms: bool,
}

/// [`crate::model::Threshold`] on the wire: so many requests that were refused or had to wait, within such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// How many.
    pub requests: u32,
    /// Milliseconds in which they come.
    pub within_ms: u64,
}

impl From<crate::model::Threshold> for Threshold {
    fn from(threshold: crate::model::Threshold) -> Threshold {
        Threshold { requests: threshold.requests, within_ms: threshold.within }
    }
}

/// What a client wants of sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionWish {
    /// A new one, acting for itself in deadlocks.
    Library,
    /// A new one, acting for its agent.
    Command,
    /// The one that it had before the connection broke.
    Return(SessionProof),
}

/// A session and the secret that proves it. Compared, never logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionProof {
    /// `se_…`
    pub id: String,
    /// 32 hexadecimal digits.
    pub secret: String,
}

/// The daemon's greeting: `{"hello":{…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`] of the daemon.
    pub protocol: u32,
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The session, if one was wished for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionProof>,
    /// Something that the agent should know: another live agent process has its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// The name by which the process that came with the greeting goes, if somebody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_by: Option<String>,
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Take a lock: `scope`, `mode`, `wait_ms`, `ttl_ms`, `max_hold_ms`, `note`, `request_id`, `no_os_lock`, `bound`.
    /// Or several, all or nothing: `scopes` in the place of `scope`.
    Lock,
    /// Release: `lock_id`, `scope` or `all`; `leaves_loan`.
    Unlock,
    /// Make a shared lock exclusive: `lock_id` or `scope`; `wait_ms`, `request_id`.
    Upgrade,
    /// Make an exclusive lock shared: `lock_id` or `scope`.
    Downgrade,
    /// Start a lease anew: `lock_id`, `scope` or `all`; `ttl_ms`.
    Renew,
    /// May I write now? `scope`, `fence`.
    Check,
    /// Wait until `scope` could be had in `mode`; take nothing. `wait_ms`.
    Wait,
    /// Put a prepared file in the place of `scope`: `prepared`, `fence`, `if_unchanged`.
    Commit,
    /// End somebody's lock: `lock_id`, `reason`.
    Break,
    /// Who holds, who waits: `scope`, or everything.
    Status,
    /// What this agent lost and has not been told of, and who waits for its locks: `heard`.
    News,
    /// Bind a lock to the process whose pidfd comes with the line: `lock_id`.
    Bind,
    /// Withdraw a waiting request of this connection, `of`, or give up a kept place, `ticket`.
    Cancel,
    /// Be told what happens: `since`, `events`, `scopes`, `agents`, `workspaces`.
    Subscribe,
    /// Be told no more.
    Unsubscribe,
    /// Send events to a URL from now on: `url`, `events`, `scopes`, `secret`, `allow_private`, `bound`.
    WebhookAdd,
    /// Which webhooks there are: `webhook_id`, or all; `with_secret`.
    WebhookList,
    /// Send a test: `webhook_id`.
    WebhookTest,
    /// Send what waits now, also if it was disabled: `webhook_id`.
    WebhookRetry,
    /// Send no more: `webhook_id`.
    WebhookRemove,
    /// What has happened since the daemon began: `scopes`, `top`.
    Stats,
    /// About the daemon itself.
    Daemon,
    /// End the daemon in order; `version` if a newer one is to replace it.
    Stop,
}

/// One request. Which fields an operation takes stands at [`Op`]; all are optional on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the client; the answer carries it. Without one there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What.
    pub op: Op,
    /// A path as typed, escaped; `@name` for a resource; a trailing `/` for a subtree; `glob:…` for a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Many of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The scope is a pattern, with or without `glob:` before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub glob: bool,
    /// Root of the workspace that this request is about, escaped and absolute: a relative scope begins there, and
    /// names in answers and events do. Absent, both are as said in the greeting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// When a scope of this workspace counts as contended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contention: Option<Threshold>,
    /// `shared`, `exclusive` or `advisory`; exclusive if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Milliseconds to wait: 0 tries, absent waits for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Milliseconds that the lock outlives what keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Milliseconds that a lock without a session is held at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hold_ms: Option<u64>,
    /// Why, for whoever waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The client's name for the request, so that it can be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// `lk_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_id: Option<String>,
    /// All of the agent's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Do not flock the file: its programs flock it themselves while they hold ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_os_lock: bool,
    /// The lock also ends when the process ends whose pidfd comes with the line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bound: bool,
    /// The fence that must be current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// The prepared file that is to be put in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<PreparedFile>,
    /// What the file must be before: its BLAKE3 hash, 64 hexadecimal digits, or `absent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_unchanged: Option<String>,
    /// Why a lock is broken, for its holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The id of the waiting request that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// `tk_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The version that takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The number of the last event that the client has; absent means from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Names of events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Names of agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Ids of workspaces, `ws_…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<String>,
    /// Where a webhook goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What its posts are signed with, `whsec_…`; made anew if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// It may be in a private network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_private: bool,
    /// `wh_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// Tell the secret as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_secret: bool,
    /// So many scopes and agents are to be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
    /// With `unlock`: what a session has on loan stays with it and does not go back; the agent gives up its part alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves_loan: bool,
    /// Losses, `lk_…`, of which the agent has heard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<String>,
}

impl Request {
    /// A request with nothing but its operation.
    pub fn new(op: Op) -> Request {
        Request {
            id: None,
            op,
            scope: None,
            scopes: Vec::new(),
            glob: false,
            workspace: None,
            contention: None,
            mode: None,
            wait_ms: None,
            ttl_ms: None,
            max_hold_ms: None,
            note: None,
            request_id: None,
            lock_id: None,
            all: false,
            no_os_lock: false,
            bound: false,
            fence: None,
            prepared: None,
            if_unchanged: None,
            reason: None,
            of: None,
            ticket: None,
            version: None,
            since: None,
            events: Vec::new(),
            agents: Vec::new(),
            workspaces: Vec::new(),
            url: None,
            secret: None,
            allow_private: false,
            webhook_id: None,
            with_secret: false,
            top: None,
            leaves_loan: false,
            heard: Vec::new(),
        }
    }
}

/// A file that is ready to be put in the place of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreparedFile {
    /// Its name, escaped, in the directory of the file that it is to replace.
    pub name: String,
    /// Which file that is: its `st_dev` and `st_ino` in decimal, `64768:131077`.
    pub file: String,
}

/// [`crate::model::Mode`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Many readers.
    Shared,
    /// One holder.
    Exclusive,
    /// In nobody's way: granted at once, ranked, no protection.
    Advisory,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shared => "shared",
            Mode::Exclusive => "exclusive",
            Mode::Advisory => "advisory",
        })
    }
}

// ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// One line of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The greeting.
    Hello(Welcome),
    /// The daemon stops; it will not answer what is still open.
    Bye(String),
    /// Something happened.
    Event(Box<EventBody>),
    /// Events are missing here.
    Gap(GapBody),
    /// An answer.
    #[serde(untagged)]
    Answer(Box<Answer>),
}

/// The answer to a request: exactly one of `ok` and `error` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request's id; none if it could not be read.
    pub id: Option<u64>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Body>,
    /// Why nothing came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
    /// Locks that this agent lost and had not heard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Loss>,
    /// Requests that wait for locks of this agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<Wanted>,
}

/// The body of an answer, named by what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// To `lock`, `upgrade` and `downgrade`: held so or not.
    Lock(Box<LockBody>),
    /// To `lock` with `scopes`: all held or none.
    Locks(Box<LocksBody>),
    /// To `unlock`.
    Released(Vec<Held>),
    /// To `renew`.
    Renewed(Vec<Held>),
    /// To `check`.
    Check(CheckBody),
    /// To `wait`: free or not.
    Wait(WaitBody),
    /// To `commit`.
    Committed(CommitBody),
    /// To `break`.
    Broken(Loss),
    /// To `status`.
    Status(StatusBody),
    /// To `news`: the news stand beside.
    News(NewsBody),
    /// To `bind`: the lock.
    Bound(String),
    /// To `cancel`: whether the request was still waiting, or the place still kept.
    Cancelled(bool),
    /// To `subscribe`.
    Subscribed(SubscribedBody),
    /// To `unsubscribe`: whether there was a subscription.
    Unsubscribed(bool),
    /// To `webhook_add`, `webhook_retry`, and `webhook_list` with an id.
    Webhook(Box<webhooks::WebhookBody>),
    /// To `webhook_list`, oldest first.
    Webhooks(Vec<webhooks::WebhookBody>),
    /// To `webhook_remove`.
    WebhookRemoved(Box<webhooks::WebhookBody>),
    /// To `webhook_test`.
    Posted(webhooks::PostedBody),
    /// To `stats`.
    Stats(Box<stats::Stats>),
    /// To `daemon`.
    Daemon(DaemonBody),
    /// To `stop`.
    Stopping(bool),
}

/// Stable error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Somebody holds it.
    Held,
    /// Waited in vain.
    Timeout,
    /// To wait would close a cycle.
    Deadlock,
    /// The lock was lost before.
    Lost,
    /// Others hold it.
    NotHolder,
    /// There is no such lock.
    NotFound,
    /// The request makes no sense.
    Invalid,
    /// The scope lies outside the workspace that was given.
    OutsideWorkspace,
    /// Not now: the journal or the file system does not answer.
    Unavailable,
    /// A bound is reached.
    TooMany,
    /// Client and daemon do not fit.
    Version,
    /// Not allowed.
    Denied,
    /// The file is not what it was to be.
    Changed,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Code::Held => "held",
            Code::Timeout => "timeout",
            Code::Deadlock => "deadlock",
            Code::Lost => "lost",
            Code::NotHolder => "not_holder",
            Code::NotFound => "not_found",
            Code::Invalid => "invalid",
            Code::OutsideWorkspace => "outside_workspace",
            Code::Unavailable => "unavailable",
            Code::TooMany => "too_many",
            Code::Version => "version",
            Code::Denied => "denied",
            Code::Changed => "changed",
        })
    }
}

/// Why nothing came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// For programs.
    pub code: Code,
    /// For people: what happened and what to do.
    pub message: String,
    /// Who holds it, where that is the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Held>,
    /// What became of the lock that was meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Box<Loss>>,
    /// With `changed`: the BLAKE3 hash of the file as it is now, or `absent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The file was put in place all the same, and only not for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
}

impl WireError {
    /// An error with nothing but its message.
    pub fn new(code: Code, message: String) -> WireError {
        WireError { code, message, holders: Vec::new(), loss: None, hash: None, in_place: false }
    }
}

/// A lock as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Whose.
    pub agent: String,
    /// How.
    pub mode: Mode,
    /// `lk_…`
    pub lock_id: String,
    /// `ws_…`
    pub workspace_id: String,
    /// The scope within its workspace, or absolute.
    pub file_id: String,
    /// The whole name, escaped: absolute, a subtree ends in `/`, a resource begins with `@`, a pattern with `glob:`.
    pub path: String,
    /// The fencing token.
    pub fence: u64,
    /// When it was granted, RFC 3339, UTC.
    pub since: String,
    /// The lease.
    pub ttl_ms: u64,
    /// What is left of the lease; none while something keeps the lock alive.
    pub expires_in_ms: Option<u64>,
    /// Why.
    pub note: Option<String>,
    /// The process that asked for it.
    pub pid: Option<u32>,
    /// The process with which it ends at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_pid: Option<u32>,
    /// What keeps it alive.
    pub kept_by: KeptBy,
    /// It goes back to its agent, which took it before without a session and with this note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_back: Option<GoesBack>,
    /// Programs that only know flock(1) are kept out, too.
    pub os_lock: bool,
    /// A foreign program that had flocked the file when the daemon came back, and still has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contested_by: Option<String>,
    /// With `advisory`, in grants and `status`: its place by first grant among those on its scope, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// With `rank`: whose lock has rank 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

/// What an agent has of a lock that a session of its has on loan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoesBack {
    /// Why the agent took it.
    pub note: Option<String>,
}

/// What keeps a lock alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptBy {
    /// Its lease alone.
    Lease,
    /// A live session.
    Session,
    /// A process.
    Process,
    /// A foreign program's own flock(2): no lock of ours.
    Flock,
}

/// The answer to `lock`, `upgrade` and `downgrade`. Without a lock the fields about one are null; an upgrade that was
/// refused has the shared lock in them, which is held as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockBody {
    /// The lock is held now.
    pub acquired: bool,
    /// Why not: `held`, `timeout` or `deadlock`.
    pub code: Option<Code>,
    /// `lk_…`
    pub lock_id: Option<String>,
    /// `ws_…`
    pub workspace_id: String,
    /// The scope within the workspace, or absolute.
    pub file_id: String,
    /// The whole name, escaped: absolute, a subtree ends in `/`, a resource begins with `@`, a pattern with `glob:`.
    pub path: String,
    /// The mode in force, or the one asked for.
    pub mode: Mode,
    /// Whose.
    pub agent: String,
    /// The fencing token.
    pub fence: Option<u64>,
    /// The lease.
    pub ttl_ms: Option<u64>,
    /// What is left of it; null while a session or process keeps the lock.
    pub expires_in_ms: Option<u64>,
    /// The same agent held it before.
    pub already_held: bool,
    /// A detached lock of the agent, taken up again.
    pub resumed: bool,
    /// A shared lock of the agent, made exclusive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgraded: bool,
    /// Programs that only know flock(1) are kept out, too.
    pub os_lock: bool,
    /// Who is in the way. With a grant, others there who are not: advisory ones, and all if it is advisory itself.
    pub holders: Vec<Held>,
    /// How many more there are than are named.
    pub more_holders: usize,
    /// Place in the queue, from 1.
    pub position: Option<usize>,
    /// `tk_…`: the place is kept, and whoever asks again goes on there.
    pub ticket: Option<String>,
    /// The cycle of waits, in words, one a step.
    pub cycle: Vec<String>,
    /// What to do.
    pub advice: Option<String>,
    /// With an advisory grant: its place by first grant among those on its scope, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// With `rank`: whose lock has rank 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Milliseconds after which another try may have a chance, where many want the same and it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The answer to `lock` with `scopes`: all of them are held, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocksBody {
    /// All are held now.
    pub acquired: bool,
    /// Why not: `held`, `timeout` or `deadlock`.
    pub code: Option<Code>,
    /// The locks, in the order in which they were asked for, each as it would be answered alone; none if they are not
    /// held.
    pub locks: Vec<LockBody>,
    /// `ws_…`
    pub workspace_id: String,
    /// The scopes that were asked for, each once, within the workspace or absolute.
    pub file_ids: Vec<String>,
    /// The mode asked for.
    pub mode: Mode,
    /// Whose.
    pub agent: String,
    /// Who is in the way of any of them.
    pub holders: Vec<Held>,
    /// How many more there are than are named.
    pub more_holders: usize,
    /// Place in the queue, from 1.
    pub position: Option<usize>,
    /// `tk_…`: the place in the queue that is kept.
    pub ticket: Option<String>,
    /// The cycle of waits, in words, one a step.
    pub cycle: Vec<String>,
    /// What to do.
    pub advice: Option<String>,
    /// After how many milliseconds another try may have a chance, where one of the scopes is contended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The answer to `check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckBody {
    /// This agent may write now.
    pub allowed: bool,
    /// The lock that allows it.
    pub lock: Option<Held>,
    /// Who holds it otherwise.
    pub holders: Vec<Held>,
    /// What to do, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// The answer to `commit`: the file is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitBody {
    /// `ws_…`
    pub workspace_id: String,
    /// The file within its workspace, or absolute.
    pub file_id: String,
    /// Its whole name, escaped.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// An earlier try of this request had put it in place.
    pub again: bool,
    /// Whose lock covered it.
    pub agent: String,
    /// `lk_…`
    pub lock_id: String,
    /// The fencing token of that lock.
    pub fence: u64,
    /// Programs that only know flock(1) are kept out of the new file, too.
    pub os_lock: bool,
}

/// The answer to `wait`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitBody {
    /// It could be had when this was written.
    pub free: bool,
    /// Why not.
    pub code: Option<Code>,
    /// Who is in the way.
    pub holders: Vec<Held>,
    /// The cycle of waits, in words.
    pub cycle: Vec<String>,
    /// What to do.
    pub advice: Option<String>,
}

/// The answer to `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBody {
    /// Locks by age.
    pub locks: Vec<Held>,
    /// Requests by arrival.
    pub waiters: Vec<WaiterBody>,
}

/// The answer to `news`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewsBody {
    /// How many more losses there are: the next answers tell of them.
    pub more_lost: usize,
}

/// A waiting request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterBody {
    /// Who waits.
    pub agent: String,
    /// How it wants to lock.
    pub mode: Mode,
    /// `ws_…`
    pub workspace_id: String,
    /// What it wants.
    pub file_id: String,
    /// The whole name, escaped: absolute, a subtree ends in `/`, a resource begins with `@`, a pattern with `glob:`.
    pub path: String,
    /// Since when, RFC 3339, UTC.
    pub since: String,
    /// How long it goes on waiting; null for ever.
    pub wait_left_ms: Option<u64>,
    /// Place in the queue, from 1.
    pub position: usize,
    /// Who is in the way.
    pub holders: Vec<Held>,
    /// Why.
    pub note: Option<String>,
    /// The process that asked.
    pub pid: Option<u32>,
    /// Its client has not come back after a restart of the daemon yet, or has waited in vain and may ask again.
    pub absent: bool,
    /// `tk_…`: it has waited in vain, and its place is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// For how long the place of one that is absent is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_ms: Option<u64>,
    /// It is its turn: it would be granted if it asked again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offered: bool,
    /// It is one of several that are locked together or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetBody>,
}

/// Which part of a set something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBody {
    /// Which one, from 1.
    pub number: u16,
    /// Of how many.
    pub of: u16,
}

/// A lock that ended without its agent's doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// `lk_…`
    pub lock_id: String,
    /// `ws_…`
    pub workspace_id: String,
    /// What was locked.
    pub file_id: String,
    /// The whole name, escaped: absolute, a subtree ends in `/`, a resource begins with `@`, a pattern with `glob:`.
    pub path: String,
    /// Whose it was.
    pub agent: String,
    /// Its last fencing token.
    pub fence: u64,
    /// `released`, `expired`, `session_ended`, `broken`, `silent` or `rebooted`.
    pub reason: String,
    /// Who broke it.
    pub by: Option<String>,
    /// Why it was broken.
    pub note: Option<String>,
    /// When, RFC 3339, UTC.
    pub at: String,
}

/// Somebody waits for a lock of yours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Who.
    pub agent: String,
    /// What it wants.
    pub file_id: String,
    /// The whole name, escaped: absolute, a subtree ends in `/`, a resource begins with `@`, a pattern with `glob:`.
    pub path: String,
    /// How.
    pub mode: Mode,
    /// Why.
    pub note: Option<String>,
}

/// The answer to `subscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribedBody {
    /// The newest number: what has one above it is told as it happens.
    pub seq: u64,
}

/// Something that happened to a lock, or to a webhook: then `file_id` is `@` and its id, `acquired_by` who added it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBody {
    /// Its number: larger than that of every event before. Numbers are skipped.
    pub seq: u64,
    /// Its id, `ev_…`: the same in every telling.
    pub id: String,
    /// When, milliseconds since 1970.
    pub time: u64,
    /// When, RFC 3339, UTC.
    pub timestamp: String,
    /// What: `lock.acquired` and so on.
    pub event: String,
    /// The same, where readers expect it under this name.
    #[serde(rename = "type")]
    pub kind: String,
    /// `ws_…`
    pub workspace_id: String,
    /// The scope within its workspace, or absolute.
    pub file_id: String,
    /// The whole name, escaped: absolute, a subtree ends in `/`, a resource begins with `@`.
    pub path: String,
    /// `lk_…`, or `none` where it is about no lock.
    pub lock_id: String,
    /// Whose lock it is, or was.
    pub acquired_by: String,
    /// How.
    pub mode: Mode,
    /// The fencing token at the time.
    pub fence: u64,
    /// How it came to that, where there is more than one way: `resumed`, `upgraded`, `downgraded`; `released`,
    /// `expired`, `session_ended`, `broken`, `silent` or `rebooted`; with `webhook.disabled` `gone` or `failing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With `lock.waiting`: who waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiter: Option<String>,
    /// Who broke it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why it was broken, else why it was taken; with `webhook.disabled` what came of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// With `lock.leader`: who had rank 1 before, if anybody had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_leader: Option<String>,
    /// With `lock.contention`: what came together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contention: Option<ContentionBody>,
    /// With `lock.violation`: what was done to the file, `written`, `replaced` or `deleted`. Nothing tells by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    /// With `webhook.disabled`: which webhook, `wh_…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// With `webhook.disabled`: where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Requests for one scope that could not have it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentionBody {
    /// How many were refused.
    pub failed: u64,
    /// How many had to wait.
    pub queued: u64,
    /// The milliseconds in which they came: since this was last told of the scope, or as far as they count.
    pub over_ms: u64,
    /// How many wait now for something that overlaps the scope.
    pub waiting: u64,
    /// Milliseconds that the first of them has waited.
    pub longest_wait_ms: u64,
    /// Other contended scopes of which nothing was told since the last such event, because there were too many.
    pub left_out: u64,
}

/// Events that cannot be told any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapBody {
    /// The first number that may be missing.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// How many are missing, wanted or not; null where that is not known, and it may be that none are.
    pub events: Option<u64>,
}

/// About the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonBody {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Its home.
    pub home: String,
    /// Its socket.
    pub socket: String,
    /// How long it has run.
    pub uptime_ms: u64,
    /// Locks held.
    pub locks: usize,
    /// Requests waiting.
    pub waiters: usize,
    /// Sessions open or expected back.
    pub sessions: usize,
    /// Connections, this one included.
    pub connections: usize,
    /// Connections that are told what happens.
    pub subscribers: usize,
    /// Why grants have stopped, while they have.
    pub trouble: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_newer("0.10.0", "0.9.9"));
        assert!(is_newer("1.0.0-rc.1", "0.9.9"));
        assert!(!is_newer("0.1.0", "0.1.0"));
        assert!(!is_newer("0.1.0", "0.2.0"));
        assert!(!is_newer("new", "0.1.0"));
    }
}
