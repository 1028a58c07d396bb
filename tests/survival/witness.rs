//! What holders write down while they hold, and the judge who reads it afterwards and has seen nothing else.
//!
//! All append to one file, a line with one write, so the lines stand in the order in which they were written.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The file, in the working directory of the test.
const LOG: &str = "log";

/// A number chosen anew for each run, or that of `FLOCKD_SEED`; printed, so that a failure can be repeated.
pub fn seed(test: &str) -> Random {
    let seed = std::env::var("FLOCKD_SEED").map_or_else(|_| flockd::os::random_u64(), |seed| seed.parse().unwrap());
    eprintln!("{test}: FLOCKD_SEED={seed}");
    Random(seed | 1)
}

/// xorshift64: repeatable.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits of a xorshift are its weakest.
        (self.0 >> 11) % end
    }
}

/// One hold, as its holder writes it down.
pub struct Hold {
    scope: String,
    fence: u64,
    /// When the lock was asked for, nanoseconds of the monotonic clock.
    asked: u64,
}

impl Hold {
    /// The lock was granted just now.
    pub fn enter(scope: &str, fence: u64, asked: u64) -> Hold {
        let hold = Hold { scope: scope.to_owned(), fence, asked };
        hold.write("enter", flockd::clock::monotonic_ns());
        hold
    }

    /// Something is done under the lock.
    pub fn work(&self) {
        self.write("work", 0);
    }

    /// Before the lock is released.
    pub fn leave(self) {
        self.write("leave", 0);
    }

    fn write(&self, word: &str, now: u64) {
        let Hold { scope, fence, asked } = self;
        let line = format!("{word} {scope} {fence} {} {asked} {now}\n", std::process::id());
        let mut log = fs::OpenOptions::new().append(true).create(true).open(LOG).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// How many bytes were written down so far: it grows while anybody gets on.
pub fn written(work: &Path) -> u64 {
    fs::metadata(work.join(LOG)).map_or(0, |about| about.len())
}

/// The processes that are inside by what was written down so far, as text.
pub fn inside(work: &Path) -> Vec<u32> {
    let text = fs::read_to_string(work.join(LOG)).unwrap_or_default();
    let mut inside = HashMap::new();
    // Whoever is inside wrote it lately.
    let lines: Vec<&str> = text.lines().rev().take(200).collect();
    for line in lines.into_iter().rev() {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields[..] {
            ["leave", scope, ..] => drop(inside.remove(scope)),
            [_, scope, _, pid, ..] => drop(inside.insert(scope, pid)),
            _ => {}
        }
    }
    inside.into_values().filter_map(|pid| pid.parse().ok()).collect()
}

/// What the judge has counted.
#[derive(Debug, Default)]
pub struct Verdict {
    pub holds: usize,
    /// Holds whose holder never said that it left: it was killed inside.
    pub cut_short: usize,
    /// The largest fence.
    pub last: u64,
}

/// Reads what was written down. Nobody may write under a lock when another one is in, fences grow on each scope, and
/// whoever asked after another one had its lock has the larger fence, on whatever scope.
pub fn judge(work: &Path) -> Verdict {
    let text = fs::read_to_string(work.join(LOG)).unwrap();
    let mut inside: HashMap<&str, (u64, &str)> = HashMap::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut grants = Vec::new();
    let mut verdict = Verdict::default();
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [word, scope, fence, pid, asked, now] = fields[..] else { panic!("line {number}: {line:?}") };
        let (fence, asked, now): (u64, u64, u64) =
            (fence.parse().unwrap(), asked.parse().unwrap(), now.parse().unwrap());
        match word {
            "enter" => {
                let before = last.insert(scope, fence).unwrap_or(0);
                assert!(fence > before, "line {number}: {line:?} after fence {before}");
                verdict.cut_short += usize::from(inside.insert(scope, (fence, pid)).is_some());
                verdict.holds += 1;
                verdict.last = verdict.last.max(fence);
                if now > 0 {
                    grants.push((asked, now, fence));
                }
            }
            _ => {
                let is_in = inside.get(scope) == Some(&(fence, pid));
                assert!(is_in, "line {number}: {line:?}, but {:?} is in: two held {scope} at once", inside.get(scope));
                if word == "leave" {
                    inside.remove(scope);
                }
            }
        }
    }
    verdict.cut_short += inside.len();
    fences_follow_time(grants);
    verdict
}

/// `grants` are when each was asked for, when it was had, and its fence.
fn fences_follow_time(grants: Vec<(u64, u64, u64)>) {
    let mut had: Vec<(u64, u64)> = grants.iter().map(|(_, now, fence)| (*now, *fence)).collect();
    let mut asked: Vec<(u64, u64)> = grants.iter().map(|(asked, _, fence)| (*asked, *fence)).collect();
    had.sort_unstable();
    asked.sort_unstable();
    let mut earlier = had.into_iter().peekable();
    let mut largest = 0;
    for (asked, fence) in asked {
        while let Some((_, before)) = earlier.next_if(|(had, _)| *had < asked) {
            largest = largest.max(before);
        }
        assert!(fence > largest, "fence {fence} was asked for after {largest} was had");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &str) -> Result<Verdict, Box<dyn std::any::Any + Send>> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOG), lines).unwrap();
        std::panic::catch_unwind(|| judge(dir.path()))
    }

    #[test]
    fn the_judge_sees_two_inside_and_fences_that_do_not_grow() {
        let fine =
            judged("enter x 1 7 1 2\nwork x 1 7 1 0\nenter y 2 8 3 4\nleave x 1 7 1 0\nenter x 3 9 5 6\n").unwrap();
        assert_eq!((fine.holds, fine.cut_short, fine.last), (3, 2, 3));
        assert!(judged("enter x 1 7 1 2\nenter x 2 8 3 4\nwork x 1 7 1 0\n").is_err(), "the first still writes");
        assert!(judged("enter x 2 7 1 2\nleave x 2 7 1 0\nenter x 2 8 3 4\n").is_err(), "a fence twice");
        assert!(judged("enter x 2 7 1 2\nenter y 1 8 3 4\n").is_err(), "a smaller fence for a later request");
        assert!(judged("enter x 2 7 1 5\nenter y 1 8 3 4\n").is_ok(), "they asked at the same time");
    }
}
