//! A journal that was torn, flipped, zeroed or replaced by an old copy while nobody served: never a silent fresh start.

use crate::Random;
use crate::util::{Done, Ground, exclusive, scaled, take, until};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A home as a killed daemon leaves it: something in the store, something in the log, numbers reserved.
struct Remains {
    files: BTreeMap<String, Vec<u8>>,
    /// The log's name.
    log: String,
    /// Fences by lock.
    locks: BTreeMap<String, u64>,
    last_fence: u64,
}

fn remains() -> Remains {
    let ground = Ground::new();
    let client = ground.client("a", None);
    let (mut locks, mut last_fence) = (BTreeMap::new(), 0);
    for number in 0..24 {
        if number == 12 {
            // What came before goes to the store.
            ground.stop_daemon();
        }
        let (id, fence) = take(&client, exclusive(&format!("@{number}"), 600_000));
        last_fence = fence;
        if number % 5 == 4 {
            client.unlock(&id).unwrap();
        } else {
            locks.insert(id, fence);
        }
    }
    ground.kill_daemon();
    let files = journal(&ground.home);
    let log = files.keys().filter(|name| name.starts_with("log.")).max().unwrap().clone();
    Remains { files, log, locks, last_fence }
}

/// The files of the journal.
fn journal(home: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let ours = |name: &String| name.starts_with("log.") || name == "journal.redb" || name == "fences";
    names.filter(ours).map(|name| (name.clone(), fs::read(home.join(&name)).unwrap())).collect()
}

/// A ground whose home has these files.
fn ground_of(files: &BTreeMap<String, Vec<u8>>) -> Ground {
    use std::os::unix::fs::DirBuilderExt;
    let ground = Ground::new();
    fs::DirBuilder::new().mode(0o700).create(&ground.home).unwrap();
    for (name, bytes) in files {
        fs::write(ground.home.join(name), bytes).unwrap();
    }
    ground
}

fn fences(ground: &Ground) -> BTreeMap<String, u64> {
    ground.status().locks.into_iter().map(|lock| (lock.lock_id, lock.fence)).collect()
}

/// What a home came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Refused, with the name of the file.
    Refused,
    /// Served, with all its locks.
    Whole,
    /// Served without the end of its log, and said so.
    Cut,
}

/// Starts a daemon on such a home. Whatever comes of it is one of three things, and fences go on growing.
fn fate(remains: &Remains, files: &BTreeMap<String, Vec<u8>>, damaged: &str, what: &str) -> Fate {
    let ground = ground_of(files);
    let Done { code, err, .. } = ground.flockd("b", "daemon start");
    let fate = if code == Some(0) {
        let there = fences(&ground);
        if there == remains.locks {
            Fate::Whole
        } else {
            let log = ground.daemon_log();
            assert!(log.contains("the end of the log"), "{what}: locks are gone, and nothing says so: {log}");
            assert!(there.iter().all(|(id, fence)| remains.locks.get(id).is_none_or(|known| known == fence)), "{what}");
            Fate::Cut
        }
    } else {
        assert_eq!(code, Some(5), "{what}: {err}");
        assert!(err.contains(damaged) && err.contains("--fresh") || err.contains("newer flockd"), "{what}: {err}");
        ground.flockd("b", "lock -n @0").gives(5);
        let same = |(name, bytes): (&String, &Vec<u8>)| fs::read(ground.home.join(name)).is_ok_and(|now| now == *bytes);
        // The store may have been opened and closed before something else was found.
        let is_left_alone = files.iter().filter(|(name, _)| *name != "journal.redb").all(same);
        assert!(is_left_alone, "{what}: a refused home was changed");
        ground.flockd("", "daemon start --fresh").gives(0);
        Fate::Refused
    };
    // A damaged fences file that was set aside leaves the clock to go by, as does one that never was.
    let lock = ground.flockd("b", "lock -n @new --json").gives(0).json();
    let fence = lock["fence"].as_u64().unwrap();
    assert!(fence > remains.last_fence || damaged == "fences", "{what}: fence {fence} after {}", remains.last_fence);
    fate
}

/// Runs many cases beside one another.
fn each<T: Sync>(cases: &[T], run: impl Fn(&T) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    run(case);
                }
            });
        }
    });
}

