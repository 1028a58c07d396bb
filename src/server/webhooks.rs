//! The posts of webhooks: those that are due to the courier, and what came of them to the table; requests about them.

use super::postings::{Postings, post};
use super::request::{Sender, Unfit};
use crate::coordinator::Coordinator;
use crate::limits;
use crate::model::*;
use crate::os;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use crate::webhook::{self, Courier, Posted};
use crate::wire::render::{About, no_webhook};
use crate::wire::webhooks::test_message;
use crate::wire::{Code, Op, Request, sign};
use std::collections::HashMap;

/// What a post on its way is for.
enum Purpose {
    Event(WebhookId),
    /// Somebody wants to know whether it arrives.
    Test(Caller),
}

/// The webhooks of a server.
pub(super) struct Webhooks {
    courier: Courier,
    postings: Postings,
    on_their_way: HashMap<u64, Purpose>,
    next_token: u64,
    /// Whose post was sent last: where not all can send at once, the one behind it is next.
    last: Option<WebhookId>,
}

impl Webhooks {
    pub(super) fn new(courier: Courier) -> Webhooks {
        Webhooks { courier, postings: Postings::default(), on_their_way: HashMap::new(), next_token: 0, last: None }
    }

    /// How many posts of events may be sent. That of a webhook that was removed meanwhile keeps its place until it
    /// ends: its thread cannot be called back.
    fn room(&self) -> usize {
        if planted(Bug::RemovedPostUncounted) {
            return limits::WEBHOOKS_MAX;
        }
        let events = self.on_their_way.values().filter(|purpose| matches!(purpose, Purpose::Event(_))).count();
        limits::WEBHOOKS_MAX - events
    }

    /// Sends whatever may be sent now.
    pub(super) fn go_on(&mut self, coordinator: &Coordinator, now: Now, commands: &mut Vec<Command>) {
        for (id, post) in self.postings.due(coordinator, now.mono, self.room(), self.last, commands) {
            self.next_token += 1;
            self.last = Some(id);
            self.on_their_way.insert(self.next_token, Purpose::Event(id));
            self.courier.send(self.next_token, post);
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
                Purpose::Event(id) => self.postings.ended(id, posted.result, os::random_u64() as u32, commands),
            }
        }
        tests
    }

    /// When something that failed is tried again. While there is no room, not before a post has ended, which wakes.
    pub(super) fn next_deadline(&self, coordinator: &Coordinator) -> Option<Moment> {
        if self.room() == 0 {
            return None;
        }
        self.postings.next_deadline(coordinator)
    }

    /// Whether nothing is to be sent, now or later.
    pub(super) fn is_idle(&self, coordinator: &Coordinator) -> bool {
        self.on_their_way.is_empty() && self.postings.is_idle(coordinator)
    }
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The webhook that a request names.
pub(super) fn webhook_id(request: &Request) -> Result<WebhookId, Unfit> {
    let text = request.webhook_id.as_deref().ok_or_else(|| invalid("this needs the webhook's id: webhook_id"))?;
    text.parse().map_err(|error: Invalid| match text.starts_with("wh_") {
        // Mistyped: nothing has this id.
        true => (Code::NotFound, no_webhook(text)),
        false => invalid(error.0),
    })
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
