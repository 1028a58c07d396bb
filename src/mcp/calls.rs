//! Calls of tools on their way, so that nothing stays granted, and nothing counts as told, of which the client never
//! heard.

use super::agents::Caller;
use crate::client::Connection;
use crate::wire::{Answer, Loss};
use rmcp::model::RequestId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The calls that have not been answered.
#[derive(Default)]
pub(super) struct Calls {
    open: Mutex<HashMap<RequestId, Call>>,
}

/// One of them.
#[derive(Default)]
pub(super) struct Call {
    is_withdrawn: bool,
    /// The request that waits in the daemon.
    waits: Option<(Arc<Connection>, u64)>,
    /// What was granted and is given back if nobody hears of it.
    granted: Vec<(Arc<Connection>, Answer)>,
    /// Whom it tells of which losses, by the ids of their locks.
    told: Option<(Arc<Caller>, Vec<String>)>,
}

impl Call {
    /// Nobody hears of the answer.
    pub(super) fn undo(self) {
        for (connection, answer) in self.granted {
            connection.decline(&answer);
        }
        if let Some((caller, losses)) = self.told {
            caller.arrived(losses, false);
        }
    }

    /// The answer was written.
    pub(super) fn arrived(self) {
        if let Some((caller, losses)) = self.told {
            caller.arrived(losses, true);
        }
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Call>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call came in.
    pub(super) fn begin(&self, id: RequestId) {
        self.lock().insert(id, Call::default());
    }

    /// The client does not want it any more: what waits is withdrawn, what was granted and not told goes back. A call
    /// that was answered is not known any more, so that nothing changes.
    pub(super) fn withdraw(&self, id: &RequestId) {
        let mut open = self.lock();
        let Some(call) = open.get_mut(id) else { return };
        let Call { waits, granted, told, .. } = std::mem::take(call);
        call.is_withdrawn = true;
        if let Some((connection, request)) = &waits {
            connection.withdraw(*request);
        }
        Call { granted, told, ..Call::default() }.undo();
    }

    /// Nobody waits for any answer any more.
    pub(super) fn withdraw_all(&self) {
        let ids: Vec<RequestId> = self.lock().keys().cloned().collect();
        for id in ids {
            self.withdraw(&id);
        }
    }

    /// A request of the call waits in the daemon from now on, or not any more.
    pub(super) fn waits(&self, id: &RequestId, waits: Option<(&Arc<Connection>, u64)>) {
        match (self.lock().get_mut(id), waits) {
            (Some(call), None) => call.waits = None,
            (Some(call), Some((connection, request))) if !call.is_withdrawn => {
                call.waits = Some((connection.clone(), request));
            }
            (_, Some((connection, request))) => connection.withdraw(request),
            (None, None) => {}
        }
    }

    /// The call is answered with a grant; false if that has gone back, since nobody wants it any more.
    pub(super) fn granted(&self, id: &RequestId, connection: &Arc<Connection>, answer: &Answer) -> bool {
        match self.lock().get_mut(id) {
            Some(call) if !call.is_withdrawn => {
                call.granted.push((connection.clone(), answer.clone()));
                true
            }
            _ => {
                connection.decline(answer);
                false
            }
        }
    }

    /// What was granted is no longer the call's to give back: it has ended.
    pub(super) fn settled(&self, id: &RequestId) {
        if let Some(call) = self.lock().get_mut(id) {
            call.granted.clear();
        }
    }

    /// Which of these losses the answer tells of, beside `said`, of which it does anyway; none if nobody will hear it.
    pub(super) fn tells(&self, id: &RequestId, caller: &Arc<Caller>, said: Option<&str>, lost: Vec<Loss>) -> Vec<Loss> {
        match self.lock().get_mut(id) {
            Some(call) if !call.is_withdrawn => {
                let losses = caller.untold(said, lost);
                let ids = said.into_iter().chain(losses.iter().map(|loss| loss.lock_id.as_str()));
                call.told = Some((caller.clone(), ids.map(str::to_owned).collect()));
                losses
            }
            _ => Vec::new(),
        }
    }

    /// The call is over for its tool; one that was withdrawn will not be answered, so that it is forgotten here.
    pub(super) fn over(&self, id: &RequestId) {
        let mut open = self.lock();
        if open.get(id).is_some_and(|call| call.is_withdrawn) {
            open.remove(id);
        }
    }

    /// The call is being answered.
    pub(super) fn take(&self, id: &RequestId) -> Option<Call> {
        self.lock().remove(id)
    }
}
