//! Webhooks: which there are, how far each has heard, when it is tried again, and when it is given up.
//!
//! Events go to a webhook in their order, one at a time, each until it is taken: what is behind a failed one waits. So
//! one number says what was delivered, it only grows, and it is written with every delivery. What happens between a
//! delivery and that record (a `kill -9`) leads to the same event once more, under the same id.

use super::{LockTable, Outgoing, Step};
use crate::limits;
use crate::model::*;

impl LockTable {
    pub(super) fn webhook(&mut self, now: Now, step: &mut Step, command: WebhookCommand) {
        match command {
            WebhookCommand::Add { caller, webhook } => self.add_webhook(step, caller, *webhook),
            WebhookCommand::List { caller, id } => self.list_webhooks(step, caller, id),
            WebhookCommand::Remove { caller, id } => self.remove_webhook(step, caller, id),
            WebhookCommand::TakeBack(id) => self.take_webhook_back(step, id),
            WebhookCommand::Retry { caller, id } => self.retry_webhook(now, step, caller, id),
            WebhookCommand::Posted { id, event, result, random } => self.posted(now, step, id, event, result, random),
            WebhookCommand::Passed { id, event } => self.passed(step, id, event),
        }
    }

    fn add_webhook(&mut self, step: &mut Step, caller: Caller, webhook: Webhook) {
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        if self.state.webhooks.len() >= limits::WEBHOOKS_MAX {
            let text = format!(
                "there are {} webhooks, the most that may be; `flockd webhook list` shows them",
                limits::WEBHOOKS_MAX
            );
            return self.fail(step, caller, Fault::TooMany(text));
        }
        assert!(!self.state.webhooks.contains_key(&webhook.id), "ids of 64 random bits do not meet");
        // From the next event on: what was before is not asked for.
        let passed = EventSeq(self.next_event - 1);
        let webhook = Webhook { created: step.wall, passed, delivered: 0, failing: None, ..webhook };
        self.set(step, Record::Webhook(webhook.id, Some(webhook.clone())));
        // Whoever was told that it is there relies on it, also after a power cut.
        let answer = Answer::bare(Reply::Webhook(Box::new(webhook)));
        step.replies.push(Outgoing { to: caller, answer, synced: true });
    }

    fn list_webhooks(&mut self, step: &mut Step, caller: Caller, id: Option<WebhookId>) {
        if let Some(id) = id {
            return match self.state.webhooks.get(&id).cloned() {
                Some(webhook) => self.answer(step, caller, Reply::Webhook(Box::new(webhook))),
                None => self.fail(step, caller, Fault::NoWebhook(id)),
            };
        }
        let mut webhooks: Vec<Webhook> = self.state.webhooks.values().cloned().collect();
        // Stable: of one millisecond, the ids say.
        webhooks.sort_by_key(|webhook| webhook.created.0);
        self.answer(step, caller, Reply::Webhooks(webhooks));
    }

    fn remove_webhook(&mut self, step: &mut Step, caller: Caller, id: WebhookId) {
        let Some(webhook) = self.state.webhooks.get(&id).cloned() else {
            return self.fail(step, caller, Fault::NoWebhook(id));
        };
        self.set(step, Record::Webhook(id, None));
        self.answer(step, caller, Reply::WebhookRemoved(Box::new(webhook)));
    }

    /// Nobody was told that it is there.
    fn take_webhook_back(&mut self, step: &mut Step, id: WebhookId) {
        if self.state.webhooks.contains_key(&id) {
            self.set(step, Record::Webhook(id, None));
        }
    }

    fn retry_webhook(&mut self, now: Now, step: &mut Step, caller: Caller, id: WebhookId) {
        let Some(mut webhook) = self.state.webhooks.get(&id).cloned() else {
            return self.fail(step, caller, Fault::NoWebhook(id));
        };
        if let Some(failing) = &mut webhook.failing {
            // The schedule begins anew: whoever asks has mended something.
            *failing = Failing { attempts: 0, again: Some(now.mono), ..failing.clone() };
            self.set(step, Record::Webhook(id, Some(webhook.clone())));
        }
        self.answer(step, caller, Reply::Webhook(Box::new(webhook)));
    }

