//! A lock by which one leads, and what the daemon says about it.

use crate::client::{ClientError, Connection};
use crate::clock;
use crate::limits;
use crate::wire::{Answer, Body, Code, Held, LockBody, Op, Request};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

/// A lock that must be held.
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
    /// There is none.
    None,
}

impl Post {
    pub(super) fn lock_id(&self) -> &str {
        self.body.lock_id.as_deref().unwrap_or_default()
    }

    /// Asks whether the lock is held, under its fence. This only reads, so it is answered also while the daemon's disk
    /// is full. `check` would not do: it says who may write, and while a sub-agent holds the name its parent may not,
    /// yet leads.
    pub(super) fn look(&self) -> Word {
        let scope = Some(self.body.file_id.clone());
        let is_it = |held: &Held| held.lock_id == self.lock_id() && Some(held.fence) == self.body.fence;
        match self.client.call(Request { scope, ..Request::new(Op::Status) }) {
            Ok(Answer { ok: Some(Body::Status(status)), .. }) if status.locks.iter().any(is_it) => Word::Held,
            Ok(_) => Word::Lost(None),
            Err(ClientError::SessionLost(why)) => Word::Lost(Some(why)),
            Err(ClientError::Refused(error)) if error.code != Code::Unavailable => Word::Lost(Some(error.message)),
            Err(_) => Word::None,
        }
    }
}

/// What is said when no daemon has answered for too long.
pub(super) fn unsure() -> String {
    format!("the daemon has not answered for {} s", limits::ELECT_UNSURE / limits::SECOND)
}

/// Looks at the locks once a second until one is lost, and returns why if that was said, or until nobody listens any
/// more: no daemon tells a client anything that it did not ask for.
pub(super) fn look_after(posts: &[Post], done: &Receiver<()>) -> Option<Option<String>> {
    let (mut sure, mut looks_in_vain) = (clock::now().mono, 0);
    loop {
        let begun = clock::now().mono;
        match posts.iter().map(Post::look).find(|word| *word != Word::Held) {
            None => (sure, looks_in_vain) = (begun, 0),
            Some(Word::Lost(why)) => return Some(why),
            Some(_) => looks_in_vain += 1,
        }
        // A look during which this process was stopped says nothing about the daemon: one in vain is not enough.
        if looks_in_vain > 1 && sure.after(limits::ELECT_UNSURE) <= clock::now().mono {
            return Some(Some(unsure()));
        }
        if done.recv_timeout(Duration::from_millis(limits::ELECT_LOOK)) != Err(RecvTimeoutError::Timeout) {
            return None;
        }
    }
}
