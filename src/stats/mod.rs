//! Statistics: what has happened since the daemon began, as counts and durations. Data alone, fed by the coordinator.
//!
//! Nothing of it is in the journal: a daemon that starts counts anew, and says since when.

mod facts;
mod hottest;
mod times;

pub use facts::{Ending, Fact, Refusal, What, facts};
pub use hottest::Hottest;
pub use times::Times;

use crate::model::{Acquired, Agent, Ask, EVENT_NAMES, Now, Workspace};
use crate::scope::Scope;

/// Counts and durations of one scope, of one agent, or of many together.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Requests for a lock that were granted, or had to wait, or were refused because of others: each once.
    pub requests: u64,
    /// Of these, those that could not have it at once.
    pub contended: u64,
    /// New locks.
    pub granted: u64,
    /// Detached locks that a session took up again.
    pub resumed: u64,
    /// Shared locks made exclusive.
    pub upgraded: u64,
    /// Exclusive locks made shared.
    pub downgraded: u64,
    /// Requests that were refused since somebody held it, the agent itself included.
    pub refused_held: u64,
    /// Requests that waited in vain.
    pub refused_timeout: u64,
    /// Requests that would have closed a cycle of waits.
    pub refused_deadlock: u64,
    /// Locks that their agents released.
    pub released: u64,
    /// Locks whose lease ran out.
    pub expired: u64,
    /// Locks that ended with their session or process.
    pub session_ended: u64,
    /// Locks whose session stayed silent after a restart of the daemon.
    pub silent: u64,
    /// Locks that somebody broke.
    pub broken: u64,
    /// Writes around locks that were told. With an agent they are writes around its locks: nothing tells whose.
    pub violations: u64,
    /// For how many milliseconds locks were held that have ended.
    pub held: Times,
    /// For how many milliseconds requests waited that wait no more, with success or not.
    pub waited: Times,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            requests: 0,
            contended: 0,
            granted: 0,
            resumed: 0,
            upgraded: 0,
            downgraded: 0,
            refused_held: 0,
            refused_timeout: 0,
            refused_deadlock: 0,
            released: 0,
            expired: 0,
            session_ended: 0,
            silent: 0,
            broken: 0,
            violations: 0,
            held: Times::of_locks(),
            waited: Times::of_locks(),
        }
    }
}

impl Tally {
    fn count(&mut self, what: What) {
        let counter = match what {
            What::AskedInPeace => &mut self.requests,
            What::AskedInVain => {
                self.requests += 1;
                &mut self.contended
            }
            What::Granted(Acquired::Granted | Acquired::Delegated) => &mut self.granted,
            What::Granted(Acquired::Resumed) => &mut self.resumed,
            What::Granted(Acquired::Upgraded) => &mut self.upgraded,
            What::Granted(Acquired::Downgraded) => &mut self.downgraded,
            What::Refused(Refusal::Held) => &mut self.refused_held,
            What::Refused(Refusal::Timeout) => &mut self.refused_timeout,
            What::Refused(Refusal::Deadlock) => &mut self.refused_deadlock,
            What::Ended(Ending::Released) => &mut self.released,
            What::Ended(Ending::Expired) => &mut self.expired,
            What::Ended(Ending::SessionEnded) => &mut self.session_ended,
            What::Ended(Ending::Silent) => &mut self.silent,
            What::Ended(Ending::Broken) => &mut self.broken,
            What::Violated => &mut self.violations,
            What::Held(ms) => return self.held.add(ms),
            What::Waited(ms) => return self.waited.add(ms),
        };
        *counter += 1;
    }

    fn merge(&mut self, other: &Tally) {
        // Named one by one, so that none can be forgotten.
        let Tally {
            requests,
            contended,
            granted,
            resumed,
            upgraded,
            downgraded,
            refused_held,
            refused_timeout,
            refused_deadlock,
            released,
            expired,
            session_ended,
            silent,
            broken,
            violations,
            held,
            waited,
        } = other;
        self.requests += requests;
        self.contended += contended;
        self.granted += granted;
        self.resumed += resumed;
        self.upgraded += upgraded;
        self.downgraded += downgraded;
        self.refused_held += refused_held;
        self.refused_timeout += refused_timeout;
        self.refused_deadlock += refused_deadlock;
        self.released += released;
        self.expired += expired;
        self.session_ended += session_ended;
        self.silent += silent;
        self.broken += broken;
        self.violations += violations;
        self.held.merge(held);
        self.waited.merge(waited);
    }

    /// Bytes of its counts of durations.
    pub fn bytes(&self) -> usize {
        self.held.bytes() + self.waited.bytes()
    }
}

/// What has happened since the daemon began.
#[derive(Debug)]
pub struct Stats {
    /// Since when.
    pub since: Now,
    /// All together.
    pub total: Tally,
    /// The scopes that are asked for most. Each is named as the workspace would that it first was asked for in.
    pub scopes: Hottest<Scope, Workspace>,
    /// The agents that ask most.
    pub agents: Hottest<Agent, ()>,
    /// Events that were written, in the order of [`EVENT_NAMES`].
    events: [u64; EVENT_NAMES.len()],
    /// Posts to webhooks that have arrived.
    pub posts: u64,
    /// Those that have not: each attempt.
    pub posts_failed: u64,
    /// Batches that were written to the journal, in microseconds.
    pub appends: Times,
    /// Syncs of the journal, in microseconds.
    pub syncs: Times,
    /// How often the journal could not be written or synced, so that grants stopped.
    pub journal_failures: u64,
}

impl Stats {
    /// Nothing yet.
    pub fn new(now: Now) -> Stats {
        Stats {
            since: now,
            total: Tally::default(),
            scopes: Hottest::new(),
            agents: Hottest::new(),
            events: [0; EVENT_NAMES.len()],
            posts: 0,
            posts_failed: 0,
            appends: Times::of_the_disk(),
            syncs: Times::of_the_disk(),
            journal_failures: 0,
        }
    }

    /// Counts what has happened.
    pub fn count(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            match fact {
                Fact::Lock(ask, what) => self.count_lock(&ask, what),
                Fact::Event(name) => {
                    let at = EVENT_NAMES.iter().position(|known| *known == name).expect("all names are listed");
                    self.events[at] += 1;
                }
                Fact::Posts(arrived, failed) => {
                    self.posts += arrived;
                    self.posts_failed += failed;
                }
            }
        }
    }

    fn count_lock(&mut self, ask: &Ask, what: What) {
        let (scope, agent) = (&ask.target.scope, &ask.who.agent);
        self.total.count(what);
        match what {
            // Only who asks makes a name hot: what then becomes of its locks is not asked for again.
            What::AskedInPeace | What::AskedInVain => {
                self.scopes.asked_for(scope, || ask.workspace.clone()).count(what);
                self.agents.asked_for(agent, || ()).count(what);
            }
            _ => {
                self.scopes.of(scope).count(what);
                self.agents.of(agent).count(what);
            }
        }
    }

    /// How many events of each name were written.
    pub fn events(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        EVENT_NAMES.iter().copied().zip(self.events)
    }
}
