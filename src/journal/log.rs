//! The append-only log: segments of batches, and what a damaged one means.
//!
//! A segment `log.NNNNNNNN` is a label (magic `flockd.L`, fields instance and segment number, 8 bytes each) and batches
//! one after another, then zeros. A batch begins at a multiple of 8 bytes:
//!
//! ```text
//! magic     4 bytes
//! checksum  4 bytes: CRC-32 of all that follows but the padding
//! length    4 bytes: of the body
//! count     4 bytes: of the records in the body, at least 1
//! first     8 bytes: number of the first record; the others follow one by one, through all segments, for ever
//! synced    8 bytes: number of the last record that was known to be durable when this batch was written
//! body      for each record its length, 4 bytes, and the record as `codec.rs` makes it
//! padding   zeros up to a multiple of 8 bytes
//! ```
//!
//! All integers are little endian. One checksum for the whole batch makes it all or nothing: a grant and the release
//! that made room for it are never torn apart.
//!
//! A power cut leaves any part of what was not synced, so the first batch that is not whole, or not next in number,
//! ends the log. That is a torn tail only if nobody had been told that it is durable: any whole batch behind it that
//! says so by its `synced` is proof of damage, and the log is refused.

use super::codec::{self, Fault};
use super::disk::{Disk, DiskFile};
use super::error::JournalError;
use crate::model::Record;
use crate::planted::{Bug, planted};
use std::io;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"flockd.L";
const VERSION: u32 = 1;
const LABEL: usize = codec::LABEL_HEAD + 16;
const BATCH_MAGIC: [u8; 4] = *b"\xF1ok\xB5";
const BATCH_HEAD: usize = 32;
/// Room is taken this much at a time: a sync that need not lengthen the file is a fifth faster, and this is a thousand
/// grants.
const CHUNK: u64 = 256 * 1024;

const _: () = assert!(LABEL.is_multiple_of(8) && BATCH_HEAD.is_multiple_of(8));

/// The name of a segment.
pub(super) fn name(segment: u64) -> String {
    format!("log.{segment:08}")
}

/// The number of the segment with this name; none if it is no segment's name.
pub(super) fn segment(file: &str) -> Option<u64> {
    let number = file.strip_prefix("log.")?.parse().ok()?;
    (name(number) == file).then_some(number)
}

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Puts records into one batch.
///
/// # Errors
/// A record is too large; the text says so.
pub(super) fn batch(records: &[Record], first: u64, synced: u64) -> Result<Vec<u8>, String> {
    assert!(!records.is_empty() && synced < first, "a batch of {} records from {first}", records.len());
    let mut bytes = vec![0; BATCH_HEAD];
    for record in records {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        codec::encode(record, &mut bytes)?;
        let length = u32::try_from(bytes.len() - start - 4).expect("records are bounded");
        bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    let too_large = |_| format!("a batch of {} bytes is too large", bytes.len());
    let length = u32::try_from(bytes.len() - BATCH_HEAD).map_err(too_large)?;
    let count = u32::try_from(records.len()).map_err(too_large)?;
    bytes[..4].copy_from_slice(&BATCH_MAGIC);
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..16].copy_from_slice(&count.to_le_bytes());
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    bytes[24..32].copy_from_slice(&synced.to_le_bytes());
    let checksum = codec::crc32(&[&bytes[8..]]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    Ok(bytes)
}

/// The segment that is written to.
pub(super) struct Writer {
    /// Its number.
    pub number: u64,
    /// The open file.
    pub file: Arc<dyn DiskFile>,
    /// Where the next batch goes.
    pub tail: u64,
    room: u64,
}

impl Writer {
    /// Makes a new segment, durably.
    pub(super) fn create(disk: &dyn Disk, number: u64, instance: u64) -> Result<Writer, JournalError> {
        let name = name(number);
        let label = codec::label(MAGIC, VERSION, &[instance.to_le_bytes(), number.to_le_bytes()].concat());
        let file = disk.replace(&name, &label).and_then(|()| disk.open(&name));
        let file = file.map_err(|error| JournalError::io(format!("create {}", super::path(disk, &name)), error))?;
        Ok(Writer { number, file, tail: LABEL as u64, room: LABEL as u64 })
    }

    /// Appends one batch. On an error as much as possible of it is taken back.
    pub(super) fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        let end = self.tail + batch.len() as u64;
        if end > self.room {
            // Only a saving: without it (full, or not known to the file system) the write itself succeeds or says why.
            let room = end.next_multiple_of(CHUNK);
            if self.file.allocate(self.room, room - self.room).is_ok() {
                self.room = room;
            }
        }
        if let Err(error) = self.file.write_at(self.tail, batch) {
            // A write that stopped in the padding has left a whole batch. What cannot be cut off now is mostly cut off
            // as a torn tail later; nothing follows it, since a failed journal goes on in another segment.
            let _ = self.file.set_len(self.tail);
            return Err(error);
        }
        self.tail = end;
        Ok(())
    }
}

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What segments hold behind a given number.
#[derive(Debug)]
pub(super) struct Replay {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Number of the last one; the given number if there are none.
    pub through: u64,
    /// A sentence on the torn tail, if there was one.
    pub cut: Option<String>,
}

