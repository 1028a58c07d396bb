//! Answers of the table as messages, and the sentences in them: what happened, who holds it, what to do next.

use super::webhooks::{self, WebhookBody};
use super::{
    Answer, Body, CheckBody, Code, CommitBody, GoesBack, Held, KeptBy, LockBody, LocksBody, Loss, NewsBody, SetBody,
    StatusBody, WaitBody, WaiterBody, Wanted,
};
use super::{ContentionBody, EventBody, GapBody, Line, Mode, WireError, escape, sign};
use crate::events::{Gap, Told};
use crate::model::{
    self, Acquired, Contended, Custody, Disabled, EndReason, Ended, EventKind, Fault, Foreigner, Lock, LockId, Moment,
    Now, OsLock, Queued,
};
use crate::model::{Refused, RefusedFor, Reply};
use crate::scope::Scope;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

/// Where the advisory locks stand that an answer names.
type Standings = BTreeMap<model::LockId, model::Standing>;

/// What stands for the id of a lock in an event that is about none.
const NO_LOCK: &str = "none";

/// What stands for the hash of a file that does not exist.
pub const ABSENT: &str = "absent";

/// What an answer is about, where the reply alone does not say.
#[derive(Clone, Debug)]
pub enum About {
    /// A request for a lock, or with `takes` false a wait.
    Ask {
        /// The request.
        ask: std::sync::Arc<model::Ask>,
        /// Whether it takes the lock.
        takes: bool,
    },
    /// A request for a set of locks, by what it asks for.
    Set(Vec<std::sync::Arc<model::Ask>>),
    /// A file that is written.
    Write {
        /// Which.
        target: crate::scope::Target,
        /// What names it in the answer.
        workspace: model::Workspace,
        /// Who writes.
        agent: model::Agent,
        /// Only under this fence.
        fence: Option<model::Fence>,
    },
    /// Whether this agent may write.
    Check {
        /// What.
        target: crate::scope::Target,
        /// Who asks.
        agent: model::Agent,
        /// Only under this fence.
        fence: Option<model::Fence>,
    },
    /// Webhooks.
    Webhook {
        /// Whether the secret is told as well.
        with_secret: bool,
    },
    /// Anything else.
    Other,
}

/// The message that an answer is sent as.
pub fn answer(id: u64, answer: &model::Answer, about: &About, now: Now) -> Answer {
    let result = body(&answer.reply, &answer.standings, about, now);
    // The error itself tells of this one.
    let told = match &answer.reply {
        Reply::Failed(Fault::Lost(ended, _)) => Some(ended.id),
        _ => None,
    };
    let (ok, error) = match result {
        Ok(body) => (Some(body), None),
        Err(error) => (None, Some(error)),
    };
    Answer {
        id: Some(id),
        ok,
        error,
        lost: answer.lost.iter().filter(|ended| Some(ended.id) != told).map(loss).collect(),
        wanted: answer.wanted.iter().map(wanted).collect(),
    }
}

/// An answer that is nothing but an error.
pub fn failure(id: Option<u64>, code: Code, message: impl Into<String>) -> Answer {
    let error = WireError::new(code, message.into());
    Answer { id, ok: None, error: Some(error), lost: Vec::new(), wanted: Vec::new() }
}

