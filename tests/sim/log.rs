//! What a run did, line by line: hashed, so that two runs can be compared, and its end kept for whoever looks into a
//! failure.

use flockd::model::*;
use std::collections::VecDeque;

/// Declares counters that can be summed up and listed by name.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name {
            $(pub $field: u64,)+
        }

        impl $name {
            pub fn add(&mut self, other: &$name) {
                $(self.$field += other.$field;)+
            }

            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field)),+]
            }
        }
    };
}
pub(crate) use counters;

/// Lines kept for a failure.
const KEPT: usize = 60;

pub struct Log {
    /// FNV-1a of all lines.
    pub hash: u64,
    pub lines: VecDeque<String>,
    pub aloud: bool,
}

impl Log {
    pub fn new(aloud: bool) -> Log {
        Log { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), aloud }
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.aloud {
            println!("{line}");
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

fn ask(ask: &Ask) -> String {
    let session = ask.who.session.map_or(String::new(), |id| format!("({:04x})", id.0 & 0xffff));
    let request = ask.request.as_ref().map_or("-", RequestId::as_str);
    let bound = ask.bound.map_or(String::new(), |process| format!(" with {}", process.pid));
    let (mode, ttl) = (ask.mode.as_str(), ask.lease.ttl);
    format!("{}{session} {mode} {} ttl {ttl}{bound} id {request}", ask.who.agent, ask.target.scope)
}

/// A request that waits; a place that is kept has nobody who is to be told.
fn waiter(waiter: &Waiter) -> String {
    let to = waiter.caller.map_or("kept".to_owned(), |caller| format!("{}/{}", caller.conn, caller.id));
    let offered = if waiter.offered_until.is_some() { " offered" } else { "" };
    format!("{} {to}{offered} {:?} [{}]", waiter.id.0, waiter.os, ask(&waiter.ask))
}

pub fn lock(lock: &Lock) -> String {
    let expires = lock.expires.map_or(String::new(), |at| format!(" until {}", at.0));
    format!("{} fence {} {:?}{expires} [{}]", lock.id, lock.fence.0, lock.custody, ask(&lock.ask))
}

pub fn command(command: &Command) -> String {
    match command {
        Command::Lock { caller, ask: what, wait } => {
            format!("lock {}/{} {} {wait:?}", caller.conn, caller.id, ask(what))
        }
        Command::LockSet { caller, asks, wait } => {
            let all: Vec<String> = asks.iter().map(|what| ask(what)).collect();
            format!("lock together {}/{} {} {wait:?}", caller.conn, caller.id, all.join(", "))
        }
        Command::WaitFree { caller, ask: what, wait } => {
            format!("wait {}/{} {} {wait:?}", caller.conn, caller.id, ask(what))
        }
        Command::OpenSession { caller, session } => {
            format!("open {} {:04x} {} {:?}", caller.conn, session.id.0 & 0xffff, session.agent, session.process)
        }
        Command::Check { caller, who, target, fence } => {
            format!("check {}/{} {} {} {fence:?}", caller.conn, caller.id, who.agent, target.scope)
        }
        Command::Unlock { caller, who, which, .. } => {
            let to = caller.map_or(String::new(), |caller| format!("{}/{} ", caller.conn, caller.id));
            format!("unlock {to}{} {}", who.agent, which_of(which))
        }
        Command::Renew { caller, who, which, ttl } => {
            format!("renew {}/{} {} {} {ttl:?}", caller.conn, caller.id, who.agent, which_of(which))
        }
        Command::Status { caller, target, .. } => {
            let scope = target.as_ref().map_or(String::new(), |target| target.scope.to_string());
            format!("status {}/{} {scope}", caller.conn, caller.id)
        }
        other => format!("{other:?}"),
    }
}

fn which_of(which: &Which) -> String {
    match which {
        Which::Id(id) => id.to_string(),
        Which::Scope(target) => target.scope.to_string(),
        Which::All => "all".to_owned(),
    }
}

pub fn answer(answer: &Answer) -> String {
    let locks = |locks: &[Lock]| locks.iter().map(|lock| lock.id.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = match &answer.reply {
        Reply::Granted(granted) => {
            let how = if granted.already_held { " already" } else { "" };
            let resumed = if granted.resumed.is_some() { " resumed" } else { "" };
            let upgraded = if granted.upgraded { " upgraded" } else { "" };
            format!("granted{how}{resumed}{upgraded} {}", lock(&granted.lock))
        }
        Reply::GrantedSet(all) => {
            let all: Vec<String> = all.iter().map(|granted| lock(&granted.lock)).collect();
            format!("granted together {}", all.join(", "))
        }
        Reply::Refused(refused) => {
            let why = match &refused.why {
                RefusedFor::Deadlock(cycle) => format!("deadlock of {}", cycle.len()),
                why => format!("{why:?}"),
            };
            format!("refused {why} behind {} at {}", locks(&refused.holders), refused.position)
        }
        Reply::Status { locks: held, waiters } => {
            let waiters: Vec<String> = waiters.iter().map(|queued| waiter(&queued.waiter)).collect();
            format!("status {}, wait {}: {}", locks(held), waiters.len(), waiters.join("; "))
        }
        Reply::Released(held) => format!("released {}", locks(held)),
        Reply::Downgraded(held) => format!("shared {}", lock(held)),
        Reply::Renewed(held) => format!("renewed {}", locks(held)),
        Reply::Checked(Ok(held)) => format!("checked {}", lock(held)),
        Reply::Checked(Err(held)) => format!("not held, but {}", locks(held)),
        Reply::Broken(ended) => format!("broken {}", ended.id),
        Reply::Failed(Fault::Lost(ended, _)) => format!("lost {} {:?}", ended.id, ended.why),
        Reply::Failed(Fault::NotHolder(held)) => format!("not the holder: {}", locks(held)),
        other => format!("{other:?}"),
    };
    for ended in &answer.lost {
        text += &format!(", lost {} {:?}", ended.id, ended.why);
    }
    text
}
