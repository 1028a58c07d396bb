//! A lock by which one leads, and what the daemon says about it.

use crate::client::{ClientError, Connection};
use crate::clock;
use crate::limits;
use crate::wire::{Answer, Body, Code, Held, LockBody, Op, Request};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

/// A lock that must be held, and the session that got it.
#[derive(Clone)]
pub(super) struct Post {
    pub(super) client: Arc<Connection>,
    pub(super) body: LockBody,
}

/// The daemon's word on a lock.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Held,
    /// It is not; why, where that was said.
    Lost(Option<String>),
    /// There is none, and what is known instead.
    None(String),
}

impl Post {
    pub(super) fn lock_id(&self) -> &str {
        self.body.lock_id.as_deref().unwrap_or_default()
    }

    pub(super) fn look(&self) -> Word {
        look(&self.client, &self.body)
    }
}

/// Asks whether a lock is held, under its fence. This only reads, so it is answered also while the daemon's disk is
/// full. `check` would not do: it says who may write, and while a sub-agent holds the name its parent may not, yet
/// leads.
pub(super) fn look(client: &Connection, lock: &LockBody) -> Word {
    // By its whole name, which is the same wherever it is asked from.
    let request = Request { scope: Some(lock.path.clone()), ..Request::new(Op::Status) };
    let is_it = |held: &Held| Some(&held.lock_id) == lock.lock_id.as_ref() && Some(held.fence) == lock.fence;
    let answer = client.begin(request).and_then(|id| {
        let answer = client.finish(id, Some(Duration::from_millis(limits::ELECT_ANSWER)))?;
        if answer.is_none() {
            client.abandon(id);
        }
        Ok(answer)
    });
    match answer {
        Ok(Some(Answer { ok: Some(Body::Status(status)), .. })) if status.locks.iter().any(is_it) => Word::Held,
        Ok(Some(_)) => Word::Lost(None),
        Ok(None) => Word::None("it does not listen".to_owned()),
        Err(ClientError::SessionLost(why)) => Word::Lost(Some(why)),
        Err(ClientError::Refused(error)) if error.code != Code::Unavailable => Word::Lost(Some(error.message)),
        Err(error) => Word::None(error.to_string()),
    }
}

/// Looks once a second until something is lost, and returns why if that was said, or until nobody listens any more: no
/// daemon tells a client anything that it did not ask for.
pub(super) fn look_after(mut look: impl FnMut() -> Word, done: &Receiver<()>) -> Option<Option<String>> {
    let (mut sure, mut looks_in_vain) = (clock::now().mono, 0);
    loop {
        let begun = clock::now().mono;
        match look() {
            Word::Held => (sure, looks_in_vain) = (begun, 0),
            Word::Lost(why) => return Some(why),
            Word::None(why) => {
                looks_in_vain += 1;
                // A look during which this process was stopped says nothing about the daemon: one is not enough.
                if looks_in_vain > 1 && sure.after(limits::ELECT_UNSURE) <= clock::now().mono {
                    let seconds = limits::ELECT_UNSURE / limits::SECOND;
                    return Some(Some(format!("the daemon has not answered for {seconds} s: {why}")));
                }
            }
        }
        if done.recv_timeout(Duration::from_millis(limits::ELECT_LOOK)) != Err(RecvTimeoutError::Timeout) {
            return None;
        }
    }
}
