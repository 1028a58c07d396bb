//! What each webhook hears next: from the bus to the courier, one post at a time, and what came of it to the table.
//!
//! Everything here can be made anew from the table and the bus: after a restart it is. A post that failed is kept as
//! it is until it arrives, so that every attempt has the same id and body, also when the event is kept no longer.

use super::request::{Sender, Unfit};
use crate::coordinator::Coordinator;
use crate::events::{Bus, Cursor, Filter};
use crate::limits;
use crate::model::*;
use crate::os;
use crate::scope::Target;
use crate::webhook::{self, Courier, Post, Posted};
use crate::wire::render::About;
use crate::wire::webhooks::{message, test_message};
use crate::wire::{Code, Op, Request, sign};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

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

/// What a post on its way is for.
enum Purpose {
    Event(WebhookId),
    /// Somebody wants to know whether it arrives.
    Test(Caller),
}

/// The webhooks of a server.
pub(super) struct Webhooks {
    courier: Courier,
    lines: BTreeMap<WebhookId, Line>,
    on_their_way: HashMap<u64, Purpose>,
    next_token: u64,
}

impl Webhooks {
    pub(super) fn new(courier: Courier) -> Webhooks {
        Webhooks { courier, lines: BTreeMap::new(), on_their_way: HashMap::new(), next_token: 0 }
    }

    /// Sends whatever may be sent now.
    pub(super) fn go_on(&mut self, coordinator: &Coordinator, now: Now, commands: &mut Vec<Command>) {
        let (table, bus) = (coordinator.table(), coordinator.bus());
        self.lines.retain(|id, _| table.webhook_named(*id).is_some());
        for webhook in table.webhooks() {
            let Some(line) = line(&mut self.lines, webhook, bus) else { continue };
            if line.is_on_its_way || !is_ready(webhook, now.mono) {
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
                    let post = post.clone();
                    self.next_token += 1;
                    self.on_their_way.insert(self.next_token, Purpose::Event(webhook.id));
                    self.courier.send(self.next_token, post);
                }
                None if line.cursor.seq() >= webhook.passed.0 + UNWANTED_UNWRITTEN => {
                    let event = EventSeq(line.cursor.seq());
                    commands.push(Command::Webhook(WebhookCommand::Passed { id: webhook.id, event }));
                }
                None => {}
            }
        }
    }

    /// Sends a test, whatever else is wrong with the webhook.
    ///
    /// # Errors
    /// Enough are on their way.
    pub(super) fn test(&mut self, webhook: &Webhook, caller: Caller, now: Now) -> Result<(), Unfit> {
        let tests = self.on_their_way.values().filter(|purpose| matches!(purpose, Purpose::Test(_))).count();
        if tests >= limits::WEBHOOKS_MAX {
            return Err((Code::TooMany, format!("{tests} tests of webhooks are on their way; try again")));
        }
        let id = format!("test_{}", base32(os::random_u64()));
        let body = test_message(webhook, &id, now.wall);
        self.next_token += 1;
        self.on_their_way.insert(self.next_token, Purpose::Test(caller));
        self.courier.send(self.next_token, post(webhook, id, body));
        Ok(())
    }

    /// Takes up what came of posts; answers with the tests among them.
    pub(super) fn take_results(&mut self, commands: &mut Vec<Command>) -> Vec<(Caller, Posted)> {
        let mut tests = Vec::new();
        while let Some(posted) = self.courier.posted() {
            match self.on_their_way.remove(&posted.token).expect("what comes back was sent") {
                Purpose::Test(caller) => tests.push((caller, posted)),
                Purpose::Event(id) => self.arrived_or_not(id, posted.result, commands),
            }
        }
        tests
    }

    fn arrived_or_not(&mut self, id: WebhookId, result: PostResult, commands: &mut Vec<Command>) {
        // It was removed meanwhile: what came of it is nobody's business any more.
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.is_on_its_way = false;
        let (event, _) = line.next.as_ref().expect("it is kept until it has arrived");
        let event = *event;
        if matches!(result, PostResult::Delivered { .. }) {
            line.next = None;
        }
        let random = os::random_u64() as u32;
        commands.push(Command::Webhook(WebhookCommand::Posted { id, event, result, random }));
    }

    /// When something that failed is tried again.
    pub(super) fn next_deadline(&self, coordinator: &Coordinator) -> Option<Moment> {
        let is_waiting = |webhook: &&Webhook| self.lines.get(&webhook.id).is_some_and(|line| !line.is_on_its_way);
        let failing = coordinator.table().webhooks().filter(is_waiting).filter_map(|webhook| webhook.failing.as_ref());
        failing.filter_map(|failing| failing.again).min()
    }

    /// Whether nothing is to be sent, now or later.
    pub(super) fn is_idle(&self, coordinator: &Coordinator) -> bool {
        let is_idle = |webhook: &Webhook| {
            let line = self.lines.get(&webhook.id);
            webhook.is_disabled()
                || line.is_some_and(|line| line.next.is_none() && !coordinator.bus().is_behind(&line.cursor))
        };
        self.on_their_way.is_empty() && coordinator.table().webhooks().all(is_idle)
    }
}

