//! Contention: which scopes many ask for and cannot have at once, when that is told, and what to advise.
//!
//! Counted is each request for a lock, once: when it is refused because of others, or begins to wait. A scope is
//! contended while as many as the threshold of the workspace came within its window; then it is told, and not again
//! before a window has gone by. What came meanwhile is told the next time.
//!
//! None of this is in the journal: it is about the last seconds, and a daemon that starts counts anew. But a step that
//! is taken back was never told to anybody, so what it counted goes with it: each change leaves behind what it was
//! before, as the rows do.

use super::{LockTable, Step, index};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Scope;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What becomes of a request that cannot be granted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Refused,
    Queued,
}

/// How many came.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    refused: u64,
    queued: u64,
}

impl Count {
    fn add(&mut self, came: Came) {
        match came {
            Came::Refused => self.refused += 1,
            Came::Queued => self.queued += 1,
        }
    }
}

/// What is known of one scope.
#[derive(Clone, Debug, Default)]
pub(super) struct Hot {
    /// The latest requests, oldest first.
    came: VecDeque<(Moment, Came)>,
    /// When it was last told, and how many came since.
    told: Option<(Moment, Count)>,
    /// For how many milliseconds it was held, the latest times.
    holds: VecDeque<u64>,
    /// Larger than that of every scope that was counted before.
    age: u64,
}

impl Hot {
    /// Whether as many as the threshold came within its window.
    fn is_contended(&self, now: Moment, threshold: Threshold) -> bool {
        let nth = self.came.len().checked_sub(threshold.requests as usize);
        nth.is_some_and(|nth| is_within(self.came[nth].0, now, threshold))
    }

    /// Counts a request; answers with what is to be told now, and over how many milliseconds it came.
    fn add(&mut self, now: Moment, came: Came, threshold: Threshold) -> Option<(Count, u64)> {
        if self.came.len() == limits::CONTENTION_REQUESTS_MAX as usize {
            self.came.pop_front();
        }
        self.came.push_back((now, came));
        if let Some((_, count)) = &mut self.told {
            count.add(came);
        }
        if self.told.is_some_and(|(at, _)| is_within(at, now, threshold)) && !planted(Bug::ContentionFlood) {
            return None;
        }
        let before = self.told.take();
        if !self.is_contended(now, threshold) {
            return None;
        }
        self.told = Some((now, Count::default()));
        Some(match before {
            Some((at, count)) => (count, at.till(now)),
            None => {
                let mut count = Count::default();
                let recent = self.came.iter().filter(|(at, _)| is_within(*at, now, threshold));
                recent.clone().for_each(|(_, came)| count.add(*came));
                (count, recent.map(|(at, _)| at.till(now)).max().unwrap_or(0))
            }
        })
    }

    /// The median of the times for which it was held.
    fn usual_hold(&self) -> Option<u64> {
        let mut holds: Vec<u64> = self.holds.iter().copied().collect();
        holds.sort_unstable();
        holds.get(holds.len() / 2).copied()
    }
}

fn is_within(at: Moment, now: Moment, threshold: Threshold) -> bool {
    at.till(now) < threshold.within
}

/// A change that was made, as it was before.
#[derive(Debug)]
pub(super) enum Undo {
    Scope(Scope, Option<Hot>),
    Told(VecDeque<Moment>, u64),
}

/// The scopes that requests could not have at once.
#[derive(Debug, Default)]
pub(super) struct Contention {
    scopes: HashMap<Scope, Hot>,
    /// Them by age: where there are too many, the one that was asked for longest ago goes.
    by_age: BTreeMap<u64, Scope>,
    next_age: u64,
    /// When any scope was told, as far as that bounds how many are.
    told: VecDeque<Moment>,
    /// Scopes that were to be told since, and were too many.
    left_out: u64,
    /// What workspaces count as contended, where that is not what others do, and their ages as those of scopes: of
    /// when it was last said or gone by.
    thresholds: HashMap<Arc<[u8]>, (Threshold, u64)>,
}

