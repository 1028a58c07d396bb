//! The rules as simply as they can be said, and what commands are about.

use super::*;
use flockd::pattern::Overlap;
use std::cmp::Reverse;

fn is_below(path: &[u8], root: &[u8]) -> bool {
    root == b"/" || path == root || (path.starts_with(root) && path[root.len()] == b'/')
}

/// Whether two targets have a file in common, or one is rooted at or below the other: whoever has locked a name as a
/// file may make a directory of it. No directory with two names is in any pattern here, so names tell all of those.
pub(super) fn overlap(a: &Target, b: &Target) -> bool {
    let inside = |root: &Target, other: &Target| {
        let (Scope::Subtree(path) | Scope::File(path), Some(below)) = (&root.scope, other.scope.path()) else {
            return false;
        };
        is_below(below, path) || root.own_id().is_some_and(|id| other.ids.contains(&id))
    };
    let matched = |pattern: &Target, other: &Target| {
        let Scope::Pattern(pattern) = &pattern.scope else { return false };
        let Some(spot) = other.scope.path().and_then(|path| pattern.spot_of(path)) else { return false };
        match &other.scope {
            Scope::File(_) => pattern.matches(spot),
            Scope::Subtree(_) => pattern.reaches_into(spot),
            Scope::Pattern(other) => pattern.overlap(spot, other) != Overlap::No,
            Scope::Resource(_) => false,
        }
    };
    let same = a.scope == b.scope || (a.own_id().is_some() && a.own_id() == b.own_id());
    same || inside(a, b) || inside(b, a) || matched(a, b) || matched(b, a)
}

pub(super) fn is_named(a: &Scope, b: &Scope) -> bool {
    let covers = |tree: &Scope, other: &Scope| match (tree, other.path()) {
        (Scope::Subtree(root), Some(path)) => is_below(path, root),
        (Scope::Pattern(_), _) => tree.covers(other),
        _ => tree == other,
    };
    covers(a, b) || covers(b, a)
}

pub(super) fn same_scope(a: &Target, b: &Target) -> bool {
    a.scope == b.scope || (a.own_id().is_some() && a.own_id() == b.own_id())
}

/// Whether a place is kept for whoever asks so.
pub(super) fn is_kept_there(waiter: &Waiter, ask: &Ask) -> bool {
    waiter.is_kept_for(ask) && same_scope(&waiter.ask.target, &ask.target)
}

/// Whether a call that names `b` means what is on `a`: a name counts whether it is a file or a directory by now.
pub(super) fn is_here(a: &Target, b: &Target) -> bool {
    same_scope(a, b) || a.scope.other_kind().as_ref() == Some(&b.scope)
}

/// Whether two custodians keep each other out: all but those of one agent of which one holds no guard.
fn strangers(a: &Agent, a_guard: Option<SessionId>, b: &Agent, b_guard: Option<SessionId>) -> bool {
    a != b || (a_guard.is_some() && b_guard.is_some())
}

fn is_family(a: &Agent, b: &Agent) -> bool {
    a.is_above(b) || b.is_above(a)
}

/// Whether two locks may not be held at once. A parent's and its sub-agent's may, if the parent had it first.
pub(super) fn clash(a: &Lock, b: &Lock) -> bool {
    a.ask.mode.excludes(b.ask.mode)
        && !is_family(&a.ask.who.agent, &b.ask.who.agent)
        && strangers(&a.ask.who.agent, a.keeper(), &b.ask.who.agent, b.keeper())
        && overlap(&a.ask.target, &b.ask.target)
}

/// Whether nobody writes to `target` under `lock` while `other` is held.
pub(super) fn forbids_writing(other: &Lock, lock: &Lock, target: &Target) -> bool {
    let is_childs = lock.ask.who.agent.is_above(&other.ask.who.agent) && other.ask.mode != Mode::Advisory;
    clash(other, lock) || (is_childs && overlap(&other.ask.target, target))
}

