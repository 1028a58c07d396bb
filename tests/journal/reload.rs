//! What is loaded is what was appended, however often the log turned over and the journal was reopened.

use crate::mem_disk::{MemDisk, Random};
use crate::world::{self, Rows};
use flockd::journal::disk::{DirDisk, Disk};
use flockd::journal::{Journal, Tuning};
use flockd::limits;
use flockd::model::{LockId, Record};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Appends at random, reopens after closing, dropping or killing, and compares.
fn reloads(seed: u64, background: bool, mut disk: MemDisk) {
    let mut random = Random(seed);
    let (mut rows, mut events, mut seq) = (Rows::new(), Vec::new(), 0);
    for round in 0..5 {
        let tuning = Tuning { segment_max: 256 << random.below(6), background };
        let (mut journal, loaded) = world::open(&disk, tuning).unwrap();
        assert_eq!(world::rows(&loaded.records), rows, "seed {seed}, round {round}");
        assert_eq!(loaded.events.into_iter().map(Record::Event).collect::<Vec<_>>(), events, "seed {seed}");
        assert_eq!((loaded.fresh, loaded.rebooted, loaded.cut), (round == 0, false, None));
        assert_eq!(loaded.lost_below, 0, "a kill takes no event");
        for number in 0..random.below(80) {
            let mut batch = world::batch(&mut random, number);
            seq += 1;
            batch.push(world::event(&mut random, seq));
            events.push(batch.last().unwrap().clone());
            world::fold(&mut rows, &batch);
            journal.append(&batch).unwrap();
        }
        match random.below(3) {
            0 => journal.close().unwrap(),
            1 => drop(journal),
            _ => disk = disk.after_kill(),
        }
    }
}

#[test]
fn what_was_appended_is_loaded_after_any_turns_and_reopenings() {
    for seed in 0..60 * crate::scale() {
        reloads(seed, false, MemDisk::default());
        reloads(seed, true, MemDisk::default());
    }
}

#[test]
fn only_after_a_power_cut_may_events_be_missing_and_that_is_remembered() {
    let open = |disk: &MemDisk, boot| Journal::open_tuned(Arc::new(disk.clone()), boot, 7, 1 << 20, Tuning::default());
    let mut random = Random(9);
    let disk = MemDisk::default();
    let (mut journal, loaded) = open(&disk, 1).unwrap();
    assert_eq!(loaded.lost_below, 0, "there was nothing before");
    let marks = Record::Reserve { fences: 2 << 20, events: 2 << 20 };
    journal.append(&[marks, world::event(&mut random, 1 << 20)]).unwrap();
    journal.close().unwrap();
    let (journal, loaded) = open(&disk, 2).unwrap();
    assert_eq!((loaded.rebooted, loaded.lost_below), (true, 0), "it was closed before the machine was restarted");
    drop(journal);
    let (mut journal, loaded) = open(&disk, 3).unwrap();
    assert_eq!((loaded.rebooted, loaded.lost_below), (true, 2 << 20), "it was not closed");
    journal.rewrite(&[]).unwrap();
    drop(journal);
    let (_, loaded) = open(&disk, 3).unwrap();
    assert_eq!((loaded.rebooted, loaded.lost_below), (false, 2 << 20), "no event was written since");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn files_left_by_kill_9_hold_every_appended_batch() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let mut random = Random(5);
    let tuning = Tuning { segment_max: 4096, background: false };
    let (mut journal, _) = world::open(&DirDisk::open(&home).unwrap(), tuning).unwrap();
    let mut rows = Rows::new();
    for number in 0..120 {
        let batch = world::batch(&mut random, number);
        world::fold(&mut rows, &batch);
        journal.append(&batch).unwrap();
        if number % 8 == 0 {
            // The kernel's view of the files while the journal is still open is what a killed process leaves.
            let copied = place.path().join(format!("copy-{number}"));
            copy(&home, &copied);
            let (_, loaded) = world::open(&DirDisk::open(&copied).unwrap(), tuning).unwrap();
            assert_eq!(world::rows(&loaded.records), rows, "after batch {number}");
        }
    }
}