/// Bytes of a segment before its first batch, and of a batch before its body.
const LABEL: usize = 32;
const HEAD: usize = 32;

/// Where the batches of a segment begin, and where the last one ends.
fn batches(log: &[u8]) -> Vec<usize> {
    let mut begins = vec![LABEL];
    loop {
        let begin = begins[begins.len() - 1];
        let length = log.get(begin + 8..begin + 12).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
        if length == 0 {
            return begins;
        }
        begins.push((begin + HEAD + length as usize).next_multiple_of(8));
    }
}

#[test]
fn a_flipped_bit_in_any_field_is_refused_or_cut_with_a_note_and_never_free() {
    let remains = remains();
    let begins = batches(&remains.files[&remains.log]);
    assert!(begins.len() > 6, "{begins:?}");
    let mut random = Random::new(2);
    let mut cases: Vec<(String, usize)> = Vec::new();
    // One byte of each field of the label, of a batch in the middle and of the last one; and what lies behind.
    let (middle, last) = (begins[2], begins[begins.len() - 2]);
    for field in [0, 8, 12, 16, 24] {
        cases.push((remains.log.clone(), field + random.below(4) as usize));
    }
    for batch in [middle, last] {
        for field in [0, 4, 8, 12, 16, 24, HEAD, HEAD + 9] {
            cases.push((remains.log.clone(), batch + field + random.below(4) as usize));
        }
    }
    cases.push((remains.log.clone(), begins[begins.len() - 1] + 40));
    for field in (0..remains.files["fences"].len()).step_by(4) {
        cases.push(("fences".into(), field + random.below(4) as usize));
    }
    let used = remains.files["journal.redb"].iter().rposition(|byte| *byte != 0).unwrap() as u64;
    for at in [0, 9, 64, 128].into_iter().chain((0..scaled(16)).map(|_| random.below(used) as usize)) {
        cases.push(("journal.redb".into(), at));
    }
    let flips: Vec<(String, usize, u8)> =
        cases.into_iter().map(|(file, at)| (file, at, 1 << random.below(8))).collect();
    each(&flips, |(file, at, bit)| {
        let mut files = remains.files.clone();
        let bytes = files.get_mut(file).unwrap();
        let at = (*at).min(bytes.len() - 1);
        bytes[at] ^= bit;
        let what = format!("bit {bit:#x} of byte {at} of {file}");
        let fate = fate(&remains, &files, file, &what);
        // A batch that others follow was synced before they were written.
        let may_be_cut = *file == remains.log && at >= last;
        assert!(fate != Fate::Cut || may_be_cut, "{what}: {fate:?}");
        let must_be_refused = *file == "fences" || *file == remains.log && at < begins[begins.len() - 2];
        assert!(fate == Fate::Refused || !must_be_refused, "{what}: {fate:?}");
    });
}

#[test]
fn a_file_that_is_zeroed_shortened_or_missing_is_refused_by_its_name() {
    let remains = remains();
    let mut cases: Vec<(&str, String, Option<Vec<u8>>)> = Vec::new();
    for name in [remains.log.as_str(), "journal.redb", "fences"] {
        let whole = &remains.files[name];
        cases.push((name, "zeroed".into(), Some(vec![0; whole.len()])));
        cases.push((name, "emptied".into(), Some(Vec::new())));
        cases.push((name, "shortened to 7 bytes".into(), Some(whole[..7].to_vec())));
        cases.push((name, "zeroed at its beginning".into(), {
            let mut bytes = whole.clone();
            bytes[..32.min(whole.len())].fill(0);
            Some(bytes)
        }));
        if name != "fences" {
            cases.push((name, "missing".into(), None));
        }
    }
    let first = batches(&remains.files[&remains.log])[0];
    let mut holed = remains.files[&remains.log].clone();
    holed[first..first + 64].fill(0);
    cases.push((&remains.log, "zeroed in the middle".into(), Some(holed)));
    each(&cases, |(name, how, bytes)| {
        let mut files = remains.files.clone();
        match bytes {
            Some(bytes) => drop(files.insert((*name).to_owned(), bytes.clone())),
            None => drop(files.remove(*name)),
        }
        assert_eq!(fate(&remains, &files, name, &format!("{name} {how}")), Fate::Refused, "{name} {how}");
    });
}