/// Whether a parent's lock came to be while its sub-agent held this one, which keeps the parent out.
pub(super) fn is_over_child(parents: &Lock, childs: &Lock) -> bool {
    parents.ask.who.agent.is_above(&childs.ask.who.agent)
        && parents.fence > childs.fence
        && parents.ask.mode.excludes(childs.ask.mode)
        && overlap(&parents.ask.target, &childs.ask.target)
}

/// Whether a request for what `lock` is may go before others in line, since it is inside what a parent holds.
pub(super) fn is_inside(lock: &Lock, parents: &Lock) -> bool {
    parents.ask.who.agent.is_above(&lock.ask.who.agent)
        && parents.ask.mode.answers(lock.ask.mode)
        && overlap(&parents.ask.target, &lock.ask.target)
}

pub(super) fn blocks(lock: &Lock, ask: &Ask) -> bool {
    ask.upgrades != Some(lock.id)
        && !lock.ask.who.agent.is_above(&ask.who.agent)
        && lock.ask.mode.excludes(ask.mode)
        && strangers(&lock.ask.who.agent, lock.keeper(), &ask.who.agent, ask.who.session)
        && overlap(&lock.ask.target, &ask.target)
}

/// Where a request stands: inside what a parent holds first, then upgrades, then by arrival.
pub(super) fn place(waiter: &Waiter) -> (Reverse<u8>, bool, WaiterId) {
    (Reverse(waiter.level), waiter.ask.upgrades.is_none(), waiter.id)
}

/// A waiting request in the name of whoever will hold the lock: an upgrade leaves that as it is.
pub(super) fn as_holder(waiter: &Waiter, locks: &[Lock]) -> Waiter {
    let Some(held) = locks.iter().find(|lock| waiter.ask.upgrades == Some(lock.id)) else { return waiter.clone() };
    let who = Who { session: held.keeper(), ..waiter.ask.who.clone() };
    Waiter { ask: Arc::new(Ask { who, ..(*waiter.ask).clone() }), ..waiter.clone() }
}

pub(super) fn comes_before(first: &Waiter, ask: &Ask) -> bool {
    let is_own_kept = first.is_kept() && first.ask.who.session.is_some() && first.ask.who == ask.who;
    first.takes
        && !is_own_kept
        && first.ask.mode.excludes(ask.mode)
        && strangers(&first.ask.who.agent, first.ask.who.session, &ask.who.agent, ask.who.session)
        && overlap(&first.ask.target, &ask.target)
}

/// A weaker lock of its own on the same scope: it is not strengthened while it is held.
pub(super) fn is_own_weaker(lock: &Lock, ask: &Ask) -> bool {
    lock.ask.who.agent == ask.who.agent
        && ask.upgrades.is_none()
        && lock.ask.mode.is_weaker_than(ask.mode)
        && same_scope(&lock.ask.target, &ask.target)
        && !strangers(&lock.ask.who.agent, lock.keeper(), &ask.who.agent, ask.who.session)
}

/// Whether a grant is told only when it is synced.
pub(super) fn outlives_power_cut(lock: &Lock) -> bool {
    lock.ttl > 0 && lock.ask.mode != Mode::Advisory
}

pub(super) fn keeper_of(lock: &Lock) -> Keeper {
    match lock.custody {
        Custody::Detached => Keeper::Nobody,
        Custody::Session(session) => Keeper::Session(session),
        Custody::Process(process) => Keeper::Process(process),
    }
}

pub(super) fn lease_end(claim: &Claim, ttl: u64, now: Moment) -> Moment {
    claim.lock.hold_until.map_or(now.after(ttl), |most| most.min(now.after(ttl)))
}

/// What a request for locks asks for: one thing, or those of a set.
pub(super) fn asks_of(command: &Command) -> &[Arc<Ask>] {
    match command {
        Command::Lock { ask, .. } => std::slice::from_ref(ask),
        Command::LockSet { asks, .. } => asks,
        _ => &[],
    }
}