/// Reads segments in order, from the record after `folded`.
pub(super) fn replay(disk: &dyn Disk, segments: &[u64], instance: u64, folded: u64) -> Result<Replay, JournalError> {
    let mut replay = Replay { records: Vec::new(), through: folded, cut: None };
    for &number in segments {
        let file = super::path(disk, &name(number));
        let bytes = disk.read(&name(number)).map_err(|error| JournalError::io(format!("read {file}"), error))?;
        check_label(&file, &bytes, instance, number)?;
        replay.take_segment(&file, &bytes)?;
    }
    Ok(replay)
}

/// Whether a segment, of whatever home, is whole and has no batch in it.
pub(super) fn holds_nothing(disk: &dyn Disk, segment: u64) -> Result<bool, JournalError> {
    let file = super::path(disk, &name(segment));
    let bytes = disk.read(&name(segment)).map_err(|error| JournalError::io(format!("read {file}"), error))?;
    let label = codec::read_label::<16>(MAGIC, VERSION, &bytes[..bytes.len().min(LABEL)]);
    Ok(label.is_ok() && bytes[LABEL..].iter().all(|&byte| byte == 0))
}

fn check_label(file: &str, bytes: &[u8], instance: u64, number: u64) -> Result<(), JournalError> {
    let label = &bytes[..bytes.len().min(LABEL)];
    let fields: &[u8; 16] = codec::read_label(MAGIC, VERSION, label)
        .map_err(|fault| super::refuse(file, fault, "it is no log of flockd"))?;
    let (found, number_found) = fields.split_at(8);
    if found != instance.to_le_bytes() {
        return Err(JournalError::Foreign { file: file.into(), found: "it is the log of another home".into() });
    }
    if number_found != number.to_le_bytes() {
        return Err(JournalError::damaged(file, "it is another segment under this name"));
    }
    Ok(())
}

impl Replay {
    fn take_segment(&mut self, file: &str, bytes: &[u8]) -> Result<(), JournalError> {
        let mut at = LABEL;
        while let Some(batch) = Batch::at(bytes, at) {
            // What was folded before a crash kept the segment from being removed is skipped.
            if batch.last() > self.through {
                if batch.first != self.through + 1 {
                    break;
                }
                batch.records_into(&mut self.records).map_err(|fault| super::refuse(file, fault, "it is no log"))?;
                self.through = batch.last();
            }
            at += batch.size;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        if let Some(told) = synced_behind(bytes, at).filter(|&synced| synced > self.through) {
            let found = format!("record {} cannot be read, and {told} had been safe on disk", self.through + 1);
            return Err(JournalError::damaged(file, found));
        }
        self.cut.get_or_insert_with(|| {
            format!("{file}: the end of the log, after record {}, is an unfinished write and was cut", self.through)
        });
        Ok(())
    }
}

/// The highest number that a whole batch at or behind `at` says to have been durable.
fn synced_behind(bytes: &[u8], at: usize) -> Option<u64> {
    (at..bytes.len()).step_by(8).filter_map(|at| Batch::at(bytes, at)).map(|batch| batch.synced).max()
}

/// A whole batch.
struct Batch<'a> {
    first: u64,
    count: u32,
    synced: u64,
    body: &'a [u8],
    /// Bytes from its beginning to the next one's.
    size: usize,
}