impl Contention {
    /// Brings what is known of a scope to this; answers with what it was.
    fn set(&mut self, scope: Scope, new: Option<Hot>) -> Undo {
        let old = self.scopes.remove(&scope);
        if let Some(old) = &old {
            self.by_age.remove(&old.age);
        }
        if let Some(new) = new {
            self.by_age.insert(new.age, scope.clone());
            self.scopes.insert(scope.clone(), new);
        }
        Undo::Scope(scope, old)
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Scope(scope, old) => drop(self.set(scope, old)),
            Undo::Told(told, left_out) => (self.told, self.left_out) = (told, left_out),
        }
    }

    fn threshold(&self, workspace: &Workspace) -> Threshold {
        self.thresholds.get(&workspace.root).map_or_else(Threshold::default, |(threshold, _)| *threshold)
    }

    fn next_age(&mut self) -> u64 {
        self.next_age += 1;
        self.next_age
    }

    /// Whether one more may be told now, and how many could not be before; else it is one of those.
    fn may_tell(&mut self, now: Moment) -> Option<u64> {
        self.told.retain(|at| at.till(now) < limits::CONTENTION_WITHIN);
        if self.told.len() >= limits::CONTENTION_TOLD_MAX {
            self.left_out += 1;
            return None;
        }
        self.told.push_back(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl LockTable {
    /// A workspace says what it counts as contended.
    pub(super) fn set_threshold(&mut self, workspace: &Workspace, threshold: Threshold) {
        let age = self.contention.next_age();
        let thresholds = &mut self.contention.thresholds;
        thresholds.remove(&workspace.root);
        if threshold == Threshold::default() {
            return;
        }
        if thresholds.len() >= limits::CONTENTION_WORKSPACES_MAX {
            // The one unused for longest is back at what all have until somebody greets from there.
            let oldest = thresholds
                .iter()
                .min_by_key(|(_, (_, age))| if planted(Bug::WorkspaceInUseForgotten) { u64::MAX - age } else { *age })
                .map(|(root, _)| root.clone());
            oldest.map(|root| thresholds.remove(&root));
        }
        thresholds.insert(workspace.root.clone(), (threshold, age));
    }

    /// A request for a lock cannot be granted at once, because of others.
    pub(super) fn came(&mut self, step: &mut Step, ask: &Arc<Ask>, came: Came) {
        let now = step.now.mono;
        step.came.push(ask.clone());
        let scope = &ask.target.scope;
        let threshold = self.contention.threshold(&ask.workspace);
        let mut hot = self.contention.scopes.get(scope).cloned().unwrap_or_default();
        let due = hot.add(now, came, threshold);
        hot.age = self.contention.next_age();
        if let Some((_, age)) = self.contention.thresholds.get_mut(&ask.workspace.root) {
            *age = hot.age;
        }
        let undo = self.contention.set(scope.clone(), Some(hot));
        step.counted(undo);
        if self.contention.scopes.len() > limits::CONTENTION_SCOPES_MAX {
            let (_, oldest) = self.contention.by_age.first_key_value().expect("there are too many");
            let undo = self.contention.set(oldest.clone(), None);
            step.counted(undo);
        }
        let Some((count, over)) = due else { return };
        step.counted(Undo::Told(self.contention.told.clone(), self.contention.left_out));
        if let Some(left_out) = self.contention.may_tell(now) {
            self.tell_contention(step, ask, count, over, left_out);
        }
    }

    fn tell_contention(&mut self, step: &mut Step, ask: &Ask, count: Count, over: u64, left_out: u64) {
        let now = step.now.mono;
        let (mut waiting, mut longest_wait) = (Vec::new(), 0);
        let _ = self.state.index.overlapping::<()>(&ask.target, &mut |_, slot| {
            waiting.extend(index::Line::ALL.into_iter().flat_map(|line| slot.line(line)).map(|turn| turn.at));
            ControlFlow::Continue(())
        });
        waiting.sort_unstable();
        waiting.dedup();
        waiting.retain(|id| {
            let waiter = &self.state.waiters[id];
            let waits = waiter.takes && !waiter.at_once && waiter.caller.is_some();
            if waits {
                longest_wait = longest_wait.max(waiter.since.mono.till(now));
            }
            waits
        });
        let contended = Contended {
            refused: count.refused,
            queued: count.queued,
            over,
            waiting: waiting.iter().map(|id| self.state.waiters[id].first()).collect::<BTreeSet<_>>().len() as u64,
            longest_wait,
            left_out,
        };
        // What is contended, and by whom it is held.
        let holder = self.in_the_way(ask).0.into_iter().next();
        let (lock, fence) = holder.as_ref().map_or((LockId::NONE, Fence(0)), |lock| (lock.id, lock.fence));
        let held = holder.map_or_else(|| held_by_nobody(ask), |lock| (*lock.ask).clone());
        let (target, workspace) = (ask.target.clone(), ask.workspace.clone());
        let ask = Arc::new(Ask { target, workspace, request: None, ..held });
        self.tell_of(step, EventKind::Contention(contended), lock, ask, fence);
    }

    /// A lock was held for so long: where its scope is contended, that tells how long others will have to wait.
    pub(super) fn was_held(&mut self, step: &mut Step, lock: &Lock) {
        let scope = &lock.ask.target.scope;
        if lock.ask.mode == Mode::Advisory {
            return;
        }
        let Some(mut hot) = self.contention.scopes.get(scope).cloned() else { return };
        if hot.holds.len() == limits::CONTENTION_HOLDS {
            hot.holds.pop_front();
        }
        hot.holds.push_back(lock.since.mono.till(step.now.mono));
        let undo = self.contention.set(scope.clone(), Some(hot));
        step.counted(undo);
    }

    /// After how many milliseconds a request for a contended scope, at this place in its queue, may have a chance: as
    /// long as those before it take if they hold it for as long as is usual there, else as long as the lease of the
    /// first holder lasts. None where the scope is not contended, or neither is known.
    pub(super) fn retry_after(&self, now: Moment, ask: &Ask, position: usize, holders: &[Lock]) -> Option<u64> {
        let threshold = self.contention.threshold(&ask.workspace);
        let hot = self.contention.scopes.get(&ask.target.scope)?;
        if !hot.is_contended(now, threshold) {
            return None;
        }
        let lease_left = || Some(holders.first()?.expires?.left(now));
        let after = hot.usual_hold().map(|hold| hold.saturating_mul(position as u64)).or_else(lease_left)?;
        Some(after.clamp(limits::RETRY_AFTER_MIN, limits::RETRY_AFTER_MAX))
    }

    /// Takes back what a step counted.
    pub(super) fn undo_counted(&mut self, counted: Vec<Undo>) {
        for undo in counted.into_iter().rev().filter(|_| !planted(Bug::ContentionCountedThoughUndone)) {
            self.contention.undo(undo);
        }
    }
}

/// What stands for the holder where none of ours is in the way: only earlier requests, or a program that does not ask.
fn held_by_nobody(ask: &Ask) -> Ask {
    let agent = Agent::new("(nobody)").expect("the name is short and has no spaces");
    let who = Who { agent, session: None };
    Ask { who, note: None, process: None, bound: None, upgrades: None, ..ask.clone() }
}