/// The first row of the request that a row is part of.
pub(super) fn first_row(row: &Waiter) -> WaiterId {
    WaiterId(row.id.0 - row.ask.set.map_or(0, |member| u64::from(member.index)))
}

/// Who asks, and about what; none for everything.
pub(super) fn who_and_targets(command: &Command) -> Option<(&Who, Option<Vec<&Target>>)> {
    match command {
        Command::LockSet { asks, .. } => Some((&asks[0].who, Some(asks.iter().map(|ask| &ask.target).collect()))),
        other => who_and_target(other).map(|(who, target)| (who, target.map(|target| vec![target]))),
    }
}

fn who_and_target(command: &Command) -> Option<(&Who, Option<&Target>)> {
    match command {
        Command::Lock { ask, .. } | Command::WaitFree { ask, .. } => Some((&ask.who, Some(&ask.target))),
        Command::Check { who, target, .. } | Command::Commit { who, target, .. } => Some((who, Some(target))),
        Command::Status { who, target, .. } => Some((who.as_ref()?, target.as_ref())),
        Command::News { who, .. } => Some((who, None)),
        Command::Unlock { who, which, .. }
        | Command::Renew { who, which, .. }
        | Command::Upgrade { who, which, .. }
        | Command::Downgrade { who, which, .. } => match which {
            Which::All => Some((who, None)),
            Which::Scope(target) => Some((who, Some(target))),
            Which::Id(_) => None,
        },
        _ => None,
    }
}

/// Who asks, however it is said what for.
pub(super) fn who_asks(command: &Command) -> Option<&Who> {
    match command {
        Command::Unlock { who, .. }
        | Command::Renew { who, .. }
        | Command::Upgrade { who, .. }
        | Command::Downgrade { who, .. } => Some(who),
        other => who_and_targets(other).map(|(who, _)| who),
    }
}

/// The name that a client gave its request.
pub(super) fn name_of(command: &Command) -> Option<(Agent, RequestId)> {
    match command {
        Command::Lock { .. } | Command::LockSet { .. } => {
            let ask = &asks_of(command)[0];
            Some((ask.who.agent.clone(), ask.request.clone()?))
        }
        Command::Upgrade { who, request, .. } => Some((who.agent.clone(), request.clone()?)),
        _ => None,
    }
}

pub(super) fn conn_of(open: &Open) -> Option<u64> {
    caller_of(&open.command).map(|caller| caller.conn)
}

pub(super) fn caller_of(command: &Command) -> Option<Caller> {
    match command {
        Command::OpenSession { caller, .. }
        | Command::ReturnSession { caller, .. }
        | Command::Lock { caller, .. }
        | Command::LockSet { caller, .. }
        | Command::WaitFree { caller, .. }
        | Command::Renew { caller, .. }
        | Command::Upgrade { caller, .. }
        | Command::Downgrade { caller, .. }
        | Command::Check { caller, .. }
        | Command::Commit { caller, .. }
        | Command::Break { caller, .. }
        | Command::Status { caller, .. }
        | Command::News { caller, .. }
        | Command::Bind { caller, .. }
        | Command::Cancel { caller, .. }
        | Command::GiveUp { caller, .. } => Some(*caller),
        Command::Unlock { caller, .. } => *caller,
        Command::EndSession(_)
        | Command::FinishUnlock(_)
        | Command::ProcessGone(_)
        | Command::CallerGone { .. }
        | Command::TakeBack { .. }
        | Command::LossesTold(_)
        | Command::Os { .. }
        | Command::CommitDone { .. }
        | Command::Webhook(_)
        | Command::Contention { .. }
        | Command::Wrote { .. }
        | Command::Tick => None,
    }
}

/// The rows of a journal that are meant.
pub(super) fn rows<T>(loaded: &Loaded, pick: impl Fn(&Record) -> Option<T>) -> Vec<T> {
    loaded.records.iter().filter_map(pick).collect()
}
