//! Statistics as far as the server knows them: what the coordinator has counted, and who is here and was told.

use super::Server;
use crate::limits;
use crate::model::Now;
use crate::scope::Target;
use crate::wire::stats::{self, Selection, Standing};
use crate::wire::{Body, Request};

impl Server {
    /// The answer to `stats`.
    pub(super) fn stats(&self, request: &Request, targets: &[Target], now: Now) -> Body {
        let table = self.coordinator.table();
        let standing = Standing {
            locks: table.locks(),
            waiters: table.waiters(),
            sessions: table.sessions(),
            connections: self.peers.len(),
            subscribers: self.subscribers.count(),
            webhooks: table.webhooks().count(),
        };
        let selection = Selection { top: request.top.unwrap_or(limits::STATS_TOP), targets };
        let body = stats::stats(self.coordinator.stats(), &selection, standing, self.subscribers.told(), now);
        Body::Stats(Box::new(body))
    }
}