fn body(reply: &Reply, standings: &Standings, about: &About, now: Now) -> Result<Body, WireError> {
    let takes = !matches!(about, About::Ask { takes: false, .. });
    Ok(match reply {
        Reply::Granted(granted) => Body::Lock(Box::new(granted_body(granted, standings, now))),
        Reply::GrantedSet(all) => Body::Locks(Box::new(granted_set_body(all, standings, about, now))),
        Reply::Refused(refused) if matches!(about, About::Set(_)) => {
            Body::Locks(Box::new(refused_set_body(refused, about, now)))
        }
        Reply::Refused(refused) if takes => Body::Lock(Box::new(refused_body(refused, about, now))),
        Reply::Refused(refused) => Body::Wait(WaitBody {
            free: false,
            code: Some(code_of(&refused.why)),
            holders: held_all(&refused.holders, now),
            cycle: cycle(&refused.why),
            advice: Some(advice(refused, about, now)),
        }),
        Reply::Free => {
            Body::Wait(WaitBody { free: true, code: None, holders: Vec::new(), cycle: Vec::new(), advice: None })
        }
        Reply::Downgraded(lock) => {
            let granted = model::Granted {
                lock: (**lock).clone(),
                already_held: true,
                resumed: None,
                upgraded: false,
                again: false,
                beside: Vec::new(),
                more: 0,
                place: None,
            };
            Body::Lock(Box::new(granted_body(&granted, standings, now)))
        }
        Reply::Released(locks) => Body::Released(held_all(locks, now)),
        Reply::Renewed(locks) => Body::Renewed(held_all(locks, now)),
        Reply::Checked(Ok(lock)) => {
            Body::Check(CheckBody { allowed: true, lock: Some(held(lock, now)), holders: Vec::new(), advice: None })
        }
        Reply::Checked(Err(holders)) => Body::Check(CheckBody {
            allowed: false,
            lock: None,
            holders: held_all(holders, now),
            advice: own_does_not_do(holders, about).or_else(|| within_family(holders, about)),
        }),
        Reply::Committed(lock, placed) => {
            let About::Write { target, workspace, .. } = about else { unreachable!("only a commit is answered so") };
            Body::Committed(CommitBody {
                workspace_id: workspace.id(),
                file_id: name_within(&target.scope, workspace),
                path: path(&target.scope),
                bytes: placed.bytes,
                again: placed.again,
                agent: lock.ask.who.agent.to_string(),
                lock_id: lock.id.to_string(),
                fence: lock.fence.0,
                os_lock: lock.os == OsLock::Held,
            })
        }
        Reply::Broken(ended) => Body::Broken(loss(ended)),
        Reply::Status { locks, waiters } => Body::Status(StatusBody {
            locks: held_ranked(locks, standings, now),
            waiters: waiters.iter().map(|queued| waiter(queued, now)).collect(),
        }),
        Reply::News { more } => Body::News(NewsBody { more_lost: *more }),
        Reply::Bound(id) => Body::Bound(id.to_string()),
        Reply::Webhook(webhook) => Body::Webhook(Box::new(webhook_body(webhook, about, now))),
        Reply::Webhooks(all) => Body::Webhooks(all.iter().map(|webhook| webhook_body(webhook, about, now)).collect()),
        Reply::WebhookRemoved(webhook) => Body::WebhookRemoved(Box::new(webhook_body(webhook, about, now))),
        Reply::Cancelled(was_waiting) => Body::Cancelled(*was_waiting),
        Reply::SessionOpen(id) => unreachable!("{id} is answered by the greeting"),
        Reply::Failed(fault) => return Err(error(fault, about, now)),
    })
}

fn webhook_body(webhook: &model::Webhook, about: &About, now: Now) -> WebhookBody {
    let is_wanted = matches!(about, About::Webhook { with_secret: true });
    webhooks::webhook(webhook, is_wanted.then(|| sign::secret_text(&webhook.secret)), now)
}

fn granted_body(granted: &model::Granted, standings: &Standings, now: Now) -> LockBody {
    let lock = &granted.lock;
    let standing = standings.get(&lock.id);
    LockBody {
        acquired: true,
        code: None,
        lock_id: Some(lock.id.to_string()),
        workspace_id: lock.ask.workspace.id(),
        file_id: file_id(&lock.ask),
        path: path(&lock.ask.target.scope),
        mode: mode(lock.ask.mode),
        agent: lock.ask.who.agent.to_string(),
        fence: Some(lock.fence.0),
        ttl_ms: Some(lock.ttl),
        expires_in_ms: left(lock.expires, now),
        already_held: granted.already_held,
        resumed: granted.resumed.is_some(),
        upgraded: granted.upgraded,
        os_lock: lock.os == OsLock::Held,
        holders: held_ranked(&granted.beside, standings, now),
        more_holders: granted.more,
        position: None,
        ticket: None,
        cycle: Vec::new(),
        advice: match (lock.ask.mode, &lock.ask.target.scope) {
            (model::Mode::Advisory, _) => Some(NO_PROTECTION.to_owned()),
            (_, Scope::Pattern(_)) => Some(NO_FLOCK.to_owned()),
            _ => taken_at_its_word(&lock.ask),
        },
        rank: standing.map(|standing| standing.rank),
        leader: standing.map(|standing| standing.leader.to_string()),
        retry_after_ms: None,
    }
}

/// Said with each advisory grant.
const NO_PROTECTION: &str = "an advisory lock keeps nobody out and protects no write";

/// Said with each grant of a pattern.
const NO_FLOCK: &str = "a pattern is no file that could be flocked: only programs that ask this daemon are kept out";

/// Said with a grant of a name that does not exist and looks as if something else was meant. It may come to exist, so
/// that it is locked all the same.
fn taken_at_its_word(ask: &model::Ask) -> Option<String> {
    if ask.target.own_id().is_some() {
        return None;
    }
    Some(match Likeness::of(&ask.target.scope)? {
        Likeness::Pattern => {
            format!("this is the name of one file, and it is not there: a pattern is glob:{}", file_id(ask))
        }
        like => {
            let (sign, hint) = (like.sign(), like.hint());
            format!("this is a name of which {sign} is a part, and nothing is there: {hint}")
        }
    })
}

