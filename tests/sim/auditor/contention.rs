//! What is told of contention: no scope twice a window, no more than was asked for, and none that is left out.
//!
//! Counted here is only what is certain: a request that was not to wait and was refused in the turn in which it came.
//! Of what an event says it is checked that so many had been asking, those not counted that were answered
//! `unavailable`: their turn was taken back.

use super::*;

/// A request for a lock, from when it came until it was answered.
struct Asked {
    caller: Caller,
    scope: Option<Scope>,
    from: Moment,
    until: Option<Moment>,
}

/// An event about this scope must have been made between these moments.
struct Owing {
    scope: Scope,
    after: u64,
    until: Moment,
}

/// What this daemon was asked for, since the clock was set last.
#[derive(Default)]
pub(super) struct Asking {
    /// What the workspace has said; nothing is expected before.
    threshold: Option<Threshold>,
    asked: Vec<Asked>,
    refused: Vec<(Scope, Moment)>,
    owing: Vec<Owing>,
    told: BTreeMap<Scope, Moment>,
    /// The monotonic moment of each turn, by the wall clock's, which is all that an event has.
    moments: BTreeMap<u64, Moment>,
    /// What the wall clock has shown before it was set: what happened then is not judged.
    before: BTreeSet<u64>,
    /// The difference between the clocks, and when it was found.
    offset: u64,
    set_at: Moment,
    /// Events from this number on are this daemon's.
    first: u64,
}

impl Asking {
    pub(super) fn started(&mut self, loaded: &Loaded) {
        *self = Asking { first: loaded.events_from, ..Asking::default() };
    }

    /// Nothing is expected of what may be lost.
    pub(super) fn lossy(&mut self) {
        self.owing.clear();
    }

    pub(super) fn fed(&mut self, now: Now, command: &Command) {
        let offset = now.wall.0.wrapping_sub(now.mono.0);
        if self.offset != offset {
            self.owing.clear();
            self.told.clear();
            self.before.extend(std::mem::take(&mut self.moments).into_keys());
            (self.offset, self.set_at) = (offset, now.mono);
        }
        self.moments.insert(now.wall.0, now.mono);
        let (caller, scopes) = match command {
            Command::Contention { threshold, .. } => {
                self.threshold = Some(*threshold);
                return;
            }
            Command::Lock { caller, ask, .. } => (*caller, vec![named(ask)]),
            // Each scope by itself, though which of them kept a set waiting is not said.
            Command::LockSet { caller, asks, .. } => (*caller, asks.iter().map(|ask| named(ask)).collect()),
            Command::Upgrade { caller, .. } => (*caller, vec![None]),
            _ => return,
        };
        let asked = |scope| Asked { caller, scope, from: now.mono, until: None };
        self.asked.extend(scopes.into_iter().map(asked));
    }

    pub(super) fn answered(&mut self, now: Moment, to: Caller, open: &Open, reply: &Reply, is_at_once: bool) {
        // Later it may have waited for long, and its grant could not be synced.
        let is_undone = is_at_once && matches!(reply, Reply::Failed(Fault::Unavailable(_)));
        self.asked.retain(|asked| !(is_undone && asked.caller == to));
        for asked in self.asked.iter_mut().filter(|asked| asked.caller == to) {
            asked.until = Some(now);
        }
        if let (Reply::Refused(refused), Command::Lock { ask, .. }) = (reply, &open.command)
            && is_at_once
            && refused.why == RefusedFor::Held
            // Who comes back to a place was counted when it began to wait there.
            && refused.ticket.is_none()
            && self.threshold.is_some()
        {
            self.refused.push((ask.target.scope.clone(), now));
        }
    }

    /// The turn is over and written: whatever is contended now is told, or was within the window.
    pub(super) fn turned(&mut self, now: Moment) {
        let Some(Threshold { requests, within }) = self.threshold else { return };
        self.refused.retain(|(_, at)| now.0 - at.0 < within);
        let new: BTreeSet<Scope> =
            self.refused.iter().filter(|(_, at)| *at == now).map(|(scope, _)| scope.clone()).collect();
        for scope in new {
            let count = self.refused.iter().filter(|(other, _)| *other == scope).count();
            let after = (now.0 + 1).saturating_sub(within);
            // It may have been told within the window and before the clock was set: when, the event does not say.
            if count >= requests as usize && after > self.set_at.0 {
                self.owing.push(Owing { scope, after, until: now });
            }
        }
    }

    /// When an event of this daemon was made.
    fn moment(&self, event: &Event) -> Option<Moment> {
        let is_certain = event.seq.0 >= self.first && !self.before.contains(&event.time.0);
        self.moments.get(&event.time.0).copied().filter(|_| is_certain)
    }

    /// An event of this kind is told for the first time.
    pub(super) fn told(&mut self, event: &Event, contended: Contended) -> bool {
        let Some(at) = self.moment(event) else { return false };
        let scope = &event.ask.target.scope;
        if let Some(Threshold { requests, within }) = self.threshold {
            let before = self.told.insert(scope.clone(), at);
            let is_too_soon = before.is_some_and(|before| at.0 - before.0 < within);
            assert!(!is_too_soon, "{scope} is told to be contended twice a window: {before:?} and {at:?}");
            let count = contended.refused + contended.queued;
            assert!(count >= u64::from(requests), "{scope} is told to be contended by {count}");
        }
        let from = at.0.saturating_sub(contended.over);
        let may_count = |asked: &&Asked| {
            asked.scope.as_ref().is_none_or(|asked| asked == scope)
                && asked.from <= at
                && asked.until.is_none_or(|until| until.0 >= from)
        };
        let most = self.asked.iter().filter(may_count).count() as u64;
        let count = contended.refused + contended.queued;
        assert!(count <= most, "{scope} is told to be contended by {count}, and {most} asked: {contended:?} at {at:?}");
        true
    }

    /// What is owed stands in the journal.
    pub(super) fn is_written(&mut self, loaded: &Loaded) {
        for Owing { scope, after, until } in std::mem::take(&mut self.owing) {
            if self.before.iter().any(|wall| self.moments.contains_key(wall)) {
                return;
            }
            let is_it = |event: &Event| {
                matches!(event.kind, EventKind::Contention(_))
                    && event.ask.target.scope == scope
                    && self.moment(event).is_some_and(|at| (after..=until.0).contains(&at.0))
            };
            assert!(loaded.events.iter().any(is_it), "{scope} was contended at {} and nothing tells", until.0);
        }
    }
}

/// Under which name a request is counted, if that is certain: one that makes a shared lock exclusive is counted under
/// the name of that lock, whichever of the file's it was asked for by.
fn named(ask: &Ask) -> Option<Scope> {
    let may_upgrade = ask.mode == Mode::Exclusive && ask.who.session.is_none();
    Some(ask.target.scope.clone()).filter(|scope| !may_upgrade || !matches!(scope, Scope::File(_)))
}
