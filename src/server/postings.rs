//! What each webhook hears next: from the bus, one post at a time. Without sockets and threads.
//!
//! Everything here can be made anew from the table and the bus: after a restart it is. A post that failed is kept as
//! it is until it arrives, so that every attempt has the same id and body, also when the event is kept no longer.

use crate::coordinator::Coordinator;
use crate::events::{Bus, Cursor, Filter};
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use crate::webhook::Post;
use crate::wire::webhooks::message;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// How many numbers a webhook may be behind in the journal what it has passed unwanted: nothing is written for each
/// event that it does not want, and little has to be looked at again after a restart.
const UNWANTED_UNWRITTEN: u64 = 1_000;

/// How far a webhook is.
struct Line {
    cursor: Cursor,
    filter: Filter,
    /// What is to arrive next, and the number that is passed then.
    next: Option<(EventSeq, Post)>,
    is_on_its_way: bool,
}

/// The lines of all webhooks.
#[derive(Default)]
pub struct Postings {
    lines: BTreeMap<WebhookId, Line>,
}

impl Postings {
    /// Whatever may be sent now, so many posts at most, and is on its way from then on: [`Postings::ended`] takes up
    /// what came of it. Webhooks have their turn in a circle, beginning behind the `last` that had one.
    pub fn due(
        &mut self,
        coordinator: &Coordinator,
        now: Moment,
        room: usize,
        last: Option<WebhookId>,
        commands: &mut Vec<Command>,
    ) -> Vec<(WebhookId, Post)> {
        let (table, bus) = (coordinator.table(), coordinator.bus());
        self.lines.retain(|id, _| table.webhook_named(*id).is_some());
        let mut posts = Vec::new();
        let mut webhooks: Vec<&Webhook> = table.webhooks().collect();
        let first = webhooks.partition_point(|webhook| Some(webhook.id) <= last);
        webhooks.rotate_left(first);
        for webhook in webhooks {
            if posts.len() == room {
                break;
            }
            let Some(line) = line(&mut self.lines, webhook, bus) else { continue };
            if line.is_on_its_way || !is_ready(webhook, now) {
                continue;
            }
            if line.next.is_none() {
                line.next = bus.next(&mut line.cursor, &line.filter).map(|told| {
                    let message = message(&told);
                    (message.seq, post(webhook, message.id, message.body))
                });
            }
            match &line.next {
                Some((_, post)) => {
                    line.is_on_its_way = true;
                    posts.push((webhook.id, post.clone()));
                }
                None if line.cursor.seq() >= webhook.passed.0 + UNWANTED_UNWRITTEN => {
                    let event = EventSeq(line.cursor.seq());
                    commands.push(Command::Webhook(WebhookCommand::Passed { id: webhook.id, event }));
                }
                None => {}
            }
        }
        posts
    }

    /// Takes up what came of a post that was on its way.
    pub fn ended(&mut self, id: WebhookId, result: PostResult, random: u32, commands: &mut Vec<Command>) {
        // It was removed meanwhile: what came of it is nobody's business any more.
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.is_on_its_way = false;
        let (event, _) = line.next.as_ref().expect("it is kept until it has arrived");
        let event = *event;
        if matches!(result, PostResult::Delivered { .. }) || planted(Bug::FailedPostLeftOut) {
            line.next = None;
        }
        commands.push(Command::Webhook(WebhookCommand::Posted { id, event, result, random }));
    }

    /// When something that failed is tried again.
    pub fn next_deadline(&self, coordinator: &Coordinator) -> Option<Moment> {
        let is_waiting = |webhook: &&Webhook| self.lines.get(&webhook.id).is_some_and(|line| !line.is_on_its_way);
        let failing = coordinator.table().webhooks().filter(is_waiting).filter_map(|webhook| webhook.failing.as_ref());
        failing.filter_map(|failing| failing.again).min()
    }

    /// Whether nothing is to be sent, now or later.
    pub fn is_idle(&self, coordinator: &Coordinator) -> bool {
        coordinator.table().webhooks().all(|webhook| {
            let line = self.lines.get(&webhook.id);
            webhook.is_disabled()
                || line.is_some_and(|line| line.next.is_none() && !coordinator.bus().is_behind(&line.cursor))
        })
    }
}

/// The line of a webhook. None while its first event is not told yet, since the batch that it came with is not safe.
fn line<'a>(lines: &'a mut BTreeMap<WebhookId, Line>, webhook: &Webhook, bus: &Bus) -> Option<&'a mut Line> {
    match lines.entry(webhook.id) {
        Entry::Occupied(known) => Some(known.into_mut()),
        Entry::Vacant(new) => {
            let cursor = bus.cursor(Some(webhook.passed.0)).ok()?;
            let targets = webhook.scopes.iter().cloned().map(Target::named).collect();
            let filter =
                Filter { names: webhook.names.to_vec(), targets, webhook: Some(webhook.id), ..Filter::default() };
            Some(new.insert(Line { cursor, filter, next: None, is_on_its_way: false }))
        }
    }
}

fn is_ready(webhook: &Webhook, now: Moment) -> bool {
    webhook.failing.as_ref().is_none_or(|failing| failing.again.is_some_and(|again| again <= now))
}

/// A message on its way to a webhook.
pub(super) fn post(webhook: &Webhook, id: String, body: Vec<u8>) -> Post {
    let (url, secret) = (webhook.url.clone(), webhook.secret.clone());
    Post { url, allow_private: webhook.allow_private, secret, id, body: body.into() }
}