/// What a name may be meant for that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// A home directory.
    Home,
    /// A URL.
    Url,
    /// A pattern.
    Pattern,
}

impl Likeness {
    /// By its signs.
    pub fn of(scope: &Scope) -> Option<Likeness> {
        let has = |wanted: &[u8]| scope.components().any(|component| component == wanted);
        // The signs in brackets, [id] and {a,b}, stand in the names of many files.
        let is_like_pattern = scope.components().any(|component| component.contains(&b'*'));
        let known = [(has(b"~"), Likeness::Home), (has(b"file:"), Likeness::Url), (is_like_pattern, Likeness::Pattern)];
        known.into_iter().find_map(|(is_it, like)| is_it.then_some(like))
    }

    /// The part of the name that makes it so.
    pub fn sign(self) -> &'static str {
        match self {
            Likeness::Home => "~",
            Likeness::Url => "file:",
            Likeness::Pattern => "*",
        }
    }

    /// What to do if it was meant; a pattern can be locked, and only a file be written.
    pub fn hint(self) -> &'static str {
        match self {
            Likeness::Home => "write the home directory out",
            Likeness::Url => "give a path, no URL",
            Likeness::Pattern => "name the one file that is meant",
        }
    }
}

fn refused_body(refused: &Refused, about: &About, now: Now) -> LockBody {
    let kept = refused.kept.as_deref();
    let ask = match (kept, about) {
        (Some(lock), _) => &lock.ask,
        (None, About::Ask { ask, .. }) => ask,
        (None, About::Set(_) | About::Write { .. } | About::Check { .. } | About::Webhook { .. } | About::Other) => {
            unreachable!("only requests for locks are refused")
        }
    };
    LockBody {
        acquired: false,
        code: Some(code_of(&refused.why)),
        lock_id: kept.map(|lock| lock.id.to_string()),
        workspace_id: ask.workspace.id(),
        file_id: file_id(ask),
        path: path(&ask.target.scope),
        mode: mode(ask.mode),
        agent: ask.who.agent.to_string(),
        fence: kept.map(|lock| lock.fence.0),
        ttl_ms: kept.map(|lock| lock.ttl),
        expires_in_ms: kept.and_then(|lock| left(lock.expires, now)),
        already_held: false,
        resumed: false,
        upgraded: false,
        os_lock: kept.is_some_and(|lock| lock.os == OsLock::Held),
        holders: in_the_way(&refused.holders, refused.foreigner.as_ref(), ask, now),
        more_holders: refused.more,
        position: Some(refused.position),
        ticket: refused.ticket.map(|ticket| ticket.id.to_string()),
        cycle: cycle(&refused.why),
        advice: Some(advice(refused, about, now)),
        rank: None,
        leader: None,
        retry_after_ms: refused.retry_after,
    }
}

fn granted_set_body(all: &[model::Granted], standings: &Standings, about: &About, now: Now) -> LocksBody {
    let locks = all.iter().map(|granted| granted_body(granted, standings, now)).collect();
    LocksBody { acquired: true, locks, ..set_body(about) }
}

fn refused_set_body(refused: &Refused, about: &About, now: Now) -> LocksBody {
    let About::Set(asks) = about else { unreachable!("only a request for a set is answered so") };
    LocksBody {
        code: Some(code_of(&refused.why)),
        holders: in_the_way(&refused.holders, refused.foreigner.as_ref(), &asks[0], now),
        more_holders: refused.more,
        position: Some(refused.position),
        ticket: refused.ticket.map(|ticket| ticket.id.to_string()),
        cycle: cycle(&refused.why),
        advice: Some(advice_about_set(refused, about, now)),
        retry_after_ms: refused.retry_after,
        ..set_body(about)
    }
}

fn set_body(about: &About) -> LocksBody {
    let About::Set(asks) = about else { unreachable!("only a request for a set is answered so") };
    LocksBody {
        acquired: false,
        code: None,
        locks: Vec::new(),
        workspace_id: asks[0].workspace.id(),
        file_ids: asks.iter().map(|ask| file_id(ask)).collect(),
        mode: mode(asks[0].mode),
        agent: asks[0].who.agent.to_string(),
        holders: Vec::new(),
        more_holders: 0,
        position: None,
        ticket: None,
        cycle: Vec::new(),
        advice: None,
        retry_after_ms: None,
    }
}

fn code_of(why: &RefusedFor) -> Code {
    match why {
        RefusedFor::Held | RefusedFor::OwnLock => Code::Held,
        RefusedFor::Timeout => Code::Timeout,
        RefusedFor::Deadlock(_) => Code::Deadlock,
    }
}

// ── Sentences ───────────────────────────────────────────────────────────────────────────────────────────────────────

