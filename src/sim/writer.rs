//! The writer: reads a pair of files that must agree, thinks, and replaces both. It knows nothing of locks.

use super::Failure;
use super::diary::{Diary, Entry, Incarnation, Stamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What one file of a pair says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Grows by one with each update.
    pub version: u64,
    /// Who wrote this; none at the start.
    pub writer: Option<Incarnation>,
    /// Which of the writer's updates this is.
    pub update: u32,
    /// Whose updates are in.
    pub scores: BTreeMap<Incarnation, Score>,
}

/// One claw's part in a [`Tally`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Score {
    /// How many of its updates are in.
    pub count: u32,
    /// The number of the last of them.
    pub last: u32,
}

impl Tally {
    /// The next version, with one more update of `who` in it.
    fn with(mut self, who: Incarnation, update: u32) -> Tally {
        let score = self.scores.entry(who).or_default();
        *score = Score { count: score.count + 1, last: update };
        Tally { version: self.version + 1, writer: Some(who), update, scores: self.scores }
    }
}

/// A file as it was read: what it says, and what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub tally: Tally,
    pub stamp: Stamp,
}

/// The two copies of a pair, as they were read one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copies {
    pub left: Copy,
    pub right: Copy,
}

impl Copies {
    /// The copy to go on with: the newer one. It repairs what a killed writer left half done, whose first replacement
    /// is always the left one; so the left one wins a tie.
    pub(super) fn newer(self) -> Copy {
        if self.right.stamp.version > self.left.stamp.version { self.right } else { self.left }
    }
}

/// Two JSON files in a directory of their own, which is what gets locked.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub number: u16,
    pub dir: PathBuf,
}

impl Pair {
    /// The pair with this number below `dir`.
    pub(super) fn new(dir: &Path, number: u16) -> Pair {
        Pair { number, dir: dir.join(format!("pair-{number}")) }
    }

    /// Makes the directory and two files that agree on nothing having happened.
    pub(super) fn create(&self) -> Result<(), Failure> {
        std::fs::create_dir(&self.dir).map_err(Failure::at("create", &self.dir))?;
        self.replace("left.json", &Tally::default())?;
        self.replace("right.json", &Tally::default())
    }

    /// Reads both files, the left one first.
    pub(super) fn read(&self) -> Result<Copies, Failure> {
        Ok(Copies { left: self.read_one("left.json")?, right: self.read_one("right.json")? })
    }

    fn read_one(&self, name: &str) -> Result<Copy, Failure> {
        let path = self.dir.join(name);
        let bytes = std::fs::read(&path).map_err(Failure::at("read", &path))?;
        let tally: Tally = serde_json::from_slice(&bytes)
            .map_err(|error| Failure(format!("{} is no tally: {error}", path.display())))?;
        let crc = crc32fast::hash(&bytes);
        let stamp = Stamp { version: tally.version, writer: tally.writer, update: tally.update, crc };
        Ok(Copy { tally, stamp })
    }

    /// Replaces one file by renaming another into its place, so that nobody ever reads half a file. It is not synced:
    /// the simulator cuts no power.
    fn replace(&self, name: &str, tally: &Tally) -> Result<(), Failure> {
        let path = self.dir.join(name);
        let text = serde_json::to_vec(tally).expect("a tally has string keys and no failing serializer");
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(name).suffix(".new").tempfile_in(&self.dir)?;
            file.write_all(&text)?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(Failure::at("replace", &path))
    }
}

/// One update of a pair: read, think, replace. The diary is kept at every step, so that a kill between any two of
/// them can be told from a failure of the locks.
pub(super) fn update(
    pair: &Pair,
    who: Incarnation,
    number: u32,
    think: Duration,
    diary: &mut Diary,
) -> Result<(), Failure> {
    let copies = pair.read()?;
    diary.append(Entry::Read { left: copies.left.stamp, right: copies.right.stamp })?;
    pause(think);
    let next = copies.newer().tally.with(who, number);
    diary.append(Entry::Begin { update: number })?;
    pair.replace("left.json", &next)?;
    pair.replace("right.json", &next)?;
    diary.append(Entry::Done { update: number })
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "thinking, and the moment of a kill, are times by definition")]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::diary;

    const WHO: Incarnation = Incarnation { claw: 2, life: 1 };

    #[test]
    fn an_update_puts_the_same_new_version_on_both_sides_and_leaves_no_scrap() {
        let dir = tempfile::tempdir().unwrap();
        let pair = Pair::new(dir.path(), 0);
        pair.create().unwrap();
        let mut diary = Diary::create(&dir.path().join("diary")).unwrap();
        update(&pair, WHO, 1, Duration::ZERO, &mut diary).unwrap();
        update(&pair, WHO, 2, Duration::ZERO, &mut diary).unwrap();

        let copies = pair.read().unwrap();
        assert_eq!(copies.left, copies.right);
        assert_eq!(copies.left.tally.version, 2);
        assert_eq!(copies.left.tally.scores[&WHO], Score { count: 2, last: 2 });
        assert_eq!(std::fs::read_dir(&pair.dir).unwrap().count(), 2);
        let written = diary::read(&dir.path().join("diary")).unwrap();
        assert_eq!(written.len(), 6);
        assert_eq!(written[5], Entry::Done { update: 2 });
    }

    #[test]
    fn the_next_update_repairs_a_pair_that_was_left_half_done() {
        let dir = tempfile::tempdir().unwrap();
        let pair = Pair::new(dir.path(), 0);
        pair.create().unwrap();
        let half = Tally::default().with(Incarnation { claw: 1, life: 0 }, 1);
        pair.replace("left.json", &half).unwrap();
        assert_ne!(pair.read().unwrap().left.stamp, pair.read().unwrap().right.stamp);

        let mut diary = Diary::create(&dir.path().join("diary")).unwrap();
        update(&pair, WHO, 1, Duration::ZERO, &mut diary).unwrap();
        let copies = pair.read().unwrap();
        assert_eq!(copies.left, copies.right);
        assert_eq!(copies.left.tally.scores.len(), 2);
    }

    #[test]
    fn a_file_that_is_no_tally_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pair = Pair::new(dir.path(), 0);
        pair.create().unwrap();
        std::fs::write(pair.dir.join("right.json"), "{").unwrap();
        assert!(pair.read().unwrap_err().to_string().contains("right.json is no tally"));
    }
}