impl<'a> Batch<'a> {
    /// The batch that begins at `at`, if a whole one does.
    fn at(bytes: &'a [u8], at: usize) -> Option<Batch<'a>> {
        let bytes = bytes.get(at..)?;
        let head = bytes.get(..BATCH_HEAD)?;
        if head[..4] != BATCH_MAGIC {
            return None;
        }
        let small = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let large = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let end = BATCH_HEAD.checked_add(small(8) as usize)?;
        let body = bytes.get(BATCH_HEAD..end)?;
        if small(4) != codec::crc32(&[&head[8..], body]) && !planted(Bug::TornTailAccepted) {
            return None;
        }
        let (count, first) = (small(12), large(16));
        first.checked_add(count.into())?;
        (count > 0).then_some(Batch { first, count, synced: large(24), body, size: end.next_multiple_of(8) })
    }

    fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    fn records_into(&self, records: &mut Vec<Record>) -> Result<(), Fault> {
        let uneven = || Fault::Damaged(format!("the batch from record {} is not what it says", self.first));
        let mut body = self.body;
        for _ in 0..self.count {
            let (length, rest) = body.split_first_chunk::<4>().ok_or_else(uneven)?;
            let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(uneven)?;
            records.push(codec::decode(record)?);
            body = rest;
        }
        if body.is_empty() { Ok(()) } else { Err(uneven()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::DirDisk;
    use super::*;

    fn reserve(fences: u64) -> Record {
        Record::Reserve { fences, events: 0 }
    }

    /// A segment 1 of instance 5 with these batches, in a real directory.
    fn home(batches: &[Vec<u8>]) -> (tempfile::TempDir, DirDisk) {
        let place = tempfile::tempdir().unwrap();
        let disk = DirDisk::open(place.path()).unwrap();
        let mut writer = Writer::create(&disk, 1, 5).unwrap();
        batches.iter().for_each(|batch| writer.append(batch).unwrap());
        (place, disk)
    }

    #[test]
    fn segments_are_named_so_that_names_and_numbers_agree() {
        for number in [0, 1, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(segment(&name(number)), Some(number));
        }
        for other in ["log.1", "log.", "log.0000000x", "log.+0000001", "xlog.00000001", "daemon.log.1"] {
            assert_eq!(segment(other), None, "{other}");
        }
    }

    #[test]
    fn batches_come_back_in_order_and_folded_ones_are_skipped() {
        let batches = [batch(&[reserve(1), reserve(2)], 1, 0).unwrap(), batch(&[reserve(3)], 3, 0).unwrap()];
        let (_place, disk) = home(&batches);
        let all = replay(&disk, &[1], 5, 0).unwrap();
        assert_eq!((all.records, all.through, all.cut), (vec![reserve(1), reserve(2), reserve(3)], 3, None));
        let rest = replay(&disk, &[1], 5, 2).unwrap();
        assert_eq!((rest.records, rest.through, rest.cut), (vec![reserve(3)], 3, None));
    }

    #[test]
    fn a_batch_that_is_not_next_ends_the_log() {
        let batches = [batch(&[reserve(1)], 1, 0).unwrap(), batch(&[reserve(3)], 3, 0).unwrap()];
        let (_place, disk) = home(&batches);
        let found = replay(&disk, &[1], 5, 0).unwrap();
        assert_eq!((found.records, found.through), (vec![reserve(1)], 1));
        assert!(found.cut.is_some());
    }

    #[test]
    fn a_whole_batch_of_records_of_the_future_is_refused_not_cut() {
        let mut bytes = batch(&[reserve(1)], 1, 0).unwrap();
        let record = BATCH_HEAD + 4;
        let end = record + u32::from_le_bytes(bytes[BATCH_HEAD..record].try_into().unwrap()) as usize;
        bytes[record] = 3;
        let checksum = codec::crc32(&[&[3], &bytes[record + 5..end]]);
        bytes[record + 1..record + 5].copy_from_slice(&checksum.to_le_bytes());
        let checksum = codec::crc32(&[&bytes[8..end]]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        let (_place, disk) = home(&[bytes]);
        assert!(matches!(replay(&disk, &[1], 5, 0), Err(JournalError::Future { version: 3, .. })));
    }

    #[test]
    fn room_is_taken_ahead_and_reads_as_nothing() {
        let (place, disk) = home(&[batch(&[reserve(1)], 1, 0).unwrap()]);
        assert_eq!(std::fs::metadata(place.path().join(name(1))).unwrap().len(), CHUNK);
        assert_eq!(replay(&disk, &[1], 5, 0).unwrap().cut, None);
    }
}
