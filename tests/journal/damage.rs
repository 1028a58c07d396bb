//! Damaged, missing, foreign and future files: each is refused with a sentence, none is taken for empty; only a torn
//! tail is cut. Fences never repeat, whatever is done to the files.

use crate::mem_disk::{MemDisk, Random};
use crate::world::{self, Rows};
use flockd::journal::disk::{DirDisk, Disk};
use flockd::journal::{Journal, JournalError, Tuning};
use flockd::model::Record;
use std::fs;

const REMEDY: &str = "`flockd daemon start --fresh` sets the remains aside and starts without those locks";

/// A home whose store and log both hold something, as killed; and the name of its log segment.
fn lived_in() -> (MemDisk, String) {
    let mut random = Random(1);
    let disk = MemDisk::default();
    for round in 0..2 {
        let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
        for number in 0..20 {
            journal.append(&world::batch(&mut random, round * 100 + number)).unwrap();
            if number == 10 {
                journal.sync().unwrap();
            }
        }
        if round == 1 {
            let segment = segment(&disk);
            return (disk.after_kill(), segment);
        }
    }
    unreachable!()
}

fn segment(disk: &MemDisk) -> String {
    disk.names().into_iter().rfind(|name| name.starts_with("log.")).unwrap()
}

/// The same home with one file changed.
fn with(disk: &MemDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> MemDisk {
    let disk = disk.after_kill();
    let mut bytes = disk.bytes(name);
    change(&mut bytes);
    disk.put(name, &bytes);
    disk
}

/// Refused with a sentence that names the file, and nothing was changed.
fn refused(disk: &MemDisk, file: &str, says: &str) {
    let before: Vec<_> = disk.names().into_iter().map(|name| (disk.bytes(&name), name)).collect();
    let refusal = world::refusal(disk);
    assert!(refusal.contains(&format!("/home/x/flockd/{file}")) && refusal.contains(says), "{refusal}");
    let after: Vec<_> = disk.names().into_iter().map(|name| (disk.bytes(&name), name)).collect();
    let same = before.iter().filter(|(_, name)| name != "journal.redb").all(|file| after.contains(file));
    assert!(same, "a refused home was changed: {refusal}");
}

#[test]
fn empty_and_shortened_files_are_refused() {
    let (disk, log) = lived_in();
    for name in ["journal.redb", "fences", &log] {
        refused(&with(&disk, name, Vec::clear), name, "it is empty");
        refused(&with(&disk, name, |bytes| bytes.truncate(7)), name, REMEDY);
    }
    for length in (8..disk.bytes("journal.redb").len()).step_by(4099) {
        refused(&with(&disk, "journal.redb", |bytes| bytes.truncate(length)), "journal.redb", REMEDY);
    }
    for length in 8..disk.bytes("fences").len() {
        refused(&with(&disk, "fences", |bytes| bytes.truncate(length)), "fences", REMEDY);
    }
}

#[test]
fn files_of_random_bytes_are_refused() {
    let (disk, log) = lived_in();
    for name in ["journal.redb", "fences", &log] {
        let mut random = Random(2);
        let noise = with(&disk, name, |bytes| bytes.iter_mut().for_each(|byte| *byte = random.next() as u8));
        refused(&noise, name, "does not belong here");
    }
}

#[test]
fn a_flipped_bit_never_changes_what_is_loaded() {
    let (disk, log) = lived_in();
    let (_, whole) = world::open(&disk.after_kill(), Tuning::default()).unwrap();
    let whole = world::rows(&whole.records);
    let mut random = Random(3);
    for name in ["journal.redb", "fences", &log] {
        let used = disk.bytes(name).iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
        for _ in 0..150 * crate::scale() {
            let (at, bit) = (random.below(used) as usize, random.below(8));
            let flipped = with(&disk, name, |bytes| bytes[at] ^= 1 << bit);
            match world::open(&flipped, Tuning::default()) {
                Err(error) => assert!(error.to_string().contains(name), "{error}"),
                // Only the unsynced end of the log may be cut, and that is told.
                Ok((_, loaded)) if loaded.cut.is_some() => assert_eq!(name, log),
                Ok((_, loaded)) => assert_eq!(world::rows(&loaded.records), whole, "byte {at} of {name}"),
            }
        }
    }
}

#[test]
fn a_future_version_of_log_and_fences_is_left_alone() {
    let (disk, log) = lived_in();
    for name in ["fences", &log] {
        let end = if name == "fences" { disk.bytes(name).len() } else { 32 };
        let future = with(&disk, name, |bytes| {
            bytes[8] = 9;
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(&bytes[..12]);
            checksum.update(&bytes[16..end]);
            bytes[12..16].copy_from_slice(&checksum.finalize().to_le_bytes());
        });
        refused(&future, name, "was written by a newer flockd (format 9); nothing was changed");
    }
}

#[test]
fn a_missing_file_is_named() {
    let (disk, log) = lived_in();
    let without = |name: &str| {
        let disk = disk.after_kill();
        disk.delete(name);
        disk
    };
    refused(&without("journal.redb"), "journal.redb", "is missing although");
    refused(&without(&log), &log, "is missing although");
    let only_fences = without("journal.redb");
    only_fences.delete(&log);
    refused(&only_fences, "journal.redb", REMEDY);
    let only_log = without("journal.redb");
    only_log.delete("fences");
    refused(&only_log, "journal.redb", REMEDY);
}

#[test]
fn parts_of_two_homes_are_not_mixed() {
    let (disk, log) = lived_in();
    let other = MemDisk::default();
    drop(Journal::open(std::sync::Arc::new(other.clone()), 1, 77, world::FLOOR).unwrap());
    for (name, theirs) in [("journal.redb", "journal.redb"), ("fences", "fences"), (&log, "log.00000002")] {
        let mixed = with(&disk, name, |bytes| *bytes = other.bytes(theirs));
        assert!(world::refusal(&mixed).contains("does not belong here"), "{}", world::refusal(&mixed));
    }
    let renumbered =
        with(&disk, &log, |bytes| bytes.splice(..32, other.bytes("log.00000002")[..32].to_vec()).for_each(drop));
    refused(&renumbered, &log, "another home");
}

/// Bytes of a segment before its first batch.
const LABEL: usize = 32;

/// Where the batch at `begin` ends, its padding included: 32 bytes of head, the body's length among them.
fn end_of_batch(log: &[u8], begin: usize) -> usize {
    let length = u32::from_le_bytes(log[begin + 8..begin + 12].try_into().unwrap());
    (begin + 32 + length as usize).next_multiple_of(8)
}

/// A log of `count` batches of which the first `synced` are known, in the later ones, to be durable; the states after
/// each and where each begins.
fn log_of(count: u64, synced: u64) -> (MemDisk, Vec<Rows>, Vec<usize>) {
    let mut random = Random(4);
    let disk = MemDisk::default();
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    let (mut states, mut begins) = (vec![Rows::new()], vec![LABEL]);
    for number in 0..count {
        let batch = world::batch(&mut random, number);
        let mut state = states.last().unwrap().clone();
        world::fold(&mut state, &batch);
        states.push(state);
        journal.append(&batch).unwrap();
        begins.push(end_of_batch(&disk.bytes("log.00000002"), *begins.last().unwrap()));
        if number + 1 == synced {
            journal.sync().unwrap();
        }
    }
    (disk.after_kill(), states, begins)
}

/// What a power cut can leave of a file from some byte on.
#[derive(Clone, Copy)]
enum Tear {
    Shortened,
    Zeroed,
    Garbled,
}

impl Tear {
    fn apply(self, bytes: &mut Vec<u8>, from: usize) {
        match self {
            Tear::Shortened => bytes.truncate(from),
            Tear::Zeroed => bytes[from..].fill(0),
            Tear::Garbled => bytes[from..].iter_mut().for_each(|byte| *byte ^= 0xA5),
        }
    }
}

#[test]
fn a_torn_tail_is_cut_back_to_a_whole_batch_at_every_length() {
    let (disk, states, begins) = log_of(5, 2);
    for length in begins[2]..begins[5] {
        // The last bytes of a batch may be padding, or zero by themselves: then nothing is lost by it.
        let whole = begins.iter().rposition(|&begin| begin <= length).unwrap();
        for tear in [Tear::Shortened, Tear::Zeroed, Tear::Garbled] {
            let mut is_whole = false;
            let torn = with(&disk, "log.00000002", |bytes| {
                let (end, before) = (begins[whole + 1], bytes.clone());
                tear.apply(bytes, length);
                is_whole = (0..end).all(|at| bytes.get(at).unwrap_or(&0) == &before[at]);
            });
            let (mut journal, loaded) = world::open(&torn, Tuning::default()).unwrap();
            let rows = world::rows(&loaded.records);
            let found = states.iter().position(|state| *state == rows).expect("a state of the history");
            let may_be_padding = length + 8 > begins[whole + 1];
            assert!(found == whole || found == whole + 1 && (is_whole || may_be_padding), "{length}: {found}");
            // What is appended next is not followed by anything stale.
            let mut after = rows;
            let batch = world::batch(&mut Random(length as u64), 99);
            world::fold(&mut after, &batch);
            journal.append(&batch).unwrap();
            drop(journal);
            let (_, loaded) = world::open(&torn, Tuning::default()).unwrap();
            assert_eq!((world::rows(&loaded.records), loaded.cut), (after, None));
        }
    }
}

#[test]
fn damage_before_a_record_that_was_synced_is_no_torn_tail() {
    let (disk, states, begins) = log_of(6, 4);
    // Batches 0 to 3 are synced, and batches 4 and 5 say so.
    for bad in 0..4 {
        let damaged = with(&disk, "log.00000002", |bytes| bytes[begins[bad] + 9] ^= 1);
        refused(&damaged, "log.00000002", "had been safe on disk");
        let zeroed = with(&disk, "log.00000002", |bytes| bytes[begins[bad]..begins[bad + 1]].fill(0));
        refused(&zeroed, "log.00000002", "had been safe on disk");
    }
    // Batch 4 was never said to be durable, so losing it and keeping batch 5 is what a power cut does.
    let torn = with(&disk, "log.00000002", |bytes| bytes[begins[4] + 9] ^= 1);
    let (_, loaded) = world::open(&torn, Tuning::default()).unwrap();
    assert_eq!(world::rows(&loaded.records), states[4]);
    assert!(loaded.cut.unwrap().contains("log.00000002: the end of the log"));
}

#[test]
fn a_home_changed_under_a_running_journal_stops_it() {
    let (disk, _) = lived_in();
    let mut random = Random(5);
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    let log = segment(&disk);
    let bytes = disk.bytes(&log);
    disk.put(&log, &bytes);
    let batch = world::batch(&mut random, 1);
    let stopped = journal.append(&batch).unwrap_err();
    assert!(matches!(stopped, JournalError::Tampered { .. }) && stopped.to_string().contains(&log), "{stopped}");
    assert!(matches!(journal.rewrite(&batch), Err(JournalError::Tampered { .. })));
    assert!(matches!(journal.append(&batch), Err(JournalError::Failed { .. })));
}

#[test]
fn a_directory_in_the_place_of_the_store_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let disk = DirDisk::open(place.path()).unwrap();
    drop(world::open(&disk, Tuning::default()).unwrap());
    fs::remove_file(place.path().join("journal.redb")).unwrap();
    fs::create_dir(place.path().join("journal.redb")).unwrap();
    let refusal = world::refusal(&disk);
    assert!(refusal.contains("journal.redb does not belong here"), "{refusal}");
}

