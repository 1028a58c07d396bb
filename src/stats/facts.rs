//! What is to be counted of a step of the table: read off its rows before and after, its events and its refusals.
//!
//! The table itself counts nothing here. A step whose records cannot be written has not happened, and is not counted.

use crate::model::*;
use crate::planted::{Bug, planted};
use crate::table::Step;
use std::sync::Arc;

/// One thing to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It is about a scope and an agent.
    Lock(Arc<Ask>, What),
    /// An event with this name was written.
    Event(&'static str),
    /// Posts to a webhook: how many arrived, and how many did not.
    Posts(u64, u64),
}

/// What was asked for, or happened to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A lock was asked for and could be had at once.
    AskedInPeace,
    /// A lock was asked for and could not be had at once: it was refused, or had to wait.
    AskedInVain,
    /// A new lock, or a lock that is held in another way.
    Granted(Acquired),
    /// The request was refused.
    Refused(Refusal),
    /// It waited, with success or not, for so many milliseconds.
    Waited(u64),
    /// The lock ended.
    Ended(Ending),
    /// It was held for so many milliseconds.
    Held(u64),
    /// Somebody wrote around it.
    Violated,
}

/// [`RefusedFor`], as far as it is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody holds it, the agent itself included.
    Held,
    /// It waited in vain.
    Timeout,
    /// To wait would have closed a cycle.
    Deadlock,
}

/// [`EndReason`], as far as it is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its agent released it.
    Released,
    /// Its lease ran out.
    Expired,
    /// Its session or process ended, or the machine was restarted.
    SessionEnded,
    /// Its session stayed silent after a restart of the daemon.
    Silent,
    /// Somebody broke it.
    Broken,
}

impl From<&EndReason> for Ending {
    fn from(why: &EndReason) -> Ending {
        match why {
            EndReason::Released => Ending::Released,
            EndReason::Expired => Ending::Expired,
            EndReason::SessionEnded | EndReason::Rebooted => Ending::SessionEnded,
            EndReason::Silent => Ending::Silent,
            EndReason::Broken { .. } => Ending::Broken,
        }
    }
}

/// What a step at this time is counted as.
pub fn facts(now: Now, step: &Step) -> Vec<Fact> {
    // Who asks has figures of its own from here on: what becomes of the request is counted there.
    let mut facts: Vec<Fact> = step.came().map(|ask| Fact::Lock(ask.clone(), What::AskedInVain)).collect();
    for (ask, why) in step.refused() {
        let why = match why {
            RefusedFor::Held | RefusedFor::OwnLock => Refusal::Held,
            RefusedFor::Timeout => Refusal::Timeout,
            RefusedFor::Deadlock(_) => Refusal::Deadlock,
        };
        facts.push(Fact::Lock(ask.clone(), What::Refused(why)));
    }
    // Requests that have waited and are answered in this step: their grants are no new requests.
    let mut waited: Vec<Arc<Ask>> = Vec::new();
    for (after, before) in step.changes() {
        match (after, before) {
            (Record::Event(event), _) => event_facts(event, &mut waited, &mut facts),
            (Record::Lock(_, None), Some(Record::Lock(_, Some(lock)))) => {
                facts.push(Fact::Lock(lock.ask.clone(), What::Held(lock.since.mono.till(now.mono))));
            }
            (Record::Waiter(_, after), Some(Record::Waiter(_, Some(before))))
                if waits(before) && !after.as_ref().is_some_and(waits) =>
            {
                facts.push(Fact::Lock(before.ask.clone(), What::Waited(before.since.mono.till(now.mono))));
                waited.push(before.ask.clone());
            }
            (Record::Webhook(_, Some(after)), Some(Record::Webhook(_, Some(before)))) => {
                let attempts = |webhook: &Webhook| webhook.failing.as_ref().map_or(0, |failing| failing.attempts);
                let arrived = after.delivered.saturating_sub(before.delivered);
                let failed = u64::from(attempts(after).saturating_sub(attempts(before)));
                facts.extend((arrived + failed > 0).then_some(Fact::Posts(arrived, failed)));
            }
            _ => {}
        }
    }
    facts
}

/// Whether a request stands in the queue, with its client there, because it could not be had at once.
fn waits(waiter: &Waiter) -> bool {
    let is_put_off = waiter.is_counted || planted(Bug::FlockCountedAsWait);
    waiter.takes && is_put_off && !waiter.at_once && waiter.caller.is_some()
}

fn event_facts(event: &Event, waited: &mut Vec<Arc<Ask>>, facts: &mut Vec<Fact>) {
    facts.push(Fact::Event(event.kind.name()));
    let ask = &event.ask;
    match &event.kind {
        EventKind::Acquired(how) => {
            let is_same = |other: &Arc<Ask>| other.who.agent == ask.who.agent && other.target.scope == ask.target.scope;
            match waited.iter().position(is_same) {
                Some(at) => drop(waited.remove(at)),
                None if *how == Acquired::Downgraded => {}
                None => facts.push(Fact::Lock(ask.clone(), What::AskedInPeace)),
            }
            facts.push(Fact::Lock(ask.clone(), What::Granted(*how)));
        }
        EventKind::Released(why) => facts.push(Fact::Lock(ask.clone(), What::Ended(why.into()))),
        EventKind::Violation { .. } => facts.push(Fact::Lock(ask.clone(), What::Violated)),
        EventKind::Waiting { .. }
        | EventKind::Detached
        | EventKind::Leader { .. }
        | EventKind::Contention(_)
        | EventKind::WebhookDisabled(_) => {}
    }
}
