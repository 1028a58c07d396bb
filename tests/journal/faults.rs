//! Failing writes and syncs: nothing half-done is kept, and a rewrite brings the journal back.

use crate::mem_disk::{MemDisk, Random, Trouble};
use crate::world::{self, Rows};
use flockd::journal::{Journal, JournalError, Tuning};
use flockd::model::Record;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EROFS: i32 = 30;

/// Appends with a fault planted at the `spared`-th call; after each failure the batch is undone and all is rewritten.
fn fails_and_comes_back(seed: u64, spared: u64, error: i32, for_ever: bool, background: bool) {
    let what = format!("seed {seed}, error {error} after {spared} calls, for ever: {for_ever}");
    let mut random = Random(seed);
    let disk = MemDisk::default();
    let tuning = Tuning { segment_max: 2048, background };
    let (mut journal, _) = world::open(&disk, tuning).unwrap();
    let mut rows = Rows::new();
    let mut failures = 0;
    disk.plant(spared, "", Trouble::Error(error), for_ever);
    for number in 0..60 {
        let batch = world::batch(&mut random, number);
        let mut after = rows.clone();
        world::fold(&mut after, &batch);
        let mut done = journal.append(&batch).map(drop);
        if done.is_ok() && random.chance(30) {
            done = journal.sync();
        }
        if done.is_ok() {
            rows = after;
            continue;
        }
        failures += 1;
        let refused = journal.append(&batch).unwrap_err();
        assert!(matches!(refused, JournalError::Failed { .. }), "{what}: {refused}");
        come_back(&mut journal, &disk, &rows, for_ever, &what);
    }
    disk.heal();
    assert!(failures <= 1, "{what}: {failures} failures from one fault");
    let disk = if random.chance(50) && journal.sync().is_ok() {
        disk.after_power_cut(&mut random)
    } else {
        drop(journal);
        disk.after_kill()
    };
    let (_, loaded) = world::open(&disk, tuning).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(world::rows(&loaded.records), rows, "{what}");
}

