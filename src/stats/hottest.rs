//! Many names, few kept: those that are asked for most have figures of their own, the rest have them together.
//!
//! This is the algorithm called Space-Saving: where there is no room, the coldest makes way for the new one, which
//! takes over its rank. So a name that has more than one in [`limits::STATS_NAMED`] of all requests is sure to be
//! among those that are kept, however many others come by; and what was hot long ago makes way in time. Ranks only
//! decide who stays; the figures themselves are exact, from when the name came in. What makes way is added to the rest,
//! so nothing is ever lost from the sum.

use super::Tally;
use crate::limits;
use crate::planted::{Bug, planted};
use std::collections::HashMap;
use std::hash::Hash;

/// What is kept of one name.
#[derive(Clone, Debug)]
struct Named<X> {
    /// What is to be known of the name beside its figures.
    about: X,
    tally: Tally,
    rank: u64,
    /// When it was asked for last, as a count of requests.
    last: u64,
}

/// Figures by name, and those of all other names together.
#[derive(Clone, Debug)]
pub struct Hottest<K, X> {
    named: HashMap<K, Named<X>>,
    rest: Tally,
    requests: u64,
}

impl<K: Clone + Eq + Hash + Ord, X> Hottest<K, X> {
    pub(super) fn new() -> Hottest<K, X> {
        Hottest { named: HashMap::new(), rest: Tally::default(), requests: 0 }
    }

    /// The figures of a name that is asked for: it is among those that are kept from now on.
    pub(super) fn asked_for(&mut self, name: &K, about: impl FnOnce() -> X) -> &mut Tally {
        self.requests += 1;
        let last = self.requests;
        if !self.named.contains_key(name) {
            let rank = if self.named.len() < limits::STATS_NAMED { 0 } else { self.make_room() };
            self.named.insert(name.clone(), Named { about: about(), tally: Tally::default(), rank, last });
        }
        let named = self.named.get_mut(name).expect("it is there, or was put there");
        named.rank += 1;
        named.last = last;
        &mut named.tally
    }

    /// The figures of a name that something happens to, or those of the rest.
    pub(super) fn of(&mut self, name: &K) -> &mut Tally {
        self.named.get_mut(name).map_or(&mut self.rest, |named| &mut named.tally)
    }

    /// The coldest becomes one of the rest; answers with its rank.
    fn make_room(&mut self) -> u64 {
        let coldest = self.named.iter().min_by_key(|(_, named)| (named.rank, named.last));
        let coldest = coldest.map(|(name, _)| name.clone()).expect("there are as many as may be");
        let Named { tally, rank, .. } = self.named.remove(&coldest).expect("it was found just now");
        if !planted(Bug::ColdStatsLost) {
            self.rest.merge(&tally);
        }
        rank
    }

    /// Those that `is_meant` wants, at most `top` of them, the hottest first; and all others together.
    pub fn top(&self, top: usize, is_meant: impl Fn(&K) -> bool) -> (Vec<(&K, &X, &Tally)>, Tally) {
        let mut named: Vec<_> = self.named.iter().collect();
        named.sort_unstable_by(|(a, one), (b, other)| other.tally.requests.cmp(&one.tally.requests).then(a.cmp(b)));
        let (mut listed, mut others) = (Vec::new(), self.rest.clone());
        for (name, Named { about, tally, .. }) in named {
            if listed.len() < top && is_meant(name) {
                listed.push((name, about, tally));
            } else {
                others.merge(tally);
            }
        }
        (listed, others)
    }

    /// Bytes of all counts: what grows.
    pub fn bytes(&self) -> usize {
        self.named.values().map(|named| named.tally.bytes()).sum::<usize>() + self.rest.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(hottest: &mut Hottest<u64, ()>, name: u64) {
        hottest.asked_for(&name, || ()).requests += 1;
    }

    #[test]
    fn the_sum_is_exact_however_many_names_come_by() {
        let mut hottest = Hottest::new();
        for name in 0..1_000_000 {
            ask(&mut hottest, name);
            hottest.of(&name).held.add(name);
        }
        assert_eq!(hottest.named.len(), limits::STATS_NAMED);
        let (listed, others) = hottest.top(10, |_| true);
        let listed: u64 = listed.iter().map(|(.., tally)| tally.requests).sum();
        assert_eq!((listed, listed + others.requests), (10, 1_000_000));
        let (none, all) = hottest.top(0, |_| true);
        assert!(none.is_empty());
        assert_eq!((all.held.count(), all.held.sum(), all.held.max()), (1_000_000, 499_999_500_000, 999_999));
        assert!(hottest.bytes() <= (limits::STATS_NAMED + 1) * 24 * 1024, "{} bytes", hottest.bytes());
    }

    #[test]
    fn a_hot_name_is_kept_among_many_cold_ones() {
        let mut hottest = Hottest::new();
        for round in 0..100_000 {
            ask(&mut hottest, 1_000 + round);
            if round % 100 == 0 {
                ask(&mut hottest, 7);
            }
        }
        let (listed, _) = hottest.top(1, |_| true);
        // Nothing of it was lost to the rest: it has been there since it first came.
        assert_eq!((*listed[0].0, listed[0].2.requests), (7, 1_000));
    }

    #[test]
    fn what_was_hot_long_ago_makes_way() {
        let mut hottest = Hottest::new();
        for name in 0..limits::STATS_NAMED as u64 {
            (0..50).for_each(|_| ask(&mut hottest, name));
        }
        for round in 0..20_000 {
            ask(&mut hottest, 1_000 + round % 64);
        }
        let (listed, others) = hottest.top(64, |_| true);
        assert!(listed.iter().all(|(name, ..)| **name >= 1_000), "the new ones are the hottest");
        let listed: u64 = listed.iter().map(|(.., tally)| tally.requests).sum();
        assert_eq!(listed + others.requests, 50 * limits::STATS_NAMED as u64 + 20_000);
    }

    #[test]
    fn what_happens_to_a_name_that_is_not_kept_is_counted_with_the_rest() {
        let mut hottest: Hottest<u64, ()> = Hottest::new();
        hottest.of(&3).expired += 1;
        ask(&mut hottest, 3);
        hottest.of(&3).expired += 1;
        let (listed, others) = hottest.top(8, |_| true);
        assert_eq!((listed[0].2.expired, others.expired), (1, 1));
        let (listed, others) = hottest.top(8, |name| *name != 3);
        assert_eq!((listed.len(), others.expired, others.requests), (0, 2, 1));
    }
}
