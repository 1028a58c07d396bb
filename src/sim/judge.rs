//! Judges a run from outside: from the diaries of the claws, the times of the kills and the files at the end.
//!
//! Pure: the same evidence gives the same verdict. It believes neither the locks nor the daemon, and excuses nothing
//! but what a kill explains exactly.

use super::diary::{Entry, Incarnation, Stamp};
use super::writer::Copies;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, its work done.
    Finished,
    /// By our kill; the time was taken just before, so it lived until then.
    Killed { at_ns: u64 },
}

/// What one process left.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub who: Incarnation,
    pub entries: Vec<Entry>,
    pub end: End,
}

/// What the judge found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Updates that their writers saw through.
    pub updates: u64,
    /// Those of them that are not in the files at the end.
    pub lost: u64,
    /// Readings, the last one included, that saw the two files of a pair disagree without a kill that explains it.
    pub torn: u64,
    /// Pairs of claws that were inside the same pair of files at the same time.
    pub overlaps: u64,
    /// Updates cut off by a kill: they may or may not be in the files.
    pub unknown: u64,
    /// Claws killed.
    pub kills: u64,
}

impl Verdict {
    /// Whether nothing was lost, torn or held twice.
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.torn == 0 && self.overlaps == 0
    }
}

/// Evidence that contradicts itself: the simulator is wrong, or somebody else was at its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Impossible(pub String);

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the evidence contradicts itself, so there is no verdict: {}", self.0)
    }
}

/// Judges a run. `files` are the pairs in the order of their numbers, read after the last claw was gone.
///
/// # Errors
///
/// When the evidence contradicts itself, for instance when more updates are in a file than were begun.
pub(super) fn judge(lives: &[Life], files: &[Copies]) -> Result<Verdict, Impossible> {
    let mut case = Case::default();
    let mut verdict = Verdict::default();
    for life in lives {
        verdict.kills += u64::from(life.end != End::Finished);
        for visit in visits(life)? {
            if usize::from(visit.pair) >= files.len() {
                return Err(Impossible(format!("{} entered pair {}, which is not there", life.who, visit.pair)));
            }
            verdict.updates += u64::from(visit.done);
            verdict.unknown += u64::from(visit.is_cut_off());
            case.hear(life, visit);
        }
    }
    verdict.overlaps = case.intervals.values_mut().map(|intervals| overlaps(intervals)).sum();
    verdict.torn = case.readings.iter().filter(|reading| !case.excuses(**reading)).count() as u64;
    for (pair, copies) in (0..).zip(files) {
        let last = Reading { pair, left: copies.left.stamp, right: copies.right.stamp };
        verdict.torn += u64::from(!case.excuses(last));
        verdict.lost += case.lost(pair, copies)?;
    }
    Ok(verdict)
}

/// One stay of a claw in a pair.
#[derive(Clone, Copy, Debug)]
struct Visit {
    pair: u16,
    enter_ns: u64,
    leave_ns: Option<u64>,
    read: Option<(Stamp, Stamp)>,
    begun: Option<u32>,
    done: bool,
}

impl Visit {
    fn is_cut_off(&self) -> bool {
        self.begun.is_some() && !self.done
    }
}

/// Reads a diary as visits. Each follows the one order there is; only a kill may end it early.
fn visits(life: &Life) -> Result<Vec<Visit>, Impossible> {
    let out_of_order = |entry: &Entry| Impossible(format!("the diary of {} goes on with {entry:?}", life.who));
    let mut visits: Vec<Visit> = Vec::new();
    for entry in &life.entries {
        let inside = visits.last_mut().filter(|visit| visit.leave_ns.is_none());
        match (*entry, inside) {
            (Entry::Enter { pair, at_ns, .. }, None) => {
                visits.push(Visit { pair, enter_ns: at_ns, leave_ns: None, read: None, begun: None, done: false });
            }
            (Entry::Read { left, right }, Some(visit)) if visit.read.is_none() => visit.read = Some((left, right)),
            (Entry::Begin { update }, Some(visit)) if visit.read.is_some() && visit.begun.is_none() => {
                visit.begun = Some(update);
            }
            (Entry::Done { update }, Some(visit)) if visit.begun == Some(update) && !visit.done => visit.done = true,
            (Entry::Leave { pair, at_ns }, Some(visit))
                if visit.done && visit.pair == pair && visit.enter_ns <= at_ns =>
            {
                visit.leave_ns = Some(at_ns);
            }
            _ => return Err(out_of_order(entry)),
        }
    }
    let ended_inside = visits.last().is_some_and(|visit| visit.leave_ns.is_none());
    if ended_inside && life.end == End::Finished {
        return Err(Impossible(format!("{} finished in the middle of an update", life.who)));
    }
    Ok(visits)
}

