//! Several locks at once: asking for all or none, and the guards that hold them.

use super::Connection;
use super::guard::{LockGuard, LockRequest};
use super::values::{Error, HoldError, LockError, Loss};
use crate::wire::{Mode, Request};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// A request for locks on several scopes, all or none; see [`Workspace::lock_all`](super::Workspace::lock_all). What
/// can be said of it is what can be said of one lock, and holds for each.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for until `acquire` is called"]
pub struct LockAllRequest {
    terms: LockRequest,
}

impl LockAllRequest {
    pub(super) fn new(connection: Arc<Connection>, request: Request) -> LockAllRequest {
        LockAllRequest { terms: LockRequest::new(connection, request) }
    }

    /// As [`LockRequest::shared`].
    pub fn shared(self) -> LockAllRequest {
        LockAllRequest { terms: self.terms.shared() }
    }

    /// As [`LockRequest::exclusive`].
    pub fn exclusive(self) -> LockAllRequest {
        LockAllRequest { terms: self.terms.exclusive() }
    }

    /// As [`LockRequest::mode`]; advisory locks wait for nobody and are asked for one by one.
    pub fn mode(self, mode: Mode) -> LockAllRequest {
        LockAllRequest { terms: self.terms.mode(mode) }
    }

    /// As [`LockRequest::wait`].
    pub fn wait(self, most: Duration) -> LockAllRequest {
        LockAllRequest { terms: self.terms.wait(most) }
    }

    /// As [`LockRequest::wait_forever`].
    pub fn wait_forever(self) -> LockAllRequest {
        LockAllRequest { terms: self.terms.wait_forever() }
    }

    /// As [`LockRequest::try_now`].
    pub fn try_now(self) -> LockAllRequest {
        LockAllRequest { terms: self.terms.try_now() }
    }

    /// As [`LockRequest::ttl`].
    pub fn ttl(self, ttl: Duration) -> LockAllRequest {
        LockAllRequest { terms: self.terms.ttl(ttl) }
    }

    /// As [`LockRequest::note`].
    pub fn note(self, note: impl Into<String>) -> LockAllRequest {
        LockAllRequest { terms: self.terms.note(note) }
    }

    /// As [`LockRequest::no_os_lock`].
    pub fn no_os_lock(self) -> LockAllRequest {
        LockAllRequest { terms: self.terms.no_os_lock() }
    }

    /// As [`LockRequest::glob`].
    pub fn glob(self) -> LockAllRequest {
        LockAllRequest { terms: self.terms.glob() }
    }

    /// Asks, and waits for as long as was said.
    ///
    /// # Errors
    /// [`LockError::Refused`] names who is in the way of any of them, or the cycle that waiting would have closed;
    /// [`LockError::Failed`] if there is no answer, or if the scopes cannot be had together. Either way nothing of the
    /// request is left behind.
    pub fn acquire(self) -> Result<LockGuards, LockError> {
        let (connection, request) = self.terms.into_parts();
        if request.scopes.is_empty() {
            return Err(LockError::Failed(Error::invalid("name at least one scope".to_owned())));
        }
        let body = connection.lock_all(request)?;
        if !body.acquired {
            return Err(LockError::Refused(Box::new(body.into())));
        }
        let guards = body.locks.into_iter().map(|body| LockGuard::new(connection.clone(), body));
        let guards: Option<Vec<LockGuard>> = guards.collect();
        guards.map(|guards| LockGuards { guards }).ok_or_else(|| {
            LockError::Failed(Error::Protocol("the daemon granted a lock without an id or a fence".to_owned()))
        })
    }
}

/// Locks that were granted together, one guard each, in the order in which they were asked for. It reads as a slice of
/// [`LockGuard`]s.
///
/// Dropping it releases all of them without waiting for the daemon. Each can be lost by itself, as any lock can.
#[derive(Debug)]
#[must_use = "the locks are released when their guards are dropped"]
pub struct LockGuards {
    guards: Vec<LockGuard>,
}

impl LockGuards {
    /// The first loss of any of them that this session has heard of; see [`LockGuard::lost`].
    pub fn lost(&self) -> Option<Loss> {
        self.guards.iter().find_map(LockGuard::lost)
    }

    /// Asks the daemon whether all are held: a round trip each.
    ///
    /// # Errors
    /// As [`LockGuard::check`], of the first that is not.
    pub fn check(&self) -> Result<(), HoldError> {
        self.guards.iter().try_for_each(LockGuard::check)
    }

    /// Releases all of them and waits for the word that they were held until then.
    ///
    /// # Errors
    /// As [`LockGuard::release`], of the first that was lost. All others are released all the same.
    pub fn release(self) -> Result<(), HoldError> {
        let released: Vec<Result<(), HoldError>> = self.guards.into_iter().map(LockGuard::release).collect();
        released.into_iter().collect()
    }

    /// The guards, each to be held and released by itself.
    pub fn into_guards(self) -> Vec<LockGuard> {
        self.guards
    }
}

impl Deref for LockGuards {
    type Target = [LockGuard];

    fn deref(&self) -> &[LockGuard] {
        &self.guards
    }
}
