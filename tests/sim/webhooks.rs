//! Webhooks: posts that are taken or not, and of which the daemon hears or not, and receivers that remember what they
//! took. What is next for whom is the daemon's own code (`server/postings.rs`).

use crate::world::World;
use flockd::coordinator::Coordinator;
use flockd::events::Told;
use flockd::journal::Loaded;
use flockd::model::*;
use flockd::server::postings::Postings;
use flockd::webhook::Post;
use flockd::wire::webhooks::message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many there are.
pub const COUNT: usize = 2;
/// The connection over which webhooks are added and tried again. No client has it.
pub const ADMIN: u64 = 2;
/// What they want to hear of: all, and ends alone.
const NAMES: [&[&str]; COUNT] = [&[], &["lock.released"]];

/// A daemon's posts: what is on its way is lost with it.
#[derive(Default)]
pub struct Outbox {
    postings: Postings,
    on_their_way: BTreeMap<WebhookId, Post>,
    last: Option<WebhookId>,
}

/// What becomes of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is taken, and that is told.
    Taken,
    /// It is taken, and nothing tells.
    TakenUnheard,
    Failed,
}

/// What the receiver of one webhook remembers, over all daemons.
#[derive(Default)]
pub struct Receiver {
    /// The webhook, as it was added last; a new one each time, since no id is given twice.
    id: Option<WebhookId>,
    /// Nothing behind this number may be missing.
    from: Option<u64>,
    /// Whoever added it was told that it is there.
    is_promised: bool,
    bodies: BTreeMap<String, Arc<[u8]>>,
    newest: u64,
    gaps: Vec<(u64, u64)>,
}

impl Receiver {
    /// Takes a post; true if it had it already.
    fn takes(&mut self, post: &Post) -> bool {
        if let Some(before) = self.bodies.get(&post.id) {
            assert_eq!(*before, post.body, "{} is repeated with another body", post.id);
            return true;
        }
        let body: serde_json::Value = serde_json::from_slice(&post.body).expect("a body is JSON");
        let number = |key: &str| body[key].as_u64().unwrap_or_else(|| panic!("no {key} in {body}"));
        if body["event"] == "events.gap" {
            let (from, to) = (number("from"), number("to"));
            assert!(from <= to && to >= self.newest, "a gap {from} to {to} after {}", self.newest);
            self.gaps.push((from, to));
            self.newest = to;
        } else {
            let seq = number("seq");
            assert!(seq > self.newest, "{seq} is new after {}", self.newest);
            self.newest = seq;
        }
        self.bodies.insert(post.id.clone(), post.body.clone());
        false
    }

    /// Everything has arrived: what is kept and wanted was taken, word by word, or is in a gap.
    fn has_all(&self, names: &[&str], loaded: &Loaded) {
        let from = self.from.expect("it was added");
        let wanted = |event: &&Event| names.is_empty() || names.contains(&event.kind.name());
        for event in loaded.events.iter().filter(|event| event.seq.0 > from).filter(wanted) {
            let seq = event.seq.0;
            if self.gaps.iter().any(|(from, to)| (*from..=*to).contains(&seq)) {
                continue;
            }
            let message = message(&Told::Event(Arc::new(event.clone())));
            let body = self.bodies.get(&message.id).unwrap_or_else(|| panic!("{seq} was not posted"));
            assert_eq!(**body, *message.body, "{seq} was posted as another");
        }
    }
}

fn new(at: usize, id: WebhookId) -> Webhook {
    Webhook {
        id,
        url: "http://localhost/".into(),
        names: NAMES[at].into(),
        scopes: Box::default(),
        secret: Secret::new(b"of a receiver that does not look"),
        allow_private: false,
        agent: Agent::new("hook").expect("it is short"),
        created: Wall(0),
        until: None,
        passed: EventSeq(0),
        delivered: 0,
        failing: None,
    }
}

impl Outbox {
    /// Puts posts on their way while there is room for so many.
    fn send(&mut self, coordinator: &Coordinator, now: Moment, room: usize, commands: &mut Vec<Command>) {
        let room = room.saturating_sub(self.on_their_way.len());
        for (id, post) in self.postings.due(coordinator, now, room, self.last, commands) {
            self.last = Some(id);
            assert!(self.on_their_way.insert(id, post).is_none(), "two posts are on their way to {id:?}");
        }
    }

    fn ended(&mut self, id: WebhookId, result: PostResult, random: u32, commands: &mut Vec<Command>) {
        self.on_their_way.remove(&id).expect("it is on its way");
        self.postings.ended(id, result, random, commands);
    }
}