/// What somebody saw of a pair.
#[derive(Clone, Copy, Debug)]
struct Reading {
    pair: u16,
    left: Stamp,
    right: Stamp,
}

/// What one life did to one pair.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    done: u32,
    /// The update that a kill cut off; always the last one.
    cut_off: Option<u32>,
}

/// The testimonies, sorted.
#[derive(Default)]
struct Case {
    /// By pair: from when to when somebody was certainly inside.
    intervals: BTreeMap<u16, Vec<(u64, u64)>>,
    readings: Vec<Reading>,
    work: BTreeMap<(u16, Incarnation), Work>,
    /// What the writers of cut-off updates had read before.
    cut_off: HashMap<(Incarnation, u32), Reading>,
}

impl Case {
    fn hear(&mut self, life: &Life, visit: Visit) {
        // A claw without a farewell was inside until its kill. Its greeting may be later than the time taken before
        // the kill; then it was inside for that moment at least.
        let end_ns = match (visit.leave_ns, life.end) {
            (Some(leave_ns), _) => leave_ns,
            (None, End::Killed { at_ns }) => at_ns.max(visit.enter_ns),
            (None, End::Finished) => unreachable!("visits() has refused it"),
        };
        self.intervals.entry(visit.pair).or_default().push((visit.enter_ns, end_ns));
        let work = self.work.entry((visit.pair, life.who)).or_default();
        work.done += u32::from(visit.done);
        let Some((left, right)) = visit.read else { return };
        let reading = Reading { pair: visit.pair, left, right };
        self.readings.push(reading);
        if let Some(update) = visit.begun.filter(|_| !visit.done) {
            work.cut_off = Some(update);
            self.cut_off.insert((life.who, update), reading);
        }
    }

    /// Whether the two copies agree, or differ by exactly what killed writers left half done: the left file comes
    /// from a cut-off update, and the right file is still the one that its writer had read. That writer may itself
    /// have found a half-done pair; then the same must hold of what it had read.
    fn excuses(&self, reading: Reading) -> bool {
        let Reading { pair, mut left, right } = reading;
        while left != right {
            let Some(before) = left.writer.and_then(|who| self.cut_off.get(&(who, left.update))) else { return false };
            let follows = left.version == before.left.version.max(before.right.version) + 1;
            if before.pair != pair || before.right != right || !follows {
                return false;
            }
            // The version falls with each step, so the loop ends.
            left = before.left;
        }
        true
    }

    /// How many finished updates of this pair are not in its files.
    fn lost(&self, pair: u16, copies: &Copies) -> Result<u64, Impossible> {
        let scores = &copies.clone().newer().tally.scores;
        if let Some(who) = scores.keys().find(|&&who| !self.work.contains_key(&(pair, who))) {
            return Err(Impossible(format!("pair {pair} has updates of {who}, which made none there")));
        }
        let mut lost = 0;
        for (&(_, who), work) in self.work.range((pair, FIRST)..=(pair, LAST)) {
            let score = scores.get(&who).copied().unwrap_or_default();
            // A cut-off update is the last of its life, so it is in exactly if it is the last that is in.
            let cut_off_in = u32::from(score.count > 0 && work.cut_off == Some(score.last));
            let done_in = score.count - cut_off_in;
            if done_in > work.done {
                let most = work.done + u32::from(work.cut_off.is_some());
                let text = format!("pair {pair} has {} updates of {who}, which began {most} there", score.count);
                return Err(Impossible(text));
            }
            lost += u64::from(work.done - done_in);
        }
        Ok(lost)
    }
}

const FIRST: Incarnation = Incarnation { claw: 0, life: 0 };
const LAST: Incarnation = Incarnation { claw: u16::MAX, life: u16::MAX };

