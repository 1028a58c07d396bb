//! Connections that are told what happens: how far each is, and how much of it goes into its outbox.
//!
//! A subscriber is a cursor on the bus. It is given lines while its outbox has room for events, and goes on from there
//! when it has read; one that does not read falls behind on the bus, where others do not notice it.

use super::peer::Peer;
use crate::events::{Bus, Cursor, Filter, Told};
use crate::limits;
use crate::wire::{self, render};
use std::collections::BTreeMap;

struct Subscription {
    cursor: Cursor,
    filter: Filter,
}

/// The subscriptions of a server, one a connection at most.
#[derive(Default)]
pub(super) struct Subscribers {
    by_conn: BTreeMap<u64, Subscription>,
    /// Lines of events by number, since many are told the same.
    lines: BTreeMap<u64, Box<[u8]>>,
    /// Events that were told, and gaps in their place.
    told: (u64, u64),
}

impl Subscribers {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.by_conn.len()
    }

    /// How many events were told since the daemon began, each as often as it was, and how many gaps.
    pub(super) fn told(&self) -> (u64, u64) {
        self.told
    }

    /// Whether this connection has a subscription.
    pub(super) fn has(&self, conn: u64) -> bool {
        self.by_conn.contains_key(&conn)
    }

    pub(super) fn add(&mut self, conn: u64, cursor: Cursor, filter: Filter) {
        self.by_conn.insert(conn, Subscription { cursor, filter });
    }

    /// Ends a subscription; false if there is none.
    pub(super) fn remove(&mut self, conn: u64) -> bool {
        self.by_conn.remove(&conn).is_some()
    }

    /// The connections for which there may be something.
    pub(super) fn behind(&self, bus: &Bus) -> Vec<u64> {
        self.by_conn.iter().filter(|(_, one)| bus.is_behind(&one.cursor)).map(|(conn, _)| *conn).collect()
    }

    /// Whether there may be something for this connection.
    pub(super) fn is_behind(&self, conn: u64, bus: &Bus) -> bool {
        self.by_conn.get(&conn).is_some_and(|one| bus.is_behind(&one.cursor))
    }

    /// Puts what a subscriber is to be told into its outbox, as far as there is room; true if anything was.
    pub(super) fn fill(&mut self, conn: u64, bus: &Bus, peer: &mut Peer) -> bool {
        let Subscribers { by_conn, lines, told: (events, gaps) } = self;
        let Some(Subscription { cursor, filter }) = by_conn.get_mut(&conn) else { return false };
        let mut is_told = false;
        while peer.takes_events()
            && let Some(told) = bus.next(cursor, filter)
        {
            match &told {
                Told::Gap(_) => {
                    *gaps += 1;
                    peer.push_line(&wire::encode(&render::told(&told)));
                }
                Told::Event(event) => {
                    *events += 1;
                    let line = lines.entry(event.seq.0);
                    peer.push_line(line.or_insert_with(|| wire::encode(&render::told(&told)).into()));
                    if lines.len() > limits::EVENT_LINES_KEPT {
                        lines.pop_first();
                    }
                }
            }
            is_told = true;
        }
        is_told
    }
}
