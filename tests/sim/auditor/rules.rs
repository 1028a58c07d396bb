//! The rules as simply as they can be said, and what commands are about.

use super::*;

fn is_below(path: &[u8], root: &[u8]) -> bool {
    root == b"/" || path == root || (path.starts_with(root) && path[root.len()] == b'/')
}

/// Whether two targets have a file in common.
pub(super) fn overlap(a: &Target, b: &Target) -> bool {
    let inside = |tree: &Target, other: &Target| {
        let (Scope::Subtree(root), Some(path)) = (&tree.scope, other.scope.path()) else { return false };
        is_below(path, root) || tree.own_id().is_some_and(|id| other.ids.contains(&id))
    };
    let same = a.scope == b.scope || (a.own_id().is_some() && a.own_id() == b.own_id());
    same || inside(a, b) || inside(b, a)
}

pub(super) fn is_named(a: &Scope, b: &Scope) -> bool {
    let covers = |tree: &Scope, other: &Scope| match (tree, other.path()) {
        (Scope::Subtree(root), Some(path)) => is_below(path, root),
        _ => tree == other,
    };
    covers(a, b) || covers(b, a)
}

pub(super) fn same_scope(a: &Target, b: &Target) -> bool {
    a.scope == b.scope || (a.own_id().is_some() && a.own_id() == b.own_id())
}

/// Whether two custodians keep each other out: all but those of one agent of which one holds no guard.
fn strangers(a: &Agent, a_guard: Option<SessionId>, b: &Agent, b_guard: Option<SessionId>) -> bool {
    a != b || (a_guard.is_some() && b_guard.is_some())
}

pub(super) fn clash(a: &Lock, b: &Lock) -> bool {
    a.ask.mode.excludes(b.ask.mode)
        && strangers(&a.ask.who.agent, a.keeper(), &b.ask.who.agent, b.keeper())
        && overlap(&a.ask.target, &b.ask.target)
}

pub(super) fn blocks(lock: &Lock, ask: &Ask) -> bool {
    lock.ask.mode.excludes(ask.mode)
        && strangers(&lock.ask.who.agent, lock.keeper(), &ask.who.agent, ask.who.session)
        && overlap(&lock.ask.target, &ask.target)
}

pub(super) fn comes_before(first: &Waiter, ask: &Ask) -> bool {
    first.takes
        && first.ask.mode.excludes(ask.mode)
        && strangers(&first.ask.who.agent, first.ask.who.session, &ask.who.agent, ask.who.session)
        && overlap(&first.ask.target, &ask.target)
}

/// A weaker lock of its own on the same scope: it is not strengthened while it is held.
pub(super) fn is_own_weaker(lock: &Lock, ask: &Ask) -> bool {
    lock.ask.who.agent == ask.who.agent
        && lock.ask.mode < ask.mode
        && same_scope(&lock.ask.target, &ask.target)
        && !strangers(&lock.ask.who.agent, lock.keeper(), &ask.who.agent, ask.who.session)
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

pub(super) fn who_and_target(command: &Command) -> Option<(&Who, Option<&Target>)> {
    match command {
        Command::Lock { ask, .. } | Command::WaitFree { ask, .. } => Some((&ask.who, Some(&ask.target))),
        Command::Check { who, target, .. } => Some((who, Some(target))),
        Command::Status { who, target, .. } => Some((who.as_ref()?, target.as_ref())),
        Command::Unlock { who, which, .. } | Command::Renew { who, which, .. } => match which {
            Which::All => Some((who, None)),
            Which::Scope(target) => Some((who, Some(target))),
            Which::Id(_) => None,
        },
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
        | Command::WaitFree { caller, .. }
        | Command::Renew { caller, .. }
        | Command::Check { caller, .. }
        | Command::Commit { caller, .. }
        | Command::Break { caller, .. }
        | Command::Status { caller, .. }
        | Command::Bind { caller, .. }
        | Command::Cancel { caller, .. } => Some(*caller),
        Command::Unlock { caller, .. } => *caller,
        Command::EndSession(_)
        | Command::ProcessGone(_)
        | Command::CallerGone { .. }
        | Command::TakeBack { .. }
        | Command::LossesTold(_)
        | Command::Os { .. }
        | Command::CommitDone { .. }
        | Command::Tick => None,
    }
}

/// The rows of a journal that are meant.
pub(super) fn rows<T>(loaded: &Loaded, pick: impl Fn(&Record) -> Option<T>) -> Vec<T> {
    loaded.records.iter().filter_map(pick).collect()
}
