//! Locks as resources: the active ones, one of them, those about a file; and the word that one has changed, from
//! whatever process changed it, by the daemon's events.

use super::agents::{Agents, Caller};
use super::answer::{Fault, Rows};
use crate::client::{Connect, Heard, Subscription, unexpected};
use crate::limits;
use crate::os::paths::{self, Look};
use crate::scope::Scope;
use crate::wire::{self, Body, EventBody, Op, Request, StatusBody};
use rmcp::ErrorData;
use rmcp::model::{
    ReadResourceResult, RequestMetaObject, Resource, ResourceContents, ResourceTemplate, ResourceUpdatedNotification,
    ResourceUpdatedNotificationParam, SubscriptionFilter,
};
use rmcp::service::{Peer, RoleServer, SubscriptionContext};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::spawn_blocking;

const JSON: &str = "application/json";
/// All that is held and waited for.
const ACTIVE: &str = "locks://active";
/// One lock, by its id.
const ONE: &str = "locks://lock/";
/// What is about a file, by its path.
const FILE: &str = "locks://file/";

/// What a URI means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meant {
    Active,
    Lock(String),
    /// A path as typed.
    About(Vec<u8>),
}

impl Meant {
    fn of(uri: &str) -> Option<Meant> {
        if uri == ACTIVE {
            return Some(Meant::Active);
        }
        let whole = |text: &str| Some(text).filter(|text| !text.is_empty()).and_then(percent_decoded);
        match (uri.strip_prefix(ONE), uri.strip_prefix(FILE)) {
            (Some(id), _) => whole(id).and_then(|id| String::from_utf8(id).ok()).map(Meant::Lock),
            (_, Some(path)) => whole(path).map(Meant::About),
            (None, None) => None,
        }
    }
}

/// The bytes that a part of a URI stands for.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    Some(bytes)
}

/// What can be read beside what is listed.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new(format!("{FILE}{{+path}}"), "locks-about-file")
            .with_title("Locks about a file")
            .with_description("Who holds and who waits for a file or directory, as JSON")
            .with_mime_type(JSON),
        ResourceTemplate::new(format!("{ONE}{{id}}"), "lock")
            .with_title("A lock")
            .with_description("One lock by its id, as JSON; not found once it has ended")
            .with_mime_type(JSON),
    ]
}

/// What somebody subscribes to, as far as it can be had.
pub(super) fn accepted(requested: &SubscriptionFilter) -> SubscriptionFilter {
    let mut filter = SubscriptionFilter::new();
    filter.resources_list_changed = requested.resources_list_changed;
    filter.resource_subscriptions = requested.resource_subscriptions.as_ref().map(|uris| {
        uris.iter().filter(|uri| Meant::of(uri).is_some()).take(limits::MCP_SUBSCRIPTIONS).cloned().collect()
    });
    filter
}

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a server knows of its subscribers.
pub(super) struct Resources {
    agents: Arc<Agents>,
    /// Where events go, once somebody wants them.
    events: Mutex<Option<broadcast::Sender<Told>>>,
    subscribed: Mutex<Subscribed>,
}

/// What a client of the older era subscribed to.
#[derive(Default)]
struct Subscribed {
    interests: BTreeMap<String, Interest>,
    /// Somebody tells it.
    is_told: bool,
}

/// What every subscription is told.
#[derive(Clone)]
enum Told {
    Event(Arc<EventBody>),
    /// Anything may have changed.
    Gap,
}

impl Resources {
    pub(super) fn new(agents: Arc<Agents>) -> Resources {
        Resources { agents, events: Mutex::default(), subscribed: Mutex::default() }
    }

    /// What is locked just now, as resources, after the one that has it all.
    pub(super) async fn list(&self, meta: RequestMetaObject) -> Result<Vec<Resource>, ErrorData> {
        let body = self.status(None, meta).await?;
        let all = Resource::new(ACTIVE, "active-locks")
            .with_title("Active locks")
            .with_description("All that is held and who waits, as JSON")
            .with_mime_type(JSON);
        let each = body.locks.iter().take(limits::MCP_ROWS).map(|held| {
            Resource::new(format!("{ONE}{}", held.lock_id), held.lock_id.clone())
                .with_title(held.path.clone())
                .with_description(format!("{} lock of {}", held.mode, held.agent))
                .with_mime_type(JSON)
        });
        Ok(std::iter::once(all).chain(each).collect())
    }

