//! What a connection knows of the locks that it was granted: which are held, which were lost, and which releases may
//! not have arrived yet.

use crate::limits;
use crate::wire::{Answer, Body, Loss};
use std::collections::{BTreeMap, VecDeque};

/// Locks by their ids, from the grant until the release.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Locks that somebody here holds, with what was heard of their loss. Bounded by what the table grants.
    held: BTreeMap<String, Option<Loss>>,
    /// Releases that nobody waits for, each with the number of the first request that was sent after it: an answer to
    /// that one or a later one shows that the daemon has read the release.
    leaving: VecDeque<(u64, String)>,
    /// Losses of locks that nobody here holds: the agent's from elsewhere.
    notices: VecDeque<Loss>,
}

impl Ledger {
    /// Notes what the answer to request `id` says. Answers are read in the order in which they were sent.
    pub(super) fn note(&mut self, id: u64, answer: &Answer) {
        while self.leaving.front().is_some_and(|(sent_before, _)| *sent_before <= id) {
            self.leaving.pop_front();
        }
        self.held.extend(granted(answer).map(|(lock_id, _)| (lock_id.to_owned(), None)));
        if let Some(loss) = answer.error.as_ref().and_then(|error| error.loss.as_deref())
            && let Some(known) = self.held.get_mut(&loss.lock_id)
        {
            *known = Some(loss.clone());
        }
        for loss in &answer.lost {
            match self.held.get_mut(&loss.lock_id) {
                Some(known) => *known = Some(loss.clone()),
                // It is told again if the connection broke while it was told.
                None if self.notices.iter().any(|known| known.lock_id == loss.lock_id) => {}
                None => self.notices.push_back(loss.clone()),
            }
        }
        let over = self.notices.len().saturating_sub(limits::CLIENT_NOTICES_MAX);
        self.notices.drain(..over);
    }

    /// What was heard of the loss of a lock that is held here.
    pub(super) fn loss(&self, lock_id: &str) -> Option<&Loss> {
        self.held.get(lock_id)?.as_ref()
    }

    /// Nobody here holds this lock any more.
    pub(super) fn forget(&mut self, lock_id: &str) {
        self.held.remove(lock_id);
    }

    /// A release is sent that nobody waits for; `next_id` is the number of the next request.
    pub(super) fn leave(&mut self, lock_id: &str, next_id: u64) {
        self.held.remove(lock_id);
        self.leaving.push_back((next_id, lock_id.to_owned()));
    }

    /// The releases that may not have arrived.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &str> {
        self.leaving.iter().map(|(_, lock_id)| lock_id.as_str())
    }

    /// The losses of locks that nobody here holds, told since this was last asked.
    pub(super) fn take_notices(&mut self) -> Vec<Loss> {
        self.notices.drain(..).collect()
    }
}

/// The locks that an answer grants and that were not held before, and whether each is no new one but was shared and is
/// exclusive now.
pub(crate) fn granted(answer: &Answer) -> impl Iterator<Item = (&str, bool)> {
    let bodies = match &answer.ok {
        Some(Body::Lock(body)) => std::slice::from_ref(&**body),
        Some(Body::Locks(body)) => body.locks.as_slice(),
        _ => &[],
    };
    let new = bodies.iter().filter(|body| body.acquired && !body.already_held);
    new.filter_map(|body| Some((body.lock_id.as_deref()?, body.upgraded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u64, lost: &[&str]) -> Answer {
        let loss = |lock_id: &&str| Loss {
            lock_id: (*lock_id).to_owned(),
            workspace_id: "ws_1".to_owned(),
            file_id: "data.json".to_owned(),
            path: "/data.json".to_owned(),
            agent: "claw-1".to_owned(),
            fence: 1,
            reason: "broken".to_owned(),
            by: None,
            note: None,
            at: "1970-01-01T00:00:00Z".to_owned(),
        };
        let lost = lost.iter().map(loss).collect();
        Answer { id: Some(id), ok: Some(Body::Cancelled(false)), error: None, lost, wanted: Vec::new() }
    }

    #[test]
    fn a_release_is_sent_again_until_a_later_request_was_answered() {
        let mut ledger = Ledger::default();
        ledger.leave("lk_1", 4);
        ledger.leave("lk_2", 6);
        ledger.note(3, &answer(3, &[]));
        assert_eq!(ledger.leaving().collect::<Vec<_>>(), ["lk_1", "lk_2"]);
        ledger.note(5, &answer(5, &[]));
        assert_eq!(ledger.leaving().collect::<Vec<_>>(), ["lk_2"]);
        ledger.note(6, &answer(6, &[]));
        assert_eq!(ledger.leaving().count(), 0);
    }

    #[test]
    fn a_loss_goes_to_its_guard_and_all_others_to_the_bounded_notices() {
        let mut ledger = Ledger::default();
        ledger.held.insert("lk_1".to_owned(), None);
        ledger.note(1, &answer(1, &["lk_1", "lk_9"]));
        assert_eq!(ledger.loss("lk_1").map(|loss| loss.reason.as_str()), Some("broken"));
        assert_eq!(ledger.take_notices().len(), 1);
        assert_eq!(ledger.take_notices(), []);
        let flood: Vec<String> = (0..2 * limits::CLIENT_NOTICES_MAX).map(|number| format!("lk_x{number}")).collect();
        ledger.note(2, &answer(2, &flood.iter().map(String::as_str).collect::<Vec<_>>()));
        let kept = ledger.take_notices();
        assert_eq!(kept.len(), limits::CLIENT_NOTICES_MAX);
        assert_eq!(kept.last().map(|loss| &loss.lock_id), flood.last());
    }
}