#[test]
fn a_torn_end_of_the_log_is_cut_and_told() {
    let remains = remains();
    let log = &remains.files[&remains.log];
    let begins = batches(log);
    let (last, end) = (begins[begins.len() - 2], begins[begins.len() - 1]);
    let mut random = Random::new(3);
    let mut cases: Vec<(usize, &str)> = vec![(last + 1, "shortened"), (last + 1, "zeroed"), (end - 9, "shortened")];
    for _ in 0..scaled(6) {
        let at = last + 1 + random.below((end - last - 9) as u64) as usize;
        cases.push((at, ["shortened", "zeroed", "garbled"][random.below(3) as usize]));
    }
    each(&cases, |(at, how)| {
        let mut files = remains.files.clone();
        let bytes = files.get_mut(&remains.log).unwrap();
        match *how {
            "shortened" => bytes.truncate(*at),
            "zeroed" => bytes[*at..].fill(0),
            _ => bytes[*at..end].iter_mut().for_each(|byte| *byte ^= 0xA5),
        }
        assert_eq!(fate(&remains, &files, &remains.log, &format!("{how} from {at} on")), Fate::Cut, "{how} from {at}");
    });
    // Nothing is torn where the log was just cut at the end of a batch.
    let mut files = remains.files.clone();
    files.get_mut(&remains.log).unwrap().truncate(end);
    assert_eq!(fate(&remains, &files, &remains.log, "cut at its end"), Fate::Whole);
}

#[test]
fn an_old_copy_of_the_journal_repeats_no_fence_and_gives_nothing_away_twice() {
    let ground = Ground::new();
    let client = ground.client("a", None);
    let (old, old_fence) = take(&client, exclusive("@old", 600_000));
    ground.kill_daemon();
    let copy = journal(&ground.home);
    let mut last = old_fence;
    for round in 0..scaled(3) {
        let (_, fence) = take(&client, exclusive(&format!("@new-{round}"), 600_000));
        assert!(fence > last, "fence {fence} after {last}");
        last = fence;
        ground.kill_daemon();
        // The old copy of the journal, with the newest fences file or without any; and the other way round.
        for name in journal(&ground.home).keys().filter(|name| *name != "fences") {
            fs::remove_file(ground.home.join(name)).unwrap();
        }
        for (name, bytes) in copy.iter().filter(|(name, _)| *name != "fences") {
            fs::write(ground.home.join(name), bytes).unwrap();
        }
        let status = fences(&ground);
        assert_eq!(status.keys().collect::<Vec<_>>(), [&old], "what the copy holds is held");
    }
    let (_, fence) = take(&client, exclusive("@last", 600_000));
    assert!(fence > last, "fence {fence} after {last}");
    ground.kill_daemon();
    fs::write(ground.home.join("fences"), &copy["fences"]).unwrap();
    let (_, after) = take(&client, exclusive("@after", 600_000));
    assert!(after > fence, "fence {after} after {fence}, with an old fences file");
    ground.kill_daemon();
    fs::remove_file(ground.home.join("fences")).unwrap();
    let (_, without) = take(&client, exclusive("@without", 600_000));
    assert!(without > after, "fence {without} after {after}, without a fences file");
}

#[test]
fn an_old_store_put_in_the_place_of_a_running_daemons_is_noticed_before_anything_is_lost() {
    let ground = Ground::new();
    let client = ground.client("a", None);
    take(&client, exclusive("@0", 600_000));
    ground.stop_daemon();
    let store = ground.home.join("journal.redb");
    let old = fs::read(&store).unwrap();
    let held: Vec<String> = (1..10).map(|number| take(&client, exclusive(&format!("@{number}"), 600_000)).0).collect();
    let aside: PathBuf = ground.home.with_file_name("the-real-store");
    fs::rename(&store, &aside).unwrap();
    fs::write(&store, old).unwrap();
    // Folding into a file without a name and then cutting the log would lose what is in both.
    ground.flockd("", "daemon stop").gives(0);
    // The daemon before it has ended too, and said so in the same log.
    let log = until("it has ended", || Some(ground.daemon_log()).filter(|log| log.matches("Z ended").count() == 2));
    assert!(log.contains("journal.redb was moved, removed or replaced"), "{log}");
    fs::rename(&aside, &store).unwrap();
    let there = fences(&ground);
    assert!(held.iter().all(|id| there.contains_key(id)), "{there:?}");
}