fn cycle(why: &RefusedFor) -> Vec<String> {
    let RefusedFor::Deadlock(links) = why else { return Vec::new() };
    let step = |link: &model::Link| {
        let held = if link.held { "holds it" } else { "is queued for it before" };
        format!("{} wants {}: {} {held}", link.waits, link.wants, link.behind)
    };
    links.iter().map(step).collect()
}

/// What to do about a refusal, in one sentence or two.
fn advice(refused: &Refused, about: &About, now: Now) -> String {
    let what = what_to_do(refused, about, now);
    match refused.retry_after {
        Some(ms) => format!("{what}; many want it: try again in about {}", duration(ms)),
        None => what,
    }
}

/// Where a set was to make a shared lock exclusive, it is said what has become of that: no lock is named in the answer.
fn advice_about_set(refused: &Refused, about: &About, now: Now) -> String {
    let text = advice(refused, about, now);
    match &refused.kept {
        Some(kept) if !matches!(refused.why, RefusedFor::Deadlock(_)) => {
            format!("{text}; you share {} as before", path(&kept.ask.target.scope))
        }
        _ => text,
    }
}

fn what_to_do(refused: &Refused, about: &About, now: Now) -> String {
    match &refused.why {
        RefusedFor::OwnLock => match refused.holders.first() {
            // What a session shares, it alone can upgrade: it knows how, and others cannot.
            Some(own) if own.ask.mode == model::Mode::Shared && !matches!(own.custody, Custody::Session(_)) => {
                let Lock { id, ask, .. } = own;
                let name = path(&ask.target.scope);
                format!("you share {name} ({id}) yourself; make it yours alone with `flockd upgrade --id {id}` first")
            }
            Some(own) => {
                format!(
                    "you hold {} ({}) yourself; release that first, then ask again",
                    path(&own.ask.target.scope),
                    own.id
                )
            }
            None => "release your own lock first, then ask again".to_owned(),
        },
        RefusedFor::Deadlock(_) => match refused.kept.as_deref() {
            Some(Lock { id, .. }) => {
                let then = "so that the others can go on, then ask for it exclusively";
                format!("you share it as before ({id}); give that up, {then}")
            }
            None => "release what you hold, so that the others can go on, then ask again".to_owned(),
        },
        // Whoever asked before waits for the shared lock as well, or will: to wait may be a deadlock.
        RefusedFor::Held | RefusedFor::Timeout if refused.kept.is_some() && refused.position > 1 => {
            let id = refused.kept.as_ref().expect("it was found so").id;
            let then = "so that whoever asked before you can go on, then ask for it exclusively";
            format!("do other work first, or give up what you share ({id}), {then}")
        }
        RefusedFor::Held | RefusedFor::Timeout if refused.foreigner.is_some() => {
            let first = wait_longer(refused, now);
            format!("a program has flocked the file without asking this daemon; {first}, or see what it does")
        }
        RefusedFor::Held | RefusedFor::Timeout => match refused.holders.first() {
            Some(first) => {
                let when = match (left(first.expires, now), first.custody) {
                    (Some(ms), _) => format!("its lease has {} left", duration(ms)),
                    (None, Custody::Process(_)) => "it is kept while its command runs".to_owned(),
                    (None, _) => "it is kept while its session lives".to_owned(),
                };
                let (agent, both) = (&first.ask.who.agent, in_common(first, about));
                let asker = refused.kept.as_ref().map(|kept| &kept.ask.who.agent).or_else(|| asker(about));
                if asker.is_some_and(|asker| asker.is_above(agent)) {
                    return format!("{}, or wait longer; {when}{both}", sub_agents_hold(first, 0));
                }
                if asker.is_some_and(|asker| passes_soon(&refused.holders, asker)) {
                    return format!("{agent} is putting a file in place there, which is over in a moment: ask again");
                }
                let is_lent = refused.holders.iter().any(|holder| agent.is_above(&holder.ask.who.agent));
                let whole = if is_lent { " and its sub-agents what they hold there" } else { "" };
                let what = wait_longer(refused, now);
                format!("{what}, do other work first, or ask {agent} to release {}{whole}; {when}{both}", first.id)
            }
            None => format!("others asked before you; {} or do other work first", wait_longer(refused, now)),
        },
    }
}

/// Whether a sub-agent is kept out by its parents' locks alone, which let it in as soon as a write under them is over.
fn passes_soon(holders: &[Lock], asker: &model::Agent) -> bool {
    holders.iter().all(|holder| holder.in_flight.is_some() && holder.ask.who.agent.is_above(asker))
}

/// What is to be done first about something that is held.
fn wait_longer(refused: &Refused, now: Now) -> String {
    let Some(ticket) = &refused.ticket else { return "wait longer".to_owned() };
    let left = duration(ticket.until.left(now.mono));
    format!("your place {} in the queue is kept for {left}: ask again", refused.position)
}