    pub(super) async fn read(&self, uri: String, meta: RequestMetaObject) -> Result<ReadResourceResult, ErrorData> {
        let not_found = || ErrorData::resource_not_found(format!("there is no resource {uri}"), None);
        let meant = Meant::of(&uri).ok_or_else(not_found)?;
        let scope = match &meant {
            Meant::About(path) => Some(wire::escape(path)),
            Meant::Active | Meant::Lock(_) => None,
        };
        let body = self.status(scope, meta).await?;
        let value = match meant {
            Meant::Lock(id) => {
                let held = body.locks.iter().find(|held| held.lock_id == id).ok_or_else(not_found)?;
                serde_json::to_value(held).map_err(|error| ErrorData::internal_error(error.to_string(), None))?
            }
            Meant::Active | Meant::About(_) => Value::Object(Rows::of(&body).value()),
        };
        Ok(ReadResourceResult::new(vec![ResourceContents::text(value.to_string(), uri).with_mime_type(JSON)]))
    }

    async fn status(&self, scope: Option<String>, meta: RequestMetaObject) -> Result<StatusBody, ErrorData> {
        let agents = self.agents.clone();
        let look = move || -> Result<StatusBody, Fault> {
            agents.look_again()?;
            let caller: Arc<Caller> = agents.reader(None, &meta)?;
            let connection = caller.connection(&agents.setup)?;
            let within = Some(Duration::from_millis(limits::MCP_ANSWER_WITHIN));
            let answer = connection.call_within(Request { scope, ..Request::new(Op::Status) }, within)?;
            match answer.ok {
                Some(Body::Status(body)) => Ok(body),
                other => Err(unexpected(other.as_ref()).into()),
            }
        };
        blocking(look).await
    }
}

/// Does something that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, ErrorData> {
    match spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(fault)) => Err(fault.into()),
        Err(error) => Err(ErrorData::internal_error(error.to_string(), None)),
    }
}

impl From<Fault> for ErrorData {
    fn from(fault: Fault) -> ErrorData {
        match fault.code {
            wire::Code::Invalid => ErrorData::invalid_params(fault.message, None),
            _ => ErrorData::internal_error(fault.message, None),
        }
    }
}

// ── Being told ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Which events change a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Interest {
    All,
    Lock(String),
    About(Scope),
}

impl Interest {
    /// Works out what a URI is about. May wait for a file system.
    fn of(uri: &str, cwd: &[u8]) -> Result<Interest, Fault> {
        match Meant::of(uri) {
            None => Err(Fault::invalid(format!("there is no resource {uri}"))),
            Some(Meant::Active) => Ok(Interest::All),
            Some(Meant::Lock(id)) => Ok(Interest::Lock(id)),
            Some(Meant::About(path)) => {
                let target = paths::target(cwd, &path, Look::Thorough);
                target.map(|target| Interest::About(target.scope)).map_err(|error| Fault::invalid(error.to_string()))
            }
        }
    }

    /// Whether it may have changed: said too often it costs a look, said too seldom somebody waits in vain.
    fn is_touched_by(&self, told: &Told) -> bool {
        match (self, told) {
            (Interest::All, _) | (_, Told::Gap) => true,
            (Interest::Lock(id), Told::Event(event)) => *id == event.lock_id,
            (Interest::About(scope), Told::Event(event)) => may_meet(scope, &event.path),
        }
    }
}

/// Whether a scope and one that is named as on the wire could have a file in common, by their names.
fn may_meet(scope: &Scope, path: &str) -> bool {
    let bytes = wire::unescape(path).unwrap_or_default();
    match (scope, bytes.first()) {
        (Scope::Resource(name), Some(b'@')) => bytes[1..] == *name.as_bytes(),
        (Scope::Resource(_), _) | (_, Some(b'@')) => false,
        // Patterns are not compared here.
        (Scope::Pattern(_), _) => true,
        _ if bytes.starts_with(paths::GLOB) => true,
        (Scope::File(own) | Scope::Subtree(own), _) => {
            let trimmed = bytes.strip_suffix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(&bytes);
            // A name that is no directory may come to be one.
            let tree = |path: &[u8]| Scope::Subtree(path.into());
            tree(own).covers(&tree(trimmed)) || tree(trimmed).covers(&tree(own))
        }
    }
}

impl Resources {
    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens from now on. The first that wants it makes the subscription with the daemon, for all.
    async fn events(self: &Arc<Self>) -> Result<broadcast::Receiver<Told>, ErrorData> {
        let this = self.clone();
        let subscribe = move || {
            let mut events = Resources::lock(&this.events);
            if let Some(sender) = &*events {
                return Ok(sender.subscribe());
            }
            let setup = &this.agents.setup;
            let connect = Connect {
                home: setup.home.clone(),
                launch: setup.launch.clone(),
                agent: None,
                place: setup.place.clone(),
                session: None,
            };
            let told = Subscription::begin(connect, Request { id: Some(1), ..Request::new(Op::Subscribe) }, None)?;
            let told = told.into_channel::<Heard>()?;
            let (sender, receiver) = broadcast::channel(limits::MCP_EVENTS);
            *events = Some(sender.clone());
            let this = this.clone();
            let pass_on = move || {
                for heard in told {
                    let told = match heard {
                        Heard::Event(event) => Told::Event(Arc::from(event)),
                        Heard::Gap(_) => Told::Gap,
                    };
                    // Nobody listens just now.
                    let _ = sender.send(told);
                }
                // The daemon does not come back; whoever subscribes next tries again.
                *Resources::lock(&this.events) = None;
            };
            let thread = std::thread::Builder::new().name("flockd-mcp-events".into());
            thread.spawn(pass_on).map_err(crate::client::ClientError::Io)?;
            Ok(receiver)
        };
        blocking(subscribe).await
    }