impl World {
    /// A webhook is added if it is not there, and a post is sent, ends, or both.
    pub fn webhook_acts(&mut self) {
        let at = self.random.below(COUNT as u64) as usize;
        let end = match self.random.below(10) {
            0..=4 => Some(End::Taken),
            5 | 6 => Some(End::TakenUnheard),
            7 => Some(End::Failed),
            _ => None,
        };
        // Less room than webhooks at times: they have their turn one after the other.
        let room = 1 + self.random.below(2) as usize;
        self.webhook_is_there(at);
        self.webhooks_send(room);
        let Some(server) = &self.server else { return };
        let on_their_way: Vec<WebhookId> = server.outbox.on_their_way.keys().copied().collect();
        if let (Some(end), false) = (end, on_their_way.is_empty()) {
            let which = self.random.below(on_their_way.len() as u64) as usize;
            self.post_ends(on_their_way[which], end);
        }
    }

    /// Adds a webhook where it is missing, which it must not be once that was promised.
    fn webhook_is_there(&mut self, at: usize) {
        let Some(server) = &self.server else { return };
        let receiver = &mut self.receivers[at];
        let table = server.coordinator.table();
        if let Some(webhook) = receiver.id.and_then(|id| table.webhook_named(id)) {
            receiver.from.get_or_insert(webhook.passed.0);
            return;
        }
        assert!(!receiver.is_promised, "webhook {at} was promised and is gone");
        let id = WebhookId(receiver.id.map_or(1 + at as u64, |id| id.0 + COUNT as u64));
        (receiver.id, receiver.from) = (Some(id), None);
        let caller = Caller { conn: ADMIN, id: id.0 };
        self.webhook_command(WebhookCommand::Add { caller, webhook: Box::new(new(at, id)) });
        let added = self.server.as_ref().and_then(|server| server.coordinator.table().webhook_named(id));
        self.receivers[at].from = added.map(|webhook| webhook.passed.0);
    }

    fn webhook_command(&mut self, command: WebhookCommand) {
        self.with_server(|server, around| {
            server.commands.push(Command::Webhook(command));
            server.settle(around);
        });
    }

    /// Takes up who was told that its webhook is there.
    pub fn webhooks_are_promised(&mut self) {
        let Some(server) = &mut self.server else { return };
        for id in std::mem::take(&mut server.promised) {
            let receiver = self.receivers.iter_mut().find(|receiver| receiver.id == Some(id));
            receiver.expect("it was just added").is_promised = true;
        }
    }

    fn webhooks_send(&mut self, room: usize) {
        self.with_server(|server, around| {
            server.outbox.send(&server.coordinator, around.now.mono, room, &mut server.commands);
            server.settle(around);
        });
    }

    /// A post that is on its way comes to an end.
    fn post_ends(&mut self, id: WebhookId, end: End) {
        let random = self.random.next() as u32;
        let server = self.server.as_ref().expect("something is on its way");
        let post = server.outbox.on_their_way[&id].clone();
        self.log.note(|| format!("  the post {} to {id}: {end:?}", post.id));
        // One whose adding was taken back is nobody's any more.
        let receiver = self.receivers.iter_mut().find(|receiver| receiver.id == Some(id));
        if let Some(receiver) = receiver.filter(|_| end != End::Failed) {
            let is_repeated = receiver.takes(&post);
            self.seen.posts_taken += 1;
            self.seen.posts_repeated += u64::from(is_repeated);
        }
        let result = match end {
            End::Taken => PostResult::Delivered { status: 204 },
            End::Failed => PostResult::Failed { why: "it answered 503".into(), retry_after: None },
            End::TakenUnheard => return,
        };
        self.seen.posts_failed += u64::from(end == End::Failed);
        self.with_server(|server, around| {
            server.outbox.ended(id, result, random, &mut server.commands);
            server.settle(around);
        });
    }

    /// All posts are taken from now on; whatever waits for its next attempt is tried at once.
    pub fn webhooks_come_to_rest(&mut self) {
        for at in 0..COUNT {
            self.webhook_is_there(at);
            let id = self.receivers[at].id.expect("it is there");
            // No id of a webhook: the answer is no promise.
            self.webhook_command(WebhookCommand::Retry { caller: Caller { conn: ADMIN, id: 0 }, id });
        }
        loop {
            self.webhooks_send(COUNT);
            let server = self.server.as_ref().expect("the disk is well");
            let Some(id) = server.outbox.on_their_way.keys().next().copied() else { return };
            self.post_ends(id, End::Taken);
        }
    }

    pub fn all_is_posted(&self, loaded: &Loaded) {
        NAMES.iter().zip(&self.receivers).for_each(|(names, receiver)| receiver.has_all(names, loaded));
    }
}