fn asker(about: &About) -> Option<&model::Agent> {
    match about {
        About::Ask { ask, .. } => Some(&ask.who.agent),
        About::Set(asks) => asks.first().map(|ask| &ask.who.agent),
        About::Write { agent, .. } | About::Check { agent, .. } => Some(agent),
        About::Webhook { .. } | About::Other => None,
    }
}

/// Names a path that a pattern has in common with what is in its way: else nobody would see why.
fn in_common(first: &Lock, about: &About) -> String {
    let asks = match about {
        About::Ask { ask, .. } => std::slice::from_ref(ask),
        About::Set(asks) => asks,
        About::Write { .. } | About::Check { .. } | About::Webhook { .. } | About::Other => &[],
    };
    let held = &first.ask.target.scope;
    let others = asks.iter().filter(|ask| ask.target.scope != *held);
    let both = others.filter_map(|ask| Some((held.example(&ask.target.scope)?, ask))).next();
    both.map_or_else(String::new, |(path, ask)| {
        format!("; both match {}", name_within(&Scope::File(path.into()), &ask.workspace))
    })
}

/// What is said of a webhook that is not there.
pub fn no_webhook(id: &str) -> String {
    format!("there is no webhook {id}; `flockd webhook list` shows those there are")
}

fn error(fault: &Fault, about: &About, now: Now) -> WireError {
    let plain = WireError::new;
    match fault {
        Fault::NotFound => plain(Code::NotFound, "no such lock is held; `flockd ls` shows what is".to_owned()),
        Fault::NotHolder(holders) => {
            WireError { holders: held_all(holders, now), ..plain(Code::NotHolder, not_holder(holders, about)) }
        }
        Fault::Delegated(locks) => WireError {
            holders: held_all(locks, now),
            ..plain(Code::Held, format!("{}; nothing was written", sub_agents_hold(&locks[0], locks.len() - 1)))
        },
        Fault::OnlyAdvisory(own, holders) => WireError {
            holders: held_all(holders, now),
            ..plain(Code::NotHolder, format!("{}; {}", only_advisory(own), who_holds(holders)))
        },
        Fault::Lost(ended, holders) => WireError {
            holders: held_all(holders, now),
            loss: Some(Box::new(loss(ended))),
            ..plain(Code::Lost, format!("{}; {}", how_it_ended(ended), who_holds(holders)))
        },
        Fault::Invalid(text) => plain(Code::Invalid, text.clone()),
        Fault::TooMany(text) => plain(Code::TooMany, text.clone()),
        Fault::NoWebhook(id) => plain(Code::NotFound, no_webhook(&id.to_string())),
        Fault::UnknownSession => plain(
            Code::Lost,
            "this session is not known any more: it ended, or stayed silent for too long; connect anew".to_owned(),
        ),
        Fault::Unavailable(text) => plain(Code::Unavailable, text.clone()),
        Fault::Denied(text) => plain(Code::Denied, text.clone()),
        Fault::Changed(hash) => {
            let hash = hash.map_or_else(|| ABSENT.to_owned(), |hash| hex(&hash));
            let message = match &*hash {
                ABSENT => "the file does not exist any more; nothing was written".to_owned(),
                hash => {
                    format!("the file is not what it was to be: its BLAKE3 hash is {hash} now; nothing was written")
                }
            };
            WireError { hash: Some(hash), ..plain(Code::Changed, message) }
        }
        Fault::NotDurable(why) => WireError {
            in_place: true,
            ..plain(
                Code::Unavailable,
                format!(
                    "the file is in place, but a power cut may undo that: its directory could not be synced: {why}"
                ),
            )
        },
    }
}

/// What whoever asks is told about its own family among the holders, if there is anything to be said.
fn within_family(holders: &[Lock], about: &About) -> Option<String> {
    let agent = asker(about)?;
    let mut below = holders.iter().filter(|lock| agent.is_above(&lock.ask.who.agent));
    if let Some(first) = below.next() {
        return Some(sub_agents_hold(first, below.count()));
    }
    holders.iter().any(|lock| lock.ask.who.agent.is_above(agent)).then(|| PARENTS_DOES_NOT_DO.to_owned())
}

fn only_advisory(own: &Lock) -> String {
    format!("your lock {} there is advisory and protects no write; lock it exclusively to write", own.id)
}

