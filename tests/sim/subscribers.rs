//! Subscribers of events: they read, stall, go and come back at random, and remember nothing but a number.

use crate::world::World;
use flockd::events::{Bus, Cursor, Filter};

/// How many there are. The first reads everything at once, whenever a daemon runs.
pub const COUNT: usize = 4;

#[derive(Default)]
pub struct Subscriber {
    /// Set while it is connected to the present daemon.
    cursor: Option<Cursor>,
    /// The last number that it was told; none before it first connected.
    since: Option<u64>,
}

impl World {
    /// A subscriber connects, reads some, or goes.
    pub fn subscriber_acts(&mut self) {
        let at = self.random.below(COUNT as u64) as usize;
        let most = self.random.below(20) as usize;
        match self.random.below(10) {
            0..=6 => self.subscriber_reads(at, most),
            _ => self.subscribers[at].cursor = None,
        }
        // What it was told must be there after a kill.
        if self.random.chance(20) && self.server.is_some() {
            self.audit_image();
        }
    }

    /// Reads at most so much, after connecting if it is not connected.
    pub fn subscriber_reads(&mut self, at: usize, most: usize) {
        let Some(server) = &self.server else { return };
        let (bus, subscriber) = (server.coordinator.bus(), &mut self.subscribers[at]);
        let cursor = connect(bus, subscriber);
        self.auditor.subscribed(at, cursor.seq());
        for _ in 0..most {
            let Some(told) = bus.next(cursor, &Filter::default()) else { break };
            self.log.note(|| format!("  subscriber {at} is told {told:?}"));
            self.auditor.subscriber_heard(at, &told);
        }
        subscriber.since = Some(cursor.seq());
    }

    /// All daemons that they were connected to are gone.
    pub fn subscribers_lose_the_daemon(&mut self) {
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.cursor = None);
    }
}

fn connect<'a>(bus: &Bus, subscriber: &'a mut Subscriber) -> &'a mut Cursor {
    let since = subscriber.since;
    subscriber.cursor.get_or_insert_with(|| {
        bus.cursor(since).unwrap_or_else(|ahead| panic!("numbers went back: {since:?} is above {ahead:?}"))
    })
}
