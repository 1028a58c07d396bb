//! Power cuts at any moment: what is loaded is a prefix of all batches, none torn, with every synced one.

use crate::mem_disk::{MemDisk, Random, Trouble};
use crate::world::{self, Rows};
use flockd::journal::{Journal, Tuning};
use flockd::model::Record;

/// Runs a journal for a while and remembers every state that it may be found in afterwards.
struct History {
    /// The state after each batch that was tried, first the one that was loaded.
    states: Vec<Rows>,
    /// How many batches are known to be durable.
    synced: usize,
    /// The highest fence reserved.
    reserved: u64,
    batches: u64,
}

impl History {
    /// Appends, syncs and reserves until the disk dies or enough was done.
    fn run(&mut self, journal: &mut Journal, disk: &MemDisk, random: &mut Random) {
        for _ in 0..random.below(60) {
            let done = match random.below(10) {
                0 | 1 => journal.sync().map(|()| self.synced = self.states.len() - 1),
                2 => self.sync_aside(journal),
                3 => self.append(journal, random, true),
                _ => self.append(journal, random, false),
            };
            if let Err(error) = done {
                assert!(disk.is_dead(), "the journal failed on a healthy disk: {error}");
                return;
            }
        }
    }

    fn append(
        &mut self,
        journal: &mut Journal,
        random: &mut Random,
        reserve: bool,
    ) -> Result<(), flockd::journal::JournalError> {
        self.batches += 1;
        let mut records = world::batch(random, self.batches);
        if reserve {
            let fences = self.reserved + 10;
            records.push(Record::Reserve { fences, events: fences });
        }
        let mut state = self.states.last().unwrap().clone();
        world::fold(&mut state, &records);
        self.states.push(state);
        journal.append(&records)?;
        if reserve {
            self.reserved += 10;
            self.synced = self.states.len() - 1;
        }
        Ok(())
    }

    /// Syncs by a handle while the journal goes on: only what was appended before counts.
    fn sync_aside(&mut self, journal: &mut Journal) -> Result<(), flockd::journal::JournalError> {
        let through = journal.append(&[])?;
        journal.syncer().sync(through)?;
        journal.note_synced(through);
        self.synced = self.states.len() - 1;
        Ok(())
    }

    /// Holds the loaded state against the promise; the history goes on from there.
    fn check(&mut self, loaded: &flockd::journal::Loaded, what: &str) {
        let rows = world::rows(&loaded.records);
        let found = self.states.iter().position(|state| *state == rows);
        let found = found.unwrap_or_else(|| panic!("{what}: the loaded state is no state of the history"));
        assert!(found >= self.synced, "{what}: batch {} was synced, loaded is batch {found}", self.synced);
        assert!(loaded.fences_from >= self.reserved, "{what}: fences start again");
        assert!(loaded.events_from >= self.reserved, "{what}: event numbers start again");
        self.states.drain(found + 1..);
        self.states.drain(..found);
        self.synced = 0;
        self.reserved = loaded.fences_from;
    }
}

/// Opens, however often the power goes off meanwhile; tells whether it did.
fn open_in_the_end(
    disk: &mut MemDisk,
    tuning: Tuning,
    random: &mut Random,
    cuts: bool,
) -> (Journal, flockd::journal::Loaded, bool) {
    let mut cut = false;
    loop {
        if cuts && random.chance(30) {
            disk.plant(random.below(60), "", Trouble::PowerCut, false);
        }
        match world::open(disk, tuning) {
            Ok((journal, loaded)) => {
                disk.heal();
                return (journal, loaded, cut);
            }
            Err(error) if disk.is_dead() => drop(error),
            Err(error) => panic!("refused without damage: {error}"),
        }
        *disk = disk.after_power_cut(random);
        cut = true;
    }
}

fn power_cuts(seed: u64, background: bool) {
    let mut random = Random(seed);
    let tuning = Tuning { segment_max: 512 << random.below(5), background };
    let mut disk = MemDisk::default();
    let mut history = History { states: vec![Rows::new()], synced: 0, reserved: world::FLOOR, batches: 0 };
    let mut killed = false;
    for round in 0..4 {
        let what = format!("seed {seed}, round {round}, {tuning:?}");
        let (mut journal, loaded, cut) = open_in_the_end(&mut disk, tuning, &mut random, round > 0);
        if killed && !cut {
            history.synced = history.states.len() - 1;
        }
        history.check(&loaded, &what);
        if random.chance(60) {
            disk.plant(random.below(120), "", Trouble::PowerCut, false);
        }
        history.run(&mut journal, &disk, &mut random);
        killed = false;
        disk = match random.below(4) {
            0 if !disk.is_dead() && journal.close().is_ok() => {
                history.synced = history.states.len() - 1;
                disk.heal();
                disk.clone()
            }
            1 if !disk.is_dead() => {
                killed = true;
                disk.after_kill()
            }
            _ => disk.after_power_cut(&mut random),
        };
    }
    let (_journal, loaded, _) = open_in_the_end(&mut disk, tuning, &mut random, false);
    history.check(&loaded, &format!("seed {seed}, at the end"));
}

#[test]
fn after_power_cuts_the_state_is_a_prefix_with_every_synced_batch() {
    for seed in 0..400 * crate::scale() {
        power_cuts(seed, false);
    }
}

#[test]
fn the_fold_thread_changes_nothing_about_power_cuts() {
    for seed in 0..150 * crate::scale() {
        power_cuts(1_000_000 + seed, true);
    }
}

/// After a failed sync the system shows pages that no disk has: whoever goes on upon them, after a kill or a start that
/// failed, has a store that does not open when the power goes.
fn syncs_fail_then_the_power(seed: u64) {
    let mut random = Random(seed);
    let tuning = Tuning { segment_max: 512 << random.below(5), background: false };
    let mut disk = MemDisk::default();
    // Each state that may be found; the last one after the last batch that was tried.
    let (mut states, mut batches) = (vec![Rows::new()], 0);
    for _ in 0..2 + random.below(3) {
        disk.plant(random.below(30), "journal.redb", Trouble::Error(5), false);
        if let Ok((mut journal, loaded)) = world::open(&disk, tuning) {
            states = found_among(&states, &loaded, seed);
            for _ in 0..random.below(40) {
                batches += 1;
                let batch = world::batch(&mut random, batches);
                let mut after = states.last().unwrap().clone();
                world::fold(&mut after, &batch);
                states.push(after);
                if journal.append(&batch).is_err() {
                    break;
                }
            }
        }
        disk = disk.after_kill();
    }
    let opened = |disk: &MemDisk| world::open(disk, tuning).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let (journal, loaded) = opened(&disk);
    states = found_among(&states, &loaded, seed);
    drop(journal);
    // All of it was folded durably when it was opened.
    let (_, loaded) = opened(&disk.after_power_cut(&mut random));
    found_among(&states, &loaded, seed);
}

fn found_among(states: &[Rows], loaded: &flockd::journal::Loaded, seed: u64) -> Vec<Rows> {
    let rows = world::rows(&loaded.records);
    assert!(states.contains(&rows), "seed {seed}: what is loaded is no state of the history");
    vec![rows]
}

#[test]
fn after_failed_syncs_kills_and_a_power_cut_the_store_opens() {
    for seed in 0..400 * crate::scale() {
        syncs_fail_then_the_power(2_000_000 + seed);
    }
}