/// Why a lock of one's own does not let one write: of several the one that comes nearest is named.
fn own_does_not_do(holders: &[Lock], about: &About) -> Option<String> {
    let (target, agent, fence) = match about {
        About::Write { target, agent, fence, .. } | About::Check { target, agent, fence } => (target, agent, *fence),
        About::Ask { .. } | About::Set(_) | About::Webhook { .. } | About::Other => return None,
    };
    let is_whole = |lock: &Lock| lock.ask.target.covers(target);
    let nearness = |lock: &&Lock| {
        let mode = lock.ask.mode;
        (mode != model::Mode::Advisory, is_whole(lock), mode == model::Mode::Exclusive)
    };
    let own = holders.iter().filter(|lock| lock.ask.who.agent == *agent).max_by_key(nearness)?;
    let Lock { id, ask, fence: model::Fence(current), .. } = own;
    let name = file_id(ask);
    Some(match (ask.mode, fence) {
        (model::Mode::Advisory, _) => only_advisory(own),
        _ if !is_whole(own) && ask.target.covers_as_directory(target) => {
            format!("you locked {name} ({id}) when it was no directory; lock it again")
        }
        _ if !is_whole(own) => format!("you hold only a part of it, {name} ({id}); lock all of it"),
        (model::Mode::Shared, _) => {
            format!("you only share it ({id}); `flockd upgrade --id {id}` makes it yours alone")
        }
        (model::Mode::Exclusive, Some(model::Fence(asked))) => {
            format!("you hold it under fence {current} ({id}), not {asked}")
        }
        (model::Mode::Exclusive, None) => {
            format!("another session of yours holds it ({id}), under fence {current}")
        }
    })
}

/// Said to a sub-agent that would write under a parent's lock.
const PARENTS_DOES_NOT_DO: &str =
    "a parent's lock lets you in and is not yours; take one of your own inside it with `flockd lock`";

/// What a parent is told that waits for its sub-agents.
fn sub_agents_hold(first: &Lock, more: usize) -> String {
    let more = if more == 0 { String::new() } else { format!(", and {more} more are in your sub-agents' hands") };
    let Lock { id, ask, .. } = first;
    format!("your sub-agent {} holds {} ({id}){more}; it must release first", ask.who.agent, file_id(ask))
}

fn not_holder(holders: &[Lock], about: &About) -> String {
    if let Some(own) = own_does_not_do(holders, about) {
        return format!("{own}; nothing was written");
    }
    let family = within_family(holders, about).map_or_else(String::new, |text| format!("; {text}"));
    format!("you do not hold it; {}{family}", who_holds(holders))
}

fn who_holds(holders: &[Lock]) -> String {
    match holders {
        [] => "nobody holds it now".to_owned(),
        [one] => format!("{} holds it {} ({})", one.ask.who.agent, one.ask.mode.as_str(), one.id),
        [one, rest @ ..] => format!("{} and {} more hold it", one.ask.who.agent, rest.len()),
    }
}

fn how_it_ended(ended: &Ended) -> String {
    let what = format!("{} on {}", ended.id, file_id(&ended.ask));
    let at = time(ended.at.wall);
    match &ended.why {
        EndReason::Released => format!("{what} was released at {at}"),
        EndReason::Expired => format!("{what} was lost: its lease ran out at {at}"),
        EndReason::SessionEnded => match ended.ask.bound {
            Some(process) => format!("{what} ended with process {} at {at}", process.pid),
            None => format!("{what} ended with its session at {at}"),
        },
        EndReason::Broken { by, reason } => format!("{what} was lost: {by} broke it at {at} ({reason})"),
        EndReason::Silent => format!("{what} was lost: its session did not return after a restart of the daemon, {at}"),
        EndReason::Rebooted => format!("{what} was lost: the machine was restarted before {at}"),
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A duration for people: `850ms`, `12s`, `9m 59s`.
pub fn duration(ms: u64) -> String {
    let rounded = if ms < 1_000 { ms } else { ms / 1_000 * 1_000 };
    humantime::format_duration(Duration::from_millis(rounded)).to_string()
}

pub(super) fn time(wall: model::Wall) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(wall.0)).to_string()
}

// ── Parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The name of a scope within its workspace: relative where it lies inside, else absolute; a subtree ends in `/`, a
/// pattern begins with `glob:`.
pub fn file_id(ask: &model::Ask) -> String {
    name_within(&ask.target.scope, &ask.workspace)
}

pub(super) fn name_within(scope: &Scope, workspace: &model::Workspace) -> String {
    let (path, slash) = match scope {
        Scope::Resource(name) => return format!("@{name}"),
        Scope::Pattern(pattern) => {
            return escape(&pattern.text_below(&workspace.root).unwrap_or_else(|| pattern.text()));
        }
        Scope::File(path) => (path, ""),
        Scope::Subtree(path) => (path, "/"),
    };
    let root = &*workspace.root;
    let below =
        path.strip_prefix(root).and_then(|rest| if root == b"/" { Some(rest) } else { rest.strip_prefix(b"/") });
    match below {
        Some(rest) if !rest.is_empty() => format!("{}{slash}", escape(rest)),
        _ if &**path == root && !slash.is_empty() => "./".to_owned(),
        _ if &**path == b"/" => "/".to_owned(),
        _ => format!("{}{slash}", escape(path)),
    }
}

