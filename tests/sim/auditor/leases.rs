//! Leases: whatever an agent asks about a place renews what it holds there, and nothing is held beyond its `max_hold`.

use super::rules::*;
use super::*;

impl Auditor {
    /// An agent asks about a place: what it holds there on a lease has it anew from now on.
    pub(super) fn renewed_there(&mut self, who: &Who, target: &Target, at: Moment) {
        for claim in self.claims.values_mut() {
            // How long a vague one has is not known well enough to say that it was still there to be renewed.
            let is_running = !claim.over && !claim.is_vague && claim.until.is_some_and(|until| until > at);
            if is_running && claim.keeper == Keeper::Nobody && is_of(claim, who, Some(target)) {
                let until = Some(lease_end(claim, claim.lock.ttl, at));
                self.counts.renewed += u64::from(claim.until != until);
                claim.until = until;
            }
        }
    }

    /// Whether a question of the agent was put in this turn and is not answered yet: a retry that was answered before
    /// tells of the lease as it was until then.
    pub(super) fn is_asking_further(&self, agent: &Agent) -> bool {
        let mut asked = self.open.values().filter(|open| open.turn == self.turn);
        asked.any(|open| match &open.command {
            Command::WaitFree { ask, .. } => ask.who.agent == *agent,
            Command::Check { who, .. } | Command::Status { who: Some(who), .. } => who.agent == *agent,
            _ => false,
        })
    }

    /// It is not known whether, or when, a call renewed what its agent holds.
    pub(super) fn may_have_renewed(&mut self, open: &Open) {
        let (who, target) = match &open.command {
            Command::Check { who, target, .. } | Command::Commit { who, target, .. } => (who, Some(target)),
            Command::Renew { who, .. } => (who, None),
            _ => return,
        };
        self.claims.values_mut().filter(|claim| is_of(claim, who, target)).for_each(|claim| claim.is_vague = true);
    }

    /// What the table says of a lease is what was promised.
    pub(super) fn has_its_lease(&self, held: &Lock, claim: &Claim) {
        if held.custody != Custody::Detached || claim.keeper != Keeper::Nobody || held.fence != claim.lock.fence {
            return;
        }
        assert!(held.expires >= claim.until, "{} was promised until {:?}: {held:?}", held.id, claim.until);
        let is_exact = !claim.is_vague && !self.open.values().any(|open| may_renew(open, claim));
        assert!(!is_exact || held.expires == claim.until, "{} is to end at {:?}: {held:?}", held.id, claim.until);
    }
}

fn is_of(claim: &Claim, who: &Who, target: Option<&Target>) -> bool {
    claim.lock.ask.who.agent == who.agent && target.is_none_or(|target| overlap(target, &claim.lock.ask.target))
}

/// Whether a call that is not answered yet may have changed this lease.
pub(super) fn may_renew(open: &Open, claim: &Claim) -> bool {
    match &open.command {
        Command::Lock { .. } | Command::LockSet { .. } => {
            rules::asks_of(&open.command)[0].who.agent == claim.lock.ask.who.agent
        }
        Command::Renew { who, .. }
        | Command::Check { who, .. }
        | Command::Commit { who, .. }
        | Command::Bind { who, .. }
        | Command::Upgrade { who, .. }
        | Command::Downgrade { who, .. } => who.agent == claim.lock.ask.who.agent,
        Command::ReturnSession { .. } => true,
        _ => false,
    }
}

/// A call of its agent at that moment has renewed this lock, if it is on its lease at all.
pub(super) fn was_renewed(lock: &Lock, at: Moment) {
    if lock.custody == Custody::Detached {
        let end = at.after(lock.ttl);
        let end = lock.hold_until.map_or(end, |most| most.min(end));
        assert_eq!(lock.expires, Some(end), "its agent has asked about {} at {}: {lock:?}", lock.id, at.0);
    }
    is_within_bounds(lock);
}

/// However often it is renewed, it is held no longer than it was to be.
pub(super) fn is_within_bounds(lock: &Lock) {
    let most = lock.ask.lease.max_hold.map(|most| lock.since.mono.after(most));
    assert_eq!(lock.hold_until, most, "{} may be held for another time than was asked", lock.id);
    let is_bounded = lock.custody != Custody::Detached || most.is_none_or(|most| lock.expires <= Some(most));
    assert!(is_bounded, "{} is renewed beyond {most:?}: {lock:?}", lock.id);
}
