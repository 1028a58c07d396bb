//! Writers and the daemon are killed at random moments while somebody reads: the file is never torn, and what was said
//! to be written is.

use crate::util::{Ground, StopAtEnd, kill_9, scaled, until};
use crate::witness::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const WRITERS: u64 = 3;
const WRITES: u64 = 60;
const KILLS: u64 = 30;
const DAEMON_KILLS: u64 = 6;

/// A content that tells whether it is whole: its hash, the writer's number of it, and bytes that follow from that.
fn content(writer: u64, number: u64) -> Vec<u8> {
    let mut random = Random(writer * 1_000_003 + number);
    let length = 10_000 + random.below(100_000) as usize;
    let head = [writer.to_le_bytes(), number.to_le_bytes()].concat();
    let body: Vec<u8> = head.into_iter().chain((0..length).map(|_| random.below(256) as u8)).collect();
    [&blake3::hash(&body).as_bytes()[..], &body].concat()
}

/// Who wrote it and which of theirs it is.
fn whole(bytes: &[u8]) -> (u64, u64) {
    assert!(bytes.len() > 48, "{} bytes are left of it", bytes.len());
    let (hash, body) = bytes.split_at(32);
    assert!(blake3::hash(body).as_bytes() == hash, "torn: {} bytes that are no content", bytes.len());
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    /// What was said to be written, by the fence that it was written under: writer and number.
    acknowledged: Mutex<BTreeMap<u64, (u64, u64)>>,
    /// What nothing was said of, or no: it may have been written all the same.
    unknown: Mutex<BTreeSet<(u64, u64)>>,
    kills: AtomicU64,
    daemon_kills: AtomicU64,
    reads: AtomicU64,
}

/// Writes again and again, and kills every third of its own processes.
fn writes(ground: &Ground, writer: u64, counts: &Counts, stop: &AtomicBool) {
    let mut random = Random(writer);
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let mut command = ground.command(&format!("writer-{writer}"), &["write", "data", "--json"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A daemon that is just being killed may refuse it before it has read all.
        let _ = child.stdin.take().unwrap().write_all(&content(writer, number));
        if random.below(3) == 0 {
            #[expect(clippy::disallowed_methods, reason = "bounded back-off: 30 ms at most, a moment to be killed at")]
            std::thread::sleep(Duration::from_micros(random.below(30_000)));
            let _ = child.kill();
        }
        let done = child.wait_with_output().unwrap();
        match done.status.code() {
            Some(0) => {
                let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
                counts.acknowledged.lock().unwrap().insert(said["fence"].as_u64().unwrap(), (writer, number));
                counts.written.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            None => drop(counts.kills.fetch_add(1, Ordering::SeqCst)),
            // It met a killed daemon and was told so.
            Some(1..=5) => {}
            Some(code) => panic!("{code}: {}", String::from_utf8_lossy(&done.stderr)),
        }
        counts.unknown.lock().unwrap().insert((writer, number));
    }
}

/// The file holds the write that was acknowledged last, or one that nothing was said of and that can have come after
/// it: not one whose writer was told of a later one of its own.
fn holds_the_last_acknowledged(path: &Path, counts: &Counts) {
    let found = whole(&fs::read(path).unwrap());
    let acknowledged = counts.acknowledged.lock().unwrap();
    let last = *acknowledged.last_key_value().expect("some were").1;
    let later = acknowledged.values().filter(|(writer, number)| *writer == found.0 && *number > found.1).count();
    let is_unknown = counts.unknown.lock().unwrap().contains(&found) && later == 0;
    assert!(found == last || is_unknown, "{last:?} was acknowledged last, {found:?} is there");
}

fn reads(path: &Path, counts: &Counts, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        whole(&fs::read(path).unwrap());
        counts.reads.fetch_add(1, Ordering::SeqCst);
    }
}

fn kills_the_daemon(ground: &Ground, counts: &Counts, stop: &AtomicBool) {
    let mut random = Random(99);
    while !stop.load(Ordering::SeqCst) {
        #[expect(clippy::disallowed_methods, reason = "bounded back-off: 400 ms at most between two kills")]
        std::thread::sleep(Duration::from_millis(100 + random.below(300)));
        let pid = fs::read_to_string(ground.home.join("daemon.lock")).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid.filter(|pid| ground.processes().contains(pid)) {
            kill_9(pid);
            counts.daemon_kills.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_file_is_whole_at_every_moment_whoever_is_killed() {
    let ground = Ground::new();
    let path = ground.work.join("data");
    fs::write(&path, content(0, 0)).unwrap();
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let mut threads = Vec::new();
        for writer in 0..WRITERS {
            let (ground, counts, stop) = (&ground, &counts, &stop);
            threads.push(scope.spawn(move || writes(ground, writer, counts, stop)));
        }
        threads.push(scope.spawn(|| reads(&path, &counts, &stop)));
        threads.push(scope.spawn(|| kills_the_daemon(&ground, &counts, &stop)));
        until("enough has happened", || {
            let is_over = threads.iter().any(|thread| thread.is_finished());
            let enough = [(&counts.written, WRITES), (&counts.kills, KILLS), (&counts.daemon_kills, DAEMON_KILLS)];
            let is_enough = enough.iter().all(|(count, most)| count.load(Ordering::SeqCst) >= scaled(*most));
            (is_enough || is_over).then_some(())
        });
        stop.store(true, Ordering::SeqCst);
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
    eprintln!(
        "{} written, {} writers and {} daemons killed, read whole {} times",
        count(&counts.written),
        count(&counts.kills),
        count(&counts.daemon_kills),
        count(&counts.reads)
    );
    holds_the_last_acknowledged(&path, &counts);
    // What was said to be written is there, and a new daemon finds what the killed ones left.
    if !ground.processes().is_empty() {
        ground.flockd("", "daemon stop");
    }
    let args = ["write", "data", "--wait", "forever"];
    let mut last = ground.command("last", &args).stdin(Stdio::piped()).spawn().unwrap();
    last.stdin.take().unwrap().write_all(&content(7, 7)).unwrap();
    assert!(last.wait().unwrap().success());
    assert_eq!(whole(&fs::read(&path).unwrap()), (7, 7));
    until("nothing is left beside it", || (fs::read_dir(&ground.work).unwrap().count() == 1).then_some(()));
}
