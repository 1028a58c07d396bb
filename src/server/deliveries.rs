//! What answers bring, and what follows when they do not arrive: which one tells of a grant first, and which losses
//! have been told of. Without sockets: the simulator runs this same code.

use crate::model::*;
use crate::planted::{Bug, planted};
use std::collections::{HashMap, VecDeque};

/// What a message brings that its agent relies on from then on.
#[derive(Debug, Default)]
pub struct Cargo {
    /// Sent when so much was sent over its connection, in whatever the connection counts by.
    end: u64,
    /// Grants nobody knows of yet, several of a set: if the connection goes before it is sent, they are taken back.
    grants: Vec<Undelivered>,
    /// Losses: if the connection goes before they are sent, they are told again.
    losses: Vec<LockId>,
}

/// A grant that nobody has heard of yet.
#[derive(Clone, Copy, Debug)]
struct Undelivered {
    id: LockId,
    fence: Fence,
    /// What is to be undone if nobody will.
    what: Unheard,
}

impl Undelivered {
    /// The grant does not reach its client.
    fn take_back(self) -> Command {
        let Undelivered { id, fence, what } = self;
        Command::TakeBack { id, fence, what }
    }
}

/// What the messages on the way over one connection bring, oldest first.
#[derive(Debug, Default)]
pub struct Load {
    cargo: VecDeque<Cargo>,
    /// Whoever reads says itself which losses it has heard of: what was sent counts for nothing.
    pub confirms: bool,
}

impl Load {
    /// Takes on what a message brings, or would have brought if there had been room for it. `end` is how much will
    /// have been sent over the connection when this message is, counted from its first.
    pub fn put(&mut self, cargo: Cargo, end: u64) {
        if !cargo.grants.is_empty() || !cargo.losses.is_empty() {
            self.cargo.push_back(Cargo { end, ..cargo });
        }
    }

    /// Whether a grant is among what is still to be sent.
    pub fn brings_a_grant(&self) -> bool {
        self.cargo.iter().any(|cargo| !cargo.grants.is_empty())
    }

    /// Whether a message on its way tells of this loss already. It is read before whatever is sent now.
    fn tells_of(&self, loss: LockId) -> bool {
        self.cargo.iter().any(|cargo| cargo.losses.contains(&loss))
    }
}

/// Which grants nobody has heard of yet, and over which connection each session is.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// The latest grant of each lock that nobody has heard of yet, and over which connection its agent is to.
    undelivered: HashMap<LockId, (u64, Undelivered)>,
    sessions: HashMap<SessionId, u64>,
}

impl Deliveries {
    /// What an answer brings over a connection with this load. Losses that the agent will have read of before are left
    /// out of it. With no load the connection has gone, and a grant is taken back. What is to be done goes to
    /// `commands`, which must be all that is to be done already.
    pub fn pack(
        &mut self,
        conn: u64,
        answer: &mut Answer,
        load: Option<&Load>,
        commands: &mut Vec<Command>,
    ) -> Option<Cargo> {
        let grants = answer.reply.grants().iter();
        let grants: Vec<Undelivered> =
            grants.filter_map(|granted| self.first_to_tell(conn, granted, commands)).collect();
        let Some(load) = load else {
            for grant in grants {
                self.undelivered.remove(&grant.id);
                commands.push(grant.take_back());
            }
            return None;
        };
        let losses = match load.confirms && !planted(Bug::SentIsHeard) {
            true => Vec::new(),
            false => {
                answer.lost.retain(|ended| !load.tells_of(ended.id));
                answer.lost.iter().map(|ended| ended.id).collect()
            }
        };
        Some(Cargo { end: 0, grants, losses })
    }

    /// The grant, if this answer is the first to tell of it: it is taken back if it does not arrive. An answer that
    /// tells again of a grant nobody has heard of yet takes the place of the one before.
    fn first_to_tell(&mut self, conn: u64, granted: &Granted, commands: &mut Vec<Command>) -> Option<Undelivered> {
        let (id, fence) = (granted.lock.id, granted.lock.fence);
        let mut unheard = self.undelivered.get(&id).map(|(_, grant)| grant.what);
        commands.retain(|command| match command {
            Command::TakeBack { id: lost, what, .. } if *lost == id => {
                unheard = Some(*what);
                false
            }
            _ => true,
        });
        let what = match granted.is_new() {
            true => granted.unheard().and(unheard.unwrap_or_default()),
            false => unheard?,
        };
        let grant = Undelivered { id, fence, what };
        self.undelivered.insert(id, (conn, grant));
        Some(grant)
    }

    /// An answer with a grant has arrived: what a later one did to the same lock is not known yet.
    fn has_heard(&mut self, grant: Undelivered) {
        match self.undelivered.get_mut(&grant.id) {
            Some((_, later)) if later.fence > grant.fence => later.what = later.what.without(grant.what),
            _ => drop(self.undelivered.remove(&grant.id)),
        }
    }

    /// So much has been sent over a connection: what that has brought as far as the kernel is known there.
    pub fn sent(&mut self, load: &mut Load, sent: u64, commands: &mut Vec<Command>) {
        let sent = if planted(Bug::LossToldTooEarly) { u64::MAX } else { sent };
        while load.cargo.front().is_some_and(|cargo| cargo.end <= sent)
            && let Some(cargo) = load.cargo.pop_front()
        {
            for grant in cargo.grants {
                self.has_heard(grant);
            }
            if !cargo.losses.is_empty() {
                commands.push(Command::LossesTold(cargo.losses));
            }
        }
    }

    /// A greeting has opened a session. If its connection has gone while the table was asked, a session that nobody
    /// else has taken up ends with it.
    pub fn session_opened(&mut self, id: SessionId, conn: u64, is_there: bool, commands: &mut Vec<Command>) {
        if is_there {
            self.sessions.insert(id, conn);
        } else if !self.sessions.contains_key(&id) {
            commands.push(Command::EndSession(id));
        }
    }

    /// A connection is over: what waited is withdrawn, what was not delivered is taken back, its session ends unless
    /// another connection has taken it up.
    pub fn closed(
        &mut self,
        conn: u64,
        load: Load,
        has_open_requests: bool,
        session: Option<SessionId>,
        commands: &mut Vec<Command>,
    ) {
        if has_open_requests {
            commands.push(Command::CallerGone { conn });
        }
        for grant in load.cargo.into_iter().flat_map(|cargo| cargo.grants) {
            if self.undelivered.get(&grant.id).is_some_and(|(to, _)| *to == conn)
                && !planted(Bug::UnheardGrantKept)
                && let Some((_, latest)) = self.undelivered.remove(&grant.id)
            {
                commands.push(latest.take_back());
            }
        }
        if let Some(session) = session
            && self.sessions.get(&session) == Some(&conn)
        {
            self.sessions.remove(&session);
            commands.push(Command::EndSession(session));
        }
    }
}
