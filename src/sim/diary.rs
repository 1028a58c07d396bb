//! What a claw writes down while it works, in a form that survives its `kill -9` at any moment.
//!
//! A diary is a file of records of one size, each appended with one write(2): the kernel keeps what was written,
//! whatever becomes of the process. The size divides a page, so that no record lies across two of them: a kill can
//! cut a write short only between pages, hence never within a record.

use super::Failure;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

/// Bytes of a record.
pub(super) const RECORD: usize = 64;
/// Records that one whole update leaves.
pub(super) const RECORDS_PER_UPDATE: u64 = 5;
const _: () = assert!(4096 % RECORD == 0);

/// One process: which claw, and which of its lives. After a kill the claw goes on in its next life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Incarnation {
    pub claw: u16,
    pub life: u16,
}

/// `claw-3.1`: the second life of the claw with number 3.
impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claw-{}.{}", self.claw, self.life)
    }
}

impl FromStr for Incarnation {
    type Err = String;

    fn from_str(text: &str) -> Result<Incarnation, String> {
        let parts = text.strip_prefix("claw-").and_then(|rest| rest.split_once('.'));
        let (claw, life) = parts.ok_or_else(|| format!("`{text}` is no claw"))?;
        let number = |digits: &str| digits.parse().map_err(|_| format!("`{text}` is no claw"));
        Ok(Incarnation { claw: number(claw)?, life: number(life)? })
    }
}

impl From<Incarnation> for String {
    fn from(who: Incarnation) -> String {
        who.to_string()
    }
}

impl TryFrom<String> for Incarnation {
    type Error = String;

    fn try_from(text: String) -> Result<Incarnation, String> {
        text.parse()
    }
}

/// What identifies the content of one file of a pair. Two files agree if their stamps are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    /// Counts the updates of the pair.
    pub version: u64,
    /// Who wrote it; none at the start.
    pub writer: Option<Incarnation>,
    /// Which of the writer's updates wrote it.
    pub update: u32,
    /// Checksum of the bytes.
    pub crc: u32,
}

/// One record. Times are nanoseconds of the monotonic clock, which is one for all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The lock is granted, nothing is read yet.
    Enter { pair: u16, at_ns: u64, waited_ns: u64 },
    /// Both files are read.
    Read { left: Stamp, right: Stamp },
    /// The first of the two files is about to be replaced.
    Begin { update: u32 },
    /// Both are replaced.
    Done { update: u32 },
    /// The lock is about to be released.
    Leave { pair: u16, at_ns: u64 },
}

impl Entry {
    fn encode(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let mut put = |kind: u8, pair: u16, update: u32, first: &[u8], second: &[u8]| {
            bytes[0] = kind;
            bytes[2..4].copy_from_slice(&pair.to_le_bytes());
            bytes[4..8].copy_from_slice(&update.to_le_bytes());
            bytes[8..8 + first.len()].copy_from_slice(first);
            bytes[28..28 + second.len()].copy_from_slice(second);
        };
        match self {
            Entry::Enter { pair, at_ns, waited_ns } => {
                put(1, pair, 0, &at_ns.to_le_bytes(), &waited_ns.to_le_bytes());
            }
            Entry::Read { left, right } => put(2, 0, 0, &left.encode(), &right.encode()),
            Entry::Begin { update } => put(3, 0, update, &[], &[]),
            Entry::Done { update } => put(4, 0, update, &[], &[]),
            Entry::Leave { pair, at_ns } => put(5, pair, 0, &at_ns.to_le_bytes(), &[]),
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Entry> {
        let pair = u16::from_le_bytes(array(bytes, 2)?);
        let update = u32::from_le_bytes(array(bytes, 4)?);
        let at_ns = u64::from_le_bytes(array(bytes, 8)?);
        Some(match bytes.first()? {
            1 => Entry::Enter { pair, at_ns, waited_ns: u64::from_le_bytes(array(bytes, 28)?) },
            2 => Entry::Read { left: Stamp::decode(array(bytes, 8)?)?, right: Stamp::decode(array(bytes, 28)?)? },
            3 => Entry::Begin { update },
            4 => Entry::Done { update },
            5 => Entry::Leave { pair, at_ns },
            _ => return None,
        })
    }
}

impl Stamp {
    const SIZE: usize = 20;
    /// Stands for "nobody" in the bytes; no claw has this number.
    const NOBODY: u16 = u16::MAX;

    fn encode(self) -> [u8; Stamp::SIZE] {
        let nobody = Incarnation { claw: Stamp::NOBODY, life: 0 };
        let writer = self.writer.unwrap_or(nobody);
        let mut bytes = [0; Stamp::SIZE];
        bytes[..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..10].copy_from_slice(&writer.claw.to_le_bytes());
        bytes[10..12].copy_from_slice(&writer.life.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.update.to_le_bytes());
        bytes[16..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; Stamp::SIZE]) -> Option<Stamp> {
        let claw = u16::from_le_bytes(array(&bytes, 8)?);
        let life = u16::from_le_bytes(array(&bytes, 10)?);
        Some(Stamp {
            version: u64::from_le_bytes(array(&bytes, 0)?),
            writer: (claw != Stamp::NOBODY).then_some(Incarnation { claw, life }),
            update: u32::from_le_bytes(array(&bytes, 12)?),
            crc: u32::from_le_bytes(array(&bytes, 16)?),
        })
    }
}

/// The `N` bytes at `start`.
fn array<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
    bytes.get(start..start + N)?.try_into().ok()
}

/// A diary that is being written.
pub(super) struct Diary {
    file: File,
}

impl Diary {
    /// Begins the diary of a life; there must be none yet.
    pub(super) fn create(path: &Path) -> Result<Diary, Failure> {
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(Failure::at("create", path))?;
        Ok(Diary { file })
    }

