//! Sets: granted as a whole in one step, told as a whole, in every image of the journal whole.

use super::rules::*;
use super::*;

impl Auditor {
    /// All that was asked for is held now, each part as if it had been asked for alone.
    pub(super) fn granted_set(&mut self, now: Now, open: &Open, all: &[Granted]) {
        let Command::LockSet { asks, wait, .. } = &open.command else { panic!("a set is granted, unasked") };
        assert_eq!(all.len(), asks.len(), "{} is told of a part of its set", asks[0].who.agent);
        for (granted, ask) in all.iter().zip(asks) {
            let is_meant = overlap(&granted.lock.ask.target, &ask.target);
            assert!(is_meant, "{} is no answer to {}", granted.lock.id, ask.target.scope);
        }
        let is_again = all.iter().any(|granted| granted.again);
        assert!(
            all.iter().all(|granted| granted.again || granted.already_held) || !is_again,
            "a part of the set of {} had been granted before",
            asks[0].who.agent
        );
        self.counts.sets += u64::from(!is_again);
        self.counts.sets_waited += u64::from(!is_again && *wait != Wait::Try && open.turn != self.turn);
        all.iter().for_each(|granted| self.granted(now, open, granted));
    }

    /// Who is refused a set for a lock of its own has not got that by the same request.
    pub(super) fn is_no_part_of(&self, now: Now, command: &Command, holders: &[Lock]) {
        let Command::LockSet { asks, .. } = command else { return };
        // Of what was granted long ago another part may have ended and be forgotten.
        for holder in holders.iter().filter(|holder| holder.since.mono.after(limits::ENDED_KEPT) > now.mono) {
            let is_part = holder.ask.request.is_some() && holder.ask.request == asks[0].request;
            assert!(!is_part, "{} holds {} of a set that was not granted", asks[0].who.agent, holder.id);
        }
    }

    /// A foreigner is at one of the files of a set.
    pub(super) fn is_at_one_of(&self, foreigner: &Foreigner, asks: &[Arc<Ask>]) {
        let is_there = |ask: &Arc<Ask>| {
            let file = ask.target.own_id();
            file.zip(foreigner.pid).is_some_and(|(file, pid)| self.machine.is_foreign_against(file, ask.mode, pid))
        };
        assert!(asks.iter().any(is_there), "{} is kept out by nobody: {foreigner:?}", asks[0].who.agent);
    }

    /// What a set has of the system it keeps only while another of its files is being asked for.
    pub(super) fn is_asking_on(&self, row: &Waiter, waiters: &[Queued]) {
        let rows = waiters.iter().map(|queued| &queued.waiter).filter(|other| first_row(other) == first_row(row));
        let is_asking = rows.into_iter().any(|other| matches!(other.os, OsWait::Asked { .. }));
        assert!(is_asking, "{} holds a flock and waits for something else", row.ask.who.agent);
    }

    /// Whoever finds this journal finds each waiting set with all its rows and no lock, and each that was granted with
    /// all that it was ever granted at once.
    pub(super) fn sets_are_whole(&mut self, loaded: &Loaded) {
        let mut waiting: BTreeMap<WaiterId, Vec<Waiter>> = BTreeMap::new();
        let rows_of_sets = rows(loaded, |record| match record {
            Record::Waiter(_, Some(row)) if row.ask.set.is_some() => Some(row.clone()),
            _ => None,
        });
        for row in rows_of_sets {
            waiting.entry(first_row(&row)).or_default().push(row);
        }
        for set in waiting.values() {
            let of = set[0].ask.set.map_or(0, |member| usize::from(member.of));
            assert_eq!(set.len(), of, "of the set of {} some rows wait: {set:?}", set[0].ask.who.agent);
        }
        let name = |ask: &Ask| ask.set.and_then(|_| Some((ask.who.agent.clone(), ask.request.clone()?)));
        // A one-shot may have heard of a part in another answer, of which the rest was taken back.
        let in_session = waiting.values().filter(|set| set[0].ask.who.session.is_some());
        let names: BTreeSet<_> = in_session.filter_map(|set| name(&set[0].ask)).collect();
        let locks: Vec<Lock> = rows(loaded, |record| match record {
            Record::Lock(_, lock) => lock.clone(),
            _ => None,
        });
        let part = locks.iter().find(|lock| name(&lock.ask).is_some_and(|name| names.contains(&name)));
        assert!(part.is_none(), "a set waits of which a part is held: {part:?}");
        let mut last: Option<(u64, u64, Arc<Ask>)> = None;
        let mut grants: BTreeMap<u64, usize> = BTreeMap::new();
        for event in &loaded.events {
            let is_grant = matches!(event.kind, EventKind::Acquired(how) if how != Acquired::Downgraded);
            if !is_grant || name(&event.ask).is_none() {
                continue;
            }
            // The locks of one grant are told of one right after the other, in the order of the set.
            let first = match last {
                Some((first, before, ask))
                    if before + 1 == event.seq.0 && name(&ask) == name(&event.ask) && ask.set < event.ask.set =>
                {
                    first
                }
                _ => event.seq.0,
            };
            *grants.entry(first).or_default() += 1;
            last = Some((first, event.seq.0, event.ask.clone()));
        }
        for (first, count) in grants {
            self.counts.sets_seen += u64::from(count > 1);
            let known = *self.set_grants.entry(first).or_insert(count);
            assert_eq!(known, count, "of the set granted with event {first} a part was to be seen");
        }
    }
}