fn come_back(journal: &mut Journal, disk: &MemDisk, rows: &Rows, for_ever: bool, what: &str) {
    let all: Vec<Record> = rows.values().cloned().collect();
    if for_ever {
        assert!(journal.rewrite(&all).is_err(), "{what}: rewritten on a broken disk");
        assert!(matches!(journal.append(&all), Err(JournalError::Failed { .. })), "{what}");
        disk.heal();
    }
    journal.rewrite(&all).unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[test]
fn a_journal_comes_back_from_a_failure_at_any_call() {
    for spared in 0..70 * crate::scale() {
        for (error, for_ever) in [(ENOSPC, false), (ENOSPC, true), (EIO, false), (EIO, true)] {
            fails_and_comes_back(spared * 31, spared, error, for_ever, false);
        }
        fails_and_comes_back(spared, spared, EIO, false, true);
    }
}

#[test]
fn a_failed_batch_is_not_loaded_when_the_process_dies_before_the_rewrite() {
    // Batches of many sizes, so that some end in padding and would be whole without their last byte.
    for seed in 0..16 {
        let mut random = Random(seed);
        let disk = MemDisk::default();
        let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
        let rows = world::batch(&mut random, 1);
        journal.append(&rows).unwrap();
        disk.plant(0, "log.", Trouble::Error(ENOSPC), false);
        journal.append(&world::batch(&mut random, 2)).unwrap_err();
        let (_, loaded) = world::open(&disk.after_kill(), Tuning::default()).unwrap();
        let mut state = Rows::new();
        world::fold(&mut state, &rows);
        assert_eq!(world::rows(&loaded.records), state, "seed {seed}");
    }
}

#[test]
fn a_log_that_lost_records_while_it_ran_is_not_folded() {
    for background in [false, true] {
        let mut random = Random(7);
        let disk = MemDisk::default();
        let tuning = Tuning { segment_max: 4096, background };
        let (mut journal, _) = world::open(&disk, tuning).unwrap();
        journal.append(&world::batch(&mut random, 1)).unwrap();
        disk.scribble("log.00000002", |bytes| bytes[40] ^= 1);
        let noticed = until_refused(&mut journal, &mut random);
        assert!(matches!(noticed, JournalError::Damaged { .. }), "{noticed}");
        assert!(noticed.to_string().contains("log.00000002 is damaged"), "{noticed}");
    }
}

#[test]
fn a_failed_sync_in_another_thread_stops_the_journal() {
    let mut random = Random(4);
    let disk = MemDisk::default();
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    let batch = world::batch(&mut random, 1);
    let through = journal.append(&batch).unwrap();
    let syncer = journal.syncer();
    disk.plant(0, "log.", Trouble::Error(EIO), false);
    let failed = std::thread::spawn(move || syncer.sync(through)).join().unwrap();
    assert!(failed.unwrap_err().to_string().contains("sync the log"));
    let refused = journal.append(&batch).unwrap_err();
    assert!(matches!(refused, JournalError::Failed { .. }), "{refused}");
    journal.rewrite(&batch).unwrap();
    let through = journal.append(&batch).unwrap();
    journal.syncer().sync(through).unwrap();
}

/// Appends until the journal refuses, and returns with what.
fn until_refused(journal: &mut Journal, random: &mut Random) -> JournalError {
    (0..1_000_000)
        .find_map(|number| journal.append(&world::batch(random, number)).err())
        .expect("it refuses in the end")
}

#[test]
fn a_failing_or_panicking_fold_thread_is_noticed_and_replaced() {
    for trouble in [Trouble::Error(ENOSPC), Trouble::Panic] {
        let mut random = Random(5);
        let disk = MemDisk::default();
        let tuning = Tuning { segment_max: 1024, background: true };
        let (mut journal, _) = world::open(&disk, tuning).unwrap();
        disk.plant(0, "journal.redb", trouble, false);
        let noticed = until_refused(&mut journal, &mut random);
        assert!(!matches!(noticed, JournalError::Failed { .. }), "{noticed}");
        let rows = world::batch(&mut random, 1);
        journal.rewrite(&rows).unwrap();
        let (mut state, batch) = (Rows::new(), world::batch(&mut random, 2));
        world::fold(&mut state, &rows);
        world::fold(&mut state, &batch);
        journal.append(&batch).unwrap();
        journal.close().unwrap();
        let (_, loaded) = world::open(&disk, tuning).unwrap();
        assert_eq!(world::rows(&loaded.records), state);
    }
}

#[test]
fn a_rewrite_keeps_folded_events_and_adds_those_given() {
    let mut random = Random(6);
    let disk = MemDisk::default();
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    journal.append(&[world::event(&mut random, 1), world::event(&mut random, 2)]).unwrap();
    journal.close().unwrap();
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    journal.rewrite(&[world::event(&mut random, 5)]).unwrap();
    drop(journal);
    let (_, loaded) = world::open(&disk, Tuning::default()).unwrap();
    assert_eq!(loaded.events.iter().map(|event| event.seq.0).collect::<Vec<_>>(), [1, 2, 5]);
}

#[test]
fn reserved_numbers_are_safe_before_they_are_told() {
    for spared in 0..6 {
        let disk = MemDisk::default();
        let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
        disk.plant(spared, "", Trouble::PowerCut, false);
        let fences = world::FLOOR + 1000;
        let told = journal.append(&[Record::Reserve { fences, events: fences }]).is_ok();
        for seed in 0..20 {
            let (_, loaded) = world::open(&disk.after_power_cut(&mut Random(seed)), Tuning::default()).unwrap();
            assert!(!told || loaded.fences_from >= fences && loaded.events_from >= fences);
        }
        if told {
            // Either of the two files knows them.
            disk.after_kill().delete("fences");
            let without = disk.after_power_cut(&mut Random(0));
            without.delete("fences");
            assert!(world::open(&without, Tuning::default()).unwrap().1.fences_from >= fences);
        }
    }
}

#[test]
fn a_home_that_may_not_be_written_is_refused_with_a_sentence() {
    for error in [EACCES, EROFS] {
        let disk = MemDisk::default();
        drop(world::open(&disk, Tuning::default()).unwrap());
        let before = disk.names();
        disk.plant(0, "", Trouble::Error(error), true);
        let refused = world::open(&disk, Tuning::default()).err().unwrap();
        assert!(matches!(refused, JournalError::Denied { .. }), "{refused:?}");
        assert!(refused.to_string().contains("must be writable for the user who runs flockd"), "{refused}");
        assert_eq!(disk.names(), before);
    }
}