    async fn interest(&self, uri: String) -> Result<Interest, ErrorData> {
        let agents = self.agents.clone();
        blocking(move || Interest::of(&uri, &agents.setup.place.cwd)).await
    }

    /// Subscribes a client of the older era.
    pub(super) async fn subscribe(self: &Arc<Self>, uri: String, peer: Peer<RoleServer>) -> Result<(), ErrorData> {
        let interest = self.interest(uri.clone()).await?;
        let events = self.events().await?;
        let mut subscribed = Resources::lock(&self.subscribed);
        let Subscribed { interests, is_told } = &mut *subscribed;
        if interests.len() >= limits::MCP_SUBSCRIPTIONS && !interests.contains_key(&uri) {
            let text = format!("{} resources are subscribed to already", limits::MCP_SUBSCRIPTIONS);
            return Err(ErrorData::invalid_params(text, None));
        }
        interests.insert(uri, interest);
        if !std::mem::replace(is_told, true) {
            tokio::spawn(tell_peer(self.clone(), events, peer));
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&self, uri: &str) {
        Resources::lock(&self.subscribed).interests.remove(uri);
    }

    /// Serves one subscription of the newer era until it is withdrawn.
    pub(super) async fn listen(self: &Arc<Self>, context: &SubscriptionContext) -> Result<(), ErrorData> {
        let sink = context.sink();
        let mut wanted = Vec::new();
        for uri in context.accepted().resource_subscriptions.iter().flatten() {
            wanted.push((uri.clone(), self.interest(uri.clone()).await?));
        }
        let wants_list = context.accepted().resources_list_changed == Some(true);
        let mut events = self.events().await?;
        // What happened since the subscription was confirmed is told once for all.
        let mut batch = vec![Told::Gap];
        loop {
            let changed = wanted.iter().filter(|(_, interest)| batch.iter().any(|told| interest.is_touched_by(told)));
            for (uri, _) in changed {
                if sink.notify_resource_updated(uri.clone()).await.is_err() {
                    return Ok(());
                }
            }
            if wants_list && batch.iter().any(changes_list) && sink.notify_resource_list_changed().await.is_err() {
                return Ok(());
            }
            batch = tokio::select! {
                batch = next(&mut events) => match batch {
                    Some(batch) => batch,
                    None => return Ok(()),
                },
                () = context.cancelled() => return Ok(()),
            };
        }
    }
}

fn changes_list(told: &Told) -> bool {
    match told {
        Told::Gap => true,
        Told::Event(event) => matches!(&*event.event, "lock.acquired" | "lock.released"),
    }
}

/// All that has happened since last time, at least one thing; none if nothing more will.
async fn next(events: &mut broadcast::Receiver<Told>) -> Option<Vec<Told>> {
    let mut batch = match events.recv().await {
        Ok(told) => vec![told],
        Err(RecvError::Lagged(_)) => vec![Told::Gap],
        Err(RecvError::Closed) => return None,
    };
    while let Ok(told) = events.try_recv() {
        batch.push(told);
    }
    Some(batch)
}

/// Tells a client of the older era, until it wants nothing any more.
async fn tell_peer(resources: Arc<Resources>, mut events: broadcast::Receiver<Told>, peer: Peer<RoleServer>) {
    loop {
        let batch = next(&mut events).await;
        let changed = {
            let mut subscribed = Resources::lock(&resources.subscribed);
            let Some(batch) = batch.filter(|_| !subscribed.interests.is_empty()) else {
                subscribed.is_told = false;
                return;
            };
            let is_touched = |interest: &Interest| batch.iter().any(|told| interest.is_touched_by(told));
            let touched = subscribed.interests.iter().filter(|(_, interest)| is_touched(interest));
            touched.map(|(uri, _)| uri.clone()).collect::<Vec<_>>()
        };
        for uri in changed {
            let told = ResourceUpdatedNotification::new(ResourceUpdatedNotificationParam::new(uri));
            // Whoever is gone ends the whole server.
            let _ = peer.send_notification(told.into()).await;
        }
    }
}