/// How many pairs of intervals have a moment in common; touching ends are none.
fn overlaps(intervals: &mut [(u64, u64)]) -> u64 {
    intervals.sort_unstable();
    let mut open: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let mut found = 0;
    for &mut (start, end) in intervals {
        while open.peek().is_some_and(|&Reverse(earlier_end)| earlier_end <= start) {
            open.pop();
        }
        found += open.len() as u64;
        open.push(Reverse(end));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::writer::{Copy, Score, Tally};

    fn who(claw: u16) -> Incarnation {
        Incarnation { claw, life: 0 }
    }

    const START: Stamp = Stamp { version: 0, writer: None, update: 0, crc: 0 };

    /// The stamp of an update; each has a checksum of its own.
    fn stamp(version: u64, claw: u16, update: u32) -> Stamp {
        Stamp { version, writer: Some(who(claw)), update, crc: u32::from(claw) * 1_000 + update }
    }

    /// A whole update from `from` to `to`, before which the writer read `before` on both sides.
    fn update(pair: u16, number: u32, from: u64, to: u64, before: Stamp) -> Vec<Entry> {
        vec![
            Entry::Enter { pair, at_ns: from, waited_ns: 0 },
            Entry::Read { left: before, right: before },
            Entry::Begin { update: number },
            Entry::Done { update: number },
            Entry::Leave { pair, at_ns: to },
        ]
    }

    fn finished(claw: u16, updates: &[Vec<Entry>]) -> Life {
        Life { who: who(claw), entries: updates.concat(), end: End::Finished }
    }

    /// A life that ends after the first `kept` entries.
    fn killed(claw: u16, at_ns: u64, kept: usize, updates: &[Vec<Entry>]) -> Life {
        let entries = updates.concat()[..kept].to_vec();
        Life { who: who(claw), entries, end: End::Killed { at_ns } }
    }

    /// A file with this stamp, and for each claw how many updates are in and which is the last.
    fn copy(stamp: Stamp, scores: &[(u16, u32, u32)]) -> Copy {
        let scores = scores.iter().map(|&(claw, count, last)| (who(claw), Score { count, last })).collect();
        Copy { tally: Tally { version: stamp.version, writer: stamp.writer, update: stamp.update, scores }, stamp }
    }

    fn both(stamp: Stamp, scores: &[(u16, u32, u32)]) -> Copies {
        Copies { left: copy(stamp, scores), right: copy(stamp, scores) }
    }

    #[test]
    fn work_in_turn_is_clean() {
        let lives = [
            finished(1, &[update(0, 1, 10, 20, START), update(0, 2, 30, 40, stamp(2, 2, 1))]),
            finished(2, &[update(0, 1, 20, 30, stamp(1, 1, 1))]),
        ];
        let verdict = judge(&lives, &[both(stamp(3, 1, 2), &[(1, 2, 2), (2, 1, 1)])]).unwrap();
        assert_eq!(verdict, Verdict { updates: 3, ..Verdict::default() });
        assert!(verdict.is_clean());
    }

    #[test]
    fn a_lost_update_is_seen() {
        let lives = [finished(1, &[update(0, 1, 10, 20, START)]), finished(2, &[update(0, 1, 20, 30, START)])];
        let verdict = judge(&lives, &[both(stamp(1, 2, 1), &[(2, 1, 1)])]).unwrap();
        assert_eq!(verdict, Verdict { updates: 2, lost: 1, ..Verdict::default() });
        assert!(!verdict.is_clean());
    }

    #[test]
    fn an_update_lost_in_one_pair_is_not_made_good_by_another_pair() {
        let lives = [finished(1, &[update(0, 1, 10, 20, START), update(1, 2, 20, 30, START)])];
        let files = [both(START, &[]), both(stamp(1, 1, 2), &[(1, 1, 2)])];
        assert_eq!(judge(&lives, &files).unwrap().lost, 1);
    }

    #[test]
    fn a_planted_double_hold_is_seen_on_the_same_pair_only() {
        let first = finished(1, &[update(0, 1, 10, 20, START)]);
        let files = [both(stamp(2, 2, 1), &[(1, 1, 1), (2, 1, 1)]), both(START, &[])];
        let inside = finished(2, &[update(0, 1, 19, 30, stamp(1, 1, 1))]);
        let verdict = judge(&[first.clone(), inside], &files).unwrap();
        assert_eq!(verdict, Verdict { updates: 2, overlaps: 1, ..Verdict::default() });
        assert!(!verdict.is_clean());

        let elsewhere = finished(2, &[update(1, 1, 10, 20, START)]);
        let files = [both(stamp(1, 1, 1), &[(1, 1, 1)]), both(stamp(1, 2, 1), &[(2, 1, 1)])];
        assert_eq!(judge(&[first, elsewhere], &files).unwrap().overlaps, 0);
    }

    #[test]
    fn every_two_that_share_a_moment_count_and_touching_ends_do_not() {
        assert_eq!(overlaps(&mut [(0, 10), (10, 20), (20, 30)]), 0);
        assert_eq!(overlaps(&mut [(0, 10), (1, 9), (2, 3), (4, 5)]), 5);
        assert_eq!(overlaps(&mut [(5, 5), (0, 10)]), 1, "a moment within another's stay");
    }

    #[test]
    fn a_killed_holder_was_inside_until_its_kill() {
        let held = |entered_again| {
            let lives = [
                killed(1, 25, 2, &[update(0, 1, 10, 0, START)]),
                finished(2, &[update(0, 1, entered_again, 40, START)]),
            ];
            judge(&lives, &[both(stamp(1, 2, 1), &[(2, 1, 1)])]).unwrap()
        };
        assert_eq!(held(24), Verdict { updates: 1, overlaps: 1, kills: 1, ..Verdict::default() });
        assert_eq!(held(25), Verdict { updates: 1, kills: 1, ..Verdict::default() });
    }

    #[test]
    fn a_claw_that_entered_between_the_time_and_its_kill_was_inside_for_a_moment() {
        let lives = [killed(1, 15, 1, &[update(0, 1, 20, 0, START)]), finished(2, &[update(0, 1, 10, 30, START)])];
        assert_eq!(judge(&lives, &[both(stamp(1, 2, 1), &[(2, 1, 1)])]).unwrap().overlaps, 1);
    }

    #[test]
    fn a_cut_off_update_is_unknown_whether_it_is_in_or_not() {
        let lives = [killed(1, 50, 8, &[update(0, 1, 10, 20, START), update(0, 2, 30, 0, stamp(1, 1, 1))])];
        let expected = Verdict { updates: 1, unknown: 1, kills: 1, ..Verdict::default() };
        assert_eq!(judge(&lives, &[both(stamp(1, 1, 1), &[(1, 1, 1)])]).unwrap(), expected);
        assert_eq!(judge(&lives, &[both(stamp(2, 1, 2), &[(1, 2, 2)])]).unwrap(), expected);
    }

    #[test]
    fn a_cut_off_update_that_is_in_does_not_hide_a_lost_one() {
        let lives = [killed(1, 50, 8, &[update(0, 1, 10, 20, START), update(0, 2, 30, 0, stamp(1, 1, 1))])];
        let verdict = judge(&lives, &[both(stamp(2, 1, 2), &[(1, 1, 2)])]).unwrap();
        assert_eq!((verdict.lost, verdict.unknown), (1, 1));
    }

    #[test]
    fn a_claw_killed_before_it_began_leaves_nothing_unknown() {
        for kept in 0..=2 {
            let verdict = judge(&[killed(1, 50, kept, &[update(0, 1, 10, 0, START)])], &[both(START, &[])]).unwrap();
            assert_eq!(verdict, Verdict { kills: 1, ..Verdict::default() });
        }
    }

    /// Claw 1 finishes an update, claw 2 reads the pair as `seen` and repairs it.
    fn reader_of(seen: (Stamp, Stamp)) -> Life {
        let mut entries = update(0, 1, 100, 110, START);
        entries[1] = Entry::Read { left: seen.0, right: seen.1 };
        finished(2, &[entries])
    }

    #[test]
    fn a_torn_pair_without_a_kill_is_seen() {
        let lives = [finished(1, &[update(0, 1, 10, 20, START)]), reader_of((stamp(1, 1, 1), START))];
        let verdict = judge(&lives, &[both(stamp(2, 2, 1), &[(1, 1, 1), (2, 1, 1)])]).unwrap();
        assert_eq!(verdict, Verdict { updates: 2, torn: 1, ..Verdict::default() });
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_torn_pair_that_a_kill_explains_is_not_held_against_the_locks() {
        let half = killed(1, 50, 3, &[update(0, 1, 10, 0, START)]);
        let lives = [half.clone(), reader_of((stamp(1, 1, 1), START))];
        let verdict = judge(&lives, &[both(stamp(2, 2, 1), &[(1, 1, 1), (2, 1, 1)])]).unwrap();
        assert_eq!(verdict, Verdict { updates: 1, unknown: 1, kills: 1, ..Verdict::default() });

        let left_so = Copies { left: copy(stamp(1, 1, 1), &[(1, 1, 1)]), right: copy(START, &[]) };
        let verdict = judge(&[half], &[left_so]).unwrap();
        assert_eq!(verdict, Verdict { unknown: 1, kills: 1, ..Verdict::default() });
    }

    #[test]
    fn a_kill_explains_nothing_but_what_it_cut_off() {
        let files = [both(stamp(9, 2, 1), &[(1, 1, 1), (2, 1, 1)])];
        let half = || killed(1, 50, 3, &[update(0, 1, 10, 0, START)]);
        for (seen, why) in [
            ((START, stamp(1, 1, 1)), "the right side is never the first to be replaced"),
            ((stamp(1, 1, 2), START), "another update of the same claw"),
            ((stamp(2, 1, 1), START), "a version that does not follow what it had read"),
            ((stamp(1, 1, 1), stamp(1, 3, 1)), "a right side that it had not read"),
        ] {
            assert_eq!(judge(&[half(), reader_of(seen)], &files).unwrap().torn, 1, "{why}");
        }
        let finished_after_all = killed(1, 50, 4, &[update(0, 1, 10, 0, START)]);
        let verdict = judge(&[finished_after_all, reader_of((stamp(1, 1, 1), START))], &files).unwrap();
        assert_eq!(verdict.torn, 1, "an update that was seen through is no excuse");
    }

    #[test]
    fn two_kills_in_a_row_explain_a_pair_that_is_two_versions_apart() {
        let first = killed(1, 50, 3, &[update(0, 1, 10, 0, START)]);
        let mut second = killed(3, 90, 3, &[update(0, 1, 60, 0, START)]);
        second.entries[1] = Entry::Read { left: stamp(1, 1, 1), right: START };
        let files = [both(stamp(3, 2, 1), &[(1, 1, 1), (2, 1, 1), (3, 1, 1)])];
        let seen = reader_of((stamp(2, 3, 1), START));
        let verdict = judge(&[first.clone(), second.clone(), seen.clone()], &files).unwrap();
        assert_eq!(verdict, Verdict { updates: 1, unknown: 2, kills: 2, ..Verdict::default() });

        // What the second one says it had read is no excuse if nobody was killed there: its own reading and the
        // reader's are torn.
        let first_finished = Life { end: End::Finished, ..finished(1, &[update(0, 1, 10, 20, START)]) };
        assert_eq!(judge(&[first_finished, second, seen], &files).unwrap().torn, 2);
    }

    #[test]
    fn files_that_disagree_at_the_end_are_torn_and_the_newer_side_is_judged() {
        let lives = [finished(1, &[update(0, 1, 10, 20, START)])];
        let files = [Copies { left: copy(START, &[]), right: copy(stamp(1, 1, 1), &[(1, 1, 1)]) }];
        assert_eq!(judge(&lives, &files).unwrap(), Verdict { updates: 1, torn: 1, ..Verdict::default() });
    }

    #[test]
    fn more_updates_than_were_begun_are_impossible() {
        let lives = [finished(1, &[update(0, 1, 10, 20, START)])];
        for (scores, why) in
            [(vec![(1, 2, 1)], "twice in"), (vec![(1, 1, 1), (2, 1, 1)], "by a claw that was not there")]
        {
            assert!(judge(&lives, &[both(stamp(2, 1, 1), &scores)]).is_err(), "{why}");
        }
        let cut_off = [killed(1, 50, 3, &[update(0, 1, 10, 0, START)])];
        assert!(judge(&cut_off, &[both(stamp(1, 1, 1), &[(1, 2, 1)])]).is_err());
        assert!(judge(&cut_off, &[both(stamp(1, 1, 1), &[(1, 1, 7)])]).is_err(), "an update it never began");
    }

    #[test]
    fn a_diary_out_of_order_is_impossible() {
        let whole = update(0, 1, 10, 20, START);
        for skipped in 0..4 {
            let mut entries = whole.clone();
            entries.remove(skipped);
            let life = Life { who: who(1), entries, end: End::Finished };
            assert!(judge(&[life], &[both(stamp(1, 1, 1), &[(1, 1, 1)])]).is_err(), "without entry {skipped}");
        }
        let unfinished = Life { who: who(1), entries: whole[..4].to_vec(), end: End::Finished };
        assert!(judge(&[unfinished], &[both(stamp(1, 1, 1), &[(1, 1, 1)])]).is_err());
        assert!(judge(&[finished(1, &[update(5, 1, 10, 20, START)])], &[both(START, &[])]).is_err(), "no such pair");
    }
}
