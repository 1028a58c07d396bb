//! Events in the journal: complete and in order or with a gap that explains itself, and each lock's story whole.

use super::*;

impl Auditor {
    /// Complete and in order, or an explicit gap; no number is used twice.
    pub(super) fn events(&mut self, loaded: &Loaded) {
        let numbers: BTreeSet<u64> = loaded.events.iter().map(|event| event.seq.0).collect();
        assert_eq!(numbers.len(), loaded.events.len(), "an event number is there twice");
        assert!(loaded.events.is_sorted_by_key(|event| event.seq), "events are out of order");
        let newest = numbers.last().copied().unwrap_or(0);
        match self.gap_from.take() {
            Some(from) => {
                self.gaps.push((from, newest.max(from)));
                // Steps that were undone have taken numbers as well: the next event may come after a gap.
                self.gaps_after.insert(newest);
                self.kept.retain(|seq| numbers.contains(seq));
                // A batch that could not be written may show until the journal is written anew, and not after.
                self.gap_from = self.trouble.then_some(from);
            }
            None => {
                let missing = self.kept.iter().find(|seq| !numbers.contains(seq));
                assert!(missing.is_none(), "event {missing:?} is gone");
            }
        }
        for event in &loaded.events {
            if let Some(before) = self.ever.get(&event.seq.0) {
                assert_eq!(before, event, "event number {} is used twice", event.seq.0);
            } else {
                assert!(event.seq.0 > self.top_event, "event {} comes after {}", event.seq.0, self.top_event);
                self.counts.events += 1;
                self.counts.delegated += u64::from(event.kind == EventKind::Acquired(Acquired::Delegated));
                self.ever.insert(event.seq.0, event.clone());
            }
        }
        self.top_event = self.top_event.max(newest);
        self.kept = numbers;
        self.without_gaps(&loaded.events);
        self.stories(&loaded.events);
    }

    fn without_gaps(&self, events: &[Event]) {
        for pair in events.windows(2) {
            let (before, after) = (pair[0].seq.0, pair[1].seq.0);
            let is_explained =
                self.gaps.iter().any(|(from, to)| before < *to && after > *from) || self.gaps_after.contains(&before);
            assert!(after == before + 1 || is_explained, "events between {before} and {after} are missing");
        }
    }

    /// What the events tell of each lock is what happened: it is acquired once, let go, taken up again, and ends once.
    fn stories(&self, events: &[Event]) {
        let mut stories: BTreeMap<LockId, Vec<&Event>> = BTreeMap::new();
        events.iter().for_each(|event| stories.entry(event.lock).or_default().push(event));
        for (id, story) in &stories {
            let released = story.iter().position(|event| matches!(event.kind, EventKind::Released(_)));
            let is_last = released.is_none_or(|at| at + 1 == story.len());
            assert!(is_last || self.epoch > 0, "{id} is told of after its end: {story:?}");
            let fences = story.iter().map(|event| event.fence);
            assert!(fences.is_sorted(), "the fences of {id} go back");
        }
        let has = |id: &LockId, is_it: &dyn Fn(&Event) -> bool| {
            stories.get(id).is_some_and(|story| story.iter().any(|event| is_it(event)))
        };
        for claim in self.claims.values().filter(|claim| claim.epoch == self.epoch) {
            let acquired =
                |event: &Event| event.fence == claim.lock.fence && matches!(event.kind, EventKind::Acquired { .. });
            assert!(has(&claim.lock.id, &acquired), "no event tells that {} was acquired", claim.lock.id);
        }
        for (id, end) in self.ended.iter().filter(|(_, end)| end.epoch == self.epoch && end.written) {
            let released = |event: &Event| matches!(event.kind, EventKind::Released(_));
            assert!(end.turn > self.turn || has(id, &released), "no event tells that {id} ended");
        }
    }
}