/// The whole name of a scope, escaped.
pub(super) fn path(scope: &Scope) -> String {
    match scope {
        Scope::Resource(name) => format!("@{name}"),
        Scope::Pattern(pattern) => escape(&pattern.text()),
        Scope::File(path) => escape(path),
        Scope::Subtree(path) if &**path == b"/" => "/".to_owned(),
        Scope::Subtree(path) => format!("{}/", escape(path)),
    }
}

fn mode(mode: model::Mode) -> Mode {
    match mode {
        model::Mode::Shared => Mode::Shared,
        model::Mode::Exclusive => Mode::Exclusive,
        model::Mode::Advisory => Mode::Advisory,
    }
}

fn left(expires: Option<Moment>, now: Now) -> Option<u64> {
    expires.map(|end| end.left(now.mono))
}

fn held_all(locks: &[Lock], now: Now) -> Vec<Held> {
    locks.iter().map(|lock| held(lock, now)).collect()
}

/// The same with where the advisory ones stand.
fn held_ranked(locks: &[Lock], standings: &Standings, now: Now) -> Vec<Held> {
    let ranked = |lock: &Lock| {
        let standing = standings.get(&lock.id);
        let (rank, leader) = (standing.map(|it| it.rank), standing.map(|it| it.leader.to_string()));
        Held { rank, leader, ..held(lock, now) }
    };
    locks.iter().map(ranked).collect()
}

/// Who is in the way of a request: holders of ours, and a foreign program.
fn in_the_way(holders: &[Lock], foreigner: Option<&Foreigner>, ask: &model::Ask, now: Now) -> Vec<Held> {
    let mut all = held_all(holders, now);
    all.extend(foreigner.map(|by| Held {
        agent: name_of(by),
        mode: mode(by.mode),
        lock_id: "flock".to_owned(),
        workspace_id: ask.workspace.id(),
        file_id: file_id(ask),
        path: path(&ask.target.scope),
        fence: 0,
        since: time(by.seen),
        ttl_ms: 0,
        expires_in_ms: None,
        note: None,
        pid: by.pid,
        bound_pid: None,
        kept_by: KeptBy::Flock,
        goes_back: None,
        os_lock: true,
        contested_by: None,
        rank: None,
        leader: None,
    }));
    all
}

/// A foreign program by its command, as far as it is known.
fn name_of(by: &Foreigner) -> String {
    match (&by.command, by.pid) {
        (Some(command), _) => format!("({command})"),
        (None, Some(pid)) => format!("(process {pid})"),
        (None, None) => "(unknown program)".to_owned(),
    }
}

fn held(lock: &Lock, now: Now) -> Held {
    Held {
        agent: lock.ask.who.agent.to_string(),
        mode: mode(lock.ask.mode),
        lock_id: lock.id.to_string(),
        workspace_id: lock.ask.workspace.id(),
        file_id: file_id(&lock.ask),
        path: path(&lock.ask.target.scope),
        fence: lock.fence.0,
        since: time(lock.since.wall),
        ttl_ms: lock.ttl,
        expires_in_ms: left(lock.expires, now),
        note: lock.ask.note.as_deref().map(str::to_owned),
        // Whoever asked for it may be gone; what keeps it is not.
        pid: match lock.custody {
            Custody::Process(keeper) => Some(keeper.pid),
            Custody::Detached | Custody::Session(_) => lock.ask.process.map(|process| process.pid),
        },
        bound_pid: lock.ask.bound.map(|process| process.pid),
        kept_by: match lock.custody {
            Custody::Detached => KeptBy::Lease,
            Custody::Session(_) => KeptBy::Session,
            Custody::Process(_) => KeptBy::Process,
        },
        goes_back: (lock.lent.as_ref()).map(|loan| GoesBack { note: loan.note.as_deref().map(str::to_owned) }),
        os_lock: lock.os == OsLock::Held,
        contested_by: match &lock.os {
            OsLock::Contested { by, .. } => Some(name_of(by)),
            OsLock::None | OsLock::Asked | OsLock::Held => None,
        },
        rank: None,
        leader: None,
    }
}