    /// Appends one record.
    pub(super) fn append(&mut self, entry: Entry) -> Result<(), Failure> {
        self.file.write_all(&entry.encode()).map_err(|error| Failure(format!("cannot write the diary: {error}")))
    }
}

/// Reads a whole diary; a life that was killed before it could begin one has an empty one.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, Failure> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::at("read", path)(error)),
    };
    let damaged = || Failure(format!("the diary {} is damaged: nothing can be judged by it", path.display()));
    bytes
        .chunks(RECORD)
        .map(|record| Entry::decode(record).filter(|_| record.len() == RECORD).ok_or_else(damaged))
        .collect()
}

/// How many records a diary has by now.
pub(super) fn records(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |about| about.len() / RECORD as u64)
}

/// How many records of an unfinished update say that it is amid its replacements: entered, read, begun.
pub(super) const AMID_WRITING: u64 = 3;

/// How many updates a diary of so many records tells of as done; the farewell may be missing from the last.
pub(super) fn updates_done(records: u64) -> u64 {
    (records + 1) / RECORDS_PER_UPDATE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let stamp = |version, writer, update| Stamp { version, writer, update, crc: 0xdead_beef };
        let who = Incarnation { claw: 255, life: 65_535 };
        vec![
            Entry::Enter { pair: 1_023, at_ns: u64::MAX, waited_ns: 1 << 40 },
            Entry::Read { left: stamp(u64::MAX, Some(who), u32::MAX), right: stamp(0, None, 0) },
            Entry::Begin { update: 7 },
            Entry::Done { update: u32::MAX },
            Entry::Leave { pair: 3, at_ns: 12 },
        ]
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("diary");
        let mut diary = Diary::create(&path).unwrap();
        for entry in entries() {
            diary.append(entry).unwrap();
        }
        assert_eq!(records(&path), RECORDS_PER_UPDATE);
        assert_eq!(read(&path).unwrap(), entries());
        assert!(Diary::create(&path).is_err(), "a life has one diary");
    }

    #[test]
    fn an_update_counts_as_done_from_its_fourth_record_on() {
        assert_eq!([0, 3, 4, 5, 8, 9, 10].map(updates_done), [0, 0, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_damaged_diary_is_no_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("diary");
        assert_eq!(read(&path).unwrap(), []);
        std::fs::write(&path, [9; RECORD]).unwrap();
        assert!(read(&path).is_err(), "an unknown record");
        std::fs::write(&path, &Entry::Begin { update: 1 }.encode()[..RECORD - 1]).unwrap();
        assert!(read(&path).is_err(), "half a record");
    }

    #[test]
    fn a_claw_is_named_the_same_in_both_directions() {
        let who = Incarnation { claw: 3, life: 12 };
        assert_eq!(who.to_string(), "claw-3.12");
        assert_eq!(who.to_string().parse(), Ok(who));
        for text in ["", "claw-3", "claw-.1", "claw-3.x", "3.1", "claw-99999.0"] {
            assert!(text.parse::<Incarnation>().is_err(), "{text}");
        }
    }
}