/// The line of a webhook. None while its first event is not told yet, since the batch that it came with is not safe.
fn line<'a>(lines: &'a mut BTreeMap<WebhookId, Line>, webhook: &Webhook, bus: &Bus) -> Option<&'a mut Line> {
    match lines.entry(webhook.id) {
        Entry::Occupied(known) => Some(known.into_mut()),
        Entry::Vacant(new) => {
            let cursor = bus.cursor(Some(webhook.passed.0)).ok()?;
            let targets = webhook.scopes.iter().cloned().map(Target::named).collect();
            let filter = Filter { names: webhook.names.to_vec(), targets, ..Filter::default() };
            Some(new.insert(Line { cursor, filter, next: None, is_on_its_way: false }))
        }
    }
}

fn is_ready(webhook: &Webhook, now: Moment) -> bool {
    webhook.failing.as_ref().is_none_or(|failing| failing.again.is_some_and(|again| again <= now))
}

fn post(webhook: &Webhook, id: String, body: Vec<u8>) -> Post {
    let (url, secret) = (webhook.url.clone(), webhook.secret.clone());
    Post { url, allow_private: webhook.allow_private, secret, id, body: body.into() }
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The webhook that a request names.
pub(super) fn webhook_id(request: &Request) -> Result<WebhookId, Unfit> {
    let text = request.webhook_id.as_deref().ok_or_else(|| invalid("this needs the webhook's id: webhook_id"))?;
    text.parse().map_err(|error: Invalid| invalid(error.0))
}

/// The command that a request about webhooks stands for. `targets` are its scopes, looked up.
pub(super) fn command(
    request: &Request,
    caller: Caller,
    sender: &Sender,
    targets: Vec<Target>,
) -> Result<(Command, About), Unfit> {
    let about = About::Webhook { with_secret: request.op == Op::WebhookAdd || request.with_secret };
    let command = match request.op {
        Op::WebhookAdd => WebhookCommand::Add { caller, webhook: Box::new(asked_for(request, sender, targets)?) },
        Op::WebhookList => {
            let id = request.webhook_id.as_ref().map(|_| webhook_id(request)).transpose()?;
            WebhookCommand::List { caller, id }
        }
        Op::WebhookRemove => WebhookCommand::Remove { caller, id: webhook_id(request)? },
        Op::WebhookRetry => WebhookCommand::Retry { caller, id: webhook_id(request)? },
        op => unreachable!("{op:?} is not about webhooks"),
    };
    Ok((Command::Webhook(command), about))
}

fn asked_for(request: &Request, sender: &Sender, targets: Vec<Target>) -> Result<Webhook, Unfit> {
    let url = request.url.as_deref().ok_or_else(|| invalid("a webhook needs a url"))?;
    webhook::check_url(url, request.allow_private).map_err(|error| invalid(error.0))?;
    if targets.len() > limits::WEBHOOK_SCOPES_MAX {
        let (found, most) = (targets.len(), limits::WEBHOOK_SCOPES_MAX);
        let text = format!("{found} scopes are named; a webhook takes {most} at most: name a directory above them");
        return Err((Code::TooMany, text));
    }
    let mut names = super::request::event_names(&request.events)?;
    names.sort_unstable();
    names.dedup();
    let secret = match &request.secret {
        Some(text) => sign::parse_secret(text).map_err(|error| invalid(error.0))?,
        None => Secret::new(&os::random_u256()),
    };
    Ok(Webhook {
        id: WebhookId(os::random_u64()),
        url: url.into(),
        names: names.into(),
        scopes: targets.into_iter().map(|target| target.scope).collect(),
        secret,
        allow_private: request.allow_private,
        agent: sender.agent()?,
        created: Wall(0),
        until: sender.passed,
        passed: EventSeq(0),
        delivered: 0,
        failing: None,
    })
}

fn invalid(text: impl Into<String>) -> Unfit {
    (Code::Invalid, text.into())
}