    /// What came of an attempt. One that was removed meanwhile is nobody's any more.
    fn posted(&mut self, now: Now, step: &mut Step, id: WebhookId, event: EventSeq, result: PostResult, random: u32) {
        let Some(mut webhook) = self.state.webhooks.get(&id).cloned() else { return };
        match result {
            PostResult::Delivered { .. } => {
                assert!(event > webhook.passed, "{event:?} was delivered to {id} before");
                webhook.passed = event;
                webhook.delivered += 1;
                webhook.failing = None;
            }
            PostResult::Gone => {
                let why = "it answered 410: it wants nothing more".into();
                webhook.failing = Some(failed(webhook.failing, step.wall, why, None));
            }
            PostResult::Failed { why, retry_after } => {
                let before = webhook.failing.as_ref().map_or(0, |failing| failing.attempts);
                let again = pause(before, retry_after, random).map(|pause| now.mono.after(pause));
                webhook.failing = Some(failed(webhook.failing, step.wall, why, again));
            }
        }
        self.set(step, Record::Webhook(id, Some(webhook)));
    }

    fn passed(&mut self, step: &mut Step, id: WebhookId, event: EventSeq) {
        if let Some(webhook) = self.state.webhooks.get(&id).filter(|webhook| webhook.passed < event) {
            let webhook = Webhook { passed: event, ..webhook.clone() };
            self.set(step, Record::Webhook(id, Some(webhook)));
        }
    }

    /// Those that were to go with this process go.
    pub(super) fn webhooks_of_gone(&mut self, step: &mut Step, process: Process) {
        let ids = self.state.webhooks.values().filter(|webhook| webhook.until == Some(process));
        for id in ids.map(|webhook| webhook.id).collect::<Vec<_>>() {
            self.set(step, Record::Webhook(id, None));
        }
    }

    /// No process of before is left, and moments of before mean nothing: what failed is tried at once.
    pub(super) fn webhooks_after_reboot(&mut self, now: Now, step: &mut Step) {
        for old in self.state.webhooks.values().cloned().collect::<Vec<_>>() {
            let id = old.id;
            let failing =
                old.failing.clone().map(|failing| Failing { again: failing.again.map(|_| now.mono), ..failing });
            let webhook = Some(Webhook { failing, ..old }).filter(|webhook| webhook.until.is_none());
            self.set(step, Record::Webhook(id, webhook));
        }
    }
}

/// One more attempt in vain.
fn failed(before: Option<Failing>, wall: Wall, why: std::sync::Arc<str>, again: Option<Moment>) -> Failing {
    let (attempts, since) = before.map_or((0, wall), |failing| (failing.attempts, failing.since));
    Failing { attempts: attempts + 1, since, why, again }
}

/// Milliseconds until the next attempt after so many in vain before this one; none if that was the last. A receiver
/// that asks for more time gets it, within bounds; one that asks for less does not set the pace.
fn pause(before: u32, retry_after: Option<u64>, random: u32) -> Option<u64> {
    let pause = *limits::WEBHOOK_PAUSES.get(before as usize)?;
    // Up to a fifth longer, never shorter: the schedule is what a receiver can rely on.
    let jitter = (u64::from(random) * (pause / 5)) >> 32;
    let wanted = retry_after.unwrap_or(0).min(limits::WEBHOOK_RETRY_AFTER_MAX);
    Some((pause + jitter).max(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_jitter_and_end_after_five_days() {
        let mut sum = 0;
        for (before, pause_then) in limits::WEBHOOK_PAUSES.iter().enumerate() {
            let before = before as u32;
            assert_eq!(pause(before, None, 0), Some(*pause_then));
            let longest = pause(before, None, u32::MAX).unwrap();
            assert!(longest > *pause_then && longest < pause_then + pause_then / 5 + 1, "{longest}");
            sum += pause_then;
        }
        assert_eq!(pause(limits::WEBHOOK_PAUSES.len() as u32, Some(1), 0), None);
        assert!((5 * 24 * limits::HOUR..6 * 24 * limits::HOUR).contains(&sum), "{sum}");
    }

    #[test]
    fn a_receiver_gets_the_time_that_it_asks_for_and_no_more_than_a_day() {
        assert_eq!(pause(0, Some(90 * limits::SECOND), 0), Some(90 * limits::SECOND));
        assert_eq!(pause(3, Some(limits::SECOND), 0), Some(30 * limits::MINUTE), "less does not set the pace");
        assert_eq!(pause(0, Some(u64::MAX), 0), Some(limits::WEBHOOK_RETRY_AFTER_MAX));
    }
}
