//! Webhooks as messages, and what is posted to them.

use super::render::{event, path, time};
use super::{EventBody, GapBody};
use crate::events::{Gap, Told};
use crate::model::{EventSeq, Now, PostResult, Wall, Webhook};
use crate::planted::{Bug, planted};
use serde::{Deserialize, Serialize};

/// One webhook, in `webhook`, `webhooks` and `webhook_removed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookBody {
    /// `wh_…`
    pub webhook_id: String,
    /// Where to.
    pub url: String,
    /// Which events; empty for all.
    pub events: Vec<String>,
    /// Whole names of the scopes whose events are sent, escaped; empty for all.
    pub scopes: Vec<String>,
    /// Whether it may be in a private network.
    pub allow_private: bool,
    /// Who added it.
    pub agent: String,
    /// When, RFC 3339, UTC.
    pub created: String,
    /// The process with whose end it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_pid: Option<u32>,
    /// The number of the last event that it needs no more.
    pub seq: u64,
    /// How many posts have arrived.
    pub delivered: u64,
    /// Whether posts arrive.
    pub state: WebhookState,
    /// How often the next event was tried in vain.
    pub attempts: u32,
    /// Since when, RFC 3339, UTC; null while nothing fails.
    pub failing_since: Option<String>,
    /// What came of the last attempt in vain.
    pub last_error: Option<String>,
    /// Milliseconds until the next attempt; null if there is none to come.
    pub next_try_in_ms: Option<u64>,
    /// The secret, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Whether posts arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// They do, as far as is known.
    Active,
    /// The next one did not yet, and is tried again.
    Failing,
    /// Nothing is sent any more until somebody asks for it.
    Disabled,
}

/// The answer to `webhook_test`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostedBody {
    /// Whether it arrived.
    pub delivered: bool,
    /// Its status, if it did.
    pub status: Option<u16>,
    /// Why not, if it did not.
    pub error: Option<String>,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// A webhook as a message; the secret where it is wanted.
pub fn webhook(webhook: &Webhook, secret: Option<String>, now: Now) -> WebhookBody {
    let failing = webhook.failing.as_ref();
    WebhookBody {
        webhook_id: webhook.id.to_string(),
        url: webhook.url.to_string(),
        events: webhook.names.iter().map(|&name| name.to_owned()).collect(),
        scopes: webhook.scopes.iter().map(path).collect(),
        allow_private: webhook.allow_private,
        agent: webhook.agent.to_string(),
        created: time(webhook.created),
        until_pid: webhook.until.map(|process| process.pid),
        seq: webhook.passed.0,
        delivered: webhook.delivered,
        state: match failing {
            None => WebhookState::Active,
            Some(_) if webhook.is_disabled() => WebhookState::Disabled,
            Some(_) => WebhookState::Failing,
        },
        attempts: failing.map_or(0, |failing| failing.attempts),
        failing_since: failing.map(|failing| time(failing.since)),
        last_error: failing.map(|failing| failing.why.to_string()),
        next_try_in_ms: failing.and_then(|failing| failing.again).map(|again| again.left(now.mono)),
        secret,
    }
}

/// What came of a test.
pub fn posted(result: &PostResult, took: u64) -> PostedBody {
    let (status, error) = match result {
        PostResult::Delivered { status } => (Some(*status), None),
        PostResult::Failed { why, .. } => (None, Some(why.to_string())),
        PostResult::Gone => (None, Some("it answered 410: it wants nothing more".to_owned())),
    };
    PostedBody { delivered: error.is_none(), status, error, took_ms: took }
}

/// A message to a webhook: its own id, the number up to which nothing is missing once it has arrived, and the JSON.
pub struct Message {
    /// `ev_…` or `gap_…`: the same at each attempt.
    pub id: String,
    /// The number of the event, or of the last one that is missing.
    pub seq: EventSeq,
    /// The body.
    pub body: Vec<u8>,
}

/// What a webhook is told. An id has one body, also after a restart.
pub fn message(told: &Told) -> Message {
    match told {
        Told::Event(told) => {
            let body: EventBody = event(told);
            Message { id: body.id.clone(), seq: told.seq, body: json(&body) }
        }
        // Not how many events are missing: a daemon that has just started does not know that any more.
        &Told::Gap(Gap { from, to, events }) => {
            #[derive(Serialize)]
            struct Body {
                id: String,
                #[serde(rename = "type")]
                kind: &'static str,
                event: &'static str,
                #[serde(flatten)]
                gap: GapBody,
            }
            let id = format!(
                "gap_{}_{}",
                EventSeq(from).id().trim_start_matches("ev_"),
                EventSeq(to).id().trim_start_matches("ev_")
            );
            let gap = GapBody { from, to, events: events.filter(|_| planted(Bug::GapCounted)) };
            let body = json(&Body { id: id.clone(), kind: GAP, event: GAP, gap });
            Message { id, seq: EventSeq(to), body }
        }
    }
}

/// The name under which a webhook is told of events that are missing.
const GAP: &str = "events.gap";
/// The name of what is sent to try a webhook.
const TEST: &str = "webhook.test";

/// What is sent to try a webhook; `id` is its own.
pub fn test_message(webhook: &Webhook, id: &str, now: Wall) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        id: &'a str,
        #[serde(rename = "type")]
        kind: &'static str,
        event: &'static str,
        timestamp: String,
        webhook_id: String,
        workspace_id: Option<String>,
        file_id: Option<String>,
        lock_id: Option<String>,
        acquired_by: Option<String>,
    }
    json(&Body {
        id,
        kind: TEST,
        event: TEST,
        timestamp: time(now),
        webhook_id: webhook.id.to_string(),
        workspace_id: None,
        file_id: None,
        lock_id: None,
        acquired_by: None,
    })
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("messages have string keys")
}