#[test]
fn a_home_deleted_under_a_running_journal_stops_it() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let disk = DirDisk::open(&home).unwrap();
    let (mut journal, _) = world::open(&disk, Tuning::default()).unwrap();
    fs::rename(&home, place.path().join("elsewhere")).unwrap();
    let stopped = journal.append(&world::batch(&mut Random(1), 1)).unwrap_err();
    assert!(matches!(stopped, JournalError::Tampered { .. }), "{stopped}");
}

/// Opens, reserves a block, gives out fences from it, and says which was the highest.
fn give_out(disk: &(impl Disk + Clone + 'static), above: u64) -> u64 {
    let (mut journal, loaded) = world::open(disk, Tuning::default()).unwrap();
    assert!(loaded.fences_from > above, "fence {} was given out before", loaded.fences_from);
    assert!(loaded.events_from > above);
    let end = loaded.fences_from + 100;
    journal.append(&[Record::Reserve { fences: end, events: end }]).unwrap();
    journal.append(&[world::lock(&mut Random(end), end - 1, end - 1)]).unwrap();
    end - 1
}

#[test]
fn no_fence_is_given_out_twice_whatever_happens_to_the_journal() {
    let disk = MemDisk::default();
    let mut highest = give_out(&disk, 0);
    let old: Vec<_> = disk.names().into_iter().map(|name| (disk.bytes(&name), name)).collect();
    highest = give_out(&disk, highest);

    // The fences file is deleted: the journal knows.
    disk.delete("fences");
    highest = give_out(&disk, highest);

    // The journal is deleted: refused, and set aside on demand; the fences file knows.
    let logs = || disk.names().into_iter().filter(|name| name.starts_with("log.")).collect::<Vec<_>>();
    disk.delete("journal.redb");
    refused(&disk, "journal.redb", REMEDY);
    let aside = Journal::set_aside(&disk, 1_800_000_000).unwrap();
    assert_eq!((aside.as_str(), logs().len()), ("aside-1800000000", 0));
    highest = give_out(&disk, highest);

    // An old copy of the journal is put back: the fences file knows.
    logs().iter().for_each(|name| disk.delete(name));
    old.iter().filter(|(_, name)| name != "fences").for_each(|(bytes, name)| disk.put(name, bytes));
    highest = give_out(&disk, highest);

    // An old copy of the fences file is put back: the journal knows.
    old.iter().filter(|(_, name)| name == "fences").for_each(|(bytes, name)| disk.put(name, bytes));
    give_out(&disk, highest);
}

#[test]
fn setting_aside_keeps_the_remains_and_the_instance() {
    let place = tempfile::tempdir().unwrap();
    let disk = DirDisk::open(place.path()).unwrap();
    let highest = give_out(&disk, 0);
    fs::write(place.path().join("daemon.log"), "not the journal's").unwrap();
    assert_eq!(Journal::set_aside(&disk, 5).unwrap(), "aside-5");
    let mut left = disk.list().unwrap();
    left.sort();
    assert_eq!(left, ["aside-5", "daemon.log", "fences"]);
    assert!(place.path().join("aside-5/journal.redb").exists());
    let (journal, loaded) = Journal::open(std::sync::Arc::new(disk.clone()), 1, 123, 1).unwrap();
    assert!(loaded.fresh && loaded.records.is_empty() && loaded.fences_from > highest);
    assert_eq!(loaded.instance, world::INSTANCE);
    drop(journal);
    assert_eq!(Journal::set_aside(&disk, 5).unwrap(), "aside-5-2");
}

#[test]
fn an_unreadable_fences_file_is_set_aside_too_and_numbers_start_at_the_floor() {
    let (disk, _) = lived_in();
    let damaged = with(&disk, "fences", |bytes| bytes[20] ^= 1);
    refused(&damaged, "fences", REMEDY);
    Journal::set_aside(&damaged, 5).unwrap();
    let (_, loaded) = Journal::open(std::sync::Arc::new(damaged), 1, 123, world::FLOOR + 5).unwrap();
    assert_eq!((loaded.fences_from, loaded.instance, loaded.fresh), (world::FLOOR + 5, 123, true));
}

#[test]
fn fences_start_above_every_stored_one_even_if_it_was_never_reserved() {
    let disk = MemDisk::default();
    let (mut journal, loaded) = world::open(&disk, Tuning::default()).unwrap();
    let far = loaded.fences_from + 1_000_000;
    journal.append(&[world::lock(&mut Random(1), 1, far), world::event(&mut Random(2), far + 7)]).unwrap();
    drop(journal);
    let (_, loaded) = world::open(&disk, Tuning::default()).unwrap();
    assert_eq!((loaded.fences_from, loaded.events_from), (far + 1, far + 8));
}