fn waiter(queued: &Queued, now: Now) -> WaiterBody {
    let waiter = &queued.waiter;
    WaiterBody {
        agent: waiter.ask.who.agent.to_string(),
        mode: mode(waiter.ask.mode),
        workspace_id: waiter.ask.workspace.id(),
        file_id: file_id(&waiter.ask),
        path: path(&waiter.ask.target.scope),
        since: time(waiter.since.wall),
        wait_left_ms: left(waiter.deadline, now),
        position: queued.position,
        holders: in_the_way(&queued.behind, waiter.foreigner(), &waiter.ask, now),
        note: waiter.ask.note.as_deref().map(str::to_owned),
        pid: waiter.ask.process.map(|process| process.pid),
        absent: waiter.caller.is_none(),
        ticket: waiter.ticket.map(|ticket| ticket.to_string()),
        kept_ms: left(waiter.kept_until(), now),
        offered: waiter.offered_until.is_some(),
        set: waiter.ask.set.map(|member| SetBody { number: member.index + 1, of: member.of }),
    }
}

fn loss(ended: &Ended) -> Loss {
    let (by, note) = match &ended.why {
        EndReason::Broken { by, reason } => (Some(by.to_string()), Some(reason.to_string())),
        _ => (None, None),
    };
    Loss {
        lock_id: ended.id.to_string(),
        workspace_id: ended.ask.workspace.id(),
        file_id: file_id(&ended.ask),
        path: path(&ended.ask.target.scope),
        agent: ended.ask.who.agent.to_string(),
        fence: ended.fence.0,
        reason: reason(&ended.why).to_owned(),
        by,
        note,
        at: time(ended.at.wall),
    }
}

fn reason(why: &EndReason) -> &'static str {
    match why {
        EndReason::Released => "released",
        EndReason::Expired => "expired",
        EndReason::SessionEnded => "session_ended",
        EndReason::Broken { .. } => "broken",
        EndReason::Silent => "silent",
        EndReason::Rebooted => "rebooted",
    }
}

/// What a subscriber is told, as a message.
pub fn told(told: &Told) -> Line {
    match told {
        Told::Event(told) => Line::Event(Box::new(event(told))),
        &Told::Gap(Gap { from, to, events }) => Line::Gap(GapBody { from, to, events }),
    }
}

/// An event as a message.
pub fn event(event: &model::Event) -> EventBody {
    let name = event.kind.name();
    let (mut reason_word, mut waiter_name, mut by, mut note) = (None, None, None, event.ask.note.as_deref());
    let mut former_leader = None;
    let (mut webhook_id, mut url, mut done) = (None, None, None);
    match &event.kind {
        EventKind::Acquired(Acquired::Granted) => {}
        EventKind::Acquired(how) => reason_word = Some(how.as_str()),
        EventKind::Waiting { waiter } => waiter_name = Some(waiter.to_string()),
        EventKind::Detached | EventKind::Contention(_) => {}
        EventKind::Leader { former } => former_leader = former.as_ref().map(ToString::to_string),
        EventKind::WebhookDisabled(Disabled { webhook, url: to, is_gone, why }) => {
            (webhook_id, url) = (Some(webhook.to_string()), Some(to.to_string()));
            (reason_word, note) = (Some(if *is_gone { "gone" } else { "failing" }), Some(&**why));
        }
        EventKind::Violation { how } => done = Some(how.as_str().to_owned()),
        EventKind::Released(why) => {
            reason_word = Some(reason(why));
            if let EndReason::Broken { by: who, reason } = why {
                (by, note) = (Some(who.to_string()), Some(&**reason));
            }
        }
    }
    EventBody {
        seq: event.seq.0,
        id: event.seq.id(),
        time: event.time.0,
        timestamp: time(event.time),
        event: name.to_owned(),
        kind: name.to_owned(),
        workspace_id: event.ask.workspace.id(),
        file_id: file_id(&event.ask),
        path: path(&event.ask.target.scope),
        lock_id: if event.lock == LockId::NONE { NO_LOCK.to_owned() } else { event.lock.to_string() },
        acquired_by: event.ask.who.agent.to_string(),
        mode: mode(event.ask.mode),
        fence: event.fence.0,
        reason: reason_word.map(str::to_owned),
        waiter: waiter_name,
        by,
        note: note.map(str::to_owned),
        former_leader,
        contention: contention(&event.kind),
        how: done,
        webhook_id,
        url,
    }
}

fn contention(kind: &EventKind) -> Option<ContentionBody> {
    let &EventKind::Contention(contended) = kind else { return None };
    let Contended { refused, queued, over, waiting, longest_wait, left_out } = contended;
    Some(ContentionBody { failed: refused, queued, over_ms: over, waiting, longest_wait_ms: longest_wait, left_out })
}

fn wanted(waiter: &model::Waiter) -> Wanted {
    Wanted {
        agent: waiter.ask.who.agent.to_string(),
        file_id: file_id(&waiter.ask),
        path: path(&waiter.ask.target.scope),
        mode: mode(waiter.ask.mode),
        note: waiter.ask.note.as_deref().map(str::to_owned),
    }
}