#[test]
fn a_real_directory_is_folded_in_the_background_and_stays_small() {
    let place = tempfile::tempdir().unwrap();
    let disk = DirDisk::open(place.path()).unwrap();
    let tuning = Tuning { segment_max: 64 * 1024, background: true };
    let (mut journal, _) = world::open(&disk, tuning).unwrap();
    let (mut random, mut rows) = (Random(6), Rows::new());
    let mut oldest_gone = false;
    for number in 0..u64::MAX {
        let batch = world::batch(&mut random, number);
        world::fold(&mut rows, &batch);
        journal.append(&batch).unwrap();
        // The first segment of the open journal is log.00000002: opening folds what was there into the store.
        oldest_gone |= !place.path().join("log.00000002").exists();
        if oldest_gone && number > 5_000 {
            break;
        }
    }
    journal.close().unwrap();
    let logs = disk.list().unwrap().into_iter().filter(|name| name.starts_with("log.")).count();
    assert_eq!(logs, 1, "a closed journal has one empty segment");
    let (_, loaded) = world::open(&disk, tuning).unwrap();
    assert_eq!(world::rows(&loaded.records), rows);
}

#[test]
fn a_reboot_is_told_until_its_state_is_written() {
    let disk = Arc::new(MemDisk::default());
    let open = |boot, taken_up| {
        let (mut journal, loaded) = Journal::open(disk.clone(), boot, 1, world::FLOOR).unwrap();
        if taken_up {
            journal.rewrite(&loaded.records).unwrap();
        }
        loaded.rebooted
    };
    let told = [open(1, false), open(1, false), open(2, false), open(2, true), open(2, false), open(1, false)];
    assert_eq!(told, [false, false, true, true, false, true]);
}

#[test]
fn a_new_home_starts_at_the_floor_and_an_old_one_where_it_was() {
    let disk = MemDisk::default();
    let (mut journal, loaded) = world::open(&disk, Tuning::default()).unwrap();
    assert_eq!((loaded.fences_from, loaded.events_from), (world::FLOOR, world::FLOOR));
    assert_eq!((loaded.instance, loaded.fresh), (world::INSTANCE, true));
    let marks = Record::Reserve { fences: world::FLOOR + 9, events: world::FLOOR + 5 };
    journal.append(&[marks]).unwrap();
    drop(journal);
    let (_, loaded) = Journal::open(Arc::new(disk), 1, 99, world::FLOOR * 2).unwrap();
    assert_eq!((loaded.fences_from, loaded.events_from), (world::FLOOR + 9, world::FLOOR + 5));
    assert_eq!((loaded.instance, loaded.fresh), (world::INSTANCE, false));
}

#[test]
fn only_the_newest_events_are_kept() {
    let disk = MemDisk::default();
    let mut random = Random(8);
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    let last = limits::EVENTS_KEPT + 500;
    let events: Vec<Record> = (1..=last).map(|seq| world::event(&mut random, seq)).collect();
    for batch in events.chunks(97) {
        journal.append(batch).unwrap();
    }
    drop(journal);
    let (_, loaded) = world::open(&disk, Tuning::default()).unwrap();
    let kept: Vec<u64> = loaded.events.iter().map(|event| event.seq.0).collect();
    assert_eq!(kept, (501..=last).collect::<Vec<_>>());
}

#[test]
fn an_empty_batch_is_nothing_and_a_record_that_is_too_large_harms_nothing() {
    let disk = MemDisk::default();
    let mut random = Random(9);
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    let before = journal.append(&[world::lock(&mut random, 1, 1)]).unwrap();
    assert_eq!(journal.append(&[]).unwrap(), before);
    let Record::Lock(_, Some(mut lock)) = world::lock(&mut random, 2, 2) else { unreachable!() };
    Arc::make_mut(&mut lock.ask).note = Some("x".repeat(70_000).into());
    let error = journal.append(&[Record::Lock(LockId(2), Some(lock))]).unwrap_err();
    assert!(error.to_string().contains("is larger than"), "{error}");
    journal.append(&[world::lock(&mut random, 3, 3)]).unwrap();
    drop(journal);
    let (_, loaded) = world::open(&disk, Tuning::default()).unwrap();
    assert_eq!(loaded.records.len(), 2);
}
